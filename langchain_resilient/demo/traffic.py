"""The same requests at the same moments for both sides, and what became of them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from langchain_resilient.demo.schedule import WORDS
from langchain_resilient.demo.score import Score, ScoredCall
from langchain_resilient.testing.answers import answer_to

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from langchain_core.runnables import Runnable

DEADLINE = 30.0
"""Seconds for a whole call, on both sides."""

_GRACE = 0.5  # for our own deadline to speak first, with its receipt
_WORTH_TELLING = 2.0  # seconds
_MIN_PATIENCE = 5.0  # seconds


class Side:
    """A chat model and its score.

    Args:
        name: Of the side.
        model: Asked with `ainvoke` and `astream`.
    """

    def __init__(self, name: str, model: Runnable[Any, Any]) -> None:
        self.score = Score(name)
        self._model = model

    async def ask(self, number: int, clock: Callable[[], float]) -> None:
        """Send one request, and write down how it went. Every other one is streamed.

        Args:
            number: Of the request, counted from 1.
            clock: Seconds since the show began.
        """
        call = ScoredCall(number, clock())
        self.score.calls.append(call)
        prompt = f"Question {number}: why is the sky blue?"
        receipt: dict[str, Any] | None = None
        words = ""
        try:
            async with asyncio.timeout(DEADLINE + _GRACE):
                text, receipt = await self._answer(prompt, stream=number % 2 == 0)
            call.fate = "answered" if text == answer_to(prompt, words=WORDS) else "wrong"
        except Exception as error:  # noqa: BLE001  # a failure is what is counted here
            call.fate = "failed"
            words = type(error).__name__
            result = getattr(error, "receipt", None)
            receipt = None if result is None else result.as_dict()
        finally:
            call.seconds = clock() - call.started
        self._tell(call, receipt, words)

    async def _answer(self, prompt: str, *, stream: bool) -> tuple[str, dict[str, Any] | None]:
        if not stream:
            answer = await self._model.ainvoke(prompt)
            return str(answer.text), answer.response_metadata.get("resilience")
        text, receipt = "", None
        async for chunk in self._model.astream(prompt):
            text += str(chunk.text)
            receipt = chunk.response_metadata.get("resilience") or receipt
        return text, receipt

    def _tell(self, call: ScoredCall, receipt: dict[str, Any] | None, text: str) -> None:
        how = {"answered": "answered", "wrong": "not whole", "failed": text or "failed"}
        waited = call.waited(0)
        eventful = receipt is not None and len(_waited_for(receipt)) > 1
        if call.fate != "answered" or eventful or waited > _WORTH_TELLING:
            story = how[call.fate] if receipt is None else _story(receipt, how[call.fate])
            line = f"#{call.number:<4}{waited:5.1f} s  {story}"
            self.score.lines.append((line, call.fate != "answered"))


def _story(receipt: dict[str, Any], end: str) -> str:
    """Say in one line who did what: `openai server > together fallback won`.

    Shadows are left out: nobody waits for them.
    """
    steps = [_step(attempt) for attempt in _waited_for(receipt)]
    breaks = [f"{b['action']} at character {b['characters']}" for b in receipt.get("breaks", ())]
    return " > ".join([*steps, *breaks, *([] if receipt["winner"] else [end])])


def _waited_for(receipt: dict[str, Any]) -> list[dict[str, Any]]:
    return [attempt for attempt in receipt["attempts"] if attempt["kind"] != "shadow"]


def _step(attempt: dict[str, Any]) -> str:
    who = attempt["target"].partition(":")[0]
    kind = "" if attempt["kind"] == "primary" else f" {attempt['kind']}"
    why = f" {attempt['fault']}" if "fault" in attempt else f" {attempt['outcome']}"
    return f"{who}{kind}{why}"


async def flow(
    sides: Sequence[Side], *, length: float, rate: float, clock: Callable[[], float]
) -> None:
    """Send requests to all sides at a steady rate, and wait for what is still under way.

    What has not ended a quarter of the length after the last request, and five seconds at the least
    and half a minute at the most, is given up, and counts as failed.

    Args:
        sides: Each gets every request.
        length: Of the sending, in seconds.
        rate: Requests a second, for each side.
        clock: Seconds since the show began.
    """
    tasks: set[asyncio.Task[None]] = set()
    try:
        for number in range(1, int(length * rate) + 1):
            await asyncio.sleep((number - 1) / rate - clock())
            tasks.update(asyncio.create_task(side.ask(number, clock)) for side in sides)
        await asyncio.wait(tasks, timeout=min(DEADLINE, max(_MIN_PATIENCE, length / 4)))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for side in sides:
            _give_up(side.score)


def _give_up(score: Score) -> None:
    for call in score.calls:
        if call.fate == "waiting":
            call.fate = "failed"
            score.lines.append((f"#{call.number:<4}{call.waited(0):5.1f} s  given up", True))
