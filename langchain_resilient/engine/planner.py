"""Sans-I/O: events in, actions out. One plan and one deadline for retry, hedge and fallback.

The planner owns no socket, no task, no clock and no global randomness: each event brings the time,
and the generator is given, so a seed replays a request exactly. After each event the driver does
what the actions say, then calls `timer` no later than `wake_at`.

The rules are those of happy eyeballs (RFC 8305) and gRPC's hedging (proposal A6), with one deadline
over everything: a failure starts the next target at once, lateness starts one beside it, the first
valid text wins, and nobody waits for a loser.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from langchain_resilient.engine.chain import Chain, is_open
from langchain_resilient.engine.events import (
    Action,
    Attempt,
    Commit,
    End,
    Finish,
    Lane,
    Plan,
    Start,
    Stop,
)
from langchain_resilient.engine.retrying import retry_state
from langchain_resilient.fault import Fault, FaultKind
from langchain_resilient.policy import Timeouts
from langchain_resilient.receipt import AttemptKind, Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable
    from random import Random

    from langchain_resilient.engine.health import TargetState

_NO_LIMITS = Timeouts(first_text=None, chunk_gap=None, answer=None)
"""For the last resort: there is nobody else to ask, so only the deadline ends it."""

_NO_BUDGET_PAUSE = 0.25
"""Seconds after which a late request without a hedge token asks again."""


class Planner:
    """Decides every send of one request.

    Attributes:
        chain: Whom to ask; the planner decides when.
        attempts: All that were started, in order.
        winner: Whose text is the answer so far.
        end: How it ended; None while it goes on.
        wake_at: When `timer` must be called at the latest.
        wants_room: Targets that are full and would be asked if they were not.
    """

    __slots__ = ("_deadline", "_delivered", "_last_resort", "_live", "_plan", "_resume_at",
                 "_rng", "attempts", "chain", "end", "started", "wake_at", "wants_room",
                 "winner")  # fmt: skip

    def __init__(
        self,
        chain: Iterable[tuple[TargetState, Timeouts | None]],
        plan: Plan,
        *,
        now: float,
        rng: Random,
        last_resort: TargetState | None = None,
    ) -> None:
        self._plan = plan
        self._rng = rng
        self.chain = Chain(chain, plan, rng)
        self._last_resort = (
            None if last_resort is None else Lane(len(self.chain.lanes), last_resort, _NO_LIMITS)
        )
        self._deadline = inf if plan.deadline is None else now + plan.deadline
        self._live: list[Attempt] = []
        self._resume_at = inf
        self._delivered = False
        self.started = now
        self.attempts: list[Attempt] = []
        self.winner: Attempt | None = None
        self.end: End | None = None
        self.wake_at = self._deadline
        self.wants_room: list[TargetState] = []

    # -- events ---------------------------------------------------------------------------------

    def begin(self, now: float) -> list[Action]:
        """Send the first attempt."""
        self._plan.budget.deposit()
        out: list[Action] = []
        self._go_on(now, out)
        return self._settle(out)

    def first_text(self, attempt: Attempt, now: float) -> list[Action]:
        """Its first visible text or tool call came: it wins, unless whole answers are raced."""
        hedge = self._plan.hedge
        if hedge is not None and hedge.on == "response":
            return []
        attempt.first_text = attempt.last_chunk = now
        if self.end is not None or self.winner is not None:
            return []
        return self._settle(self._commit(attempt, now))

    def chunk(self, attempt: Attempt, now: float) -> list[Action]:
        """Content came. A suspect that goes on speaking is believed again."""
        attempt.last_chunk = now
        if attempt.suspect and attempt.first_text is not None and self.winner is None:
            return self._settle(self._commit(attempt, now))
        return []

    def delivered(self) -> None:
        """Some of the winner's text reached the caller: nothing can replace it from now on."""
        self._delivered = True

    def done(self, attempt: Attempt, now: float) -> list[Action]:
        """Its answer is whole and valid."""
        if self.end is not None or attempt.outcome is not None:
            return []
        attempt.first_text = now if attempt.first_text is None else attempt.first_text
        attempt.fault = None
        attempt.lane.state.succeeded()
        self._close(attempt, Outcome.WON, now)
        return self._finish(End.ANSWERED, now, [], winner=attempt)

    def failed(self, attempt: Attempt, fault: Fault, now: float) -> list[Action]:
        """It failed: the next target is asked at once."""
        if self.end is not None or attempt.outcome is not None:
            return []
        was_suspect = attempt.suspect
        attempt.fault = fault
        self._close(attempt, Outcome.FAILED, now)
        out: list[Action] = []
        if attempt is self.winner:
            self.winner = None
            if self._delivered:
                return self._finish(End.BROKEN, now, out)
        if not was_suspect:
            self.chain.learn(self.attempts, attempt.lane, fault, now)
        if self.chain.rejected:
            return self._finish(End.REJECTED, now, out)
        if self.winner is None:
            self._go_on(now, out, failed=attempt.lane)
        return self._settle(out)

    def room(self, now: float) -> list[Action]:
        """A target that was full has room."""
        out: list[Action] = []
        if self.end is None and not self._active():
            self._go_on(now, out)
        return self._settle(out)

    def timer(self, now: float) -> list[Action]:
        """Do what is due."""
        if self.end is not None:
            return []
        out: list[Action] = []
        if self._last_resort and not self.winner and now >= self._deadline - self._plan.reserve:
            self._deadline = max(self._deadline, now + self._plan.reserve)
            self._ask_last_resort(now, out)
        if now >= self._deadline:
            return self._finish(End.DEADLINE, now, out)
        for attempt in tuple(self._live):
            if attempt.outcome is None:
                self._check(attempt, now, out)
        if (
            self.winner is None
            and not self._over()
            and not self._active()
            and now >= self._resume_at
        ):
            self._go_on(now, out)
        return self._settle(out)

    # -- rules ----------------------------------------------------------------------------------

    def _check(self, attempt: Attempt, now: float, out: list[Action]) -> None:
        """Hold one attempt against its limits."""
        limits = attempt.lane.limits
        if limits.answer is not None and now >= attempt.started + limits.answer:
            fault = Fault(FaultKind.TIMEOUT, f"the answer took over {limits.answer:g} s")
            out.append(Stop(attempt))
            out.extend(self.failed(attempt, fault, now))
        elif attempt.suspect:
            return
        elif attempt.first_text is None:
            if limits.first_text is not None and now >= attempt.started + limits.first_text:
                fault = Fault(FaultKind.TIMEOUT, f"no text within {limits.first_text:g} s")
                self._suspect(attempt, fault, now, out)
            elif attempt.hedge_at is not None and now >= attempt.hedge_at:
                self._hedge(attempt, now, out)
        elif limits.chunk_gap is not None and now >= attempt.last_chunk + limits.chunk_gap:
            fault = Fault(FaultKind.STALL, f"nothing for {limits.chunk_gap:g} s inside the answer")
            if self._delivered and attempt is self.winner:
                out.append(Stop(attempt))
                out.extend(self.failed(attempt, fault, now))
            else:
                self._suspect(attempt, fault, now, out)

    def _suspect(self, attempt: Attempt, fault: Fault, now: float, out: list[Action]) -> None:
        """Ask others, but keep listening.

        Killing the slow would starve a model that only thinks long. Only the first suspect of a
        request is kept; more would pile up connections in a black hole.
        """
        keep = not any(a.suspect for a in self._live)
        attempt.suspect = True
        attempt.fault = fault
        attempt.lane.active -= 1
        if attempt is self.winner:
            self.winner = None
        self.chain.learn(self.attempts, attempt.lane, fault, now)
        if not keep:
            self._close(attempt, Outcome.FAILED, now)
            out.append(Stop(attempt))
        self._go_on(now, out, failed=attempt.lane)

    def _hedge(self, attempt: Attempt, now: float, out: list[Action]) -> None:
        attempt.hedge_at = None
        hedge = self._plan.hedge
        if hedge is None or self._active() >= hedge.max_parallel:
            return
        lane = self.chain.choose(now, beside={a.lane.state.provider for a in self._live})
        if lane is None:
            return
        if self._plan.budget.take():
            self._start(lane, AttemptKind.HEDGE, now, out)
        else:
            attempt.hedge_at = now + _NO_BUDGET_PAUSE

    def _go_on(self, now: float, out: list[Action], failed: Lane | None = None) -> None:
        """Ask the next target; or wait for the earliest; or give up."""
        hedge = self._plan.hedge
        if self._active() >= (hedge.max_parallel if hedge else 1):
            return
        again = failed is not None and failed.again and is_open(failed, now)
        lane = failed if again else self.chain.choose(now)
        if lane is not None:
            kind = AttemptKind.RETRY if lane.tries else AttemptKind.FALLBACK
            self._start(lane, kind if self.attempts else AttemptKind.PRIMARY, now, out)
            return
        if self._active():
            return
        self._resume_at = self.chain.open_at(now)
        self.wants_room = self.chain.full(now)
        if self._resume_at < self._deadline or self.wants_room:
            return
        if self._last_resort is None and self.chain.forgive(now):
            self._go_on(now, out)
            return
        self._ask_last_resort(now, out)
        if not self._live:
            out.extend(self._finish(End.EXHAUSTED, now, []))

    def _start(self, lane: Lane, kind: AttemptKind, now: float, out: list[Action]) -> None:
        if not lane.state.slots.take():
            # Another thread was faster than our look at it.
            self.wants_room = [lane.state]
            return
        attempt = Attempt(len(self.attempts) + 1, lane, kind, now)
        if lane.tries:
            attempt.retry_state = retry_state(self.attempts, lane, now, self._rng)
        lane.tries += 1
        lane.active += 1
        lane.again = False
        if self._plan.hedge is not None and kind is not AttemptKind.LAST_RESORT:
            attempt.hedge_at = now + self._plan.hedge.delay
        self.attempts.append(attempt)
        self._live.append(attempt)
        self._resume_at = inf
        self.wants_room = []
        out.append(Start(attempt))

    def _ask_last_resort(self, now: float, out: list[Action]) -> None:
        lane, self._last_resort = self._last_resort, None
        if lane is not None:
            self._start(lane, AttemptKind.LAST_RESORT, now, out)

    # -- book-keeping ---------------------------------------------------------------------------

    def _over(self) -> bool:
        return self.end is not None

    def _active(self) -> int:
        return sum(not a.suspect for a in self._live)

    def _commit(self, attempt: Attempt, now: float) -> list[Action]:
        self.winner = attempt
        if attempt.suspect:
            attempt.suspect = False
            attempt.fault = None
            attempt.lane.active += 1
        return [Commit(attempt), *self._stop_others(attempt, Outcome.LOST, now)]

    def _stop_others(self, winner: Attempt | None, how: Outcome, now: float) -> list[Action]:
        out: list[Action] = []
        for attempt in tuple(self._live):
            if attempt is not winner:
                # One that was given up on failed; one that was merely slower lost.
                self._close(attempt, Outcome.FAILED if attempt.fault else how, now)
                out.append(Stop(attempt))
        return out

    def _close(self, attempt: Attempt, outcome: Outcome, now: float) -> None:
        attempt.outcome = outcome
        attempt.ended = now
        if not attempt.suspect:
            attempt.lane.active -= 1
        attempt.lane.state.slots.give_back()
        self._live.remove(attempt)

    def _finish(
        self, end: End, now: float, out: list[Action], winner: Attempt | None = None
    ) -> list[Action]:
        self.end = end
        self.winner = winner
        self.wake_at = inf
        self.wants_room = []
        how = Outcome.LOST if end is End.ANSWERED else Outcome.CANCELLED
        out += self._stop_others(None, how, now)
        out.append(Finish(end, winner))
        return out

    def cancel(self, now: float) -> list[Action]:
        """The caller went away."""
        return [] if self.end is not None else self._stop_others(None, Outcome.CANCELLED, now)

    def _settle(self, out: list[Action]) -> list[Action]:
        """Find the next moment at which something is due."""
        if self.end is not None:
            return out
        at = self._deadline
        if self.winner is None:
            if self._last_resort is not None:
                at -= self._plan.reserve
            if self._resume_at < at and not self._active():
                at = self._resume_at
        for attempt in self._live:
            at = min(at, _due(attempt))
        self.wake_at = at
        return out


def _due(attempt: Attempt) -> float:
    """When one of its limits is reached."""
    limits = attempt.lane.limits
    at = inf if limits.answer is None else attempt.started + limits.answer
    if attempt.suspect:
        return at
    if attempt.first_text is None:
        if limits.first_text is not None:
            at = min(at, attempt.started + limits.first_text)
        return at if attempt.hedge_at is None else min(at, attempt.hedge_at)
    return at if limits.chunk_gap is None else min(at, attempt.last_chunk + limits.chunk_gap)
