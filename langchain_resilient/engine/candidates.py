"""Which target of a request to ask next, and when.

The order is that of the chain, healthy targets before sick ones and untried ones before tried ones.
A hedge or a rescue is held to more than a first send (gRPC proposal A6 lets a server push hedges
back; Dean & Barroso, 2013, send them where they do not add to an overload): its target must be
healthy, must not have said lately that it has too much to do, and should be at another provider.
"""

from __future__ import annotations

from itertools import pairwise
from math import inf
from typing import TYPE_CHECKING, Any

from tenacity import Future as Outcome
from tenacity import RetryCallState

from langchain_resilient.engine.attempt import Attempt, Candidate
from langchain_resilient.engine.target_state import reset_if_all_tripped
from langchain_resilient.faults import Fault, FaultKind
from langchain_resilient.receipt import REFUSED_BEFORE

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from random import Random

    from langchain_resilient.engine.interfaces import Plan
    from langchain_resilient.engine.rate_limiter import QueuedRequest, RateLimiter
    from langchain_resilient.engine.target_state import TargetState
    from langchain_resilient.policies import TimeLimits


LAST_TRY_SECONDS = 1.9
"""Seconds before the deadline to which a backoff is shortened."""

MIN_TRY_SECONDS = 0.05
"""Seconds before it in which nothing is tried any more."""

MAX_HINT = 120.0
"""Seconds; a batch call that was refused (429) waits for no longer hint: that is a quota."""

MAX_REFUSALS = 2
"""Refusals (429) after each of which a batch call waits a moment for the same target."""

UNREACHABLE_AFTER = 2
"""Connections to a target that failed in a row, after which it counts as out of reach."""


class TargetFailure(Exception):  # noqa: N818  # a failure that no exception stood behind
    """Stands in for the exception of a fault that had none: lateness, or an answer without text."""


def retry_state(
    attempts: Sequence[Attempt], candidate: Candidate, now: float, rng: Random
) -> RetryCallState:
    """The attempts at one target, as tenacity would have counted them.

    Args:
        attempts: All of the request.
        candidate: The target.
        now: The engine's clock.
        rng: The engine's generator, as `state.rng`: waits that use it can be replayed.
    """
    own_attempts = [a for a in attempts if a.candidate is candidate]
    # tenacity's strategies for stop, wait and retry read the state, but never its Retrying object.
    state: Any = RetryCallState(None, None, (), {})  # type: ignore[arg-type]
    state.attempt_number = candidate.tries
    state.start_time = own_attempts[0].started if own_attempts else now
    state.outcome_timestamp = now
    state.idle_for = sum(b.started - (a.ended or b.started) for a, b in pairwise(own_attempts))
    outcome = Outcome(candidate.tries)
    fault = own_attempts[-1].fault if own_attempts else None
    outcome.set_exception((fault and fault.cause) or TargetFailure(str(fault)))
    state.outcome = outcome
    state.upcoming_sleep = max(0.0, candidate.ready_at - now)
    state.rng = rng
    typed: RetryCallState = state
    return typed


MAX_BLOCK = 10.0
"""Seconds for which a blocked account or a missing model is waited for, at most."""


class Candidates:
    """The targets of one request, in order of preference.

    Attributes:
        candidates: One per target.
        wait_until: How long a saturated target is waited for, where `Plan.spread` is off.
        deadline: When the call ends at the latest.
        rejected: Whether two providers agree that the request is wrong.
    """

    __slots__ = (
        "_pinned", "_plan", "_rejected_by", "_request", "_rng", "_spent", "_why_not", "candidates",
        "deadline", "wait_until",
    )  # fmt: skip

    def __init__(
        self,
        targets: Iterable[tuple[TargetState, TimeLimits | None]],
        plan: Plan,
        rng: Random,
        request: QueuedRequest | None = None,
    ) -> None:
        self._plan = plan
        self._rng = rng
        self._request = request
        self._rejected_by: set[str] = set()
        self._pinned: Candidate | None = None
        self._spent = 0.0
        self._why_not = ""
        self.wait_until = inf
        self.deadline = inf
        self.candidates = [
            Candidate(i, s, t or plan.time_limits, _paced(s, request))
            for i, (s, t) in enumerate(targets)
        ]

    @property
    def rejected(self) -> bool:
        """Whether two providers agree that the request is wrong: then no more targets are asked."""
        return len(self._rejected_by) > 1

    # -- choosing ---------------------------------------------------------------------------------

    def choose(self, now: float) -> Candidate | None:
        """The target for the next ordinary send: the first healthy one that was tried least."""
        best: Candidate | None = None
        rank = (True, inf)
        group = ""
        for candidate in self.eligible():
            if group and candidate.state.group != group:
                continue
            if (
                candidate.active
                or candidate.available_at() > now
                or candidate.state.concurrency.full
            ):
                if best is None and self._is_worth_waiting_for(candidate, now):
                    group = candidate.state.group
                    if not group:
                        return None
                continue
            tries = 0 if self._was_only_refused(candidate) else candidate.tries
            order = (not candidate.state.is_healthy(now), tries)
            if order < rank or best is None:
                best, rank = candidate, order
        if best is not None and best.index:
            self._note_why_not(self.candidates[0], now)
        return best

    def _note_why_not(self, first: Candidate, now: float) -> None:
        """Note why another target is asked although the first one was not yet."""
        if not first.tries:
            self._why_not = _why_elsewhere(first, now)

    def why_elsewhere(self, winner: Attempt, attempts: Sequence[Attempt]) -> str | None:
        """Why another target answered than the first, in a word or two; None if the first did.

        Args:
            winner: The attempt that answered.
            attempts: All of the request.
        """
        first = self.candidates[0] if self.candidates else None
        if first is None or winner.candidate is first:
            return None
        # One that was only hedged to the first target went elsewhere before that.
        before = attempts[: attempts.index(winner)] if winner in attempts else attempts
        own = [attempt for attempt in before if attempt.candidate is first]
        if not own:
            return self._why_not or "not asked"
        fault = own[-1].fault
        if fault is None or (fault.kind is FaultKind.TIMEOUT and own[-1].late):
            return "late"
        return "rate limit" if fault.kind is FaultKind.RATE_LIMIT else f"failed: {fault.kind}"

    def _is_worth_waiting_for(self, candidate: Candidate, now: float) -> bool:
        """Whether a target will have room in time, and no other is to be asked before.

        It is one that was not tried yet, or that has only refused the request for its limit. Where
        another may be asked, it is waited for while its limit is not used up: what holds a request
        up is only that requests are not sent all at once.
        """
        if (
            (candidate.tries and not self._was_only_refused(candidate))
            or self._plan.equal
            or not candidate.state.is_healthy(now)
            or not candidate.saturated(now)
            or candidate.available_at() >= self.wait_until
        ):
            return False
        request = candidate.queued_request
        return not self._plan.spread or (
            request is not None
            and not candidate.state.concurrency.full
            and candidate.state.turn_is_near(request, now)
        )

    def _was_only_refused(self, candidate: Candidate) -> bool:
        """Whether its limit alone kept it from answering, and its next turn is worth a try.

        With other targets to ask, a batch call that is refused again and again goes to those.
        """
        if not candidate.refused or self._request is None:
            return False
        return not self._plan.spread or (self._request.batch and candidate.tries <= MAX_REFUSALS)

    def choose_extra(
        self, now: float, beside: Collection[str], lost: Collection[Candidate] = ()
    ) -> Candidate | None:
        """The target for a hedge or a rescue: healthy, and not overloaded.

        Args:
            now: The engine's clock.
            beside: The providers of the attempts under way: a target of another one is preferred,
                because what slows one target of a provider mostly slows the others.
            lost: For a rescue, the targets whose attempts are lost. One of them that answers again
                may be asked again; one that is still silent can rescue nothing.
        """
        best: Candidate | None = None
        rank = (True, inf)
        for candidate in self.eligible():
            state = candidate.state
            is_back = candidate in lost and not state.silent
            busy = candidate.active and not self._may_be_doubled(candidate, now)
            if (busy or state.circuit_breaker.tripped) and not is_back:
                continue
            if self._extra_at(candidate) > now or (lost and state.long_silent(now)):
                continue
            if state.concurrency.full or not self._affordable(state):
                continue
            order = (state.provider in beside, candidate.tries)
            if order < rank or best is None:
                best, rank = candidate, order
        return best

    def choose_shadow(self, now: float) -> Candidate | None:
        """A tripped target to probe, if it is time for that. Its place is taken already."""
        for candidate in self.candidates:
            state = candidate.state
            if (
                state.circuit_breaker.tripped
                and not candidate.tries
                and candidate.available_at() <= now
                and not state.concurrency.full
                and (self._plan.funds is None or self._plan.funds.may_send(state))
                and state.circuit_breaker.claim_probe(now)
                and state.concurrency.take()
            ):
                return candidate
        return None

    def charge(self, candidate: Candidate) -> None:
        """Add what a hedge or rescue may cost to what the request has spent."""
        self._spent += self._cost(candidate.state) or 0.0

    def _affordable(self, state: TargetState) -> bool:
        hedge = self._plan.hedge
        if hedge is None or hedge.max_extra_cost is None:
            return True
        cost = self._cost(state)
        return cost is not None and self._spent + cost <= hedge.max_extra_cost

    def _cost(self, state: TargetState) -> float | None:
        return 0.0 if self._plan.cost is None else self._plan.cost(state)

    def eligible(self) -> list[Candidate]:
        """The targets that may still be asked, now or later."""
        chain = self.candidates if self._pinned is None else [self._pinned]
        eligible = [candidate for candidate in chain if not candidate.excluded]
        funds = self._plan.funds
        return eligible if funds is None else [x for x in eligible if funds.may_send(x.state)]

    def waits_for_money(self) -> bool:
        """Whether a target may still be asked once other calls have settled what they reserved."""
        funds = self._plan.funds
        return funds is not None and any(
            not x.excluded and x is (self._pinned or x) and funds.may_wait(x.state)
            for x in self.candidates
        )

    def _may_be_doubled(self, candidate: Candidate, now: float) -> bool:
        """Whether a hedge may go to the same target: it is many machines, and no other is healthy.

        Dean & Barroso (2013) hedge to replicas of one service. A lone server with one slot would
        only be slowed down by a second request, so the user has to say that there are others.
        """
        return candidate.state.replicated and all(
            other is candidate or not other.state.is_healthy(now) for other in self.eligible()
        )

    @staticmethod
    def _extra_at(candidate: Candidate) -> float:
        """When it may get a hedge or a rescue: not while it is overloaded."""
        return max(candidate.available_at(), candidate.state.overloaded_until)

    def extra_at(self, now: float) -> float:
        """When the next target may get a hedge; infinity if none will."""
        waits = (
            self._extra_at(candidate)
            for candidate in self.eligible()
            if not candidate.state.circuit_breaker.tripped
        )
        return min((at for at in waits if at > now), default=inf)

    def unreachable(self) -> bool:
        """Whether no target can be reached at all: refused, no route, no name.

        Each was asked by this request, and has refused twice in a row; the first time may have been
        a request before.
        """
        return all(
            candidate.tries and candidate.state.unreachable >= UNREACHABLE_AFTER
            for candidate in self.candidates
        )

    def ignore_pace(self, now: float) -> bool:
        """Let targets be asked ahead of their turn where that passes no limit that the user stated.

        For a request whose turn would come after its deadline: one try may find room, for what was
        learned or told may be wrong. What the user stated is kept in every minute, but need not
        come evenly.

        Returns:
            Whether that opened one.
        """
        for candidate in self.eligible():
            request = candidate.queued_request
            if (
                request is not None
                and candidate.saturated(now)
                and all(key.rate_limiter.may_try(request, now) for key in candidate.state.keys)
            ):
                candidate.queued_request = None
        return any(is_open(candidate, now) for candidate in self.eligible())

    def waiting(self) -> int:
        """How many requests wait for a first text of these targets, this one included."""
        return sum(len(candidate.state.waiting) for candidate in self.candidates)

    def open_at(self, now: float) -> float:
        """When the next target may be asked; infinity if none is waiting."""
        waits = (candidate.available_at() for candidate in self.eligible())
        return min((at for at in waits if at > now), default=inf)

    def full_targets(self, now: float) -> list[TargetState]:
        """The targets that could be asked now but for their `max_concurrency`."""
        return [
            candidate.state
            for candidate in self.eligible()
            if candidate.state.concurrency.full and candidate.available_at() <= now
        ]

    def queues(self, now: float) -> list[tuple[RateLimiter, QueuedRequest]]:
        """The rate limiters in whose queues this request has to wait."""
        queues: list[tuple[RateLimiter, QueuedRequest]] = []
        for candidate in self.eligible():
            if (
                candidate.queued_request is not None
                and candidate.saturated(now)
                and not candidate.state.concurrency.full
                and self._comes_in_time(candidate, now)
            ):
                queues += [
                    (rate_limiter, candidate.queued_request)
                    for rate_limiter in candidate.state.queues(now)
                ]
                if self._is_worth_waiting_for(candidate, now) and not candidate.state.group:
                    break
        return list(dict.fromkeys(queues))  # two targets may share a key and a model

    def _comes_in_time(self, candidate: Candidate, now: float) -> bool:
        """Whether its turn is worth waiting for.

        The time of a batch call has not begun while it waits, or is only refused for a limit. Any
        other call has to be sent before its deadline: if nothing was sent yet then, ahead of its
        turn (`ignore_pace`), but never before a server's own hint.
        """
        if self._request is not None and self._request.batch:
            until = max(self.deadline, now + MAX_HINT) if candidate.refused else self.deadline
            return not candidate.tries or candidate.available_at() < until
        if any(other.tries for other in self.candidates):
            return candidate.available_at() < self.deadline
        return candidate.state.available_at(ignore_block=candidate.ignore_block) < self.deadline

    def reset_if_all_tripped(self, now: float) -> None:
        """Clear the targets if all that could be asked have tripped."""
        if any(candidate.state.circuit_breaker.tripped for candidate in self.candidates):
            usable = [x.state for x in self.candidates if x.available_at() <= now]
            if usable and all(state.circuit_breaker.tripped for state in usable):
                reset_if_all_tripped(usable, now)

    def only_blocked(self, now: float) -> bool:
        """Whether all that is left are blocked accounts and missing models, and for long.

        Their return is not waited for, however late the deadline: hardly a key is mended meanwhile.
        """
        eligible = self.eligible()
        return bool(eligible) and all(
            not x.ignore_block
            and x.state.available_at()
            > max(now, x.state.available_at(ignore_block=True)) + MAX_BLOCK
            for x in eligible
        )

    def ignore_blocks(self, now: float) -> bool:
        """Let blocked accounts and missing models be asked all the same, where no other is left.

        A fresh error is worth more than a remembered one: the key may work again. Only the server's
        own hint of when to come back is kept to.

        Returns:
            Whether that opened a target that this request has not asked yet.
        """
        ignore_block = [x for x in self.eligible() if not x.tries and not x.ignore_block]
        for candidate in ignore_block:
            candidate.ignore_block = True
        return any(is_open(candidate, now) for candidate in ignore_block)

    # -- failures ---------------------------------------------------------------------------------

    def record_failure(
        self, attempts: Sequence[Attempt], attempt: Attempt, fault: Fault, now: float
    ) -> None:
        """Decide when, if ever, this request may ask a failed target again.

        Args:
            attempts: All of the request, as tenacity's strategies look at them.
            attempt: The one that failed.
            fault: How it failed.
            now: The engine's clock.
        """
        candidate = attempt.candidate
        self._remember(attempt, fault, now)
        if not self._plan.moves_on(fault):
            self._pinned = candidate
        if fault.kind is FaultKind.BAD_REQUEST:
            self._rejected_by.add(candidate.state.provider)
        candidate.no_charge = False
        self._note_refusal(candidate, fault)
        candidate.unusable_answers += fault.traits.one_more_try
        if fault.kind is FaultKind.NO_STREAMING:
            # From now on whole answers are asked for (`TargetState.streams`); if it refuses that
            # too, it is out.
            candidate.retry_at_once = candidate.no_charge = candidate.tries == 1
            candidate.excluded = not candidate.retry_at_once
        elif fault.traits.key_specific and self._has_other_key(candidate, now):
            candidate.retry_at_once = candidate.no_charge = True
        elif _hopeless(candidate, fault):
            candidate.excluded = True
        else:
            wait = self._plan.retry.again_after(
                retry_state(attempts, candidate, now, self._rng), fault
            )
            candidate.excluded = wait is None
            candidate.retry_at_once = (
                candidate.state.retry_first and candidate.tries == 1 and wait is not None
            )
            if wait is not None and self._plan.retry.wait is None:
                wait = self._until_try(candidate, fault, wait, now)
            candidate.ready_at = now if candidate.retry_at_once or wait is None else now + wait

    def end_backoffs(self, now: float) -> None:
        """Let all be asked at once: a target had nothing to add to text that broke off.

        That text was whole, it seems, and its reader waits for no more than to be told so. Two
        answers have to agree; the second is worth more than a pause. No target is asked more often
        for it: two that are empty end the call.
        """
        if self._plan.retry.wait is None:
            for candidate in self.candidates:
                candidate.ready_at = min(candidate.ready_at, now)

    def _note_refusal(self, candidate: Candidate, fault: Fault) -> None:
        """Note whether only its limit kept it from answering: then its next turn is waited for."""
        candidate.refused = fault.kind is FaultKind.RATE_LIMIT
        if candidate.refused and candidate.queued_request is None:
            request = _paced(candidate.state, self._request)
            if request is not None and candidate.state.turn_at(request) < self.deadline:
                candidate.queued_request = request

    def _until_try(self, candidate: Candidate, fault: Fault, wait: float, now: float) -> float:
        """Fit a backoff of our own to what is known: a turn of its limit, or the deadline."""
        if candidate.refused and self._has_turn(candidate, now):
            return 0.0
        return min(wait, self._last_chance(now)) if fault.retry_after is None else wait

    def _has_turn(self, candidate: Candidate, now: float) -> bool:
        """Whether its rate limiter says when it may be asked again, in time."""
        request = candidate.queued_request
        return request is not None and now < candidate.state.turn_at(request) < self.deadline

    def spare_the_only_machine(self, candidate: Candidate, now: float) -> None:
        """Put off asking the only target again beside a request that it is silent about.

        A machine with one slot would take the second request after the first, and be slowed down
        by it. Three quarters of what is left are waited for it to speak; then it is the likelier
        that the request was lost. If others are answered that were sent later, that is known sooner
        (`AttemptList.any_target_is_back`).
        """
        alone = len(self.candidates) == 1 and candidate.state.one_machine
        if alone and self._plan.retry.wait is None:
            candidate.ready_at = max(candidate.ready_at, now + 0.75 * (self.deadline - now))

    def _last_chance(self, now: float) -> float:
        """The longest backoff of our own that leaves time for a try before the deadline.

        Near the deadline that is half of what is left, so that a target which comes back late is
        still found. A server's own hint is never shortened.
        """
        left = self.deadline - now
        return max(left - LAST_TRY_SECONDS, left / 2) if left > MIN_TRY_SECONDS else inf

    def _remember(self, attempt: Attempt, fault: Fault, now: float) -> None:
        health = self._plan.health
        trip_after = 0 if health is None else health.trip_after
        if attempt.late and fault.kind is FaultKind.TIMEOUT:
            trip_after = 0  # the same silence was counted before, as lateness
        attempt.candidate.state.record_failure(
            fault,
            now,
            self._rng,
            attempt.key,
            trip_after,
            sent_at=attempt.started,
            reservation=attempt.reservation,
        )

    @staticmethod
    def _has_other_key(candidate: Candidate, now: float) -> bool:
        return candidate.tries < len(candidate.state.keys) and candidate.state.available_at() <= now

    def skipped(self, now: float) -> tuple[tuple[str, str], ...]:
        """The targets that were not asked, each with the reason."""
        return tuple((x.state.name, _why_skipped(x, now)) for x in self.candidates if not x.tries)


def _paced(state: TargetState, request: QueuedRequest | None) -> QueuedRequest | None:
    """The request, if it must wait for its turn. Without a known limit, only batches must."""
    if request is None or not state.paced or not (request.batch or state.limited):
        return None
    return request.at(state.name)


def is_open(candidate: Candidate, now: float) -> bool:
    """Whether a target may be asked at this moment."""
    return (
        not candidate.excluded
        and candidate.available_at() <= now
        and not candidate.state.concurrency.full
    )


def _hopeless(candidate: Candidate, fault: Fault) -> bool:
    traits = fault.traits
    return (
        traits.excludes_target
        or traits.blocks_account
        or fault.should_retry is False
        # An answer that is empty because `max_tokens` ran out (code "length") would be so again.
        or (traits.one_more_try and (candidate.unusable_answers > 1 or fault.code == "length"))
    )


def _why_elsewhere(first: Candidate, now: float) -> str:
    state = first.state
    if state.gone_until > now:
        return "model not found"
    if state.available_at() > now:
        by_hint = state.available_at(ignore_block=True) > now
        limited = by_hint and any(key.rate_limiter.paused(now) for key in state.keys)
        return "rate limit" if limited else "asked to wait" if by_hint else "account out"
    if state.concurrency.full:
        return "max_concurrency"
    request = first.queued_request
    if request is not None and state.turn_at(request) > now:
        return "rate limit"
    return "money" if state.is_healthy(now) else "unhealthy"


def _why_skipped(candidate: Candidate, now: float) -> str:
    state = candidate.state
    wait = state.available_at(ignore_block=True) - now
    if wait > 0:
        return f"it asked to be left alone for another {wait:.1f} s"
    if state.gone_until > now:
        return REFUSED_BEFORE[FaultKind.NOT_FOUND]
    if state.available_at() > now:
        reasons = {key.account.reason for key in state.keys}
        spent = FaultKind.AUTH not in reasons and FaultKind.QUOTA in reasons
        return REFUSED_BEFORE[FaultKind.QUOTA if spent else FaultKind.AUTH]
    if state.concurrency.full:
        return "it has no room (max_concurrency)"
    request = candidate.queued_request
    limits = state.keys[0].rate_limiter.describe() if request is not None else ""
    if request is not None and limits:
        wait = state.turn_at(request) - now
        # A turn may come with the deadline, or a moment after it.
        later = f"has no room for another {wait:.0f} s" if wait >= 1 else "had no room before"
        return f"its limit of {limits} {later}"
    return "its turn never came"
