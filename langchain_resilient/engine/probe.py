"""A shadow: a copy of an ordinary request that shows whether a sick target is well again."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from langchain_resilient.engine.lateness import late_after
from langchain_resilient.fault import Fault, FaultKind
from langchain_resilient.receipt import Outcome

if TYPE_CHECKING:
    from langchain_resilient.engine.events import Attempt
    from langchain_resilient.engine.ports import Route, Tools
    from langchain_resilient.request import ChatRequest

_PATIENCE = 4.0
"""A probe waits so many times as long as would be in good time: how slow it is now may be how fast
it is from now on."""


def probe(attempt: Attempt, route: Route, request: ChatRequest, tools: Tools) -> asyncio.Task[None]:
    """Ask, listen up to the first text, and tell the target's state.

    The user waits for none of it, and the answer is thrown away. The place that it took at the
    target is given back, also if the task is cancelled before its first step.
    """
    loop = asyncio.get_running_loop()
    good = late_after(None, attempt, attempt.started)
    task = loop.create_task(_probe(attempt, route, request, tools, good))

    def settle(_: asyncio.Task[None]) -> None:
        attempt.ended = loop.time()
        attempt.outcome = Outcome.LOST if attempt.fault is None else Outcome.FAILED
        spoke = None if attempt.first_text is None else attempt.first_text - attempt.started
        route.state.slots.give_back()
        route.state.probed(spoke, loop.time(), plain=attempt.plain, good=good)

    task.add_done_callback(settle)
    return task


async def _probe(
    attempt: Attempt, route: Route, request: ChatRequest, tools: Tools, good: float
) -> None:
    time = asyncio.get_running_loop().time
    try:
        async with asyncio.timeout(_PATIENCE * good):
            await _listen(attempt, route, request)
    except TimeoutError as error:
        if attempt.first_text is None:  # else it only closes slowly
            attempt.fault = Fault(FaultKind.TIMEOUT, "the probe heard nothing", cause=error)
    except Exception as error:  # noqa: BLE001  # every failure becomes a fault
        attempt.fault = error.fault if isinstance(error, _Unfit) else tools.classify(error)
        route.state.failed(attempt.fault, time(), tools.rng, attempt.key, 0)


async def _listen(attempt: Attempt, route: Route, request: ChatRequest) -> None:
    """Return at the first visible text, or raise what went wrong. Owns the stream."""
    stream: Any = await route.sources[attempt.key].open(request, stream=not attempt.plain)
    try:
        async for chunk in stream:
            if attempt.draft.add(chunk) > 1:
                attempt.first_text = asyncio.get_running_loop().time()
                return
        fault = attempt.draft.fault()
        if fault is not None:
            raise _Unfit(fault)
        attempt.first_text = asyncio.get_running_loop().time()
    finally:
        with contextlib.suppress(Exception):
            await stream.aclose()


class _Unfit(Exception):  # noqa: N818  # an answer that is no answer
    """The probe's answer was whole and useless."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(str(fault))
        self.fault = fault
