"""`llmock` (PyPI): scripted faults, and a verdict on how the client took them.

Its rules tie the attempts of one call together by path and body. So a fallback to another model or
provider is a call of its own in its eyes, and the one that failed "gave up". Where the client is
told to try the same target first, or has no other, the verdict is strict. Where it hedges, the
findings that come of this rule are named with each scene, and no other may come.
"""

from __future__ import annotations

import asyncio
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tenacity import wait_exponential

from langchain_resilient import Hedge, ResilientChatModel, Retry, Target, TimeLimits
from verification.judges import install
from verification.judges.checks import DIALECTS, Check
from verification.judges.server import ask, free_ports, serving

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

NAME = "llmock"

_STALL = 3.0
_BY_ANOTHER = (
    "it ties attempts by path and body: the answer of another target is no retry in its eyes"
)
_BY_PROMPT = "it ties attempts by body: the request to go on from the delivered text is another"
_BY_JITTER = "full jitter may draw a second wait below the first, which it takes for a constant one"
_BY_SIZE = "all of its short answer was on the way before anybody could stop it; it was asked again"


class Llmock:
    """A running `llmock`.

    Args:
        url: Where it listens.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._seen = 0

    def base_url(self, dialect: str) -> str:
        """Where the SDK of a dialect finds it."""
        return self.url + ("/v1" if dialect == "openai" else "/together")

    def say(self, *calls: tuple[str, dict[str, Any]]) -> str:
        """Have it call tools in its next answer."""
        made = [{"name": name, "arguments": arguments} for name, arguments in calls]
        self.begin({"type": "reply", "tool_calls": made})
        return "How is the weather?"

    def refuse(self, status: int, message: str, code: str | None) -> str:
        """Have it refuse the next request."""
        self.begin({"type": "fail", "status": status, "message": message, "code": code})
        return "Why?"

    def begin(self, *behaviors: dict[str, Any]) -> None:
        """Forget what was, and queue what comes."""
        self._seen = self.seen()
        ask("POST", f"{self.url}/_llmock/reset")
        if behaviors:
            ask("POST", f"{self.url}/_llmock/scenario", {"behaviors": behaviors})

    def seen(self) -> int:
        """Count the requests since it started."""
        return self._seen + int(ask("GET", f"{self.url}/_llmock/requests")["count"])

    def verdict(self) -> dict[str, Any]:
        """Hear it, once all requests have ended."""
        answer: dict[str, Any] = ask("GET", f"{self.url}/_llmock/verdict")
        return answer


@contextmanager
def started() -> Iterator[Llmock]:
    """Install it, start it, and end it.

    Raises:
        MissingError: If it can not be had.
    """
    command, (port,) = install.llmock(), free_ports(1)
    with serving([*command, "serve", "--port", str(port)], port, subprocess.DEVNULL):
        yield Llmock(f"http://127.0.0.1:{port}")


@dataclass(frozen=True)
class Scene:
    """Something that goes wrong.

    Attributes:
        asked: What.
        behaviors: Of the judge, in the order in which requests meet them.
        chain: `"alone"`: one target. `"same first"`: another behind it, `retry_first=True`.
            `"hedging"`: another behind it, and the client's defaults.
        stream: Whether the caller streams.
        fields: Of the model.
        findings: The judge's findings that may come, with the reason. None other may.
    """

    asked: str
    behaviors: tuple[dict[str, Any], ...]
    chain: str = "alone"
    stream: bool = False
    fields: Mapping[str, Any] = field(default_factory=dict)
    findings: Mapping[str, str] = field(default_factory=dict)


def scenes(judge: Llmock) -> list[Check]:
    """Make the checks of all scenes, for both dialects."""
    return [
        Check(f"{d}, {s.chain}: {s.asked}", lambda s=s, d=d: _play(judge, s, d))
        for d in DIALECTS
        for s in SCENES
    ]


async def _play(judge: Llmock, scene: Scene, dialect: str) -> str:
    """Let a scene happen, see that the caller got the whole answer, and hear the verdict."""
    llm, prompt = _model(judge, scene, dialect), f"Why? {scene.asked}"
    await asyncio.to_thread(judge.begin)
    alone = [ResilientChatModel(targets=[t], share_learning=False) for t in llm.targets]
    expected = {(await one.ainvoke(prompt)).text for one in alone}
    await asyncio.to_thread(judge.begin, *scene.behaviors)
    text = await _text(llm, prompt, stream=scene.stream)
    verdict = await asyncio.to_thread(judge.verdict)
    items = {finding["code"] for finding in verdict["findings"]}
    assert text in expected or scene.stream, f"{text!r} is none of {expected}"
    assert text, "no text came"
    waiting = await asyncio.to_thread(ask, "GET", f"{judge.url}/_llmock/scenario")
    assert not waiting["pending"], f"it was not met: {waiting}"
    unexpected = [f["title"] for f in verdict["findings"] if f["code"] not in scene.findings]
    assert not unexpected, unexpected
    if not items:
        return f"verdict pass, strict: {verdict['attempts']} attempts"
    reasons = ", ".join(f"{code} ({scene.findings[code]})" for code in sorted(items))
    words = "pass" if verdict["passed"] else "FAIL"
    return f"answered whole; its verdict is {words}, for {reasons}"


async def _text(llm: ResilientChatModel, prompt: str, *, stream: bool) -> str:
    if stream:
        return "".join([chunk.text async for chunk in llm.astream(prompt)])
    return (await llm.ainvoke(prompt)).text


def _model(judge: Llmock, scene: Scene, dialect: str) -> ResilientChatModel:
    other = DIALECTS[1 - DIALECTS.index(dialect)]
    first = Target(
        f"{dialect}:first",
        base_url=judge.base_url(dialect),
        api_key="sk-judge",
        retry_first=scene.chain == "same first",
        replicated=True,  # the judge speaks for a provider, which has more than one machine
    )
    second = Target(f"{other}:second", base_url=judge.base_url(other), api_key="sk-judge")
    return ResilientChatModel(
        targets=[first] if scene.chain == "alone" else [first, second],
        **{"share_learning": False, "timeout": 30, **scene.fields},
    )


def _fail(status: int, times: int = 1, **fields: Any) -> dict[str, Any]:
    return {"type": "fail", "status": status, "times": times, **fields}


def _fault(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": "stream_fault", "kind": kind, "after_chunks": 3, **fields}


_GROWING = {"retry": Retry(wait=wait_exponential(multiplier=0.2))}
_IMPATIENT = {"time_limits": TimeLimits(first_text=1, chunk_gap=0.5)}
_GAVE_UP = {"gave_up": _BY_ANOTHER}
_UNSTOPPED = {"malformed_chunk_ignored": _BY_SIZE}

SCENES = (
    # The only target: the same request again, as late as it asks for.
    Scene("429, Retry-After 1", (_fail(429, retry_after=1),)),
    Scene("429 twice, Retry-After 0.5", (_fail(429, 2, retry_after=0.5),)),
    Scene("500, once", (_fail(500),)),
    Scene("503 three times, wait_exponential", (_fail(503, 3),), fields=_GROWING),
    Scene("529 three times, default waits", (_fail(529, 3),), findings={"no_backoff": _BY_JITTER}),
    Scene("disconnect in the middle, ainvoke", (_fault("disconnect"),)),
    Scene("truncated without a finish reason, ainvoke", (_fault("truncate"),)),
    Scene("malformed chunk, ainvoke", (_fault("malformed"),), findings=_UNSTOPPED),
    Scene("stall of 3 s, chunk_gap 0.5, ainvoke", (_fault("stall", stall_seconds=_STALL),),
          fields=_IMPATIENT),
    Scene("slow response", ({"type": "delay", "seconds": 1.0}, _fail(500)), fields=_GROWING),
    Scene("slow first token, then a 500",
          (_fail(500), {"type": "slow_first_token", "seconds": 0.8})),
    # The same target first, another behind it: strict too.
    Scene("500, once", (_fail(500),), "same first"),
    Scene("disconnect in the middle, ainvoke", (_fault("disconnect"),), "same first"),
    Scene("truncated without a finish reason, ainvoke", (_fault("truncate"),), "same first"),
    # Another target at once: the client's defaults, which the rules of the judge do not know.
    Scene("429, Retry-After 5", (_fail(429, retry_after=5),), "hedging", findings=_GAVE_UP),
    Scene("503, once", (_fail(503),), "hedging", findings=_GAVE_UP),
    Scene("disconnect in the middle, ainvoke", (_fault("disconnect"),), "hedging",
          findings=_GAVE_UP),
    Scene("truncated without a finish reason, ainvoke", (_fault("truncate"),), "hedging",
          findings={"truncated_stream_accepted": _BY_ANOTHER}),
    Scene("slow first token, hedge after 0.2 s",
          ({"type": "slow_first_token", "seconds": 1.5},), "hedging",
          fields={"hedge": Hedge(delay=0.2)}),
    # Streams whose text the caller has already seen: it goes on, by another request.
    Scene("disconnect in the middle, astream", (_fault("disconnect"),), "hedging", stream=True,
          findings={"gave_up": _BY_PROMPT}),
    Scene("truncated in the middle, astream", (_fault("truncate"),), "hedging", stream=True,
          findings={"truncated_stream_accepted": _BY_PROMPT}),
    Scene("stall in the middle, astream", (_fault("stall", stall_seconds=_STALL),), "hedging",
          stream=True, fields=_IMPATIENT),
)  # fmt: skip
