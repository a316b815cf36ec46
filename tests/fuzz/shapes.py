"""What well-formed answers look like: told by the simulator, to be spoilt by `strategies`."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, field
from http.client import HTTPConnection
from typing import Any

from langchain_resilient.testing.simulator import ProviderSimulator
from langchain_resilient.testing.steps.base import Reply, Step
from langchain_resilient.testing.steps.faults import SseError
from langchain_resilient.testing.steps.refusals import (
    BadRequest,
    ContextTooLong,
    Html,
    ModelNotFound,
    Overloaded,
    Quota,
    RateLimited,
    RequestTooLarge,
)

_FIRST, _LAST = 3, 4
DIALECTS = ("openai", "together")
_TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
_GOOD: dict[str, tuple[Step, dict[str, Any]]] = {
    "text": (Reply(), {}),
    "thoughts": (Reply(reasoning="Let me think."), {}),
    "refusal": (Reply(refusal="I cannot."), {}),
    "calls": (Reply(), {"tools": [_TOOL], "tool_choice": "required"}),
    "several": (Reply(), {"n": 2}),
    "logprobs": (Reply(), {"logprobs": True}),
    "broken off": (SseError(after=2), {}),
}
_BAD: dict[str, Step] = {
    "rate": RateLimited(),
    "quota": Quota(),
    "busy": Overloaded(),
    "long": ContextTooLong(),
    "large": RequestTooLarge(),
    "model": ModelNotFound(),
    "bad": BadRequest(),
    "page": Html(502),
}


@dataclass(frozen=True)
class Shape:
    """One answer of the simulator, taken apart.

    Attributes:
        name: What it shows.
        status: The HTTP status.
        headers: Names in lower case; without those that only frame the body.
        stream: Whether it came as events.
        values: The payloads of its first and last events, or the one body; decoded where JSON.
    """

    name: str
    status: int = field(repr=False)
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    stream: bool
    values: tuple[Any, ...] = field(repr=False)


@functools.cache
def shapes() -> tuple[Shape, ...]:
    """Ask the simulator for one of each, in both dialects, streamed and plain."""
    with ProviderSimulator(seed=0) as sim:
        found = []
        for dialect in DIALECTS:
            url = sim.base_url(dialect)
            for name, step in [*((n, s) for n, (s, _) in _GOOD.items()), *_BAD.items()]:
                sim.script(f"{dialect}:{name}", then=step)
                found += [_ask(url, dialect, name, stream=stream) for stream in (True, False)]
    return tuple(found)


def _ask(url: str, dialect: str, name: str, *, stream: bool) -> Shape:
    _, more = _GOOD.get(name, (None, {}))
    if dialect == "together" and "logprobs" in more:
        more = {"logprobs": 1}
    messages = [{"role": "user", "content": "Weather in Paris, today and tomorrow?"}]
    body = {"model": name, "messages": messages, "stream": stream, **more}
    host, _, path = url.removeprefix("http://").partition("/")
    connection = HTTPConnection(host, timeout=10)
    path = f"/{path}/chat/completions" if path.endswith("v1") else f"/{path}/v1/chat/completions"
    try:
        connection.request("POST", path, json.dumps(body), {"authorization": "Bearer k"})
        response = connection.getresponse()
        data = response.read()
    finally:
        connection.close()
    headers = [(k.lower(), v) for k, v in response.getheaders()]
    kept = tuple(h for h in headers if h[0] not in ("content-length", "transfer-encoding"))
    events = "event-stream" in dict(headers).get("content-type", "")
    return Shape(f"{dialect} {name}", response.status, kept, events, _values(data, events=events))


def _values(data: bytes, *, events: bool) -> tuple[Any, ...]:
    if not events:
        return (_decoded(data.decode()),)
    lines = data.decode().replace("\r\n", "\n").split("\n\n")
    found = [_decoded(e.partition("data:")[2].strip()) for e in lines if "data:" in e]
    return (*found[:_FIRST], *found[max(_FIRST, len(found) - _LAST) :])


def _decoded(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
