"""What one request waits for, and for how long: tokens, its turn, its deadline, its last resort.

The time of an interactive call begins when it is made. That of a batch call begins at the first
send that is let in: waiting for a turn costs it nothing, for it is the number of prompts and the
limits of the provider that decide how long that takes.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from langchain_resilient.engine.attempt import Candidate
from langchain_resilient.engine.candidates import LAST_TRY_SECONDS, MAX_HINT
from langchain_resilient.engine.limits import start_throughput_window
from langchain_resilient.policies import TimeLimits
from langchain_resilient.receipt import AttemptKind

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from langchain_resilient.engine.attempt import Attempt
    from langchain_resilient.engine.attempt_list import AttemptList
    from langchain_resilient.engine.budgets import Budget, TokenWaiter
    from langchain_resilient.engine.candidates import Candidates
    from langchain_resilient.engine.interfaces import Plan
    from langchain_resilient.engine.rate_limiter import QueuedRequest, RateLimiter
    from langchain_resilient.engine.target_state import ConcurrencyLimiter, TargetState

POLL_SECONDS = 1.0
"""Seconds after which a request that waits for a retry token, for room at the last resort, or for
others to be done, looks again: a budget's income over time wakes nothing by itself."""

_MIN_ANSWER_SECONDS = 1.0
"""Seconds before its deadline from which a token would come too late to help a request."""

_NO_LIMITS = TimeLimits(first_text=None, thinking=None, chunk_gap=None, answer=None)
"""Of the last resort: nothing is left to ask after it, so only the deadline ends it."""


class WaitList:
    """What one request waits for: at most one token, and its turn at full or paced targets.

    Args:
        since: When the request began: the oldest is served first.
        useful_until: After this time a token would come too late to help it.
        wake: Called from any thread when something it waits for may have come.

    Attributes:
        useful_until: After this time a token would come too late to help it.
        ticket: Its place in a budget's queue, until a granted token is taken.
        kind: What the token is for.
    """

    __slots__ = ("_full", "_joined", "_since", "_wake_up", "kind", "ticket", "useful_until")

    def __init__(self, since: float, useful_until: float, wake: Callable[[], None]) -> None:
        self._since = since
        self.useful_until = useful_until
        self._wake_up = wake
        self._full: list[ConcurrencyLimiter] = []
        self._joined: list[tuple[RateLimiter, QueuedRequest]] = []
        self.ticket: TokenWaiter | None = None
        self.kind: AttemptKind = AttemptKind.HEDGE

    def request_token(
        self, budget: Budget, kind: AttemptKind, now: float, size: float = 0.0
    ) -> None:
        """Wait for a token of this budget, and for none of another any longer."""
        if self.ticket is not None:
            if self.ticket.budget is budget:
                return
            self.ticket.give_up(now)
        self.kind = kind
        self.ticket = budget.wait(self._since, self.useful_until, self._wake_up, size)

    def take_granted(self) -> TokenWaiter | None:
        """Take the token, if it has come. The caller must spend it or give it up."""
        ticket = self.ticket
        if ticket is None or not ticket.granted:
            return None
        self.ticket = None
        return ticket

    def wait_for_room(self, full: Iterable[TargetState]) -> None:
        """Wait for room at these targets."""
        for state in full:
            if state.concurrency not in self._full:
                self._full.append(state.concurrency)
                state.concurrency.wait(self._wake_up)

    def join_queues(self, queues: Sequence[tuple[RateLimiter, QueuedRequest]], now: float) -> None:
        """Join these queues and leave all others; a place that is held already is kept."""
        left = [queue for queue in self._joined if queue not in queues]
        for rate_limiter, request in queues:
            if (rate_limiter, request) not in self._joined:
                rate_limiter.join(request, now)
        self._joined = list(queues)
        for rate_limiter, request in left:
            rate_limiter.leave(request)

    def leave(self, now: float) -> None:
        """Stop waiting for anything."""
        if self.ticket is not None:
            ticket, self.ticket = self.ticket, None
            ticket.give_up(now)
        if self._full:
            self.stop_waiting_for_room()
        if self._joined:
            self.join_queues((), now)

    def stop_waiting_for_room(self) -> None:
        """Stop waiting for room; room that was offered already is passed on to the next."""
        limiters, self._full = self._full, []
        for limiter in limiters:
            limiter.forget(self._wake_up)


class CallTime:
    """How long one request may go on.

    Args:
        plan: The policy.
        now: The engine's clock, as the call begins.
        chain: The targets; they are told the deadline.
        attempts: Those of the call.
        wait_list: What it waits for; that is told the deadline too.
        batch: Whether its time begins at the first send that is let in.
        last_resort: Asked when no target can answer.

    Attributes:
        deadline: When the call ends at the latest; `inf` for never.
        overtime: Seconds of it that the last resort alone was given.
        last_try_at: When a target is tried whatever its pace, if nothing was sent; `inf` for never.
        last_resort: None once it was asked, or if there is none.
        last_resort_at: When it is asked; `inf` for never.
    """

    __slots__ = (
        "_attempts", "_batch", "_chain", "_paused", "_plan", "_started", "_wait_list", "deadline",
        "last_resort", "last_resort_at", "last_try_at", "overtime",
    )  # fmt: skip

    def __init__(
        self,
        plan: Plan,
        now: float,
        chain: Candidates,
        attempts: AttemptList,
        wait_list: WaitList,
        *,
        batch: bool,
        last_resort: TargetState | None,
    ) -> None:
        self._plan = plan
        self._started = now
        self._chain = chain
        self._attempts = attempts
        self._wait_list = wait_list
        self._batch = batch
        self._paused = (now, 0.0, inf)
        self.last_resort = (
            None
            if last_resort is None
            else Candidate(len(chain.candidates), last_resort, _NO_LIMITS)
        )
        self.last_resort_at: float = inf
        self.last_try_at: float = inf
        self.overtime: float = 0.0
        self.deadline: float = inf
        if plan.deadline is not None:
            self._begin(now, plan.deadline)
        if not batch:
            chain.wait_until = wait_list.useful_until

    def is_unserved(self) -> bool:
        """Whether it is a batch call that only limits have kept from being worked on."""
        return self._batch and all(a.candidate.refused for a in self._attempts.all)

    def note_send(self, now: float) -> None:
        """Begin the time of an unserved batch call: it is being sent."""
        if self._plan.deadline is not None and self.is_unserved():
            self._begin(now, self._plan.deadline)

    def note_wait(
        self,
        full: Collection[TargetState],
        queues: Sequence[tuple[RateLimiter, QueuedRequest]],
        until: float,
        now: float,
    ) -> None:
        """Begin the time of an unserved batch call as late as is fair: no target can be asked.

        Args:
            full: The targets that have no room for it.
            queues: Those that it stands in.
            until: When a target can be asked again.
            now: The engine's clock.
        """
        unsent = not self._attempts.all
        limit = self._plan.deadline
        if limit is not None and (unsent or until < now + MAX_HINT) and self.is_unserved():
            self._begin(self._waits_since(full, queues, now), limit)
        if unsent:
            self.last_try_at = self.deadline - LAST_TRY_SECONDS

    def look_at_queues(self, now: float) -> None:
        """Give an unserved batch call its time again, where others were let in meanwhile."""
        limit = self._plan.deadline
        if limit is None or self._attempts.active_count() or not self.is_unserved():
            return
        full, queues = self._chain.full_targets(now), self._chain.queues(now)
        since = self._waits_since(full, queues, now) if full or queues else -inf
        if since + limit > self.deadline:
            self._begin(since, limit)
            self.last_try_at = self.deadline - LAST_TRY_SECONDS

    def _waits_since(
        self,
        full: Collection[TargetState],
        queues: Sequence[tuple[RateLimiter, QueuedRequest]],
        now: float,
    ) -> float:
        """When the time of an unserved batch call began; `inf` while it costs it nothing to wait.

        A queue that moves is waited in for as long as that takes, one that lets nobody in is not.
        """
        if full:
            return inf
        limiters = [rate_limiter for rate_limiter, _ in queues]
        if not limiters:
            asked = self._attempts.all
            limiters = [a.candidate.state.keys[a.key].rate_limiter for a in asked]
        since = max((limiter.refusing_since for limiter in limiters), default=now)
        # What was refused before this call began is no matter of its time.
        return max(self._started, since if queues else min(now, since))

    def _begin(self, since: float, seconds: float) -> None:
        self.deadline = self._chain.deadline = deadline = since + seconds
        self._wait_list.useful_until = deadline - _MIN_ANSWER_SECONDS
        if self.last_resort is not None:
            self.last_resort_at = deadline - self._plan.reserve

    def pause(self, attempt: Attempt, now: float) -> None:
        """Stop the clock, of this attempt too: our own reader is slow."""
        self._paused = now, attempt.excused_seconds, self.deadline
        attempt.last_chunk = attempt.window_ends_at = attempt.excused_seconds = inf
        self.deadline = inf

    def resume(self, attempt: Attempt, now: float) -> None:
        """Go on where it was stopped."""
        since, excused_seconds, deadline = self._paused
        attempt.last_chunk = now
        attempt.excused_seconds = excused_seconds + (now - since)
        self.deadline = deadline + (now - since)
        start_throughput_window(attempt, now)

    # -- the last resort --------------------------------------------------------------------------

    def start_last_resort(self, now: float) -> None:
        """Note that the last resort was asked.

        If it is asked late, because our own event loop was held up, it still gets its time.
        """
        self.last_resort = None
        self.last_resort_at = inf
        until = now + max(self._plan.reserve, self._plan.grace)
        if until > self.deadline:
            self.overtime, self.deadline = until - self.deadline, until

    def hasten_last_resort(self, now: float) -> None:
        """A connection failed: ask the last resort soon, or now if no target can be reached.

        It need not wait for the deadline: whoever is offline will hardly be online before it.
        """
        if self.last_resort is None:
            return
        if self._chain.unreachable():
            self.last_resort_at = now
        elif not any(a.fault is None for a in self._attempts.all):
            at = self._started + self._plan.last_resort_after
            self.last_resort_at = min(self.last_resort_at, max(now, at))

    def restore_last_resort(self, stopped: Iterable[Attempt]) -> None:
        """Let the last resort be asked again if it was stopped for an answer that has only begun.

        That try is not counted: we stopped it, it did not fail, so asking it again is no retry and
        costs no token. An outage may have used up the tokens, and waiting for one could take
        the time in which it can still answer. The retry budget need not bound this either: it is
        only stopped, and so only asked again, when another answer begins.
        """
        for attempt in stopped:
            if attempt.kind is AttemptKind.LAST_RESORT:
                self.end_overtime()
                self.last_resort = attempt.candidate
                self.last_resort.tries -= 1
                self.last_resort_at = self.deadline - self._plan.reserve

    def end_overtime(self) -> None:
        """Take back the time past the deadline, which the last resort alone was given."""
        self.deadline -= self.overtime
        self.overtime = 0.0
