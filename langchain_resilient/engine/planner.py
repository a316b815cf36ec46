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

from langchain_resilient.engine.attempt import (
    Attempt,
    AttemptList,
    Candidate,
    check_throughput,
    hedge_delay,
    late_after,
    next_limit_at,
    pause_after,
    restart_limits,
    start_throughput_window,
)
from langchain_resilient.engine.candidates import Candidates, WaitList, is_open, retry_state
from langchain_resilient.engine.plan import Action, CallEnd, Commit, Finish, Plan, Start, Stop
from langchain_resilient.engine.rate_limiter import QueuedRequest
from langchain_resilient.faults import Fault, FaultKind
from langchain_resilient.options import TimeLimits
from langchain_resilient.receipt import AttemptKind, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from random import Random

    from langchain_resilient.engine.budgets import TokenWaiter
    from langchain_resilient.engine.rate_limiter import RequestSize
    from langchain_resilient.engine.target_state import TargetState

_NO_LIMITS = TimeLimits(first_text=None, chunk_gap=None, answer=None)
"""For the last resort: there is nobody else to ask, so only the deadline ends it."""

_TIME_TO_ANSWER = 1.0
"""Seconds before its deadline at which a request lets others go first: a token comes too late."""

_POLL = 1.0
"""Seconds after which a request that waits for a retry token, or for room at the last resort, looks
what time has brought."""


def _always(_: Attempt) -> bool:
    return True


class Planner:
    """Decides every send of one request.

    Args:
        chain: The targets, in order, each with its own limits or None for the plan's.
        plan: The policy.
        now: The engine's clock.
        rng: The engine's generator.
        wake: Called from any thread when something shared has changed; then call `woken`.
        last_resort: Asked when nobody else can answer.
        plain: Whole answers are raced.
        goes_on: Where text is shown as it comes: whether another target may go on after what is
            shown of this attempt. None where only a whole answer is shown.
        load: Its size and its priority, for pacing; None for an interactive call of no known size.

    Attributes:
        chain: Whom to ask; the planner decides when.
        shadows: Probes of sick targets that were started beside it; the driver owns them.
        winner: Whose text is the answer so far.
        end: How it ended; None while it goes on.
        wake_at: When `timer` must be called at the latest.
    """

    __slots__ = (
        "_ask_for",
        "_deadline",
        "_goes_on",
        "_held_up",
        "_last_at",
        "_last_resort",
        "_most",
        "_open",
        "_overtime",
        "_plain",
        "_plan",
        "_resume_at",
        "_rng",
        "_waiting",
        "_wake_up",
        "_whole",
        "chain",
        "end",
        "shadows",
        "started",
        "wake_at",
        "winner",
    )  # fmt: skip

    def __init__(
        self,
        chain: Iterable[tuple[TargetState, TimeLimits | None]],
        plan: Plan,
        *,
        now: float,
        rng: Random,
        wake: Callable[[], None],
        last_resort: TargetState | None = None,
        plain: bool = False,
        goes_on: Callable[[Attempt], bool] | None = None,
        load: RequestSize | None = None,
    ) -> None:
        self._plan = plan
        # Without anybody to show text to, an answer counts when it is whole.
        self._whole = goes_on is None
        self._goes_on = goes_on or _always
        self._rng = rng
        self._wake_up = wake
        hedge = plan.hedge
        self._most = 1 if hedge is None else hedge.max_parallel
        self._plain = plain or (hedge is not None and hedge.on == "response")
        self._ask_for = QueuedRequest(load, now, wake)
        self.chain = Candidates(chain, plan, rng, self._ask_for)
        self._last_resort = (
            None
            if last_resort is None
            else Candidate(len(self.chain.candidates), last_resort, _NO_LIMITS)
        )
        self._deadline = inf if plan.deadline is None else now + plan.deadline
        self._last_at = inf if last_resort is None else self._deadline - plan.reserve
        if not self._ask_for.batch:
            self.chain.patience = self._deadline - _TIME_TO_ANSWER
        self._open = AttemptList()
        self._waiting = WaitList(now, self._deadline - _TIME_TO_ANSWER, wake)
        self._resume_at = inf
        self._held_up = (now, 0.0, inf)
        self._overtime = 0.0
        self.started: float = now
        self.shadows: list[Attempt] = []
        self.winner: Attempt | None = None
        self.end: CallEnd | None = None
        self.wake_at: float = self._deadline

    @property
    def attempts(self) -> list[Attempt]:
        """All that were started, in order."""
        return self._open.all

    # -- events ---------------------------------------------------------------------------------

    def begin(self, now: float) -> list[Action]:
        """Send the first attempt; and a shadow, if a sick target is to be probed."""
        self._plan.budgets.deposit(now)
        out: list[Action] = []
        if self._plan.health is not None:
            self.chain.calm(now)
        self._go_on(now, out)
        if self._plan.health is not None:
            self._probe(now, out)
        return self._settle(out)

    def first_text(self, attempt: Attempt, now: float) -> list[Action]:
        """Its first visible text or tool call came: it wins, unless whole answers are raced."""
        if self._plain or attempt.outcome is not None:
            return []
        attempt.first_text = attempt.last_chunk = now
        attempt.longest = 0.0
        start_throughput_window(attempt, now)
        if attempt.kind is not AttemptKind.LAST_RESORT:
            attempt.pause = pause_after(self._plan.hedge, attempt, now)
        if self.end is not None:
            return []
        self._open.spoke(attempt, now)
        return self._settle(self._commit(attempt, now) if self.winner is None else [])

    def chunk(self, attempt: Attempt, now: float) -> list[Action]:
        """Content came of one that is not the winner: if it was doubted, it is believed again."""
        attempt.last_chunk = now
        if self.winner is None and attempt.outcome is None and attempt.first_text is not None:
            return self._settle(self._commit(attempt, now))
        return self._settle([])

    def pause_limits(self, attempt: Attempt, now: float) -> None:
        """Our own reader is slow: until `resume_limits` no limit is held against anybody."""
        self._held_up = now, attempt.excused, self._deadline
        attempt.last_chunk = attempt.pace_at = attempt.excused = self._deadline = inf

    def resume_limits(self, attempt: Attempt, now: float) -> list[Action]:
        """The reader has caught up: its own slowness took none of the answer's time."""
        since, excused, deadline = self._held_up
        attempt.last_chunk = now
        attempt.excused = excused + (now - since)
        self._deadline = deadline + (now - since)
        start_throughput_window(attempt, now)
        return self._settle([])

    def done(self, attempt: Attempt, now: float) -> list[Action]:
        """Its answer is whole and valid."""
        if self.end is not None or attempt.outcome is not None:
            return []
        if attempt.first_text is None:
            attempt.first_text = now
            self._open.spoke(attempt, now)
        attempt.fault = None
        attempt.candidate.state.succeeded(attempt.key)
        if attempt.pause < inf:
            attempt.candidate.state.flowed(attempt.longest, now)
        self._plan.budgets.succeeded(now)
        self._open.close(attempt, Outcome.WON, now)
        return self._finish(CallEnd.ANSWERED, now, [], winner=attempt)

    def failed(self, attempt: Attempt, fault: Fault, now: float) -> list[Action]:
        """It failed: the next target is asked at once."""
        if self.end is not None or attempt.outcome is not None:
            return []
        attempt.fault = fault
        self._open.close(attempt, Outcome.FAILED, now)
        self.chain.learn(self._open.all, attempt, fault, now)
        if attempt.kind is AttemptKind.LAST_RESORT:
            self._withdraw()
        out: list[Action] = []
        if attempt is self.winner:
            self.winner = None
            if not self._goes_on(attempt):
                return self._finish(CallEnd.BROKEN, now, out)
        if self.chain.rejected:
            return self._finish(CallEnd.REJECTED, now, out)
        if self.winner is None:
            self._go_on(now, out, failed=attempt.candidate)
        return self._settle(out)

    def woken(self, now: float) -> list[Action]:
        """A token was granted, a target has room, or one that is being waited for tripped."""
        if self.end is not None or self.winner is not None:
            return []
        out: list[Action] = []
        ticket = self._waiting.granted()
        caught = self._open.caught()
        if ticket is not None and self._waiting.kind is AttemptKind.RETRY and not caught:
            self._go_on(now, out, paid=ticket)
        elif ticket is not None:
            self._extra(self._waiting.kind, now, out, paid=ticket)
        elif caught:
            self._rescue(now, out)
        else:
            # Room that nobody of ours needs any more goes to the next.
            self._waiting.leave_queues()
            if not self._open.active():
                self._go_on(now, out)
        return self._settle(out)

    def timer(self, now: float) -> list[Action]:
        """Do what is due."""
        if self.end is not None:
            return []
        out: list[Action] = []
        if now >= self._last_at and self._may_resort():
            self._ask_last_resort(now, out)
        if now >= self._deadline:
            return self._finish(CallEnd.DEADLINE, now, out)
        for attempt in tuple(self._open.live):
            if attempt.outcome is None:
                self._check(attempt, now, out)
        if self.winner is None and self.end is None and now >= self._resume_at:
            self._resume(now, out)
        return self._settle(out)

    def resume_after_stall(self, now: float) -> list[Action]:
        """Our own process stood still: what is under way is held to its limits afresh.

        A hedge for each of them, and a mark against each target, would be for our own silence. Only
        the deadline stays where it is: it was promised to whoever waits.
        """
        for attempt in self._open.live:
            restart_limits(attempt, now)
        return self._settle([])

    def cancel(self, now: float) -> list[Action]:
        """The caller went away."""
        if self.end is not None:
            return []
        self._waiting.leave(now)
        return [*map(Stop, self._open.close_others(None, Outcome.CANCELLED, now))]

    # -- rules ----------------------------------------------------------------------------------

    def _check(self, attempt: Attempt, now: float, out: list[Action]) -> None:
        """Hold one attempt against its limits."""
        limits = attempt.candidate.limits
        if limits.answer is not None and now >= attempt.started + attempt.excused + limits.answer:
            fault = Fault(FaultKind.TIMEOUT, f"the answer took over {limits.answer:g} s")
            self._give_up(attempt, fault, now, out)
        elif attempt.suspect or (now >= attempt.pace_at and self._crawls(attempt, now, out)):
            return
        elif attempt.first_text is None:
            self._check_silent(attempt, now, out)
        else:
            self._check_speaking(attempt, now, out)

    def _check_silent(self, attempt: Attempt, now: float, out: list[Action]) -> None:
        """It has not spoken yet."""
        limit = attempt.candidate.limits.first_text
        if now >= attempt.late_at:
            self._judge_late(attempt, now)
            if self._open.caught():
                self._rescue(now, out)
        if limit is not None and now >= attempt.started + attempt.excused + limit:
            fault = Fault(FaultKind.TIMEOUT, f"no text within {limit:g} s")
            self._suspect(attempt, fault, now, out)
        elif now >= attempt.hedge_at:
            attempt.hedge_at = inf
            self._extra(AttemptKind.HEDGE, now, out)

    def _check_speaking(self, attempt: Attempt, now: float, out: list[Action]) -> None:
        """It may have stopped in the middle."""
        limit = attempt.candidate.limits.chunk_gap
        if limit is not None and now >= attempt.last_chunk + limit:
            fault = Fault(FaultKind.STALL, f"nothing for {limit:g} s inside the answer")
            if self._goes_on(attempt):
                self._suspect(attempt, fault, now, out)
            else:
                self._give_up(attempt, fault, now, out)
        elif attempt is self.winner and now >= attempt.last_chunk + attempt.pause:
            attempt.paused = True
            if self._goes_on(attempt):
                self.winner = None
                self._extra(AttemptKind.HEDGE, now, out)

    def _crawls(self, attempt: Attempt, now: float, out: list[Action]) -> bool:
        """Give one up that is too slow, if another target is free: slow is better than none."""
        fault = check_throughput(attempt, now)
        other = self.chain.choose(now) if fault is not None else None
        # One that merely lost to this one is as free as one that was never asked.
        if fault is None or other is None or not other.state.sound(now):
            return False
        if any(a.candidate is other and a.fault is not None for a in self._open.all):
            return False
        if attempt.first_text is not None and not self._goes_on(attempt):
            return False
        self._give_up(attempt, fault, now, out)
        return True

    def _give_up(self, attempt: Attempt, fault: Fault, now: float, out: list[Action]) -> None:
        out.append(Stop(attempt))
        out.extend(self.failed(attempt, fault, now))

    def _judge_late(self, attempt: Attempt, now: float) -> None:
        attempt.late_at = inf
        attempt.late = True
        if self._plan.health is not None:
            trip_after = self._plan.health.trip_after
            attempt.candidate.state.late(now, trip_after, started=attempt.started)

    def _suspect(self, attempt: Attempt, fault: Fault, now: float, out: list[Action]) -> None:
        """Ask others, but keep listening: a killed model that thinks long would never answer."""
        keep = self._open.doubt(attempt)
        attempt.fault = fault
        if attempt is self.winner:
            self.winner = None
        self.chain.learn(self._open.all, attempt, fault, now)
        if not keep:
            self._open.close(attempt, Outcome.FAILED, now)
            out.append(Stop(attempt))
        if not self._open.covered():
            # Else a hedge is under way already, and has its own limits.
            self._go_on(now, out, failed=attempt.candidate)

    def _rescue(self, now: float, out: list[Action]) -> None:
        """All that are waited for are lost: ask elsewhere, or there again if it is back.

        The latter is a retry: so many at a time come back as are answered.
        """
        back = self._open.back()
        self._extra(AttemptKind.RETRY if back else AttemptKind.RESCUE, now, out)

    def _extra(
        self, kind: AttemptKind, now: float, out: list[Action], paid: TokenWaiter | None = None
    ) -> None:
        """Ask another beside the one that is waited for, if its budget has a token, else wait."""
        candidate = None
        if self._open.active() < self._most and now < self._deadline:
            beside = {a.candidate.state.provider for a in self._open.live}
            lost = () if kind is AttemptKind.HEDGE else self._open.lost_candidates()
            candidate = self.chain.choose_extra(now, beside, lost)
        if candidate is None:
            if paid is not None:
                paid.give_up(now)
            self._look_again(now)
            return
        budget = self._plan.budgets.of_kind(kind)
        if paid is None and not budget.take():
            self._waiting.ask(budget, kind, now)
        elif self._start(candidate, kind, now, out):
            self.chain.spend(candidate)
        elif paid is not None:
            paid.give_up(now)
        else:
            budget.give_back(now)

    def _look_again(self, now: float) -> None:
        """No target is open for a hedge now: come back to it when one is."""
        at = self.chain.extra_at(now)
        for attempt in self._open.live:
            if not attempt.suspect and attempt.first_text is None and attempt.hedge_at < inf:
                return
        for attempt in self._open.live:
            if not attempt.suspect and attempt.first_text is None and self._plan.hedge is not None:
                attempt.hedge_at = at
                return

    def _go_on(
        self,
        now: float,
        out: list[Action],
        failed: Candidate | None = None,
        paid: TokenWaiter | None = None,
    ) -> None:
        """Ask the next target; or wait for the earliest; or give up."""
        again = failed is not None and failed.again and is_open(failed, now)
        candidate = failed if again else self.chain.choose(now)
        sent = False
        if self._open.active() >= self._most or now >= self._deadline - self._overtime:
            pass
        elif self._open.covered():
            # A sound one is being waited for: only a fresh, sound one is worth a send beside it.
            if candidate is not None and not candidate.tries and candidate.state.sound(now):
                sent = self._start(candidate, self._kind_for(candidate), now, out)
            else:
                self._look_again(now)
        elif candidate is None:
            self._wait_or_end(now, out)
        else:
            sent = self._ask(candidate, now, out, paid)
        if paid is not None and not sent:
            paid.give_up(now)

    def _ask(
        self, candidate: Candidate, now: float, out: list[Action], paid: TokenWaiter | None
    ) -> bool:
        """Send, if a first try or a token pays for it; else wait for a token."""
        retry = self._plan.budgets.retry
        owes = self._owes(candidate, now)
        if owes and paid is None and not retry.take():
            self._waiting.ask(retry, AttemptKind.RETRY, now)
            self._waiting.stand_in((), now)  # it is held up by its own fault, not the others
            self._resume_at = min(now + _POLL, self.chain.open_at(now))
            return False
        if not self._start(candidate, self._kind_for(candidate), now, out):
            # Another thread took its last place: on to the next.
            if owes and paid is None:
                retry.give_back(now)
            self._go_on(now, out)
            return False
        if paid is not None and not owes:
            paid.give_up(now)
        return True

    @staticmethod
    def _owes(candidate: Candidate, now: float) -> bool:
        """Whether a send costs a retry token, as all but a first try do.

        A target that is down has to be asked now and then, but not by everybody at once.
        """
        return not candidate.free and (candidate.tries > 0 or candidate.state.down(now))

    def _kind_for(self, candidate: Candidate) -> AttemptKind:
        if candidate.index == len(self.chain.candidates):
            return AttemptKind.LAST_RESORT
        if not self._open.all:
            return AttemptKind.PRIMARY
        return AttemptKind.RETRY if candidate.tries else AttemptKind.FALLBACK

    def _wait_or_end(self, now: float, out: list[Action]) -> None:
        """Nobody can be asked this moment."""
        self._resume_at = self.chain.open_at(now)
        if self._open.active():
            return
        full = self.chain.full(now)
        if full:
            self._waiting.queue(full)
        lines = self.chain.lines(now)
        self._waiting.stand_in(lines, now)
        if self._ask_for.batch and not self._open.all:
            self._begin_deadline(inf if full or lines else now)
        if self._resume_at < self._deadline or full or lines:
            return
        if self._last_resort is None and self.chain.ignore_blocks(now):
            self._go_on(now, out)
            return
        self._ask_last_resort(now, out)
        if not self._open.live and self._last_resort is None:
            out.extend(self._finish(CallEnd.EXHAUSTED, now, []))

    def _resume(self, now: float, out: list[Action]) -> None:
        """A backoff is over, or it is time to look for a retry token."""
        self._resume_at = inf
        if self._open.covered():
            return
        if self._waiting.kind is AttemptKind.RETRY and self._waiting.ticket is not None:
            self._plan.budgets.retry.refill(now)
        self._go_on(now, out)

    def _start(
        self, candidate: Candidate, kind: AttemptKind, now: float, out: list[Action]
    ) -> bool:
        plan, state = self._plan, candidate.state
        if not state.concurrency.take():
            # Another thread was faster than our look at it.
            self._waiting.queue([state])
            return False
        self._waiting.leave(now)
        if self._ask_for.batch and not self._open.all:
            self._begin_deadline(now)
        state.asked(now)
        attempt = self._attempt(len(self._open.all) + 1, candidate, kind, now)
        if candidate.tries:
            attempt.retry_state = retry_state(self._open.all, candidate, now, self._rng)
        start_throughput_window(attempt, now)
        alarm = None
        if kind is not AttemptKind.LAST_RESORT:
            if plan.hedge is not None:
                attempt.hedge_at = now + hedge_delay(
                    plan.hedge, attempt, now, batch=self._ask_for.batch
                )
            if plan.health is not None:
                attempt.late_at = now + late_after(plan.hedge, attempt, now)
                alarm = self._wake_up
        self._open.open(attempt, alarm)
        self._resume_at = inf
        out.append(Start(attempt))
        return True

    def _attempt(self, number: int, candidate: Candidate, kind: AttemptKind, now: float) -> Attempt:
        plain = self._plain or not candidate.state.streams
        key = candidate.state.next_key(now, candidate.ask)
        attempt = Attempt(number, candidate, kind, now, key=key, plain=plain)
        if candidate.state.paced:
            attempt.reservation = candidate.state.keys[key].rate_limiter.take(self._ask_for, now)
        return attempt

    def _begin_deadline(self, now: float) -> None:
        """The time of a batch call runs from its first send: who waits in line loses nothing."""
        if self._plan.deadline is None:
            return
        self._deadline = now + self._plan.deadline
        self._waiting.useful_until = self._deadline - _TIME_TO_ANSWER
        if self._last_resort is not None:
            self._last_at = self._deadline - self._plan.reserve

    def _probe(self, now: float, out: list[Action]) -> None:
        """Send a shadow of this request to a target that tripped, if it is time for one."""
        candidate = self.chain.choose_shadow(now)
        if candidate is not None:
            shadow = self._attempt(len(self.shadows) + 1, candidate, AttemptKind.SHADOW, now)
            self.shadows.append(shadow)
            out.append(Start(shadow))

    def _may_resort(self) -> bool:
        """Whether the last resort may be asked.

        Beside an answer that has begun only if nobody saw any of it, and only a fixed text, which
        is asked so late that the answer keeps its time.
        """
        return self.winner is None or (self._whole and self._plan.grace > 0)

    def _ask_last_resort(self, now: float, out: list[Action]) -> None:
        """Ask who always answers; where it is full, as soon as it has room."""
        candidate = self._last_resort
        if candidate is None:
            return
        if self._start(candidate, AttemptKind.LAST_RESORT, now, out):
            self._last_resort = None
            self._last_at = inf
            # Asked late, because our own loop was held up, it gets its time all the same.
            until = now + max(self._plan.reserve, self._plan.grace)
            if until > self._deadline:
                self._overtime, self._deadline = until - self._deadline, until
        else:
            self._last_at = now + _POLL

    # -- book-keeping ---------------------------------------------------------------------------

    def _commit(self, attempt: Attempt, now: float) -> list[Action]:
        self.winner = attempt
        self._waiting.leave(now)
        if attempt.suspect:
            self._open.believe(attempt)
        attempt.paused = False
        self._overtake(now)
        # Of answers that only count when they are whole, one that has begun goes on: nobody knows
        # who will be first.
        # A fixed text that was asked for goes on, too: what has begun may yet break.
        spare = self._whole and self._plan.grace > 0
        stopped = self._open.close_others(
            attempt, Outcome.LOST, now, begun=not self._whole, resort=not spare
        )
        self._restore_last_resort(stopped)
        return [Commit(attempt), *map(Stop, stopped)]

    def _restore_last_resort(self, stopped: Iterable[Attempt]) -> None:
        """Have the last resort to ask again, if it was ended by one that has only begun.

        Its try no longer counts: it was stopped by us and did not fail, so asking it once more is
        no retry and costs no token. An outage may have used up the tokens, and waiting for one
        could take the time in which it still can answer. The retry budget need not bound it
        either: it is only stopped, and so only asked again, when another answer begins.
        """
        for attempt in stopped:
            if attempt.kind is AttemptKind.LAST_RESORT:
                self._withdraw()
                self._last_resort = attempt.candidate
                self._last_resort.tries -= 1
                self._last_at = self._deadline - self._plan.reserve

    def _withdraw(self) -> None:
        """Take back the time past the deadline, which was for the last resort alone."""
        self._deadline -= self._overtime
        self._overtime = 0.0

    def _overtake(self, now: float) -> None:
        """Another has spoken since these fell silent: that is a failure of theirs."""
        for other in self._open.live:
            if other.paused and not other.suspect and not self._whole:
                said = f"silent for {now - other.last_chunk:.3g} s inside the answer"
                other.fault = Fault(FaultKind.STALL, said)
                self.chain.learn(self._open.all, other, other.fault, now)

    def _finish(
        self, end: CallEnd, now: float, out: list[Action], winner: Attempt | None = None
    ) -> list[Action]:
        self.end = end
        self.winner = winner
        self.wake_at = inf
        self._waiting.leave(now)
        how = Outcome.LOST if end is CallEnd.ANSWERED else Outcome.CANCELLED
        out += map(Stop, self._open.close_others(None, how, now))
        out.append(Finish(end, winner))
        return out

    def _settle(self, out: list[Action]) -> list[Action]:
        """Find the next moment at which something is due."""
        if self.end is not None:
            return out
        at = self._deadline
        if self.winner is None:
            at = min(at, self._resume_at)
        if self._may_resort():
            at = min(at, self._last_at)
        for attempt in self._open.live:
            at = min(at, next_limit_at(attempt))
        self.wake_at = at
        return out
