"""`Stats`: what `llm.stats()` returns. Frozen records that print well and turn into plain JSON."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from langchain_resilient.observability import render
from langchain_resilient.observability.times import UNKNOWN, Quantiles

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True, repr=False)
class TargetStats:
    """What one target did for a model, since the model was made. Times are seconds.

    Attributes:
        name: As in receipts.
        health: `"ok"`, `"limited"`, `"tripped"`, `"account out"` or `"gone"`; None if not known.
        learned_delay: By which all but 5 % of its requests have spoken; None while not learned.
        hedge_delay: Of silence, after which another target is asked beside it now; None for never.
        requests: Sent to it, of whatever kind.
        wins: Of these, the answers that counted.
        hedges: Requests that were sent to it because another was late.
        hedge_wins: Of these, the answers that counted.
        kinds: Requests by `AttemptKind`.
        faults: Failures by `FaultKind`, the most frequent first.
        breaks: Streams of its own that died after some of their text was delivered.
        first_text: From sending to the first text.
        whole: From sending to the end of the answer.
        input_tokens: Of prompts, as reported; a loser's prompt counts as the winner's.
        output_tokens: Of answers, as far as reported or received.
        spent: Dollars, losers included; None where its price is not known. Without a spend cap,
            surcharges for long prompts are left out.
        wasted: Dollars of that for answers that did not count.
        curve: Which share of its requests had spoken by when, as `(seconds, share)`, for plots.
            It stands neither in `as_dict()` nor in the repr.
    """

    name: str
    health: str | None = None
    learned_delay: float | None = None
    hedge_delay: float | None = None
    requests: int = 0
    wins: int = 0
    hedges: int = 0
    hedge_wins: int = 0
    kinds: Mapping[str, int] = field(default_factory=dict)
    faults: Mapping[str, int] = field(default_factory=dict)
    breaks: int = 0
    first_text: Quantiles = UNKNOWN
    whole: Quantiles = UNKNOWN
    input_tokens: int = 0
    output_tokens: int = 0
    spent: float | None = None
    wasted: float | None = None
    curve: tuple[tuple[float, float], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        names = [one.name for one in fields(self) if one.name != "curve"]
        return {name: _plain(getattr(self, name)) for name in names}

    def __repr__(self) -> str:
        """One line: `openai:gpt-4 (ok): 12 requests, 11 wins, first text p50 0.41 s p99 1.20 s`."""
        return render.line(self)


@dataclass(frozen=True, slots=True, repr=False)
class Stats:
    """What a model did since it was made, and what is thought of its targets now.

    Attributes:
        calls: Those that ended, however.
        answered: By a target or the last resort.
        failed: With an error.
        cancelled: By the caller.
        last_resort: Answers of the last resort.
        seconds: From the call to the end of its answer, where there was one.
        hedge_share: Hedges as a share of calls.
        extra_sends: Requests beyond the first of each call.
        breaks: Streams that died after some of their text was delivered, by what was done:
            `"continued"` or `"replaced"` by another target, or `"raised"`.
        spent: Dollars, on all targets whose price is known.
        wasted: Dollars of that for answers that did not count.
        targets: Each target, in the order of the chain.

    Example:
        ```python
        stats = llm.stats()
        print(stats)  # a table; in a notebook, `stats` alone shows one
        stats["openai:gpt-4"].first_text.p99
        ```
    """

    calls: int = 0
    answered: int = 0
    failed: int = 0
    cancelled: int = 0
    last_resort: int = 0
    seconds: Quantiles = UNKNOWN
    hedge_share: float = 0.0
    extra_sends: int = 0
    breaks: Mapping[str, int] = field(default_factory=dict)
    spent: float = 0.0
    wasted: float = 0.0
    targets: tuple[TargetStats, ...] = ()

    def __getitem__(self, name: str) -> TargetStats:
        """Find a target by name.

        Raises:
            KeyError: If there is none; names those there are.
        """
        for target in self.targets:
            if target.name == name:
                return target
        msg = f"no target {name!r}; there are {', '.join(t.name for t in self.targets)}"
        raise KeyError(msg)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {one.name: _plain(getattr(self, one.name)) for one in fields(self)}

    def plot(self, width: float = 8.0, height: float = 4.5) -> Figure:
        """Draw how soon each target speaks, and when it would be hedged.

        A curve says which share of a target's requests had spoken by when, those that were closed
        early included (Kaplan & Meier); a dashed line stands at its hedge delay.

        Args:
            width: Inches.
            height: Inches.

        Raises:
            MissingExtraError: Without matplotlib; says how to install it.

        Example:
            ```python
            llm.stats().plot().savefig("latency.png")
            ```
        """
        from langchain_resilient.observability import plot  # noqa: PLC0415  # an extra

        return plot.plot(self, width, height)

    def __repr__(self) -> str:
        """The totals in one line."""
        return render.summary(self)

    def __str__(self) -> str:
        """A table for terminals."""
        return render.text(self)

    def _repr_html_(self) -> str:
        """A table for notebooks."""
        return render.html(self)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, tuple):
        return [one.as_dict() for one in value]
    if isinstance(value, Quantiles):
        return value.as_dict()
    return dict(value) if isinstance(value, dict) else value
