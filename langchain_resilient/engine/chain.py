"""Whom to ask next: the targets of one request, and what its failures taught about them."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from langchain_resilient.engine.events import Attempt, Lane, Plan
from langchain_resilient.engine.health import panic
from langchain_resilient.engine.retrying import retry_state
from langchain_resilient.fault import BLOCKS_ACCOUNT, EXCLUDES_TARGET, Fault, FaultKind

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from random import Random

    from langchain_resilient.engine.ask import Ask
    from langchain_resilient.engine.health import TargetState
    from langchain_resilient.engine.pacing import Pacer
    from langchain_resilient.policy import Timeouts

_ONE_MORE_TRY = frozenset({FaultKind.EMPTY, FaultKind.INVALID})
"""A whole answer that is no good: a target gets one more draw, not draws until the deadline.

None where it was empty because `max_tokens` ran out (code "length"): so would the next one be."""

_KEYS_OWN = BLOCKS_ACCOUNT | {FaultKind.RATE_LIMIT}
"""Faults of a key, which the target's next key need not share."""


class Chain:
    """The lanes of one request, in order of preference.

    Attributes:
        lanes: One a target.
        patience: Until when a saturated target is waited for, where work is not spread.
        rejected: Whether two providers agree that the request is wrong.
    """

    __slots__ = ("_bad_at", "_pinned", "_plan", "_rng", "_spent", "lanes", "patience")

    def __init__(
        self,
        targets: Iterable[tuple[TargetState, Timeouts | None]],
        plan: Plan,
        rng: Random,
        ask: Ask | None = None,
    ) -> None:
        self._plan = plan
        self._rng = rng
        self._bad_at: set[str] = set()
        self._pinned: Lane | None = None
        self._spent = 0.0
        self.patience = inf
        self.lanes = [
            Lane(i, s, t or plan.timeouts, ask if s.paced and _is_paced(s, ask) else None)
            for i, (s, t) in enumerate(targets)
        ]

    @property
    def rejected(self) -> bool:
        """Whether two providers agree that the request is wrong: then it is wrong everywhere."""
        return len(self._bad_at) > 1

    # -- choosing -------------------------------------------------------------------------------

    def choose(self, now: float) -> Lane | None:
        """Pick the least tried open lane in chain order; the well go before the sick."""
        best: Lane | None = None
        rank = (True, inf)
        for lane in self.candidates():
            if lane.active or lane.available_at() > now or lane.state.slots.full:
                if best is None and not self._plan.spread and self._is_waited_for(lane, now):
                    return None
                continue
            mine = (not lane.state.sound(now), lane.tries)
            if mine < rank or best is None:
                best, rank = lane, mine
        return best

    def _is_waited_for(self, lane: Lane, now: float) -> bool:
        """Whether nothing is wrong with a target that was not asked yet but that it has no room."""
        return (
            not lane.tries
            and lane.state.sound(now)
            and lane.saturated(now)
            and lane.available_at() < self.patience
        )

    def choose_extra(
        self, now: float, beside: Collection[str], lost: Collection[Lane] = ()
    ) -> Lane | None:
        """Pick a lane for a hedge or a rescue: only one that is well and not strained.

        Args:
            now: The engine's clock.
            beside: The providers of attempts that stay under way: a lane of another provider goes
                before, and the only target there is may be asked twice.
            lost: For a rescue, the lanes whose attempts are lost: one that has come back may be
                asked again. One that is silent cannot rescue anybody.
        """
        best: Lane | None = None
        rank = (True, inf)
        for lane in self.candidates():
            state = lane.state
            is_back = lane in lost and not state.silent
            busy = lane.active and not self._alone(lane, now)
            if (busy or state.watch.tripped) and not is_back:
                continue
            if self._extra_at(lane) > now or (lost and state.mute(now)):
                continue
            if state.slots.full or not self._affordable(state):
                continue
            mine = (state.provider in beside, lane.tries)
            if mine < rank or best is None:
                best, rank = lane, mine
        return best

    def choose_shadow(self, now: float) -> Lane | None:
        """Pick a sick lane to probe, if it is time for that; its place is taken with it."""
        for lane in self.lanes:
            state = lane.state
            if (
                state.watch.tripped
                and not lane.tries
                and lane.available_at() <= now
                and not state.slots.full
                and state.watch.claim_probe(now)
                and state.slots.take()
            ):
                return lane
        return None

    def spend(self, lane: Lane) -> None:
        """Count what a hedge or rescue may cost."""
        self._spent += self._cost(lane.state) or 0.0

    def _affordable(self, state: TargetState) -> bool:
        hedge = self._plan.hedge
        if hedge is None or hedge.max_extra_cost is None:
            return True
        cost = self._cost(state)
        return cost is not None and self._spent + cost <= hedge.max_extra_cost

    def _cost(self, state: TargetState) -> float | None:
        return 0.0 if self._plan.cost is None else self._plan.cost(state)

    def candidates(self) -> list[Lane]:
        """The lanes that may be asked, now or later."""
        if self._pinned is not None:
            return [] if self._pinned.excluded else [self._pinned]
        return [lane for lane in self.lanes if not lane.excluded]

    def _alone(self, lane: Lane, now: float) -> bool:
        """Whether no other target is well: then a hedge may go to it too (Dean & Barroso, 2013)."""
        return not lane.state.in_process and all(
            other is lane or not other.state.sound(now) for other in self.candidates()
        )

    @staticmethod
    def _extra_at(lane: Lane) -> float:
        """When something extra may be sent to it: not while it says that it has too much."""
        return max(lane.available_at(), lane.state.strained_until)

    def extra_at(self, now: float) -> float:
        """When the next lane opens for a hedge; infinity if none will."""
        waits = (self._extra_at(lane) for lane in self.candidates() if not lane.state.watch.tripped)
        return min((at for at in waits if at > now), default=inf)

    def open_at(self, now: float) -> float:
        """When the next lane ends its backoff; infinity if none is waiting."""
        waits = (lane.available_at() for lane in self.candidates())
        return min((at for at in waits if at > now), default=inf)

    def full(self, now: float) -> list[TargetState]:
        """The targets that could be asked now if they had room."""
        return [
            lane.state
            for lane in self.candidates()
            if lane.state.slots.full and lane.available_at() <= now
        ]

    def lines(self, now: float) -> list[tuple[Pacer, Ask]]:
        """Where this request has to stand in line."""
        found: list[tuple[Pacer, Ask]] = []
        for lane in self.candidates():
            if lane.ask is not None and lane.saturated(now) and not lane.state.slots.full:
                found += [(pacer, lane.ask) for pacer in lane.state.lines(now)]
                if not self._plan.spread and self._is_waited_for(lane, now):
                    break
        return list(dict.fromkeys(found))  # two targets may differ in name only

    def calm(self, now: float) -> None:
        """If every target that could be asked has tripped, none of that counts."""
        if any(lane.state.watch.tripped for lane in self.lanes):
            usable = [x.state for x in self.lanes if x.available_at() <= now]
            if usable and all(state.watch.tripped for state in usable):
                panic(usable, now)

    def forgive(self, now: float) -> bool:
        """Ask blocked accounts and lost models all the same, where memory leaves nobody to ask.

        An error of today beats a memory. Only a server's own "not before" is kept to.

        Returns:
            Whether there is now a lane to ask that this request has not asked yet.
        """
        forgiven = [x for x in self.candidates() if not x.tries and not x.forgiven]
        for lane in forgiven:
            lane.forgiven = True
        return any(is_open(lane, now) for lane in forgiven)

    # -- learning -------------------------------------------------------------------------------

    def learn(
        self, attempts: Sequence[Attempt], attempt: Attempt, fault: Fault, now: float
    ) -> None:
        """Decide when, if ever, this request may ask a target again that failed.

        Args:
            attempts: All of the request, for tenacity's view of them.
            attempt: The one that failed.
            fault: How.
            now: The engine's clock.
        """
        lane = attempt.lane
        self._remember(attempt, fault, now)
        if not self._plan.moves_on(fault):
            self._pinned = lane
        if fault.kind is FaultKind.BAD_REQUEST:
            self._bad_at.add(lane.state.provider)
        lane.free = False
        lane.draws += fault.kind in _ONE_MORE_TRY
        if fault.kind is FaultKind.NO_STREAMING:
            # From now on it is asked plainly (TargetState.streams); if it refuses that, it is out.
            lane.again = lane.free = lane.tries == 1
            lane.excluded = not lane.again
        elif fault.kind in _KEYS_OWN and self._has_other_key(lane, now):
            lane.again = lane.free = True
        elif _hopeless(lane, fault):
            lane.excluded = True
        else:
            wait = self._plan.retry.again_after(retry_state(attempts, lane, now, self._rng), fault)
            lane.excluded = wait is None
            lane.again = lane.state.retry_first and lane.tries == 1 and wait is not None
            lane.ready_at = now if lane.again or wait is None else now + wait

    def _remember(self, attempt: Attempt, fault: Fault, now: float) -> None:
        health = self._plan.health
        trip_after = 0 if health is None else health.trip_after
        if attempt.late and fault.kind is FaultKind.TIMEOUT:
            trip_after = 0  # the same silence, counted before
        attempt.lane.state.failed(fault, now, self._rng, attempt.key, trip_after)

    @staticmethod
    def _has_other_key(lane: Lane, now: float) -> bool:
        return lane.tries < len(lane.state.keys) and lane.state.available_at() <= now

    def skipped(self, now: float) -> tuple[tuple[str, str], ...]:
        """The targets that were never asked, each with the reason."""
        return tuple((x.state.name, _why(x, now)) for x in self.lanes if not x.tries)


def _is_paced(state: TargetState, ask: Ask | None) -> bool:
    """Whether a request has to wait for its turn: only a batch does where no limit is known yet."""
    return ask is not None and (ask.batch or state.limited)


def is_open(lane: Lane, now: float) -> bool:
    """Whether a lane may be asked this moment."""
    return not lane.excluded and lane.available_at() <= now and not lane.state.slots.full


def _hopeless(lane: Lane, fault: Fault) -> bool:
    return (
        fault.kind in EXCLUDES_TARGET
        or fault.kind in BLOCKS_ACCOUNT
        or fault.should_retry is False
        or (fault.kind in _ONE_MORE_TRY and (lane.draws > 1 or fault.code == "length"))
    )


def _why(lane: Lane, now: float) -> str:
    state = lane.state
    wait = state.available_at(forgiven=True) - now
    if wait > 0:
        return f"it asked to be left alone for another {wait:.1f} s"
    if state.gone_until > now:
        return "its model was not found"
    if state.available_at() > now:
        return "its account refused the key or is out of quota"
    return "it has no room (max_concurrency)" if state.slots.full else "its turn never came"
