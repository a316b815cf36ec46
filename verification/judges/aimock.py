"""`aimock` (npm, `@copilotkit/aimock`): fixtures by prompt, and chaos by rates."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from langchain_resilient import Hedge, ResilientChatModel, Target
from verification.judges import install
from verification.judges.checks import Check
from verification.judges.server import ask, free_ports, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from langchain_resilient.receipt import Receipt

CALLS = 120
"""Of each kind: ainvoke, astream, and one batch."""

TEXT = "The sky is blue because of Rayleigh scattering, which favours the short waves of light."
RATES = {"dropRate": 0.1, "malformedRate": 0.1, "disconnectRate": 0.1, "rateLimitRate": 0.02}
KINDS = {
    "drop": "server",
    "malformed": "broken",
    "disconnect": "connection",
    "rateLimit": "rate_limit",
}
"""Its names of what it does, and ours."""

_AT_ONCE = 8
_FIXTURES = [
    {
        "match": {"responseFormat": "json_schema"},
        "response": {"content": json.dumps({"setup": "Why?", "punchline": "Rayleigh."})},
    },
    {"match": {}, "response": {"content": TEXT}},
]


class Aimock:
    """A running `aimock`.

    Args:
        url: Where it listens.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._prompts = 0

    def base_url(self, dialect: str) -> str:
        """Where the SDK of a dialect finds it."""
        return self.url + ("/v1" if dialect == "openai" else "")

    def say(self, *calls: tuple[str, dict[str, Any]]) -> str:
        """Have it call tools for a prompt of its own."""
        made = [{"name": name, "arguments": arguments} for name, arguments in calls]
        return self._answer({"toolCalls": made})

    def refuse(self, status: int, message: str, code: str | None) -> str:
        """Have it refuse a prompt of its own."""
        error = {"message": message, "type": "an_error", **({"code": code} if code else {})}
        return self._answer({"error": error, "status": status})

    def chaos(self, rates: dict[str, float]) -> None:
        """Set how often which fault happens, from here on."""
        ask("POST", f"{self.url}/__aimock/chaos", rates)

    def journal(self) -> list[dict[str, Any]]:
        """Everything that it was asked."""
        answer: list[dict[str, Any]] = ask("GET", f"{self.url}/__aimock/journal")
        return answer

    def seen(self) -> int:
        """Count the requests since it started."""
        return len(self.journal())

    def _answer(self, response: dict[str, Any]) -> str:
        """Add a fixture before the others, and return the prompt that it is for."""
        self._prompts += 1
        prompt = f"prompt number {self._prompts}."
        match = {"userMessage": prompt, "hasToolResult": False}
        fixtures = [{"match": match, "response": response}]
        ask("DELETE", f"{self.url}/__aimock/fixtures")
        everything = {"fixtures": [*fixtures, *_FIXTURES]}
        ask("POST", f"{self.url}/__aimock/fixtures", everything)
        return prompt


@contextmanager
def started() -> Iterator[Aimock]:
    """Install it, start it, and end it.

    Raises:
        MissingError: If it can not be had.
    """
    command, (port,) = install.aimock(), free_ports(1)
    with TemporaryDirectory() as folder:
        fixtures = Path(folder, "fixtures.json")
        fixtures.write_text(json.dumps({"fixtures": _FIXTURES}), "utf-8")
        options = ["--fixtures", str(fixtures), "--log-level", "silent", "--journal-max", "0"]
        with serving([*command, "-p", str(port), *options], port, subprocess.DEVNULL):
            yield Aimock(f"http://127.0.0.1:{port}")


def chaos(judge: Aimock) -> list[Check]:
    """Make the checks under chaos."""
    percent = ", ".join(f"{name} {rate:.0%}" for name, rate in RATES.items())
    return [
        Check(f"chaos: {percent}", lambda: _counted(judge)),
        Check("the same chaos, hedging after 20 ms", lambda: _hedged(judge)),
    ]


async def _counted(judge: Aimock) -> str:
    """Answer every call, and name every fault as the judge does: nothing is asked twice at once.

    A kept connection that closes in the place of an answer is no fault yet: the request is sent
    again on a fresh one, and our receipts do not tell of that.
    """
    before = len(await asyncio.to_thread(judge.journal))
    met = await _calls(judge, hedge=None, health=None)
    journal = (await asyncio.to_thread(judge.journal))[before:]
    did = Counter(e["response"]["chaosAction"] for e in journal if "chaosAction" in e["response"])
    named = Counter({KINDS[action]: number for action, number in did.items()})
    again = named.total() - met.total()
    assert 0 <= again <= did["disconnect"], (met, did)
    assert all(abs(met[kind] - named[kind]) <= again for kind in KINDS.values()), (met, did)
    assert all(met[kind] == named[kind] for kind in ("server", "rate_limit")), (met, did)
    return (
        f"{_answered()}; its journal and our receipts agree on every fault: {_counts(met)}; "
        f"{again} closed connections, and the request sent again on a fresh one"
    )


async def _hedged(judge: Aimock) -> str:
    met = await _calls(judge, hedge=Hedge(delay=0.02, budget=0.5))
    return f"{_answered()}; faults met: {_counts(met)}"


async def _calls(judge: Aimock, **fields: Any) -> Counter[str]:
    """Make all calls over three targets.

    Returns:
        How often which kind of fault is in their receipts; also in those that no answer has, since
        the last of a batch are asked twice at once (`tail_hedge`).
    """
    heard = _Heard()
    llm = _model(judge, observers=[heard], **fields)
    await asyncio.to_thread(judge.chaos, RATES)
    try:
        width = asyncio.Semaphore(_AT_ONCE)
        for text in [
            *await asyncio.gather(*(_invoked(llm, width) for _ in range(CALLS))),
            *await asyncio.gather(*(_streamed(llm, width) for _ in range(CALLS))),
            *await _batched(llm),
        ]:
            assert text == TEXT, text
    finally:
        await asyncio.to_thread(judge.chaos, {})
    return heard.faults


class _Heard:
    """Counts the faults in the receipts of all calls."""

    def __init__(self) -> None:
        self.faults = Counter[str]()

    def on_receipt(self, receipt: Receipt, *, call: object) -> None:
        """Count those of one call."""
        self.faults.update(str(a.fault.kind) for a in receipt.attempts if a.fault is not None)


async def _invoked(llm: ResilientChatModel, width: asyncio.Semaphore) -> str:
    async with width:
        return (await llm.ainvoke("Why is the sky blue?")).text


async def _streamed(llm: ResilientChatModel, width: asyncio.Semaphore) -> str:
    async with width:
        return "".join([chunk.text async for chunk in llm.astream("Why is the sky blue?")])


async def _batched(llm: ResilientChatModel) -> list[str]:
    prompts: list[Any] = ["Why is the sky blue?"] * CALLS
    answers = await llm.abatch(prompts, {"max_concurrency": _AT_ONCE})
    return [answer.text for answer in answers]


def _model(judge: Aimock, **fields: Any) -> ResilientChatModel:
    specs = ("openai:gpt-4o", "together:qwen", "openai:gpt-4o-mini")
    targets = [
        Target(s, base_url=judge.base_url(s.partition(":")[0]), api_key=f"sk-{n}")
        for n, s in enumerate(specs)
    ]
    return ResilientChatModel(targets=targets, timeout=60, share_learning=False, **fields)


def _answered() -> str:
    return f"{3 * CALLS} of {3 * CALLS} calls over 3 targets answered, word for word"


def _counts(met: Counter[str]) -> str:
    return ", ".join(f"{number} {kind}" for kind, number in sorted(met.items()))
