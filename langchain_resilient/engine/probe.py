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


async def probe(attempt: Attempt, route: Route, request: ChatRequest, tools: Tools) -> None:
    """Ask, listen up to the first text, and tell the target's state. Owns its stream.

    The user waits for none of it, and the answer is thrown away. The place that it took at the
    target is given back here.
    """
    time = asyncio.get_running_loop().time
    state = route.state
    good = late_after(None, attempt, attempt.started)
    seconds: float | None = None
    try:
        async with asyncio.timeout(_PATIENCE * good):
            await _listen(attempt, route, request)
        attempt.first_text = time()
        seconds = attempt.first_text - attempt.started
    except TimeoutError as error:
        attempt.fault = Fault(FaultKind.TIMEOUT, "the probe heard nothing", cause=error)
    except Exception as error:  # noqa: BLE001  # every failure becomes a fault
        attempt.fault = tools.classify(error)
        state.failed(attempt.fault, time(), tools.rng, attempt.key, 0)
    finally:
        attempt.ended = time()
        attempt.outcome = Outcome.LOST if attempt.fault is None else Outcome.FAILED
        state.slots.give_back()
        state.probed(seconds, time(), plain=attempt.plain, good=good)


async def _listen(attempt: Attempt, route: Route, request: ChatRequest) -> None:
    """Return at the first visible text, or raise what went wrong."""
    stream: Any = await route.sources[attempt.key].open(request, stream=not attempt.plain)
    try:
        async for chunk in stream:
            if attempt.draft.add(chunk) > 1:
                return
        fault = attempt.draft.fault()
        if fault is not None:
            raise fault.cause or _Unfit(str(fault))
    finally:
        with contextlib.suppress(Exception):
            await stream.aclose()


class _Unfit(Exception):  # noqa: N818  # an answer that is no answer
    """The probe's answer was whole and useless."""
