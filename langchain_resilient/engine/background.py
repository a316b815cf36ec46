"""Tasks that nothing waits for: losers while they close, and probes of targets that are out.

Each has one owner, the reaper of its event loop. A pooled connection is lost for good if a
streaming task is cancelled twice (together on httpx/httpcore: encode/httpx#3782), so a task handed
to the reaper is cancelled here, once, and nothing else touches it. Nothing waits for it either,
except `drain` at the very end. A probe is a shadow of an ordinary request.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from langchain_resilient.engine.limits import late_after
from langchain_resilient.faults import Fault, FaultKind
from langchain_resilient.receipt import Outcome

if TYPE_CHECKING:
    from langchain_resilient.engine.attempt import Attempt
    from langchain_resilient.engine.interfaces import Dependencies, Route
    from langchain_resilient.exchange import ChatRequest


class Reaper:
    """Holds the losers' tasks of one event loop until they have closed their connections."""

    __slots__ = ("_closing", "_probes")

    def __init__(self) -> None:
        self._closing: set[asyncio.Task[None]] = set()
        self._probes: set[asyncio.Task[None]] = set()

    def take(self, task: asyncio.Task[None]) -> None:
        """Cancel a task, once, and keep it until it is done."""
        if task.done() or task in self._closing:
            return
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        task.cancel()

    def keep(self, task: asyncio.Task[None]) -> None:
        """Hold a task that is ending by itself (closing its connection) without cancelling it."""
        if not task.done():
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def host(self, task: asyncio.Task[None]) -> None:
        """Hold a background task (a probe) while it works; `drain` cancels it."""
        self._probes.add(task)
        task.add_done_callback(self._probes.discard)

    async def drain(self, seconds: float = 2.0) -> int:
        """Wait until the losers are closed, at most `seconds`.

        Returns:
            How many are still open.
        """
        for probe in tuple(self._probes):
            self.take(probe)
        if self._closing:
            await asyncio.wait(set(self._closing), timeout=seconds)
        return len(self._closing)


_PROBE_PATIENCE = 4.0
"""Factor on the good time for which a probe waits: a target may have become slower for good."""


def start_probe(
    attempt: Attempt, route: Route, request: ChatRequest, dependencies: Dependencies
) -> asyncio.Task[None]:
    """Ask, read up to the first text, and record the outcome with the target's state.

    The user waits for none of it, and the answer is thrown away. The place at the target is
    returned even if the task is cancelled before its first step.
    """
    loop = asyncio.get_running_loop()
    good = late_after(None, attempt, attempt.started)

    def settle(task: asyncio.Task[None]) -> None:
        attempt.ended = loop.time()
        attempt.outcome = Outcome.LOST if attempt.fault is None else Outcome.FAILED
        route.state.concurrency.give_back()
        if task.cancelled() and attempt.first_text is None:
            # By us: its loop ends, or the connections are closed. That says nothing of the target.
            route.state.circuit_breaker.abandon_probe()
            return
        spoke = None if attempt.first_text is None else attempt.first_text - attempt.started
        route.state.record_probe(
            spoke, loop.time(), plain=attempt.plain, good=good, profile=attempt.profile
        )

    # Not made by the loop, whose factory may be an eager one.
    probing = _run_probe(attempt, route, request, dependencies, good)
    task = asyncio.Task(probing, loop=loop)
    task.add_done_callback(settle)
    return task


async def _run_probe(
    attempt: Attempt, route: Route, request: ChatRequest, dependencies: Dependencies, good: float
) -> None:
    time = asyncio.get_running_loop().time
    try:
        async with asyncio.timeout(_PROBE_PATIENCE * good):
            await _wait_for_text(attempt, route, request)
    except TimeoutError as error:
        if attempt.first_text is None:  # otherwise it only closes slowly
            attempt.fault = Fault(FaultKind.TIMEOUT, "the probe got no answer", cause=error)
    except asyncio.CancelledError:
        raise
    except BaseException as error:  # noqa: BLE001  # what is a caller's business too: it is gone
        attempt.fault = (
            error.fault if isinstance(error, _UnusableAnswerError) else dependencies.classify(error)
        )
        route.state.record_failure(attempt.fault, time(), dependencies.rng, attempt.key, 0)


async def _wait_for_text(attempt: Attempt, route: Route, request: ChatRequest) -> None:
    """Return at the first visible text, or raise what went wrong. Owns the stream."""
    stream: Any = await route.sources[attempt.key].open(request, stream=not attempt.plain)
    try:
        async for chunk in stream:
            if attempt.response.add(chunk) > 1:
                attempt.first_text = asyncio.get_running_loop().time()
                return
        fault = attempt.response.fault(request)
        if fault is not None:
            raise _UnusableAnswerError(fault)
        attempt.first_text = asyncio.get_running_loop().time()
    finally:
        with contextlib.suppress(Exception):
            await stream.aclose()


class _UnusableAnswerError(Exception):
    """The probe's answer was complete and of no use."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(str(fault))
        self.fault = fault
