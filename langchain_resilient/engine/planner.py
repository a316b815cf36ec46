"""Decides every send of one request: one plan and one deadline for retry, hedge and fallback.

It is sans-I/O: events in, actions out. It owns no socket, no task, no clock and no global random
numbers; each event brings the time, and the generator is given, so that a seed replays a request
exactly. After each event the driver does what the actions say, and calls `timer` no later than
`wake_at`.

The rules are those of happy eyeballs (RFC 8305: start the next attempt at once after a failure, or
beside the first when that is late) and of gRPC's hedging (proposal A6: the first success wins, a
fatal status ends all, servers may push back), under one deadline. Hedges wait for about the 95th
percentile, and a budget bounds them (Dean & Barroso, "The Tail at Scale", 2013; Finagle's
BackupRequestFilter). The first valid text wins, and nothing waits for a loser.

An attempt is lost in one of two ways. It may *fail*: then it is closed. Or it may *time out*: then
others are asked, but it is still read, and may win after all, since a model that thinks for long
would otherwise never answer, however often it is asked.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from langchain_resilient.engine.attempt import Attempt, Candidate
from langchain_resilient.engine.attempt_list import AttemptList
from langchain_resilient.engine.candidates import (
    Candidates,
    is_open,
    retry_state,
)
from langchain_resilient.engine.interfaces import Action, CallEnd, Commit, Finish, Plan, Start, Stop
from langchain_resilient.engine.limits import (
    MAX_SPARSE,
    check_answer,
    check_throughput,
    late_due_at,
    next_limit_at,
    restart_limits,
    start_text_limits,
    text_due_at,
    text_fault,
    thinking_limit,
)
from langchain_resilient.engine.rate_limiter import QueuedRequest
from langchain_resilient.engine.time_model import UNKNOWN
from langchain_resilient.engine.waiting import POLL_SECONDS, CallTime, WaitList
from langchain_resilient.faults import Fault, FaultKind
from langchain_resilient.receipt import AttemptKind, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from random import Random

    from langchain_resilient.engine.budgets import TokenWaiter
    from langchain_resilient.engine.rate_limiter import RequestSize
    from langchain_resilient.engine.target_state import TargetState
    from langchain_resilient.engine.time_model import RequestProfile
    from langchain_resilient.policies import TimeLimits


class Planner:
    """Decides every send of one request.

    Args:
        chain: The targets, in order, each with its own limits or None for the plan's.
        plan: The policy.
        now: The engine's clock.
        rng: The engine's generator.
        wake: Called from any thread when something shared has changed; then call `woken`.
        last_resort: Asked when no target can answer.
        plain: Whole answers are raced, rather than first texts.
        can_continue: Where text is shown as it comes: whether another target may continue after
            what is shown of an attempt. None where only a whole answer is shown.
        size: The request's size and priority, for rate limits; None for an interactive call of
            unknown size.
        profile: What is known of the request that its time depends on.

    Attributes:
        chain: The targets; they know which can be asked, the planner decides when.
        shadows: Probes of sick targets that were started beside the request; the driver owns them.
        winner: The attempt whose text is the answer so far.
        end: How the call ended; None while it goes on.
        wake_at: When `timer` must be called at the latest.
    """

    __slots__ = (
        "_attempts", "_can_continue", "_max_active", "_plain", "_plan", "_profile",
        "_queued_request", "_resume_at", "_rng", "_time", "_wait_list", "_wake_up",
        "_whole_only", "chain", "end", "shadows", "started", "wake_at", "winner",
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
        can_continue: Callable[[Attempt], bool] | None = None,
        size: RequestSize | None = None,
        profile: RequestProfile = UNKNOWN,
    ) -> None:
        self._plan = plan
        self._profile = profile
        # Where no text is shown as it comes, an answer counts when it is whole.
        self._whole_only = can_continue is None
        self._can_continue = can_continue or (lambda _: True)
        self._rng = rng
        self._wake_up = wake
        hedge = plan.hedge
        self._max_active = 1 if hedge is None else hedge.max_parallel
        self._plain = plain or (hedge is not None and hedge.on == "response")
        self._queued_request = QueuedRequest(size, now, wake)
        self.chain = Candidates(chain, plan, rng, self._queued_request)
        self._attempts = AttemptList(hedge, plan.health, batch=self._queued_request.batch)
        self._wait_list = WaitList(now, inf, wake)
        self._time = CallTime(
            plan,
            now,
            self.chain,
            self._attempts,
            self._wait_list,
            batch=self._queued_request.batch,
            last_resort=last_resort,
        )
        self._resume_at = inf
        self.started: float = now
        self.shadows: list[Attempt] = []
        self.winner: Attempt | None = None
        self.end: CallEnd | None = None
        self.wake_at: float = self._time.deadline

    @property
    def attempts(self) -> list[Attempt]:
        """All that were started, in order."""
        return self._attempts.all

    # -- events -----------------------------------------------------------------------------------

    def begin(self, now: float) -> list[Action]:
        """Send the first attempt, and a shadow probe, if one is due for a sick target."""
        self._plan.budgets.deposit(now, self._profile.prompt_tokens)
        out: list[Action] = []
        if self._plan.health is not None:
            self.chain.reset_if_all_tripped(now)
        self._ask_next(now, out)
        if self._plan.health is not None:
            self._probe(now, out)
        return self._update_wake_at(out)

    def first_text(self, attempt: Attempt, now: float) -> list[Action]:
        """Its first visible text or tool call: it wins, unless whole answers are raced."""
        if self._plain or attempt.outcome is not None:
            return []
        start_text_limits(attempt, self._plan.hedge, now)
        if self.end is not None:
            return []
        self._attempts.record_first_text(attempt, now)
        return self._update_wake_at(self._commit(attempt, now) if self.winner is None else [])

    def reasoning(self, attempt: Attempt, now: float) -> None:
        """A piece of reasoning: its target lives. That wins nothing, but is no silence either."""
        attempt.last_chunk = now
        if not attempt.thinks:
            attempt.thinks = True
            attempt.thinking_limit = thinking_limit(attempt, now)

    def chunk(self, attempt: Attempt, now: float) -> list[Action]:
        """Content of one that is not the winner: one that had timed out or paused may win."""
        attempt.last_chunk = now
        if self.winner is None and attempt.outcome is None and attempt.first_text is not None:
            return self._update_wake_at(self._commit(attempt, now))
        return self._update_wake_at([])

    def pause_limits(self, attempt: Attempt, now: float) -> None:
        """Suspend all limits until `resume_limits`: our own reader is slow."""
        self._time.pause(attempt, now)

    def resume_limits(self, attempt: Attempt, now: float) -> list[Action]:
        """Go on with the limits: the reader has caught up. Its slowness is not counted."""
        self._time.resume(attempt, now)
        return self._update_wake_at([])

    def done(self, attempt: Attempt, now: float) -> list[Action]:
        """Its answer is whole and valid."""
        if self.end is not None or attempt.outcome is not None:
            return []
        self._attempts.record_answer(attempt, now)
        self._plan.budgets.succeeded(now)
        self._attempts.close(attempt, Outcome.WON, now)
        return self._finish(CallEnd.ANSWERED, now, [], winner=attempt)

    def failed(self, attempt: Attempt, fault: Fault, now: float) -> list[Action]:
        """It failed: the next target is asked at once."""
        if self.end is not None or attempt.outcome is not None:
            return []
        attempt.fault = fault
        self._attempts.close(attempt, Outcome.FAILED, now)
        self.chain.record_failure(self._attempts.all, attempt, fault, now)
        if fault.kind is FaultKind.EMPTY and self._follows_a_break(attempt):
            self.chain.end_backoffs(now)
        if attempt.kind is AttemptKind.LAST_RESORT:
            self._time.end_overtime()
        elif fault.kind is FaultKind.CONNECTION:
            self._time.hasten_last_resort(now)
        out: list[Action] = []
        if attempt is self.winner:
            self.winner = None
            if not self._can_continue(attempt):
                return self._finish(CallEnd.BROKEN, now, out)
        if self.chain.rejected:
            return self._finish(CallEnd.REJECTED, now, out)
        if self.winner is None:
            self._ask_next(now, out, failed=attempt.candidate)
        return self._update_wake_at(out)

    def _follows_a_break(self, attempt: Attempt) -> bool:
        """Whether it was to go on from text that is shown: then it may have had nothing to add."""
        return not self._whole_only and any(
            other.first_text is not None for other in self._attempts.all if other is not attempt
        )

    def woken(self, now: float) -> list[Action]:
        """A token was granted, a target has room, or one that is waited for tripped."""
        if self.end is not None or self.winner is not None:
            return []
        out: list[Action] = []
        ticket = self._wait_list.take_granted()
        all_lost = self._attempts.all_lost()
        if ticket is not None and self._wait_list.kind is AttemptKind.RETRY and not all_lost:
            self._ask_next(now, out, paid=ticket)
        elif ticket is not None:
            self._start_extra(self._wait_list.kind, now, out, paid=ticket)
        elif all_lost:
            self._rescue(now, out)
        else:
            # Room that is not needed here any more goes to the next request.
            self._wait_list.stop_waiting_for_room()
            if not self._attempts.active_count():
                self._ask_next(now, out)
            self._attempts.hasten_hedges(now)
        return self._update_wake_at(out)

    def timer(self, now: float) -> list[Action]:
        """Do what is due."""
        if self.end is not None:
            return []
        out: list[Action] = []
        time = self._time
        if now >= min(time.last_resort_at, time.last_try_at, time.deadline):
            time.look_at_queues(now)
        if now >= time.last_resort_at and self._may_ask_last_resort():
            self._ask_last_resort(now, out)
        if now >= time.deadline:
            return self._finish(CallEnd.DEADLINE, now, out)
        if now >= time.last_try_at:
            time.last_try_at = inf
            if not self._attempts.all and self.chain.ignore_pace(now):
                self._ask_next(now, out)
        for attempt in tuple(self._attempts.live):
            if attempt.outcome is None:
                self._check(attempt, now, out)
        if self.winner is None and self.end is None and now >= self._resume_at:
            self._resume(now, out)
        return self._update_wake_at(out)

    def resume_after_stall(self, now: float) -> list[Action]:
        """Our own process stood still: start the limits of all attempts afresh.

        Otherwise each would be hedged, and each target marked as late, for a silence of our own.
        Only the deadline stays where it is: it was promised to the caller.
        """
        for attempt in self._attempts.live:
            restart_limits(attempt, now)
        return self._update_wake_at([])

    def cancel(self, now: float) -> list[Action]:
        """The caller went away."""
        if self.end is not None:
            return []
        self._wait_list.leave(now)
        return [*map(Stop, self._attempts.close_others(None, Outcome.CANCELLED, now))]

    # -- rules ------------------------------------------------------------------------------------

    def _check(self, attempt: Attempt, now: float, out: list[Action]) -> None:
        """Check one attempt against its limits."""
        fault = check_answer(attempt, now)
        if fault is not None:
            self._give_up(attempt, fault, now, out)
        elif attempt.timed_out or (
            now >= attempt.window_ends_at and self._give_up_if_slow(attempt, now, out)
        ):
            return
        elif attempt.first_text is None:
            self._check_silent(attempt, now, out)
        else:
            self._check_speaking(attempt, now, out)

    def _check_silent(self, attempt: Attempt, now: float, out: list[Action]) -> None:
        """Check one that has shown no text yet."""
        if now >= late_due_at(attempt):
            self._attempts.record_late(attempt, now)
            if self._attempts.all_lost():
                self._rescue(now, out)
        if now >= text_due_at(attempt):
            fault, final = text_fault(attempt, now)
            (self._give_up if final else self._time_out)(attempt, fault, now, out)
        elif now >= attempt.rescue_at:
            if self.chain.waiting() <= MAX_SPARSE:
                attempt.rescue_at = inf
                self._start_extra(AttemptKind.RESCUE, now, out, planned=True)
            else:
                attempt.rescue_at = now + POLL_SECONDS
        elif now >= attempt.hedge_at:
            attempt.hedge_at = inf
            self._start_extra(AttemptKind.HEDGE, now, out)

    def _check_speaking(self, attempt: Attempt, now: float, out: list[Action]) -> None:
        """Check one that may have stopped in the middle."""
        limit = attempt.candidate.limits.chunk_gap
        if limit is not None and now >= attempt.last_chunk + limit:
            fault = Fault(FaultKind.STALL, f"nothing for {limit:g} s inside the answer")
            if self._can_continue(attempt):
                self._time_out(attempt, fault, now, out)
            else:
                self._give_up(attempt, fault, now, out)
        elif attempt is self.winner and now >= attempt.last_chunk + attempt.pause_limit:
            attempt.paused = True
            if self._can_continue(attempt):
                self.winner = None
                self._start_extra(AttemptKind.HEDGE, now, out)

    def _give_up_if_slow(self, attempt: Attempt, now: float, out: list[Action]) -> bool:
        """Give up one that is too slow, if another can do better: slow is better than none."""
        fault = check_throughput(attempt, now)
        other = self.chain.choose(now) if fault is not None else None
        if fault is None or other is None or not other.state.is_healthy(now):
            return False
        # A target that merely lost to this one may be asked again; one that failed may not.
        if any(a.candidate is other and a.fault is not None for a in self._attempts.all):
            return False
        if attempt.first_text is not None and not self._can_continue(attempt):
            return False
        self._give_up(attempt, fault, now, out)
        return True

    def _give_up(self, attempt: Attempt, fault: Fault, now: float, out: list[Action]) -> None:
        out.append(Stop(attempt))
        out.extend(self.failed(attempt, fault, now))

    def _time_out(self, attempt: Attempt, fault: Fault, now: float, out: list[Action]) -> None:
        """Ask others, but keep reading it: a model that thinks for long may yet answer first."""
        keep = self._attempts.mark_timed_out(attempt)
        attempt.fault = fault
        if attempt is self.winner:
            self.winner = None
        self.chain.record_failure(self._attempts.all, attempt, fault, now)
        if keep:
            self.chain.spare_the_only_machine(attempt.candidate, now)
        else:
            self._attempts.close(attempt, Outcome.FAILED, now)
            out.append(Stop(attempt))
        if not self._attempts.any_healthy():
            # Otherwise a hedge is under way already, with limits of its own.
            self._ask_next(now, out, failed=attempt.candidate)

    def _rescue(self, now: float, out: list[Action]) -> None:
        """All attempts are lost: ask elsewhere, or the same target if it answers again.

        The latter is paid for as a retry: that budget lets requests return as fast as answers come,
        rather than all at once.
        """
        back = self._attempts.any_target_is_back()
        self._start_extra(AttemptKind.RETRY if back else AttemptKind.RESCUE, now, out)

    def _start_extra(
        self,
        kind: AttemptKind,
        now: float,
        out: list[Action],
        paid: TokenWaiter | None = None,
        *,
        planned: bool = False,
    ) -> None:
        """Start a hedge or a rescue, if its budget has a token; else wait for one.

        Args:
            kind: Which of the two, or a retry.
            now: The engine's clock.
            out: Takes what is to be done.
            paid: A token that was granted for it.
            planned: It is a rescue in place of a hedge, which is waiting for its token already.
        """
        candidate = None
        if self._attempts.active_count() < self._max_active and now < self._time.deadline:
            beside = {a.candidate.state.provider for a in self._attempts.live}
            lost = () if kind is AttemptKind.HEDGE else self._attempts.lost_candidates()
            candidate = self.chain.choose_extra(now, beside, lost)
        if candidate is None:
            if paid is not None:
                paid.give_up(now)
            if not planned:
                self._attempts.postpone_hedge(self.chain.extra_at(now))
            return
        budget = self._plan.budgets.of_kind(kind)
        size = self._profile.prompt_tokens
        if paid is None and not budget.take(size):
            self._wait_list.request_token(budget, kind, now, size)
            if kind is AttemptKind.HEDGE and self._plan.health is not None:
                self._attempts.plan_rescues(now)
        elif self._start(candidate, kind, now, out):
            self.chain.charge(candidate)
        elif paid is not None:
            paid.give_up(now)
        else:
            budget.give_back(now, size)

    def _ask_next(
        self,
        now: float,
        out: list[Action],
        failed: Candidate | None = None,
        paid: TokenWaiter | None = None,
    ) -> None:
        """Ask the next target; or wait for the earliest; or give up."""
        again = failed is not None and failed.retry_at_once and is_open(failed, now)
        candidate = failed if again else self.chain.choose(now)
        sent = False
        active = self._attempts.active_count()
        if active >= self._max_active or now >= self._time.deadline - self._time.overtime:
            pass
        elif active and self._attempts.any_healthy():
            # A healthy target is being waited for: only an untried, healthy one is worth a send
            # beside it.
            if candidate is not None and not candidate.tries and candidate.state.is_healthy(now):
                sent = self._start(candidate, self._kind_for(candidate), now, out)
            else:
                self._attempts.postpone_hedge(self.chain.extra_at(now))
        elif candidate is None:
            self._wait_or_end(now, out)
        else:
            sent = self._send_or_wait(candidate, now, out, paid)
        if paid is not None and not sent:
            paid.give_up(now)

    def _send_or_wait(
        self, candidate: Candidate, now: float, out: list[Action], paid: TokenWaiter | None
    ) -> bool:
        """Send, if it is a first try or a token pays for it; else wait for a token."""
        retry = self._plan.budgets.retry
        owes = candidate.needs_token(now)
        if owes and paid is None and not retry.take():
            self._wait_list.request_token(retry, AttemptKind.RETRY, now)
            self._wait_list.join_queues((), now)  # what holds it up is its own failure
            self._resume_at = min(now + POLL_SECONDS, self.chain.open_at(now))
            return False
        if not self._start(candidate, self._kind_for(candidate), now, out):
            # Another thread took the last place at it: ask the next.
            if owes and paid is None:
                retry.give_back(now)
            self._ask_next(now, out)
            return False
        if paid is not None and not owes:
            paid.give_up(now)
        return True

    def _kind_for(self, candidate: Candidate) -> AttemptKind:
        if candidate.index == len(self.chain.candidates):
            return AttemptKind.LAST_RESORT
        if not self._attempts.all:
            return AttemptKind.PRIMARY
        return AttemptKind.RETRY if candidate.tries else AttemptKind.FALLBACK

    def _wait_or_end(self, now: float, out: list[Action]) -> None:
        """No target can be asked at this moment: wait for one, or end."""
        self._resume_at = self.chain.open_at(now)
        if self._attempts.active_count():
            return
        if self.chain.waits_for_money():
            self._resume_at = min(self._resume_at, now + POLL_SECONDS)
        full = self.chain.full_targets(now)
        if full:
            self._wait_list.wait_for_room(full)
        queues = self.chain.queues(now)
        self._wait_list.join_queues(queues, now)
        self._time.note_wait(full, queues, self._resume_at, now)
        waits = self._resume_at < self._time.deadline and not self.chain.only_blocked(now)
        if waits or full or queues:
            return
        if self._time.last_resort is None and self.chain.ignore_blocks(now):
            self._ask_next(now, out)
            return
        self._ask_last_resort(now, out)
        if not self._attempts.live and self._time.last_resort is None:
            out.extend(self._finish(CallEnd.EXHAUSTED, now, []))

    def _resume(self, now: float, out: list[Action]) -> None:
        """Go on: a backoff is over, or it is time to look for a retry token."""
        self._resume_at = inf
        if self._attempts.any_healthy():
            return
        if self._wait_list.kind is AttemptKind.RETRY and self._wait_list.ticket is not None:
            self._plan.budgets.retry.refill(now)
        self._ask_next(now, out)

    def _start(
        self, candidate: Candidate, kind: AttemptKind, now: float, out: list[Action]
    ) -> bool:
        state = candidate.state
        if not state.concurrency.take():
            # Another thread has taken the last place since it was chosen.
            self._wait_list.wait_for_room([state])
            return False
        self._wait_list.leave(now)
        if self._queued_request.batch:
            self._time.note_send(now)
        state.record_send(now)
        attempt = self._attempt(len(self._attempts.all) + 1, candidate, kind, now)
        if candidate.tries:
            attempt.retry_state = retry_state(self._attempts.all, candidate, now, self._rng)
        self._attempts.open(attempt, now, self._wake_up)
        self._resume_at = inf
        out.append(Start(attempt))
        return True

    def _attempt(self, number: int, candidate: Candidate, kind: AttemptKind, now: float) -> Attempt:
        plain = self._plain or not candidate.state.streams
        key = candidate.state.next_key(now, candidate.queued_request)
        attempt = Attempt(number, candidate, kind, now, key=key, plain=plain, profile=self._profile)
        if candidate.state.paced:
            attempt.reservation = candidate.state.keys[key].rate_limiter.reserve(
                self._queued_request.at(candidate.state.name), now
            )
        return attempt

    def _probe(self, now: float, out: list[Action]) -> None:
        """Send a shadow of this request to a target that tripped, if a probe of it is due."""
        candidate = self.chain.choose_shadow(now)
        if candidate is not None:
            shadow = self._attempt(len(self.shadows) + 1, candidate, AttemptKind.SHADOW, now)
            self.shadows.append(shadow)
            out.append(Start(shadow))

    def _may_ask_last_resort(self) -> bool:
        """Whether the last resort may be asked.

        Beside an answer that has begun only if none of that was shown, and only a fixed text, which
        is asked so late that the answer keeps its time.
        """
        return self.winner is None or (self._whole_only and self._plan.grace > 0)

    def _ask_last_resort(self, now: float, out: list[Action]) -> None:
        """Ask the last resort; if it is full, try again soon.

        It is asked once, with one exception: `CallTime.restore_last_resort`.
        """
        candidate = self._time.last_resort
        if candidate is None:
            return
        if self._start(candidate, AttemptKind.LAST_RESORT, now, out):
            self._time.start_last_resort(now)
        else:
            self._time.last_resort_at = now + POLL_SECONDS

    # -- winning and ending -----------------------------------------------------------------------

    def _commit(self, attempt: Attempt, now: float) -> list[Action]:
        self.winner = attempt
        self._wait_list.leave(now)
        if attempt.timed_out:
            self._attempts.reinstate(attempt)
        attempt.paused = False
        self._fail_paused(now)
        # Where answers only count when they are whole, others that have begun go on: any of them
        # may end first. So does a fixed text of the last resort: what has begun may yet break.
        keep_last_resort = self._whole_only and self._plan.grace > 0
        stopped = self._attempts.close_others(
            attempt, Outcome.LOST, now, begun=not self._whole_only, resort=not keep_last_resort
        )
        self._time.restore_last_resort(stopped)
        return [Commit(attempt), *map(Stop, stopped)]

    def _fail_paused(self, now: float) -> None:
        """Count paused attempts as stalled: another has shown text since they fell silent."""
        if self._whole_only:
            return
        for other in self._attempts.live:
            if other.paused and not other.timed_out:
                message = f"silent for {now - other.last_chunk:.3g} s inside the answer"
                other.fault = Fault(FaultKind.STALL, message)
                self.chain.record_failure(self._attempts.all, other, other.fault, now)

    def _finish(
        self, end: CallEnd, now: float, out: list[Action], winner: Attempt | None = None
    ) -> list[Action]:
        self.end = end
        self.winner = winner
        self.wake_at = inf
        self._wait_list.leave(now)
        if self._attempts.live:
            how = Outcome.LOST if end is CallEnd.ANSWERED else Outcome.CANCELLED
            out += map(Stop, self._attempts.close_others(None, how, now))
        out.append(Finish(end, winner))
        return out

    def _update_wake_at(self, out: list[Action]) -> list[Action]:
        """Set `wake_at` to when something is due next; returns its argument."""
        if self.end is not None:
            return out
        time = self._time
        at = time.deadline
        at = min(at, time.last_try_at)
        if self.winner is None and self._resume_at < at:
            at = self._resume_at
        if time.last_resort_at < at and self._may_ask_last_resort():
            at = time.last_resort_at
        for attempt in self._attempts.live:
            if (limit_at := next_limit_at(attempt)) < at:
                at = limit_at
        self.wake_at = at
        return out
