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
    LAST_TRY_SECONDS,
    Candidates,
    WaitList,
    is_open,
    retry_state,
)
from langchain_resilient.engine.limits import (
    DEFAULT_COLD,
    MAX_SPARSE,
    check_throughput,
    hedge_delay,
    late_after,
    late_due_at,
    next_limit_at,
    pause_limit,
    rescue_after,
    restart_limits,
    start_throughput_window,
    text_due_at,
    text_limit,
    thinking_limit,
)
from langchain_resilient.engine.plan import Action, CallEnd, Commit, Finish, Plan, Start, Stop
from langchain_resilient.engine.rate_limiter import QueuedRequest
from langchain_resilient.engine.time_model import UNKNOWN
from langchain_resilient.faults import Fault, FaultKind
from langchain_resilient.options import TimeLimits
from langchain_resilient.receipt import AttemptKind, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence
    from random import Random

    from langchain_resilient.engine.budgets import TokenWaiter
    from langchain_resilient.engine.rate_limiter import RateLimiter, RequestSize
    from langchain_resilient.engine.target_state import TargetState
    from langchain_resilient.engine.time_model import RequestProfile

_NO_LIMITS = TimeLimits(first_text=None, thinking=None, chunk_gap=None, answer=None)
"""Of the last resort: nothing is left to ask after it, so only the deadline ends it."""

_MIN_ANSWER_SECONDS = 1.0
"""Seconds before its deadline from which a token would come too late to help a request."""

_MAX_HINT = 120.0
"""Seconds; a limit that lasts longer than that is no matter of turns."""

_POLL = 1.0
"""Seconds after which a request that waits for a retry token, for room at the last resort, or for
others to be done, looks again: a budget's income over time wakes nothing by itself."""


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
        "_attempts",
        "_can_continue",
        "_cold",
        "_deadline",
        "_last_resort",
        "_last_resort_at",
        "_last_try_at",
        "_max_active",
        "_overtime",
        "_plain",
        "_plan",
        "_profile",
        "_queued_request",
        "_reader_stall",
        "_resume_at",
        "_rng",
        "_wait_list",
        "_wake_up",
        "_whole_only",
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
        can_continue: Callable[[Attempt], bool] | None = None,
        size: RequestSize | None = None,
        profile: RequestProfile = UNKNOWN,
    ) -> None:
        self._plan = plan
        self._profile = profile
        # Where no text is shown as it comes, an answer counts when it is whole.
        self._whole_only = can_continue is None
        self._can_continue = can_continue or _always
        self._rng = rng
        self._wake_up = wake
        hedge = plan.hedge
        self._max_active = 1 if hedge is None else hedge.max_parallel
        self._plain = plain or (hedge is not None and hedge.on == "response")
        self._queued_request = QueuedRequest(size, now, wake)
        self.chain = Candidates(chain, plan, rng, self._queued_request)
        self._last_resort = (
            None
            if last_resort is None
            else Candidate(len(self.chain.candidates), last_resort, _NO_LIMITS)
        )
        self._deadline = inf if plan.deadline is None else now + plan.deadline
        self._last_resort_at = inf if last_resort is None else self._deadline - plan.reserve
        self.chain.deadline = self._deadline
        if not self._queued_request.batch:
            self.chain.wait_until = self._deadline - _MIN_ANSWER_SECONDS
        self._cold = DEFAULT_COLD if hedge is None else hedge.cold
        trip_after = 0 if plan.health is None else plan.health.trip_after
        self._last_try_at = inf
        self._attempts = AttemptList(trip_after, self._cold)
        self._wait_list = WaitList(now, self._deadline - _MIN_ANSWER_SECONDS, wake)
        self._resume_at = inf
        self._reader_stall = (now, 0.0, inf)
        self._overtime = 0.0
        self.started: float = now
        self.shadows: list[Attempt] = []
        self.winner: Attempt | None = None
        self.end: CallEnd | None = None
        self.wake_at: float = self._deadline

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
        attempt.first_text = attempt.last_chunk = now
        attempt.longest_pause = 0.0
        start_throughput_window(attempt, now)
        if attempt.kind is not AttemptKind.LAST_RESORT:
            attempt.pause_limit = pause_limit(self._plan.hedge, attempt, now)
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
        self._reader_stall = now, attempt.excused_seconds, self._deadline
        attempt.last_chunk = attempt.window_ends_at = attempt.excused_seconds = self._deadline = inf

    def resume_limits(self, attempt: Attempt, now: float) -> list[Action]:
        """Go on with the limits: the reader has caught up. Its slowness is not counted."""
        since, excused_seconds, deadline = self._reader_stall
        attempt.last_chunk = now
        attempt.excused_seconds = excused_seconds + (now - since)
        self._deadline = deadline + (now - since)
        start_throughput_window(attempt, now)
        return self._update_wake_at([])

    def done(self, attempt: Attempt, now: float) -> list[Action]:
        """Its answer is whole and valid."""
        if self.end is not None or attempt.outcome is not None:
            return []
        if attempt.first_text is None:
            attempt.first_text = now
            self._attempts.record_first_text(attempt, now)
        attempt.fault = None
        attempt.candidate.state.record_success(attempt.key)
        if attempt.pause_limit < inf:
            attempt.candidate.state.speed.record_longest_pause(attempt.longest_pause, now)
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
        if attempt.kind is AttemptKind.LAST_RESORT:
            self._end_overtime()
        elif fault.kind is FaultKind.CONNECTION and self._last_resort is not None:
            self._hasten_last_resort(now)
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
            self._hasten_hedges(now)
        return self._update_wake_at(out)

    def timer(self, now: float) -> list[Action]:
        """Do what is due."""
        if self.end is not None:
            return []
        out: list[Action] = []
        if now >= min(self._last_resort_at, self._last_try_at, self._deadline):
            self._look_at_queues(now)
        if now >= self._last_resort_at and self._may_ask_last_resort():
            self._ask_last_resort(now, out)
        if now >= self._deadline:
            return self._finish(CallEnd.DEADLINE, now, out)
        if now >= self._last_try_at:
            self._last_try_at = inf
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
        limits = attempt.candidate.limits
        if (
            limits.answer is not None
            and now >= attempt.started + attempt.excused_seconds + limits.answer
        ):
            fault = Fault(FaultKind.TIMEOUT, f"the answer took over {limits.answer:g} s")
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
            self._record_late(attempt, now)
            if self._attempts.all_lost():
                self._rescue(now, out)
        if now >= text_due_at(attempt):
            seconds = now - attempt.started - attempt.excused_seconds
            if attempt.thinks and seconds >= attempt.thinking_limit:
                fault = Fault(FaultKind.TIMEOUT, f"only reasoning for {attempt.thinking_limit:g} s")
                self._give_up(attempt, fault, now, out)
            else:
                fault = Fault(FaultKind.TIMEOUT, f"no text within {seconds:.3g} s")
                self._time_out(attempt, fault, now, out)
        elif now >= attempt.rescue_at:
            if self.chain.waiting() <= MAX_SPARSE:
                attempt.rescue_at = inf
                self._start_extra(AttemptKind.RESCUE, now, out, planned=True)
            else:
                attempt.rescue_at = now + _POLL
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

    def _record_late(self, attempt: Attempt, now: float) -> None:
        attempt.late_at = inf
        attempt.late = True
        if self._plan.health is not None:
            trip_after = self._plan.health.trip_after
            attempt.candidate.state.record_late(now, trip_after, started=attempt.started)

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
        if self._attempts.active_count() < self._max_active and now < self._deadline:
            beside = {a.candidate.state.provider for a in self._attempts.live}
            lost = () if kind is AttemptKind.HEDGE else self._attempts.lost_candidates()
            candidate = self.chain.choose_extra(now, beside, lost)
        if candidate is None:
            if paid is not None:
                paid.give_up(now)
            if not planned:
                self._postpone_hedge(now)
            return
        budget = self._plan.budgets.of_kind(kind)
        size = self._profile.prompt_tokens
        if paid is None and not budget.take(size):
            self._wait_list.request_token(budget, kind, now, size)
            if kind is AttemptKind.HEDGE and self._plan.health is not None:
                self._plan_rescue(now)
        elif self._start(candidate, kind, now, out):
            self.chain.charge(candidate)
        elif paid is not None:
            paid.give_up(now)
        else:
            budget.give_back(now, size)

    def _plan_rescue(self, now: float) -> None:
        """There is no token for a hedge: have it rescued once its silence is unusual.

        Only where few requests are under way. A single user whose first target begins to hang would
        else wait for a token that nobody earns.
        """
        for attempt in self._attempts.live:
            if not attempt.timed_out and attempt.first_text is None:
                seconds = rescue_after(attempt, now, self._cold)
                at = attempt.started + attempt.excused_seconds + seconds
                attempt.rescue_at = max(now, at)

    def _postpone_hedge(self, now: float) -> None:
        """Look for a hedge again when a target is open to one: none is now."""
        at = self.chain.extra_at(now)
        for attempt in self._attempts.live:
            if not attempt.timed_out and attempt.first_text is None and attempt.hedge_at < inf:
                return
        for attempt in self._attempts.live:
            if (
                not attempt.timed_out
                and attempt.first_text is None
                and self._plan.hedge is not None
            ):
                attempt.hedge_at = at
                return

    def _hasten_hedges(self, now: float) -> None:
        """Wait less for a target of which others have found meanwhile that it is hardly well."""
        hedge = self._plan.hedge
        if hedge is None:
            return
        for attempt in self._attempts.live:
            if now < attempt.hedge_at < inf and attempt.candidate.state.circuit_breaker.suspicion:
                delay = hedge_delay(hedge, attempt, now, batch=self._queued_request.batch)
                at = attempt.started + attempt.excused_seconds + delay
                attempt.hedge_at = min(attempt.hedge_at, at)

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
        if (
            self._attempts.active_count() >= self._max_active
            or now >= self._deadline - self._overtime
        ):
            pass
        elif self._attempts.any_healthy():
            # A healthy target is being waited for: only an untried, healthy one is worth a send
            # beside it.
            if candidate is not None and not candidate.tries and candidate.state.is_healthy(now):
                sent = self._start(candidate, self._kind_for(candidate), now, out)
            else:
                self._postpone_hedge(now)
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
        owes = self._needs_token(candidate, now)
        if owes and paid is None and not retry.take():
            self._wait_list.request_token(retry, AttemptKind.RETRY, now)
            self._wait_list.join_queues((), now)  # what holds it up is its own failure
            self._resume_at = min(now + _POLL, self.chain.open_at(now))
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

    @staticmethod
    def _needs_token(candidate: Candidate, now: float) -> bool:
        """Whether a send costs a retry token, as all but first tries do.

        A target that is down must be tried now and then, but not by every request at once.
        """
        return not candidate.no_charge and (candidate.tries > 0 or candidate.state.down(now))

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
            self._resume_at = min(self._resume_at, now + _POLL)
        full = self.chain.full_targets(now)
        if full:
            self._wait_list.wait_for_room(full)
        queues = self.chain.queues(now)
        self._wait_list.join_queues(queues, now)
        soon = not self._attempts.all or self._resume_at < now + _MAX_HINT
        if soon and self._is_unserved():
            self._start_deadline(self._waits_since(full, queues, now))
        if not self._attempts.all:
            self._last_try_at = self._deadline - LAST_TRY_SECONDS
        waits = self._resume_at < self._deadline and not self.chain.only_blocked(now)
        if waits or full or queues:
            return
        if self._last_resort is None and self.chain.ignore_blocks(now):
            self._ask_next(now, out)
            return
        self._ask_last_resort(now, out)
        if not self._attempts.live and self._last_resort is None:
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
        plan, state = self._plan, candidate.state
        if not state.concurrency.take():
            # Another thread has taken the last place since it was chosen.
            self._wait_list.wait_for_room([state])
            return False
        self._wait_list.leave(now)
        if self._is_unserved():
            self._start_deadline(now)
        state.record_send(now)
        attempt = self._attempt(len(self._attempts.all) + 1, candidate, kind, now)
        if candidate.tries:
            attempt.retry_state = retry_state(self._attempts.all, candidate, now, self._rng)
        start_throughput_window(attempt, now)
        on_trip = None
        if kind is not AttemptKind.LAST_RESORT:
            attempt.text_limit = text_limit(attempt, now)
            if plan.hedge is not None:
                attempt.hedge_at = now + hedge_delay(
                    plan.hedge, attempt, now, batch=self._queued_request.batch
                )
            if plan.health is not None:
                attempt.late_at = now + late_after(plan.hedge, attempt, now)
                on_trip = self._wake_up
        self._attempts.open(attempt, on_trip)
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

    def _is_unserved(self) -> bool:
        """Whether it is a batch call that only limits have kept from being worked on."""
        return self._queued_request.batch and all(a.candidate.refused for a in self._attempts.all)

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
        return max(self.started, since if queues else min(now, since))

    def _look_at_queues(self, now: float) -> None:
        """Give an unserved batch call its time again, where others were let in meanwhile."""
        if self._attempts.active_count() or not self._is_unserved():
            return
        full, queues = self.chain.full_targets(now), self.chain.queues(now)
        since = self._waits_since(full, queues, now) if full or queues else -inf
        if self._plan.deadline is not None and since + self._plan.deadline > self._deadline:
            self._start_deadline(since)
            self._last_try_at = self._deadline - LAST_TRY_SECONDS

    def _start_deadline(self, now: float) -> None:
        """Start the time of a batch call at its first send: waiting for a turn costs it nothing.

        At the first that is let in: a refusal (429) has cost the provider nothing either.
        """
        if self._plan.deadline is None:
            return
        self._deadline = now + self._plan.deadline
        self.chain.deadline = self._deadline
        self._wait_list.useful_until = self._deadline - _MIN_ANSWER_SECONDS
        if self._last_resort is not None:
            self._last_resort_at = self._deadline - self._plan.reserve

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

        It is asked once, with one exception: `_restore_last_resort`.
        """
        candidate = self._last_resort
        if candidate is None:
            return
        if self._start(candidate, AttemptKind.LAST_RESORT, now, out):
            self._last_resort = None
            self._last_resort_at = inf
            # If it is asked late, because our own event loop was held up, it still gets its time.
            until = now + max(self._plan.reserve, self._plan.grace)
            if until > self._deadline:
                self._overtime, self._deadline = until - self._deadline, until
        else:
            self._last_resort_at = now + _POLL

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
        self._restore_last_resort(stopped)
        return [Commit(attempt), *map(Stop, stopped)]

    def _hasten_last_resort(self, now: float) -> None:
        """A connection failed: ask the last resort soon, or now if no target can be reached.

        It need not wait for the deadline: whoever is offline will hardly be online before it.
        """
        if self.chain.unreachable():
            self._last_resort_at = now
        elif not any(a.fault is None for a in self._attempts.all):
            at = self.started + self._plan.last_resort_after
            self._last_resort_at = min(self._last_resort_at, max(now, at))

    def _restore_last_resort(self, stopped: Iterable[Attempt]) -> None:
        """Let the last resort be asked again if it was stopped for an answer that has only begun.

        That try is not counted: we stopped it, it did not fail, so asking it again is no retry and
        costs no token. An outage may have used up the tokens, and waiting for one could take
        the time in which it can still answer. The retry budget need not bound this either: it is
        only stopped, and so only asked again, when another answer begins.
        """
        for attempt in stopped:
            if attempt.kind is AttemptKind.LAST_RESORT:
                self._end_overtime()
                self._last_resort = attempt.candidate
                self._last_resort.tries -= 1
                self._last_resort_at = self._deadline - self._plan.reserve

    def _end_overtime(self) -> None:
        """Take back the time past the deadline, which the last resort alone was given."""
        self._deadline -= self._overtime
        self._overtime = 0.0

    def _fail_paused(self, now: float) -> None:
        """Count paused attempts as stalled: another has shown text since they fell silent."""
        for other in self._attempts.live:
            if other.paused and not other.timed_out and not self._whole_only:
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
        how = Outcome.LOST if end is CallEnd.ANSWERED else Outcome.CANCELLED
        out += map(Stop, self._attempts.close_others(None, how, now))
        out.append(Finish(end, winner))
        return out

    def _update_wake_at(self, out: list[Action]) -> list[Action]:
        """Set `wake_at` to when something is due next; returns its argument."""
        if self.end is not None:
            return out
        at = min(self._deadline, self._last_try_at)
        if self.winner is None:
            at = min(at, self._resume_at)
        if self._may_ask_last_resort():
            at = min(at, self._last_resort_at)
        for attempt in self._attempts.live:
            at = min(at, next_limit_at(attempt))
        self.wake_at = at
        return out
