"""Malformed answers of all kinds: spoilt bodies, headers, events, and how the bytes come."""

from __future__ import annotations

import functools
import gzip
import json
import zlib
from dataclasses import dataclass, field
from http.client import HTTPConnection
from typing import Any, Literal

from langchain_resilient.testing import (
    BadRequest,
    ContextTooLong,
    Html,
    ModelNotFound,
    Overloaded,
    ProviderSimulator,
    Quota,
    RateLimited,
    Reply,
    RequestTooLarge,
    SseError,
    Step,
)
from verification.fuzz.nonsense import Dice, spoilt, written

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
        results = []
        for dialect in DIALECTS:
            url = sim.base_url(dialect)
            for name, step in [*((n, s) for n, (s, _) in _GOOD.items()), *_BAD.items()]:
                sim.script(f"{dialect}:{name}", then=step)
                results += [_ask(url, dialect, name, stream=stream) for stream in (True, False)]
    return tuple(results)


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
    results = [_decoded(e.partition("data:")[2].strip()) for e in lines if "data:" in e]
    return (*results[:_FIRST], *results[max(_FIRST, len(results) - _LAST) :])


def _decoded(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


End = Literal["clean", "broken", "silent"]
Way = Literal["ainvoke", "astream", "plain", "json"]

WAYS: tuple[Way, ...] = ("ainvoke", "astream", "plain", "json")


@dataclass(frozen=True)
class Answer:
    """What a server sends.

    Attributes:
        shape: The well-formed answer that it was made of.
        status: The HTTP status.
        headers: Names and values, in order.
        pieces: The body, cut as it comes.
        end: Whether the body ends, breaks, or never ends.
    """

    shape: str
    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    pieces: tuple[bytes, ...]
    end: End


@dataclass(frozen=True)
class Case:
    """One question to two targets, of which the first is out of its mind.

    Attributes:
        answer: What it sends.
        dialect: What it should speak.
        way: How it is asked.
        healthy: Whether there is another target, which is well.
    """

    answer: Answer
    dialect: str
    way: Way
    healthy: bool


# -- headers --------------------------------------------------------------------------------------

_DURATIONS = (
    "0", "1", "-1", "20", "1.5", "1e3", "1e400", "nan", "inf", "20ms", "1m7.6s", "6m0s",
    "8 seconds",
    "1s1s1s", "soon", "", " ", "\u0661", "9" * 400, "9" * 5000, "1" * 3000 + "x", "1700000000",
    "1700000000000", "99999999999999999999", "Wed, 21 Oct 2026 07:28:00 GMT",
    "Wed, 21 Oct 9999999999999999999999 07:28:00 GMT", "Wed, 32 Foo 2026 99:99:99 +9999",
    "Mon, 01 Jan 0001 00:00:00 +2359", "21 Oct 26", "Wed,", ", , ,", "\u00ff" * 20, "0x10", "1_0",
)  # fmt: skip
_TYPES = (
    "application/json", "text/event-stream", "text/event-stream; charset=utf-16", "text/html",
    "text/plain; charset=latin-1", "application/json; charset=nonsense", "", "json", "a/b;;;=",
    "text/event-stream, application/json", "application/x-ndjson", "multipart/mixed; boundary=x",
    "application/octet-stream", "text/event-stream;charset=\u00ff",
)  # fmt: skip
_CODINGS = ("gzip", "deflate", "br", "zstd", "identity", "gzip, gzip", "utf-8", "", "x-gzip",
            "GZIP",
            "deflate, gzip, br", "compress", "aws-chunked", ",,,")  # fmt: skip
_PLAIN = ("", "true", "false", "1", "x" * 300, "\u00e9\u00ff", "a, b", '"')
_VALUES: dict[str, tuple[str, ...]] = {
    "retry-after": _DURATIONS,
    "retry-after-ms": _DURATIONS,
    "date": _DURATIONS,
    "x-ratelimit-reset": _DURATIONS,
    "x-ratelimit-reset-requests": _DURATIONS,
    "x-ratelimit-reset-tokens": _DURATIONS,
    "x-ratelimit-limit-requests": _DURATIONS,
    "x-ratelimit-limit-tokens": _DURATIONS,
    "x-ratelimit-remaining-requests": _DURATIONS,
    "x-ratelimit-remaining-tokens": _DURATIONS,
    "x-ratelimit-remaining-": _DURATIONS,
    "content-type": _TYPES,
    "content-encoding": _CODINGS,
    "content-length": ("0", "5", "-1", "nan", "99999999999999999999"),
    "x-should-retry": _PLAIN,
    "x-request-id": _PLAIN,
    "location": ("/", "http://127.0.0.1:1/", "//", "\u00ff", "file:///"),
    "set-cookie": _PLAIN,
    "": _PLAIN,
}


def headers(dice: Dice, given: tuple[tuple[str, str], ...]) -> list[tuple[str, str]]:
    """Well-formed headers with some that are not; names may come twice."""
    items = list(given)
    for _ in range(dice.pick((0, 0, 1, 1, 2, 4))):
        name = dice.pick(tuple(_VALUES))
        if dice.below(2):
            items = [(n, v) for n, v in items if n != name]
        items.append((name, dice.pick(_VALUES[name])))
    return items


# -- bodies ---------------------------------------------------------------------------------------

_STATUSES = (200, 201, 204, 206, 302, 304, 400, 401, 402, 403, 404, 408, 409, 413, 418, 422, 425,
             429, 451, 500, 503, 529, 599)  # fmt: skip
_ENDS: tuple[End, ...] = ("clean", "clean", "clean", "clean", "clean", "broken", "silent")
_MAX_PIECES = 150
_ENDINGS = (b"\n", b"\n", b"\n", b"\r\n", b"\r")
_FIELDS = (
    b"", b"", b"", b"id: 7", b"id: \x00", b"retry: 10", b"retry: -1e9", b"event: message",
    b"event: error", b"event: ping", b"event: \xff", b": comment", b":", b"nonsense", b"data",
    b"data:", b"dat\xc3a: x", b"<html>", b"\xef\xbb\xbf", b"event:", b" data: x", b"DATA: {}",
)  # fmt: skip
_NOISE = (b"data: ping", b"data: [DONE]", b"data: null", b": " + b"x" * 500, b"event: error",
          b"data: {}", b"data: [", b"\xff\xfe\x00", b"<!DOCTYPE html><html>", b"data: \xed\xa0\x80",
          b'data: {"error": 7}', b'data: {"choices": []}', b"\r", b"data: 1e999")  # fmt: skip


def events(dice: Dice, shape: Shape) -> bytes:
    """A stream of events: some of them spoilt, left out, said twice, or in another order."""
    order = list(shape.values)
    if dice.once_in(10):
        order.insert(dice.below(len(order)), order.pop(dice.below(len(order))))
    out = [dice.pick((b"", b"", b"", b"\xef\xbb\xbf", b"\n", b"\xef\xbb"))]
    for value in order:
        out.append(_event(dice, spoilt(dice, value, dice.pick((0, 0, 0, 1, 1, 2)))))
        if dice.once_in(10):
            out.append(dice.pick(_NOISE) + 2 * dice.pick(_ENDINGS))
        if dice.once_in(15):
            out.append(out[-1])
    return b"".join(out)


def _event(dice: Dice, value: Any) -> bytes:
    end = dice.pick(_ENDINGS)
    field = dice.pick(_FIELDS) if dice.once_in(6) else b""
    colon = dice.pick((b"data: ", b"data: ", b"data:"))
    text = written(value).replace(b"\n", end + colon)
    head = field + end if field else b""
    gap = dice.pick((b"", end, end * 3)) if dice.once_in(15) else end * 2
    return head + colon + text + gap


def scratched(dice: Dice, data: bytes) -> bytes:
    """Bytes of which some were changed, cut out, put in, or cut off."""
    for _ in range(dice.pick((0, 0, 0, 0, 1, 2))):
        at = dice.below(len(data) + 1)
        size = dice.pick((0, 1, 2, 10, 100, 10**6))
        new = dice.pick((b"", b"\xff", b"\x00", b"\n\n", b"\r", b'"', b"}", b"\xc3"))
        data = data[:at] + new + data[at + size :]
    return data


def answer(dice: Dice, dialect: str, *, stream: bool) -> Answer:
    """What a server sends that is out of its mind."""
    kinds = [s for s in shapes() if s.name.startswith(dialect)]
    good = [s for s in kinds if s.stream == stream and s.status == 200]
    shape = dice.pick(kinds if dice.once_in(4) else good)
    if shape.stream:
        body = events(dice, shape)
    else:
        body = written(spoilt(dice, shape.values[0], dice.below(4)))
    named = headers(dice, shape.headers)
    body = _encoded(dice, scratched(dice, body), dict(named).get("content-encoding", ""))
    status = dice.pick(_STATUSES) if dice.once_in(6) else shape.status
    raw = tuple((n.encode("latin-1", "replace"), v.encode()) for n, v in named)
    return Answer(shape.name, status, raw, tuple(_cut(dice, body)), dice.pick(_ENDS))


def _encoded(dice: Dice, body: bytes, coding: str) -> bytes:
    """Keep what the header says, or lie."""
    if dice.below(2):
        return body
    if "gzip" in coding.lower():
        return gzip.compress(body, 1)
    return zlib.compress(body, 1) if "deflate" in coding else body


def _cut(dice: Dice, body: bytes) -> list[bytes]:
    size = dice.pick((10**6, 10**6, 1000, 100, 7, 1))
    size = max(size, len(body) // _MAX_PIECES)
    return [body[at : at + size] for at in range(0, len(body), size)]


def case(data: bytes) -> Case:
    """One question, and a malformed answer to it, as some bytes choose."""
    dice = Dice(data)
    dialect, way = dice.pick(DIALECTS), dice.pick(WAYS)
    healthy = bool(dice.below(2))
    return Case(answer(dice, dialect, stream=way != "plain"), dialect, way, healthy)
