"""The asyncio driver of the planner: starts attempts, feeds events, returns the winner.

It runs things and decides nothing. Each attempt is one task that reads one stream into its
accumulator; events reach the planner as plain calls on the event loop's own thread, so there is no
queue and no lock on the way. Losers go to the reaper, and nothing waits for them.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from math import inf
from typing import TYPE_CHECKING, Any

from langchain_resilient.engine.attempt import Attempt, attempt_record
from langchain_resilient.engine.background import start_probe
from langchain_resilient.engine.interfaces import Action, CallEnd, Commit, Finish, Plan, Start
from langchain_resilient.engine.planner import Planner
from langchain_resilient.engine.stream_buffer import MAX_READ_AHEAD, Segment, StreamBuffer
from langchain_resilient.engine.time_model import UNKNOWN
from langchain_resilient.faults import Fault, FaultKind, is_callers_business
from langchain_resilient.receipt import AttemptKind, Receipt

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, TimerHandle
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

    from langchain_resilient.engine.background import Reaper
    from langchain_resilient.engine.interfaces import AttemptListener, Dependencies, Route
    from langchain_resilient.engine.rate_limiter import RequestSize
    from langchain_resilient.engine.time_model import RequestProfile
    from langchain_resilient.exchange import ChatRequest, Chunk

    Validate = Callable[
        [Any, Callable[[ChatRequest], None]], Fault | Awaitable[Fault | None] | None
    ]


_LAG = 0.05
"""Seconds; a timer that is later than this shows that our own event loop was held up."""

_STALL = 0.25
"""Seconds; one later than this shows that the process stood still (suspended, or blocked)."""

_CATCH_UP = 1.0
"""Seconds at most for reading what came meanwhile, before any limit is checked."""

_MAX_STALLS = 3
"""Stalls that are excused: a loop that always stalls must not hide for ever that a target hangs."""


class RaceTimer:
    """Calls back when something is due. After a late wake-up, what lies unread is read first.

    Args:
        loop: The race's.
        due: Called with the time when the moment has come.
        resume_after_stall: Called with the time when the process had stood still, before `due`.
    """

    __slots__ = ("_at", "_due", "_handle", "_loop", "_resume_after_stall", "_stalls")

    def __init__(
        self,
        loop: AbstractEventLoop,
        due: Callable[[float], None],
        resume_after_stall: Callable[[float], object],
    ) -> None:
        self._loop = loop
        self._due = due
        self._resume_after_stall = resume_after_stall
        self._stalls = 0
        self._handle: TimerHandle | None = None
        self._at = inf

    def arm(self, at: float) -> None:
        """Call back at this time or before: an earlier timer stays, since its callee re-arms it."""
        if at < self._at:
            if self._handle is not None:
                self._handle.cancel()
            self._handle = self._loop.call_at(at, self._fire)
            self._at = at

    def stop(self) -> None:
        """Cancel it for good, and let go of what it calls: that refers to it, too."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self._due = self._resume_after_stall = _nothing

    def _fire(self) -> None:
        now = self._loop.time()
        late = now - self._at
        if late < _LAG:
            self._call_due()
            return
        until = now
        if late >= _STALL and self._stalls < _MAX_STALLS:
            self._stalls += 1
            self._resume_after_stall(now)
            until += _CATCH_UP
        self._wait(now, until)

    def _wait(self, now: float, until: float) -> None:
        at = now + _LAG / 5
        self._handle = self._loop.call_at(at, self._fire_when_idle, at, until)

    def _fire_when_idle(self, at: float, until: float) -> None:
        """Call back once the loop is no longer busy with what came during the stall."""
        now = self._loop.time()
        if now - at < _LAG / 5 or now >= until:
            self._call_due()
        else:
            self._wait(now, until)

    def _call_due(self) -> None:
        # A loop may call early by its clock's resolution: what is due then is due now. Chunks may
        # also have moved the moment on: then nothing is due, and the timer is armed again.
        now = max(self._loop.time(), self._at)
        self._handle, self._at = None, inf
        self._due(now)


class _Waker:
    """Has a race look at what it shares with other requests; called from any thread.

    A race lets go of it at its end. What waits for the call to be woken (its planner, queues) then
    refers to it no longer, and its memory is free at once. Otherwise every call would leave fifty
    objects in circles for the garbage collector, whose full passes take a fifth of our CPU time.
    """

    __slots__ = ("_loop", "race")

    def __init__(self, loop: AbstractEventLoop, race: Race) -> None:
        self._loop = loop
        self.race: Race | None = race

    def __call__(self) -> None:
        if self.race is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and the race with it
                self._loop.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        if self.race is not None:
            self.race.look_again()


def _nothing(_: float) -> None:
    """What a stopped timer would call."""


_VISIBLE = 2

_TAIL = 1.0
"""Seconds to wait for usage after a stream's `finish_reason`."""

_END = 0.1
"""Seconds to wait for the stream's end after that: only then can its connection be used again."""

_GOES_ON = 5.0
"""Seconds to wait for more once text has followed a `finish_reason`, which so has meant nothing."""


class Race:
    """One request, raced over a chain of targets. Call `answer()` or `chunks()`, once.

    Args:
        chain: The routes, in order.
        request: What all attempts send.
        plan: The policy.
        dependencies: Injected functions.
        reaper: Closes the losers.
        last_resort: Asked when no target can answer.
        validate: Checks a complete answer; a fault means the next target. Also given a function
            that replaces the request of later attempts. May be asynchronous.
        on_retry: Given tenacity's state before a target is asked again. May be asynchronous.
        plain: Ask for whole answers instead of streams.
        buffer: For `chunks()`: what is shown, and what follows a break.
        size: The request's size and priority, for rate limits; None for an interactive call of
            unknown size.
        profile: What is known of the request that its time depends on.
        listener: Told when attempts begin and end.

    Attributes:
        end: How the call ended; None while it goes on.
        kept: The first attempt whose answer is weak, but better than none; see `Fault.kept`.
        listener: As given.
    """

    __slots__ = (
        "_buffer",
        "_chain",
        "_closed",
        "_dependencies",
        "_interruption",
        "_loop",
        "_on_retry",
        "_plain",
        "_planner",
        "_reader_ready",
        "_reaper",
        "_request",
        "_streaming",
        "_timed_at",
        "_timer",
        "_validate",
        "_wake",
        "_waker",
        "end",
        "kept",
        "listener",
    )  # fmt: skip

    def __init__(
        self,
        chain: Sequence[Route],
        request: ChatRequest,
        plan: Plan,
        dependencies: Dependencies,
        reaper: Reaper,
        *,
        last_resort: Route | None = None,
        validate: Validate | None = None,
        on_retry: Callable[[Any], Any] | None = None,
        plain: bool = False,
        buffer: StreamBuffer | None = None,
        size: RequestSize | None = None,
        profile: RequestProfile = UNKNOWN,
        listener: AttemptListener | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._chain = [*chain, last_resort] if last_resort else chain
        self._request = request
        self._dependencies = dependencies
        self._reaper = reaper
        self._validate = validate
        self._on_retry = on_retry
        self._plain = plain
        self._waker = _Waker(self._loop, self)
        self._planner = Planner(
            [(r.state, r.limits) for r in chain],
            plan,
            now=self._loop.time(),
            rng=dependencies.rng,
            wake=self._waker,
            plain=plain,
            size=size,
            profile=profile,
            last_resort=last_resort.state if last_resort else None,
            can_continue=buffer.can_continue if buffer is not None and validate is None else None,
        )
        self._timer = RaceTimer(self._loop, self._on_time, self._planner.resume_after_stall)
        self._wake: asyncio.Future[None] | None = None
        self._reader_ready: asyncio.Future[None] | None = None
        self._closed = False
        self._timed_at = -inf
        self._interruption: BaseException | None = None
        self._buffer = buffer
        self.listener = listener
        # An answer that must be validated whole cannot be shown in part.
        self._streaming = buffer is not None and validate is None
        self.end: CallEnd | None = None
        self.kept: Attempt | None = None

    # -- for the caller ---------------------------------------------------------------------------

    async def answer(self) -> Any:
        """Race to a complete answer.

        Returns:
            The winner's accumulator; None if no target answered (`end` says why).
        """
        try:
            self._apply(self._planner.begin(self._loop.time()))
            while self.end is None:
                await self._sleep()
        finally:
            self._close()
        winner = self._planner.winner
        return winner.response if winner is not None else None

    async def chunks(self) -> AsyncGenerator[Chunk | Segment, None]:
        """Race to the first text, then yield the winner's chunks as they come, after its `Segment`.

        If that stream breaks, another `Segment` and the chunks of the attempt that continues it may
        follow. It ends with the answer; `end` then says how. Closing it early stops every attempt.

        Raises:
            ValueError: Without a buffer.
        """
        if self._buffer is None:
            msg = "chunks() needs a buffer"
            raise ValueError(msg)
        queue = self._buffer.queue
        try:
            self._apply(self._planner.begin(self._loop.time()))
            while True:
                while queue:
                    chunk = queue.popleft()
                    if self._reader_ready is not None and not queue:
                        self._resume_reading()
                    if isinstance(chunk, Segment):
                        chunk.fixed = True
                    yield chunk
                if self.end is not None:
                    return
                await self._sleep()
        finally:
            self._close()

    def change_request(self, request: ChatRequest) -> None:
        """Make attempts from now on send another request; those under way go on with theirs."""
        self._request = request

    @property
    def winner(self) -> Attempt | None:
        """The attempt that answered, or whose text is the answer so far."""
        return self._planner.winner

    @property
    def started(self) -> float:
        """When the race began, by the loop's clock."""
        return self._planner.started

    def receipt(self) -> Receipt:
        """What has happened so far."""
        planner, now = self._planner, self._loop.time()
        winner = planner.winner
        began = planner.started
        skipped = () if winner is not None else planner.chain.skipped(now)
        return Receipt(
            attempts=tuple(
                [attempt_record(a, began, now) for a in (*planner.attempts, *planner.shadows)]
            ),
            winner=winner.candidate.state.name if winner is not None else None,
            seconds=now - began,
            skipped=skipped,
            elsewhere=None
            if winner is None or not winner.candidate.index
            else planner.chain.why_elsewhere(winner, planner.attempts),
        )

    # -- running ----------------------------------------------------------------------------------

    def _sleep(self) -> asyncio.Future[None]:
        """What to await until something has happened."""
        if self._interruption is not None:
            raise self._interruption
        self._wake = self._loop.create_future()
        return self._wake

    def _resume_reading(self) -> None:
        ready, self._reader_ready = self._reader_ready, None
        # The attempt that waited for it may have been stopped meanwhile.
        if ready is not None and not ready.done():
            ready.set_result(None)

    def _notify(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def _interrupt(self, error: BaseException) -> bool:
        """End the call with an exception that is the caller's business, or a defect of a policy.

        Returns:
            Whether nothing more is to be done with it: it must go on if the caller has gone.
        """
        if isinstance(error, asyncio.CancelledError | GeneratorExit):
            return False
        if self._closed or self.end is not None:
            return isinstance(error, Exception) and is_callers_business(error)
        self._interruption = error
        if self._wake is not None and not self._wake.done():
            self._wake.set_exception(error)
        return True

    def _apply(self, actions: Sequence[Action]) -> None:
        for action in actions:
            attempt = action.attempt if not isinstance(action, Finish) else None
            if isinstance(action, Start) and attempt is not None:
                self._start(attempt)
            elif isinstance(action, Commit) and attempt is not None:
                self._announce(attempt)
            elif isinstance(action, Finish):
                self.end = action.end
                self._notify()
            elif attempt is not None and attempt.task is not None:
                if self._buffer is not None:
                    self._buffer.withdraw(attempt)
                self._report(attempt)
                self._reaper.take(attempt.task)
                if self.listener is not None:
                    self.listener.over(attempt)
        if self.end is None and not self._closed:
            self._timer.arm(self._planner.wake_at)

    def _start(self, attempt: Attempt) -> None:
        request = self._request if self._buffer is None else self._buffer.request(self._request)
        if self.listener is not None:
            self.listener.began(attempt)
        if attempt.kind is AttemptKind.SHADOW:
            route = self._chain[attempt.candidate.index]
            attempt.response = self._dependencies.response()
            self._reaper.host(start_probe(attempt, route, request, self._dependencies))
        else:
            # Not made by the loop, whose factory may be an eager one: it would begin before this
            # race knows it.
            attempt.task = asyncio.Task(self._read(attempt, request), loop=self._loop)

    def _announce(self, attempt: Attempt) -> None:
        if self._streaming and self._buffer is not None:
            self._buffer.announce(attempt)
            self._notify()

    def _on_time(self, now: float) -> None:
        self._timed_at = now
        try:
            self._apply(self._planner.timer(now))
        except BaseException as error:  # the user's policies run in the planner
            if not self._interrupt(error):
                raise

    def look_again(self) -> None:
        """Have the planner look at what it shares with other requests."""
        if self.end is None and not self._closed:
            # A timer may have run ahead of the loop's clock (by a millisecond in uvloop). Requests
            # that then go back in time would pass a token on to each other, endlessly.
            now = max(self._loop.time(), self._timed_at)
            try:
                self._apply(self._planner.woken(now))
            except BaseException as error:  # the user's policies run in the planner
                if not self._interrupt(error):
                    raise

    def _close(self) -> None:
        """Leave nothing running, whether the call ended or its caller was cancelled."""
        self._closed = True
        self._timer.stop()
        for action in self._planner.cancel(self._loop.time()):
            if not isinstance(action, Finish) and action.attempt.task is not None:
                self._reaper.take(action.attempt.task)
        self._waker.race = None

    # -- one attempt ------------------------------------------------------------------------------

    async def _read(self, attempt: Attempt, request: ChatRequest) -> None:
        """Read one stream into its accumulator, and report to the planner. Owns the stream."""
        route = self._chain[attempt.candidate.index]
        stream: Any = None
        fault: Fault | None = None
        try:
            try:
                if attempt.retry_state is not None and self._on_retry is not None:
                    await _await_if_needed(self._on_retry(attempt.retry_state))
                if self.listener is not None:
                    await self.listener.enter(attempt)
                streams = not self._plain and route.state.streams
                source = route.sources[attempt.key]
                stream = await source.open(request, stream=streams)
                # Not before: while a call waits, it holds as little as it can.
                attempt.response = self._dependencies.response()
                if route.state.paced:
                    route.state.read_rate_limits(
                        attempt.key, stream, attempt.reservation, self._loop.time()
                    )
                if self._buffer is None:
                    await self._read_whole(attempt, stream)
                else:
                    await self._read_shown(attempt, stream, self._buffer)
                fault = await self._check_answer(attempt, self._fault(attempt, request, stream))
            except (Exception, asyncio.CancelledError) as error:
                if _passes(attempt, error):
                    raise
                fault = self._dependencies.classify(error)  # every failure becomes a fault
            self._attempt_ended(attempt, fault)
        except BaseException as error:
            if not self._interrupt(error):
                raise
        finally:
            if stream is not None:
                await _close_quietly(stream)
            # A task and a fault keep the error, which keeps this frame: it lets go of all it knows.
            attempt.task = None
            del self, attempt, request, route, stream, fault

    async def _read_whole(self, attempt: Attempt, stream: Any) -> None:
        """Read an answer that counts when it is complete."""
        response, time, planner = attempt.response, self._loop.time, self._planner
        add = response.add
        async for chunk in stream:
            seen = add(chunk)
            if seen:
                now = time()
                attempt.longest_pause = max(attempt.longest_pause, now - attempt.last_chunk)
                attempt.last_chunk = now
                if planner.winner is not attempt:
                    self._apply(self._report_content(attempt, seen, now))
            if response.ended:
                await self._read_trailer(attempt, stream, seen)
                return

    async def _read_shown(self, attempt: Attempt, stream: Any, buffer: StreamBuffer) -> None:
        """Read an answer and buffer it, while it is the winner's."""
        response, held, time, planner = (
            attempt.response,
            attempt.pending_chunks,
            self._loop.time,
            self._planner,
        )
        add, queue = response.add, buffer.queue
        async for chunk in stream:
            seen = add(chunk)
            if not seen:
                # Held back until some text follows, so that endless white space is never shown.
                held.append(chunk)
            else:
                now = time()
                attempt.longest_pause = max(attempt.longest_pause, now - attempt.last_chunk)
                attempt.last_chunk = now
                if planner.winner is attempt and self._streaming:
                    if held:
                        queue.extend(held)
                        held.clear()
                    queue.append(chunk)
                    self._notify()
                    if len(queue) >= MAX_READ_AHEAD:
                        await self._wait_for_reader(attempt)
                else:
                    held.append(chunk)
                    if planner.winner is not attempt:
                        self._apply(self._report_content(attempt, seen, now))
            if response.ended:
                await self._read_trailer(attempt, stream, seen)
                return

    def _report_content(self, attempt: Attempt, seen: int, now: float) -> Sequence[Action]:
        if attempt.first_text is not None:
            return self._planner.chunk(attempt, now)
        if seen >= _VISIBLE:
            return self._planner.first_text(attempt, now)
        self._planner.reasoning(attempt, now)
        return ()

    async def _read_trailer(self, attempt: Attempt, stream: Any, seen: int) -> None:
        """Read what follows a `finish_reason`: usage. The answer is complete, whatever happens.

        Some servers send a `finish_reason` with every chunk: where text follows one, more may.
        """
        response, time = attempt.response, self._loop.time
        attempt.last_chunk = attempt.window_ends_at = inf
        patience = _TAIL if seen else _END
        with contextlib.suppress(Exception):
            least = _END if response.has_usage else _TAIL
            async with asyncio.timeout(max(patience, least)) as limit:
                async for chunk in stream:
                    # Before it is shown: what cannot be parsed raises here.
                    seen = response.add(chunk)
                    attempt.pending_chunks.append(chunk)
                    if seen:
                        patience = _GOES_ON
                        if self._planner.winner is attempt:
                            self._announce(attempt)
                    least = _END if response.has_usage else _TAIL
                    limit.reschedule(time() + max(patience, least))

    async def _wait_for_reader(self, attempt: Attempt) -> None:
        """Let a slow consumer catch up, without taking its slowness for the provider's."""
        self._planner.pause_limits(attempt, self._loop.time())
        self._reader_ready = self._loop.create_future()
        await self._reader_ready
        self._apply(self._planner.resume_limits(attempt, self._loop.time()))

    def _fault(self, attempt: Attempt, request: ChatRequest, stream: Any) -> Fault | None:
        response = attempt.response
        fault: Fault | None = response.fault(request)
        if fault is None:
            return None
        if not response.ended and getattr(stream, "complete", False):
            response.end()
            fault = response.fault(request)
        if fault is None or fault.kind is not FaultKind.EMPTY or fault.code != "stop":
            return fault
        complete = self._buffer is not None and self._buffer.is_complete()
        return None if complete else fault

    async def _check_answer(self, attempt: Attempt, own: Fault | None) -> Fault | None:
        """Have a whole answer validated, unless it has a fault of its own."""
        if self._validate is None or attempt.kind is AttemptKind.LAST_RESORT:
            return own
        # A schema's objection to a bad call goes before that call's own: it may ask for a repair.
        if own is not None and not (own.kept and own.kind is FaultKind.INVALID):
            return own
        fault: Fault | None = await _await_if_needed(self._validate(attempt, self.change_request))
        return fault or own

    def _attempt_ended(self, attempt: Attempt, fault: Fault | None) -> None:
        now, planner = self._loop.time(), self._planner
        if attempt.outcome is not None:
            return  # it was stopped, but its provider suppressed the cancellation
        if fault is not None and self._buffer is not None and self._buffer.used_up(attempt):
            fault = None
        if fault is None:
            actions = planner.done(attempt, now)
            if self._buffer is not None:
                self._buffer.announce(attempt)
        else:
            if fault.kept and self.kept is None:
                self.kept = attempt
            actions = planner.failed(attempt, fault, now)
            if self._buffer is not None:
                self._buffer.withdraw(attempt)
            self._report(attempt)
        if self.listener is not None:
            self.listener.over(attempt)
        # All that its task has left to do is to close its stream.
        self._reaper.keep(attempt.task)
        self._apply(actions)

    def _report(self, attempt: Attempt) -> None:
        if attempt.fault is not None and self._dependencies.on_fault is not None:
            self._dependencies.on_fault(attempt.candidate.state.name, attempt.fault)


def _passes(attempt: Attempt, error: BaseException) -> bool:
    """Whether an exception is no failure of the target: a cancellation, or the caller's business.

    If nobody cancelled the attempt's task, something inside the provider cancelled itself.
    """
    if isinstance(error, asyncio.CancelledError):
        return bool(attempt.task.cancelling())
    return is_callers_business(error)


async def _await_if_needed(value: Any) -> Any:
    """Await what a user's hook returned, if the hook is a coroutine function."""
    return await value if inspect.isawaitable(value) else value


async def _close_quietly(stream: Any) -> None:
    """Close a stream, and ignore errors: the outcome of its attempt is known already."""
    with contextlib.suppress(Exception):
        await stream.aclose()
