"""`Recorder`: adds up the receipts of finished calls, cheaply, for `Stats`."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from langchain_resilient.observability.stats import DurationHistogram, Stats, TargetStats
from langchain_resilient.prices import Price, Usage, cost, was_refused
from langchain_resilient.receipt import AttemptKind, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from langchain_resilient.engine.target_state import TargetState
    from langchain_resilient.engine.time_model import TimeModel
    from langchain_resilient.receipt import AttemptRecord, Receipt


class Recorder:
    """Adds up what a model's calls did. Safe for use by any thread and event loop.

    Example:
        ```python
        recorder = Recorder()
        recorder.add(race.receipt())
        recorder.snapshot(states, now=loop.time(), price=prices.get)
        ```
    """

    __slots__ = ("_asked", "_breaks", "_by_target", "_cached", "_calls", "_cancelled", "_lock",
                 "_seconds")  # fmt: skip

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls = 0
        self._asked = 0
        self._cancelled = 0
        self._cached = 0
        self._breaks: dict[str, int] = {}
        self._seconds = DurationHistogram()
        self._by_target: dict[str, _TargetTotals] = {}

    def add(
        self, receipt: Receipt, costs: Sequence[float] | None = None, *, cancelled: bool = False
    ) -> None:
        """Count a finished call.

        Args:
            receipt: The call's receipt.
            costs: Dollars for each of its attempts, if a spend cap has counted them already.
            cancelled: Whether the caller went away before the end.
        """
        attempts = receipt.attempts
        # A loser is closed before it reports usage: its prompt was the same as the winner's.
        prompt = _prompt_tokens(attempts) if len(attempts) > 1 else 0
        with self._lock:
            self._calls += 1
            if receipt.cached:
                self._cached += 1
                return
            if attempts:
                self._asked += 1
            # A stream that its reader left has a winner, but no answer.
            if cancelled:
                self._cancelled += 1
            elif receipt.winner is not None:
                self._seconds.add(receipt.seconds)
            for attempt in attempts:
                totals = self._by_target.get(attempt.target)
                if totals is None:
                    totals = self._by_target[attempt.target] = _TargetTotals()
                totals.add(attempt, prompt)
            for broken in receipt.breaks:
                self._breaks[broken.action] = self._breaks.get(broken.action, 0) + 1
                self._by_target[broken.target].breaks += 1
            for attempt, dollars in zip(attempts, costs, strict=True) if costs else ():
                self._by_target[attempt.target].pay(dollars, won=attempt.outcome is Outcome.WON)

    def add_batched(self, receipt: Receipt) -> None:
        """Count an answer that came by a provider's batch: its hours say nothing of a speed."""
        with self._lock:
            self._calls += 1
            self._asked += 1
            for attempt in receipt.attempts:
                totals = self._by_target.get(attempt.target)
                if totals is None:
                    totals = self._by_target[attempt.target] = _TargetTotals()
                totals.add_batched(attempt)

    def absorb(self, totals: str) -> None:
        """Add what another process has counted: `FleetRecorder.totals`; nonsense is left out."""
        try:
            told = json.loads(totals)
            calls, asked, cancelled, cached = map(int, told["calls"])
            by_target = {
                name: _TargetTotals.from_dict(entry) for name, entry in told["targets"].items()
            }
            seconds = DurationHistogram.from_dict(told["seconds"])
            breaks = {str(name): int(count) for name, count in told["breaks"].items()}
        except (ValueError, TypeError, KeyError, AttributeError):
            return  # of another version, or not ours
        with self._lock:
            self._calls += calls
            self._asked += asked
            self._cancelled += cancelled
            self._cached += cached
            self._seconds.merge(seconds)
            _add_counts(self._breaks, breaks)
            for name, entry in by_target.items():
                self._by_target.setdefault(name, _TargetTotals()).merge(entry)

    def snapshot(
        self,
        states: Mapping[str, TargetState | None],
        now: float,
        price: Callable[[str], Price | None],
        delays: Mapping[str, float] | None = None,
    ) -> Stats:
        """Return the statistics so far.

        Args:
            states: The targets, in the order of the chain; None for one without a state.
            now: The time, by the clock of the states.
            price: Finds a target's price by its name.
            delays: After how many seconds of silence each would be hedged now.
        """
        delays = delays or {}
        with self._lock:
            names = dict.fromkeys([*states, *self._by_target])
            by_target = {name: self._by_target.get(name) or _TargetTotals() for name in names}
            targets = tuple(
                replace(
                    totals.stats(name, states.get(name), now, price(name)),
                    hedge_delay=delays.get(name),
                )
                for name, totals in by_target.items()
            )
            return self._totals(targets)

    def _totals(self, targets: tuple[TargetStats, ...]) -> Stats:
        answered, last = self._seconds.count + self._cached, AttemptKind.LAST_RESORT
        hedges = sum(t.hedges for t in targets)
        return Stats(
            calls=self._calls,
            answered=answered,
            failed=self._calls - answered - self._cancelled,
            cancelled=self._cancelled,
            cached=self._cached,
            last_resort=sum(totals.wins.get(last, 0) for totals in self._by_target.values()),
            seconds=self._seconds.quantiles(),
            hedge_share=hedges / self._calls if self._calls else 0.0,
            extra_sends=sum(t.requests for t in targets) - self._asked,
            breaks=_sorted(self._breaks),
            spent=sum(t.spent or 0.0 for t in targets),
            wasted=sum(t.wasted or 0.0 for t in targets),
            targets=targets,
        )


class FleetRecorder(Recorder):
    """Adds up the calls of all models of a process, to be told to the others of its fleet.

    Example:
        ```python
        fleet = FleetRecorder()
        recorder = fleet.part(prices.get)
        recorder.add(race.receipt())
        fleet.totals()  # of this and all other parts
        ```
    """

    __slots__ = ("_prices",)

    def __init__(self) -> None:
        super().__init__()
        self._prices: dict[str, Price | None] = {}

    def part(self, price: Callable[[str], Price | None]) -> Recorder:
        """Make the recorder of one model, which adds to this one too.

        Args:
            price: Finds a target's price by its name.
        """
        return _RecorderOfFleet(self, price)

    def learn_price(self, name: str, price: Callable[[str], Price | None]) -> None:
        """Find a target's price, once."""
        if name not in self._prices:
            self._prices[name] = price(name)

    def forget(self) -> None:
        """Begin at 0: in a child process, for what it inherits is the parent's."""
        Recorder.__init__(self)

    def totals(self) -> str:
        """Everything that was added, as JSON for `absorb`."""
        with self._lock:
            return json.dumps(
                {
                    "calls": [self._calls, self._asked, self._cancelled, self._cached],
                    "breaks": self._breaks,
                    "seconds": self._seconds.as_dict(),
                    "targets": {
                        name: totals.as_dict(self._prices.get(name))
                        for name, totals in self._by_target.items()
                    },
                },
                separators=(",", ":"),
            )


class _RecorderOfFleet(Recorder):
    """A model's recorder, and a part of its process's."""

    __slots__ = ("_fleet", "_price")

    def __init__(self, fleet: FleetRecorder, price: Callable[[str], Price | None]) -> None:
        super().__init__()
        self._fleet, self._price = fleet, price

    def add(
        self, receipt: Receipt, costs: Sequence[float] | None = None, *, cancelled: bool = False
    ) -> None:
        """Count a finished call, here and for the fleet; see `Recorder.add`."""
        super().add(receipt, costs, cancelled=cancelled)
        self._learn_prices(receipt)
        self._fleet.add(receipt, costs, cancelled=cancelled)

    def add_batched(self, receipt: Receipt) -> None:
        """Count an answer of a provider's batch; see `Recorder.add_batched`."""
        super().add_batched(receipt)
        self._learn_prices(receipt)
        self._fleet.add_batched(receipt)

    def _learn_prices(self, receipt: Receipt) -> None:
        for attempt in receipt.attempts:
            self._fleet.learn_price(attempt.target, self._price)


def _prompt_tokens(attempts: Sequence[AttemptRecord]) -> int:
    return next((a.input_tokens for a in attempts if a.input_tokens), 0)


class _TokenTotals:
    """Sums of tokens; their price is looked up only when statistics are asked for."""

    __slots__ = ("cached", "input", "output", "requests", "written")

    def __init__(self) -> None:
        self.requests = self.input = self.output = self.cached = self.written = 0

    def add(self, attempt: AttemptRecord, prompt: int) -> None:
        self.requests += 1
        self.input += prompt if attempt.input_tokens is None else attempt.input_tokens
        self.output += attempt.output_tokens or 0
        self.cached += attempt.cached_tokens or 0
        self.written += attempt.written_tokens or 0

    def dollars(self, price: Price) -> float:
        # Prices may depend on the length of a prompt, which a sum hides: take the first tier.
        flat = replace(price, tiers=(), request=0.0)
        usage = Usage(self.input, self.output, self.cached, self.written)
        return cost(flat, usage) + self.requests * price.request


class _TargetTotals:
    """The counts of one target."""

    __slots__ = (
        "batched", "breaks", "faults", "first", "kinds", "lost", "paid", "whole", "wins", "won"
    )  # fmt: skip

    def __init__(self) -> None:
        self.kinds: dict[str, int] = {}
        self.wins: dict[str, int] = {}
        self.faults: dict[str, int] = {}
        self.breaks = 0
        self.first = DurationHistogram()
        self.whole = DurationHistogram()
        self.won, self.lost = _TokenTotals(), _TokenTotals()
        self.paid: tuple[float, float] | None = None
        self.batched: dict[tuple[bool, float], _TokenTotals] = {}

    def add_batched(self, attempt: AttemptRecord) -> None:
        """Count an attempt by a batch: its tokens cost less, and its time says nothing."""
        won = attempt.outcome is Outcome.WON
        self.kinds[attempt.kind] = self.kinds.get(attempt.kind, 0) + 1
        if won:
            self.wins[attempt.kind] = self.wins.get(attempt.kind, 0) + 1
        if attempt.fault is not None:
            self.faults[attempt.fault.kind] = self.faults.get(attempt.fault.kind, 0) + 1
        self.batched.setdefault((won, attempt.discount), _TokenTotals()).add(attempt, 0)

    def add(self, attempt: AttemptRecord, prompt: int) -> None:
        kind, began, first = attempt.kind, attempt.started, attempt.first_text
        self.kinds[kind] = self.kinds.get(kind, 0) + 1
        if first is not None:
            self.first.add(first - began)
        if attempt.outcome is Outcome.WON:
            self.wins[kind] = self.wins.get(kind, 0) + 1
            self.whole.add(attempt.ended - began)
            self.won.add(attempt, prompt)
        else:
            self._add_loser(attempt, prompt)

    def _add_loser(self, attempt: AttemptRecord, prompt: int) -> None:
        fault, seconds = attempt.fault, attempt.ended - attempt.started
        if fault is not None:
            self.faults[fault.kind] = self.faults.get(fault.kind, 0) + 1
        if fault is None or fault.traits.cut_short:
            self.whole.add(seconds, cut=True)
            if attempt.first_text is None:
                self.first.add(seconds, cut=True)
        if not was_refused(attempt):
            self.lost.add(attempt, prompt)

    def pay(self, dollars: float, *, won: bool) -> None:
        """Add dollars that a spend cap has counted."""
        spent, wasted = self.paid or (0.0, 0.0)
        self.paid = (spent + dollars, wasted if won else wasted + dollars)

    def as_dict(self, price: Price | None) -> dict[str, Any]:
        """For another process, with dollars in place of prices."""
        tokens = self._all_tokens()
        return {
            "counts": [self.kinds, self.wins, self.faults],
            "breaks": self.breaks,
            "times": [self.first.as_dict(), self.whole.as_dict()],
            "tokens": [sum(t.input for t in tokens), sum(t.output for t in tokens)],
            "dollars": self._dollars(price),
        }

    @classmethod
    def from_dict(cls, told: dict[str, Any]) -> _TargetTotals:
        """What another process has written; see `as_dict`."""
        totals = cls()
        totals.kinds, totals.wins, totals.faults = (
            {str(name): int(count) for name, count in counts.items()} for counts in told["counts"]
        )
        totals.breaks = int(told["breaks"])
        totals.first, totals.whole = map(DurationHistogram.from_dict, told["times"])
        totals.won.input, totals.won.output = map(int, told["tokens"])
        spent, wasted = told["dollars"]
        totals.paid = None if spent is None else (float(spent), float(wasted))
        return totals

    def merge(self, other: _TargetTotals) -> None:
        """Add another process's."""
        for ours, theirs in (
            (self.kinds, other.kinds), (self.wins, other.wins), (self.faults, other.faults)
        ):  # fmt: skip
            _add_counts(ours, theirs)
        self.breaks += other.breaks
        self.first.merge(other.first)
        self.whole.merge(other.whole)
        self.won.input += other.won.input
        self.won.output += other.won.output
        if other.paid is not None:
            spent, wasted = self.paid or (0.0, 0.0)
            self.paid = (spent + other.paid[0], wasted + other.paid[1])

    def stats(
        self, name: str, state: TargetState | None, now: float, price: Price | None
    ) -> TargetStats:
        spent, wasted = self._dollars(price)
        times = state.speed.first_texts if state is not None else None
        sized = times is not None and times.lengths_differ
        return TargetStats(
            name=name,
            health=state.health(now) if state is not None else None,
            learned_delay=state.speed.learned_delay(now) if state is not None else None,
            doubling_tokens=round(times.doubling_tokens) if times is not None and sized else None,
            efforts=times.efforts if times is not None and len(times.efforts) > 1 else {},
            lengths=_lengths(times) if times is not None and sized else (),
            requests=sum(self.kinds.values()),
            wins=sum(self.wins.values()),
            hedges=self.kinds.get(AttemptKind.HEDGE, 0),
            hedge_wins=self.wins.get(AttemptKind.HEDGE, 0),
            kinds=_sorted(self.kinds),
            faults=_sorted(self.faults),
            breaks=self.breaks,
            first_text=self.first.quantiles(),
            whole=self.whole.quantiles(),
            input_tokens=sum(totals.input for totals in self._all_tokens()),
            output_tokens=sum(totals.output for totals in self._all_tokens()),
            spent=spent,
            wasted=wasted,
            curve=self.first.curve(),
        )

    def _dollars(self, price: Price | None) -> tuple[float | None, float | None]:
        if price is None:
            return self.paid or (None, None)
        by_batch = {
            key: totals.dollars(price) * (1.0 - key[1]) for key, totals in self.batched.items()
        }
        lost = sum(dollars for (won, _), dollars in by_batch.items() if not won)
        spent = sum(by_batch.values())
        if self.paid is not None:
            return self.paid[0] + spent, self.paid[1] + lost
        lost_live = self.lost.dollars(price)
        return spent + self.won.dollars(price) + lost_live, lost + lost_live

    def _all_tokens(self) -> tuple[_TokenTotals, ...]:
        return (self.won, self.lost, *self.batched.values())


def _add_counts(ours: dict[str, int], theirs: Mapping[str, int]) -> None:
    for name, count in theirs.items():
        ours[name] = ours.get(name, 0) + count


def _sorted(counts: dict[str, int]) -> dict[str, int]:
    """Order counts by frequency, the highest first, under plain strings."""
    return {str(name): counts[name] for name in sorted(counts, key=lambda name: -counts[name])}


def _lengths(times: TimeModel) -> tuple[tuple[int, float], ...]:
    answered = [sample for sample in times.samples() if not sample.censored]
    return tuple((sample.profile.prompt_tokens, sample.seconds) for sample in answered)
