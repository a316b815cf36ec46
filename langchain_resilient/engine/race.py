"""The asyncio driver of the planner: starts attempts, feeds events, returns the winner.

It knows how to run things and decides nothing. Each attempt is one task that reads one stream into
its draft; events reach the planner as plain calls on the loop's own thread, so there is no queue
and no lock on the way. Losers go to the reaper; nobody waits for them.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from math import inf
from typing import TYPE_CHECKING, Any

from langchain_resilient.engine.alarm import Alarm
from langchain_resilient.engine.events import Action, Attempt, Commit, End, Finish, Plan, Start
from langchain_resilient.engine.planner import Planner
from langchain_resilient.engine.probe import probe
from langchain_resilient.engine.record import record
from langchain_resilient.engine.show import READ_AHEAD, Leg, Show
from langchain_resilient.fault import Fault, FaultKind
from langchain_resilient.receipt import AttemptKind, Receipt

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

    from langchain_resilient.engine.ports import Load, Route, Tools, Witness
    from langchain_resilient.engine.reaper import Reaper
    from langchain_resilient.request import ChatRequest, Chunk

_VISIBLE = 2

_TAIL = 1.0
"""Seconds that are waited for usage after a stream's `finish_reason`."""

_END = 0.1
"""Seconds that are waited for its end after that: a connection that was read to it serves again."""


class Race:
    """One request, raced over a chain. Use `answer()` or `chunks()`, once.

    Args:
        chain: The routes, in order.
        request: Shared by all attempts.
        plan: The policy.
        tools: Injected functions.
        reaper: Takes the losers.
        last_resort: Asked when nobody else can answer.
        validate: Looks at a whole draft; a fault means the next target. May be asynchronous.
        on_retry: Told tenacity's state before a target is asked again. May be asynchronous.
        plain: Ask for whole answers instead of streams.
        show: For `chunks()`: what is shown, and what follows a break.
        load: Its size and its priority, for pacing; None for an interactive call of no known size.

    Attributes:
        end: How it ended; None while it goes on.
        witness: Told when attempts begin and end.
    """

    __slots__ = ("_alarm", "_chain", "_closed", "_loop", "_on_retry", "_plain", "_planner",
                 "_reaper", "_request", "_room", "_show", "_streaming", "_tools", "_validate",
                 "_wake", "end", "witness")  # fmt: skip

    def __init__(
        self,
        chain: Sequence[Route],
        request: ChatRequest,
        plan: Plan,
        tools: Tools,
        reaper: Reaper,
        *,
        last_resort: Route | None = None,
        validate: Callable[[Any], Fault | Awaitable[Fault | None] | None] | None = None,
        on_retry: Callable[[Any], Any] | None = None,
        plain: bool = False,
        show: Show | None = None,
        load: Load | None = None,
        witness: Witness | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._chain = [*chain, last_resort] if last_resort else chain
        self._request = request
        self._tools = tools
        self._reaper = reaper
        self._validate = validate
        self._on_retry = on_retry
        self._plain = plain
        self._planner = Planner(
            [(r.state, r.limits) for r in chain],
            plan,
            now=self._loop.time(),
            rng=tools.rng,
            nudge=self._nudge,
            plain=plain,
            load=load,
            last_resort=last_resort.state if last_resort else None,
            goes_on=show.goes_on if show is not None and validate is None else None,
        )
        self._alarm = Alarm(self._loop, self._on_time, self._planner.thaw)
        self._wake: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._closed = False
        self._show = show
        self.witness = witness
        # A stream that must be judged whole cannot be shown in part.
        self._streaming = show is not None and validate is None
        self.end: End | None = None

    # -- for the caller -------------------------------------------------------------------------

    async def answer(self) -> Any:
        """Race to a whole answer.

        Returns:
            The winner's draft; None if nobody answered (then `end` says why).
        """
        try:
            self._apply(self._planner.begin(self._loop.time()))
            while self.end is None:
                await self._sleep()
        finally:
            self._close()
        winner = self._planner.winner
        return winner.draft if winner is not None else None

    async def chunks(self) -> AsyncGenerator[Chunk | Leg, None]:
        """Race to the first text, then yield the winner's chunks as they come, after its `Leg`.

        If its stream breaks, another `Leg` may follow, and the chunks of who goes on. Ends with the
        answer; look at `end` then. Closing it early stops every attempt.

        Raises:
            ValueError: Without a show.
        """
        if self._show is None:
            msg = "chunks() needs a show"
            raise ValueError(msg)
        queue = self._show.queue
        try:
            self._apply(self._planner.begin(self._loop.time()))
            while True:
                while queue:
                    chunk = queue.popleft()
                    if self._room is not None and not queue:
                        self._make_room()
                    if isinstance(chunk, Leg):
                        chunk.fixed = True
                    yield chunk
                if self.end is not None:
                    return
                await self._sleep()
        finally:
            self._close()

    def ask(self, request: ChatRequest) -> None:
        """Let attempts from now on send another request; those under way go on with theirs."""
        self._request = request

    @property
    def winner(self) -> Attempt | None:
        """Who answered, or whose text is the answer so far."""
        return self._planner.winner

    @property
    def started(self) -> float:
        """When it began, by the loop's clock."""
        return self._planner.started

    def receipt(self) -> Receipt:
        """What happened so far."""
        planner, now = self._planner, self._loop.time()
        winner = planner.winner
        began = planner.started
        skipped = () if winner is not None else planner.chain.skipped(now)
        return Receipt(
            attempts=tuple([record(a, began, now) for a in (*planner.attempts, *planner.shadows)]),
            winner=winner.lane.state.name if winner is not None else None,
            seconds=now - began,
            skipped=skipped,
        )

    # -- running --------------------------------------------------------------------------------

    async def _sleep(self) -> None:
        self._wake = self._loop.create_future()
        try:
            await self._wake
        finally:
            self._wake = None

    def _make_room(self) -> None:
        room, self._room = self._room, None
        # Whoever waited for it may have been stopped meanwhile.
        if room is not None and not room.done():
            room.set_result(None)

    def _notify(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

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
                if self._show is not None:
                    self._show.withdraw(attempt)
                self._report(attempt)
                self._reaper.take(attempt.task)
                if self.witness is not None:
                    self.witness.over(attempt)
        if self.end is None and not self._closed:
            self._alarm.arm(self._planner.wake_at)

    def _start(self, attempt: Attempt) -> None:
        attempt.draft = self._tools.draft()
        request = self._request if self._show is None else self._show.request(self._request)
        if self.witness is not None:
            self.witness.began(attempt)
        if attempt.kind is AttemptKind.SHADOW:
            route = self._chain[attempt.lane.index]
            self._reaper.host(probe(attempt, route, request, self._tools))
        else:
            attempt.task = self._loop.create_task(self._read(attempt, request))

    def _announce(self, attempt: Attempt) -> None:
        if self._streaming and self._show is not None:
            self._show.announce(attempt)
            self._notify()

    def _on_time(self, now: float) -> None:
        self._apply(self._planner.timer(now))

    def _nudge(self) -> None:
        """Look at what is shared with other requests; called from any thread."""
        with contextlib.suppress(RuntimeError):  # our loop is closed: so is this race
            self._loop.call_soon_threadsafe(self._on_nudge)

    def _on_nudge(self) -> None:
        if self.end is None and not self._closed:
            self._apply(self._planner.nudged(self._loop.time()))

    def _close(self) -> None:
        """Leave nothing running: also the way of a cancelled caller."""
        self._closed = True
        self._alarm.stop()
        for action in self._planner.cancel(self._loop.time()):
            if not isinstance(action, Finish):
                self._reaper.take(action.attempt.task)

    # -- one attempt ----------------------------------------------------------------------------

    async def _read(self, attempt: Attempt, request: ChatRequest) -> None:
        """Read one stream into its draft and tell the planner what is seen. Owns the stream."""
        route = self._chain[attempt.lane.index]
        stream: Any = None
        try:
            fault: Fault | None
            try:
                if attempt.retry_state is not None and self._on_retry is not None:
                    await _maybe(self._on_retry(attempt.retry_state))
                if self.witness is not None:
                    await self.witness.enter(attempt)
                streams = not self._plain and route.state.streams
                source = route.sources[attempt.key]
                stream = await source.open(request, stream=streams)
                if route.state.paced:
                    route.state.heard(attempt, stream, self._loop.time())
                if self._show is None:
                    await self._listen(attempt, stream)
                else:
                    await self._relay(attempt, stream, self._show)
                fault = self._fault(attempt) or await self._judge(attempt)
            except asyncio.CancelledError as error:
                if attempt.task.cancelling():
                    raise
                # Not ours: something inside the provider cancelled itself.
                fault = self._tools.classify(error)
            except Exception as error:  # noqa: BLE001  # every failure becomes a fault
                fault = self._tools.classify(error)
            self._ended(attempt, fault)
        finally:
            if stream is not None:
                await _close_quietly(stream)

    async def _listen(self, attempt: Attempt, stream: Any) -> None:
        """Read an answer that counts when it is whole."""
        draft, time, planner = attempt.draft, self._loop.time, self._planner
        add = draft.add
        async for chunk in stream:
            seen = add(chunk)
            if seen:
                now = time()
                attempt.longest = max(attempt.longest, now - attempt.last_chunk)
                attempt.last_chunk = now
                if planner.winner is not attempt:
                    self._apply(self._heard(attempt, seen, now))
            if draft.ended:
                await self._hear_out(attempt, stream)
                return

    async def _relay(self, attempt: Attempt, stream: Any, show: Show) -> None:
        """Read an answer and show it, while it is the winner's."""
        draft, held, time, planner = attempt.draft, attempt.held, self._loop.time, self._planner
        add, queue = draft.add, show.queue
        async for chunk in stream:
            seen = add(chunk)
            if not seen:
                # It waits for what shows something: white space without end is never shown.
                held.append(chunk)
            else:
                now = time()
                attempt.longest = max(attempt.longest, now - attempt.last_chunk)
                attempt.last_chunk = now
                if planner.winner is attempt and self._streaming:
                    if held:
                        queue.extend(held)
                        held.clear()
                    queue.append(chunk)
                    self._notify()
                    if len(queue) >= READ_AHEAD:
                        await self._wait_for_reader(attempt)
                else:
                    held.append(chunk)
                    if planner.winner is not attempt:
                        self._apply(self._heard(attempt, seen, now))
            if draft.ended:
                await self._hear_out(attempt, stream)
                return

    def _heard(self, attempt: Attempt, seen: int, now: float) -> Sequence[Action]:
        if attempt.first_text is not None:
            return self._planner.chunk(attempt, now)
        return self._planner.first_text(attempt, now) if seen >= _VISIBLE else ()

    async def _hear_out(self, attempt: Attempt, stream: Any) -> None:
        """Take in what follows a `finish_reason`: usage. The answer is whole, whatever happens."""
        draft, time = attempt.draft, self._loop.time
        attempt.last_chunk = attempt.pace_at = inf
        with contextlib.suppress(Exception):
            async with asyncio.timeout(_END if draft.counted else _TAIL) as limit:
                async for chunk in stream:
                    seen = draft.add(chunk)  # first, for what makes no sense is never shown
                    attempt.held.append(chunk)
                    # Some servers give a reason with every chunk.
                    if seen and self._planner.winner is attempt:
                        self._announce(attempt)
                    limit.reschedule(time() + (_END if draft.counted else _TAIL))

    async def _wait_for_reader(self, attempt: Attempt) -> None:
        """Let a slow consumer catch up; its own slowness is not the provider's stall."""
        self._planner.held_up(attempt, self._loop.time())
        self._room = self._loop.create_future()
        await self._room
        self._apply(self._planner.let_on(attempt, self._loop.time()))

    def _fault(self, attempt: Attempt) -> Fault | None:
        fault: Fault | None = attempt.draft.fault()
        if fault is None or fault.kind is not FaultKind.EMPTY or fault.code != "stop":
            return fault
        complete = self._show is not None and self._show.is_complete()
        return None if complete else fault

    async def _judge(self, attempt: Attempt) -> Fault | None:
        if self._validate is None or attempt.kind is AttemptKind.LAST_RESORT:
            return None
        fault: Fault | None = await _maybe(self._validate(attempt))
        return fault

    def _ended(self, attempt: Attempt, fault: Fault | None) -> None:
        now, planner = self._loop.time(), self._planner
        if attempt.outcome is not None:
            return  # it was stopped, and its provider does not let itself be cancelled
        if fault is None:
            actions = planner.done(attempt, now)
            if self._show is not None:
                self._show.announce(attempt)
        else:
            actions = planner.failed(attempt, fault, now)
            if self._show is not None:
                self._show.withdraw(attempt)
            self._report(attempt)
        if self.witness is not None:
            self.witness.over(attempt)
        # What is left of it is to close its stream.
        self._reaper.keep(attempt.task)
        self._apply(actions)

    def _report(self, attempt: Attempt) -> None:
        if attempt.fault is not None and self._tools.on_fault is not None:
            self._tools.on_fault(attempt.lane.state.name, attempt.fault)


async def _maybe(value: Any) -> Any:
    """Await what a user's hook returned, if it was a coroutine function."""
    return await value if inspect.isawaitable(value) else value


async def _close_quietly(stream: Any) -> None:
    """Close a stream whose answer is known already: a failing close changes nothing."""
    with contextlib.suppress(Exception):
        await stream.aclose()
