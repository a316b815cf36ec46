"""The policies of a model, frozen and validated: limits, hedges, retries, health, spend caps."""

# Not `from __future__ import annotations`: pydantic would compile each of them anew.

from collections.abc import Callable, Collection
from math import inf
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, ConfigDict, Field, field_validator

from langchain_resilient.faults import TRANSIENT, Fault, FaultKind
from langchain_resilient.sampling import KnownFields, no_bool

if TYPE_CHECKING:
    from tenacity import RetryCallState
else:
    # Annotations are evaluated at run time too, where it need not be loaded.
    RetryCallState = Any


Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False), BeforeValidator(no_bool)]

OnBreak = Literal["continue", "replace", "raise"]
"""What is done when a stream dies after some of its text was delivered."""


THINKING_DEADLINE = 600.0
"""Seconds for a whole call where nobody said how many and a model reasons: people report some three
minutes of silence from today's."""


class _Policy(KnownFields):
    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, arbitrary_types_allowed=True)


class TimeLimits(_Policy):
    """Limits inside the one deadline. Each is finite unless you set it to None.

    Example:
        ```python
        TimeLimits(first_text=30, chunk_gap=20)  # for slow, thinking models
        ```
    """

    connect: Seconds | None = 5.0
    """To open a connection."""
    first_text: float | Literal["learned"] | None = "learned"
    """From sending a request to its first visible text, in seconds. An attempt over it is no longer
    waited for: another target is asked, and whichever speaks first wins. `"learned"`: twice the
    time by which 999 of 1,000 such requests have spoken, between 5 and 15 s for most targets;
    longer for long prompts, and for models that think."""
    thinking: float | Literal["learned"] | None = "learned"
    """The same in seconds while reasoning arrives that is not part of the answer: it shows that the
    target lives. `"learned"`: 5 minutes, longer for high effort or where that is usual."""
    chunk_gap: Seconds | None = 10.0
    """Between two chunks with content. Keep-alive comments do not count as content."""
    answer: Seconds | None = 600.0
    """From sending a request to the end of its answer."""
    min_tokens_per_second: float | None = Field(default=1.0, gt=0, allow_inf_nan=False)
    """The slowest that an answer may come, in tokens (or four characters) a second, once it has
    begun. One that is slower is given up if another target is free: a slow answer is better than
    none."""
    throughput_window: Seconds = 10.0
    """Seconds over which that is measured, one window after the other."""

    @field_validator("first_text", "thinking", mode="plain")
    @classmethod
    def _is_limit(cls, value: Any) -> Any:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and value != "learned" and not (number and 0 < value < inf):
            msg = f'must be "learned", None, or a finite number of seconds > 0, not {value!r}'
            raise ValueError(msg)
        return float(value) if number else value


class Hedge(_Policy):
    """When to ask a second target because the first is late (Dean & Barroso, "The Tail at Scale").

    Example:
        ```python
        Hedge(budget=0.1)  # learn when, for at most 10 % of the requests
        Hedge(delay=1.0)  # always after one second, as far as the budget goes
        ```
    """

    delay: float | Literal["learned"] = "learned"
    """How late is late, from sending a request to its first text. `"learned"`: the time by which
    this target has spoken in all but `0.9 * budget` of its requests, between 0.05 s and 10 s. A
    number is a fixed delay in seconds."""
    cold: Seconds = 2.0
    """The delay in seconds while a target has fewer than 30 samples to learn from."""
    budget: float = Field(default=0.05, ge=0, le=1)
    """Hedges as a share of requests, over time."""
    burst: int = Field(default=20, ge=1)
    """How many hedges may be saved up for a bad moment."""
    pause: Seconds | None = 2.0
    """The least silence in the middle of an answer after which another target is asked to go on
    beside it, in seconds; whoever speaks first goes on. It is longer for targets whose own pauses
    are: twice the longest pause of 99 % of their answers. None for never."""
    max_parallel: int = Field(default=2, ge=1, le=10)
    """The most attempts of one call that are waited for at the same time."""
    on: Literal["first_text", "response"] = "first_text"
    """`"first_text"` streams from the provider, so that a slow target is told from a long answer.
    `"response"` asks plainly and waits for whole answers."""
    max_extra_cost: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """The most that one call may spend on hedges and rescues, in dollars, as estimated beforehand
    from `genai-prices` or `Target.price`. A target of unknown price is then not hedged to."""

    @field_validator("delay", mode="plain")
    @classmethod
    def _is_delay(cls, value: Any) -> Any:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value != "learned" and not (number and 0 <= value < inf):
            msg = f'must be "learned" or a finite number of seconds >= 0, not {value!r}'
            raise ValueError(msg)
        return value


class Health(_Policy):
    """When a target is taken for sick, and what may be spent on those who are caught there.

    A target trips when its requests are late or fail several times in a row. While it is out, new
    requests go to the others, requests caught on it are rescued, and copies of ordinary requests
    (shadows, at most one a backoff step of 1 to 30 s) probe it until it is well.

    Example:
        ```python
        Health(trip_after=8)  # slower to judge
        ```
    """

    trip_after: int = Field(default=5, ge=2)
    """So many late or failed requests in a row trip a target; a good one undoes half of one."""
    rescue: float = Field(default=0.10, ge=0, le=1)
    """Rescues as a share of requests, over time."""
    rescue_burst: int = Field(default=50, ge=1)
    """How many rescues may be saved up."""


class Retry(_Policy):
    """When a target that failed is asked again, by tenacity's own objects.

    The chain never sleeps while another target is free: the wait only says when the one that failed
    comes back into the order. A server's `Retry-After` goes before `wait` where it is longer.

    Example:
        ```python
        from tenacity import stop_after_attempt, wait_fixed

        Retry(stop=stop_after_attempt(3), wait=wait_fixed(1))
        ```
    """

    stop: Any = None
    """A tenacity `stop`, asked per target; None goes on until the deadline."""
    wait: Any = None
    """A tenacity `wait`; None is full jitter up to `min(8, 0.5 * 2**n)` seconds
    (Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015)."""
    retry: Any = None
    """A tenacity `retry` predicate on the attempt's outcome, whose exception is the provider's own;
    None retries what may pass (`langchain_resilient.faults.TRANSIENT`)."""
    budget: float = Field(default=0.05, ge=0, le=1)
    """Retries of the same target within a call, as a share of requests, over time. Five retries
    a second are free, and so are two for each answer that comes while requests wait to retry."""
    burst: int = Field(default=20, ge=1)
    """How many retries may be saved up for a bad moment."""

    @field_validator("stop", "wait", "retry")
    @classmethod
    def _is_callable(cls, value: Any) -> Any:
        if value is not None and not callable(value):
            msg = f"must be a tenacity object or any callable of a RetryCallState, not {value!r}"
            raise ValueError(msg)
        return value

    def at_most(self, retries: int | None) -> "Retry":
        """Return this, limited to so many retries of one target; None leaves it as it is."""
        if retries is None:
            return self
        from tenacity import stop_after_attempt  # noqa: PLC0415  # keeps import light

        limit = stop_after_attempt(retries + 1)
        return self.model_copy(update={"stop": limit if self.stop is None else self.stop | limit})

    def again_after(self, state: RetryCallState, fault: Fault) -> float | None:
        """Seconds until the target may be asked again; None for never.

        Args:
            state: What tenacity would know at this point.
            fault: The failure, classified.
        """
        may = fault.kind in TRANSIENT if self.retry is None else bool(self.retry(state))
        if not may or (self.stop is not None and self.stop(state)):
            return None
        return float(full_jitter(state) if self.wait is None else self.wait(state))


_WINDOWS = {"minute": 60.0, "hour": 3600.0, "day": 86_400.0, "month": 30 * 86_400.0, "total": inf}


class SpendCap(_Policy):
    """The most that may be spent, on a model or on a target of it.

    What is spent is counted from the tokens that providers report and from prices; what a loser
    cost counts too. A cap that is reached stops new requests to what costs money: targets that are
    free go on, and calls that nobody may answer raise `SpendCapError`. Requests under way are
    finished, so the last of them may go over the cap by what they cost.

    The window slides: `per="day"` means any 24 hours, not the time since midnight, and money counts
    for at most a 60th of the window longer than that. It is measured on the process's monotonic
    clock, and forgotten when the process ends.

    Example:
        ```python
        SpendCap(5)  # five dollars a day
        SpendCap(0.50, per="hour")
        ```
    """

    dollars: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    """How much, in dollars."""
    per: Literal["minute", "hour", "day", "month", "total"] = "day"
    """In how long a time. A month is 30 days; `"total"` is the life of the process."""
    name: str = ""
    """Caps of one name, amount and time share one budget in the whole process. Without a name,
    models with the same targets and keys share one."""

    def __init__(self, dollars: float | None = None, /, **fields: Any) -> None:
        """Take the amount by position too; see the class."""
        super().__init__(**({} if dollars is None else {"dollars": dollars}) | fields)

    @property
    def window(self) -> float:
        """The length of the time, in seconds; `inf` for `"total"`."""
        return _WINDOWS[self.per]

    def __str__(self) -> str:
        """As messages say it: `$5.00 a day`."""
        per = {"hour": "an hour", "total": "in total"}.get(self.per, f"a {self.per}")
        return f"{money(self.dollars)} {per}"


def money(dollars: float) -> str:
    """Write an amount: cents from a dollar on, two figures that count below a cent."""
    return f"${dollars:.2f}" if dollars >= 0.01 or not dollars else f"${dollars:.2g}"  # noqa: PLR2004


def full_jitter(state: RetryCallState) -> float:
    """Wait a random time up to `min(8, 0.5 * 2**n)` seconds, from the engine's own generator."""
    ceiling = min(8.0, 0.5 * 2.0 ** min(state.attempt_number, 10))
    rng = getattr(state, "rng", None)
    return ceiling * float(rng.random()) if rng is not None else ceiling


ALL_FAULTS = frozenset(FaultKind)


def _as_kinds(value: Any) -> Any:
    if callable(value):
        return value
    if isinstance(value, str) or not isinstance(value, Collection):
        msg = "must be a collection of fault kinds, or a function of a Fault"
        raise ValueError(msg)  # noqa: TRY004  # pydantic turns ValueError into its own
    unknown = [str(kind) for kind in value if kind not in ALL_FAULTS]
    if unknown:
        msg = f"unknown kinds of fault: {', '.join(unknown)}; known are {', '.join(FaultKind)}"
        raise ValueError(msg)
    return frozenset(FaultKind(kind) for kind in value)


if TYPE_CHECKING:
    FallbackOn = Collection[str] | Callable[[Fault], bool]  # a FaultKind is a str
else:
    FallbackOn = Annotated[
        Collection[FaultKind] | Callable[[Fault], bool], BeforeValidator(_as_kinds)
    ]
"""The kinds of fault after which another target is asked, or a function that says so."""


def _as_hedge(value: Any) -> Any:
    if value is True:
        msg = "is Hedge(...), a delay in seconds, or None: leave it out to learn the delay"
        raise ValueError(msg)
    if value is False:
        return None
    return Hedge(delay=value) if isinstance(value, int | float) else value


HedgeOption = Annotated[Hedge | None, BeforeValidator(_as_hedge)]
"""`Hedge(...)`, a number (its fixed delay in seconds), or None (or False) for never."""


def _as_spend_cap(value: Any) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return SpendCap(value) if number else value


SpendCapOption = Annotated[SpendCap | None, BeforeValidator(_as_spend_cap)]
"""`SpendCap(...)`, a number (dollars a day), or None for no limit."""
