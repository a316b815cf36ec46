"""`Target`: one model at one provider, frozen and validated."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from math import inf
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from langchain_resilient.faults import TRANSIENT, Fault, FaultKind
from langchain_resilient.models import DEFAULT_FAMILIES
from langchain_resilient.sampling import (
    TARGETS_WORDS,
    KnownFields,
    Sampling,
    no_bool,
    public_params,
    sampling_params,
)

if TYPE_CHECKING:
    from langchain_core.runnables import Runnable
    from tenacity import RetryCallState

    TargetSpec = str | Runnable[Any, Any] | None
else:
    # Annotations are evaluated at run time too, where neither need be loaded.
    TargetSpec = RetryCallState = Any


Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False), BeforeValidator(no_bool)]

API = Literal["auto", "chat", "responses"]

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

    def at_most(self, retries: int | None) -> Retry:
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


TARGET_SYNTAX = (
    'a target is "provider:model" such as "openai:gpt-6.1-sol", "together:zai-org/..." or "local", '
    "a Target(...), or a LangChain chat model"
)

_SPEC = re.compile(r"^(?P<provider>[a-z][a-z0-9_-]*)(?::(?P<model>\S.*))?$", re.DOTALL)
Dollars = Annotated[float, Field(ge=0, allow_inf_nan=False)]


_REASONING_MODEL = re.compile(
    r"(^|[/:._-])(o[134](-|$)|gpt-5(-mini|-nano|-pro)?(-20\d\d|$)|gpt-oss|qwq|magistral)"
    r"|deepseek-?(r1|reasoner)|-r1(-|$)|(?<!non-)(?<!non_)(reason|think)(er|ing)"
)
"""Names of models that reason unless they are told not to, as their providers document them."""


class Target(Sampling):
    """One model at one provider, with what is special about it.

    Args:
        spec: `"provider:model"`, e.g. `"openai:gpt-6.1-sol"`; or a LangChain chat model.
        **fields: The attributes below and every sampling field (`temperature`, ...).

    Raises:
        pydantic.ValidationError: If a field is unknown or out of range; it names the field.

    Example:
        ```python
        Target("openai:gpt-6.1-sol", temperature=0.2, max_concurrency=8)
        Target("openai:my-model", base_url="http://localhost:8000/v1", api_key="none")
        ```
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(
        frozen=True, extra="forbid", arbitrary_types_allowed=True
    )

    _other_names: ClassVar[frozenset[str]] = frozenset({"azure_endpoint"})
    _moved: ClassVar[Mapping[str, str]] = TARGETS_WORDS

    provider: str
    """Who serves it: `"openai"`, `"together"`, `"local"`, `"runnable"`, or a registered name."""
    model: str = ""
    """The model's id at that provider."""
    successors: tuple[str, ...] = ()
    """Ids at the same provider that are asked in its place, in this order, when the provider says
    that the model is gone; `"*"` for the newest chat model that it lists then. Remembered for a
    day."""
    runnable: Any = Field(default=None, repr=False)
    """The LangChain model, where the target is one."""
    name: str = ""
    """What receipts and statistics call it; `"provider:model"` unless given."""
    api_key: SecretStr | tuple[SecretStr, ...] | Callable[[], Any] | None = None
    """One key, or several that are used in turn: a limited one rests until its hint, a refused or
    spent one is left out. Or a function that gives the key of the moment (Entra tokens), called
    with each request, in a thread unless it is a coroutine function. Else the provider's
    environment variable is read."""
    base_url: str | None = None
    """Another server that speaks the provider's API. The key from the environment is not sent
    there: give `api_key` with it."""
    api: API = "auto"
    """Which of OpenAI's two APIs is spoken: `"chat"` completions or `"responses"`. `"auto"` takes
    chat completions, and the other for what they lack or refuse (see docs/responses.md)."""
    organization: str | None = None
    """The provider's organization or project id, where it has such a thing."""
    metadata: dict[str, str] | None = None
    """Kept by the provider with each answer, where it keeps any (`store`)."""
    default_headers: dict[str, SecretStr] = Field(default_factory=dict, repr=False)
    """Sent with each request; their values are kept as secrets."""
    default_query: dict[str, str] | None = None
    """Parameters of the query of each request's URL."""
    api_version: str | None = None
    """Azure's: the version of its own API, which is asked by deployment; None for its `/openai/v1`,
    or what `OPENAI_API_VERSION` says."""
    http_async_client: Any = Field(default=None, exclude=True, repr=False)
    """An own `AsyncClient` to send with, of the httpx that the provider's SDK is built on (`httpx2`
    for OpenAI and all servers with its API, `httpx` for Together), or a function that makes one for
    each event loop: a client serves only one, and `invoke` has another than `ainvoke`. A client is
    left open for whoever made it."""
    ca_certificates: str | None = None
    """A file or folder with the certificates of the authorities to trust, instead of the usual."""
    client_certificate: str | tuple[str, str] | None = None
    """A file with this client's certificate and key, or one for each."""
    max_concurrency: int | None = Field(default=None, ge=1)
    """The most requests under way at this target at one time, over all calls of this process."""
    requests_per_minute: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """The most requests that are sent to its model with one key; they are spread evenly. None goes
    by what the provider says with its answers, if it does (OpenAI)."""
    tokens_per_minute: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """The same for tokens: the prompt's, and `max_tokens` or what answers usually have."""
    time_limits: TimeLimits | None = None
    """Instead of the model's own."""
    thinks: bool | None = None
    """Whether its model reasons before it answers, so that half a minute of silence is nothing
    unusual; None goes by its name and `reasoning_effort`. What is usual is learned either way."""
    replicated: bool = False
    """Whether it is many machines, as the large providers' are: then a late request is asked there
    a second time where no other target is healthy."""
    group: str = ""
    """Targets with the same name here are as good as each other: where the limit of one holds a
    call up, another of them is asked at once. One without a group is waited for while its limit is
    not used up; see `spread`."""
    retry_first: bool = False
    """Ask for one quick retry of this target before the chain moves on."""
    price: tuple[Dollars, Dollars] | None = None
    """Dollars per million tokens of the prompt and of the answer; else `genai-prices` is asked."""
    batch_discount: float | None = Field(default=None, ge=0, le=1)
    """The share of its price that its provider's batches save; None goes by what the provider says:
    half at OpenAI, and at Together for some models."""
    context_window: int | None = Field(default=None, ge=1)
    """The most tokens it takes, prompt and answer together. Longer requests go to others."""
    weight: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """Its share of first requests under `order="balanced"`; 0 for only when others fail."""
    spend_cap: SpendCapOption = None
    """The most that may be spent on it: `SpendCap(...)`, or dollars a day. Then others answer."""

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Show what was set; the name only if it is one of its own."""
        for name, value in super().__repr_args__():
            if name != "name" or value != f"{self.provider}:{self.model}":
                yield name, value

    def __init__(self, spec: TargetSpec = None, /, **fields: Any) -> None:
        """Take the spec apart; see the class."""
        super().__init__(**({} if spec is None else _parse(spec)) | fields)

    def reasons(self) -> bool:
        """Whether its model is taken to reason before it answers; see `thinks`."""
        if self.thinks is not None:
            return self.thinks
        effort = self.reasoning_effort or self.model_kwargs.get("reasoning_effort")
        if effort is not None:
            return effort not in {"none", "minimal"}
        return bool(_REASONING_MODEL.search(self.model.lower()))

    def identity(self) -> dict[str, Any]:
        """What makes its answers its own, as plain data; no key and no header."""
        known = self.model_dump(
            include={
                "provider",
                "model",
                "base_url",
                "organization",
                "default_query",
                "api_version",
            },
            exclude_none=True,
        )
        if self.api != "auto":
            known["api"] = self.api
        if self.runnable is not None:
            # LangChain models say of themselves what changes their answers.
            known["runnable"] = str(getattr(self.runnable, "_identifying_params", self.name))
        if self.successors:
            known["successors"] = list(self.successors)
        return {**known, **public_params(self)}

    def sampling_params(self) -> dict[str, Any]:
        """Those that are set, as chat-completions parameters."""
        params = sampling_params(self)
        return params if self.metadata is None else {"metadata": self.metadata, **params}

    @field_validator("api_key")
    @classmethod
    def _has_a_key(cls, value: Any) -> Any:
        if isinstance(value, tuple):
            if not value:
                msg = "is an empty list: give at least one key, or leave it out"
                raise ValueError(msg)
            if len({key.get_secret_value() for key in value}) < len(value):
                msg = "holds the same key twice"
                raise ValueError(msg)
        return value[0] if isinstance(value, tuple) and len(value) == 1 else value

    @field_validator("http_async_client")
    @classmethod
    def _is_client(cls, value: Any) -> Any:
        return checked_client(value)

    @field_validator("base_url")
    @classmethod
    def _is_url(cls, value: str | None) -> str | None:
        return None if value is None else checked_url(value)

    @field_validator("successors")
    @classmethod
    def _are_ids(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if info.data.get("provider") in ("local", "runnable", "text") and value:
            msg = "only a model at a provider with an API can have successors"
            raise ValueError(msg)
        ids = (info.data.get("model"), *value)
        if not all(ids) or len(set(ids)) < len(ids):
            msg = "must be ids that differ from each other and from the model's"
            raise ValueError(msg)
        return value

    @model_validator(mode="before")
    @classmethod
    def _name_it(cls, data: Any) -> Any:
        if isinstance(data, dict) and "azure_endpoint" in data:
            if data.get("base_url"):
                msg = "azure_endpoint and base_url are the same: give one of them"
                raise ValueError(msg)
            data = {**data, "base_url": data["azure_endpoint"]}
            del data["azure_endpoint"]
        if isinstance(data, dict) and isinstance(name := data.get("name"), str):
            if not name.strip():
                msg = "name must not be empty: leave it out for provider:model"
                raise ValueError(msg)
        elif isinstance(data, dict) and name is None:
            provider, model = data.get("provider", ""), data.get("model", "")
            data = {**data, "name": f"{provider}:{model}" if model else provider}
        return data


def checked_client(value: Any) -> Any:
    """Check that a value is an asynchronous HTTP client, or a function that may make one."""
    if value is None or callable(value) or hasattr(value, "aclose"):
        return value
    msg = f"must be an AsyncClient of httpx or a function that makes one, not {value!r}"
    raise ValueError(msg)


def _parse(spec: Any) -> dict[str, Any]:
    if isinstance(spec, str):
        match = _SPEC.match(spec.strip())
        if not match or (not match["model"] and match["provider"] != "local"):
            msg = f"{spec!r} is not a target: {TARGET_SYNTAX}"
            raise ValueError(msg)
        return {"provider": match["provider"], "model": (match["model"] or "").strip()}
    if callable(getattr(spec, "ainvoke", None)):
        model = next(
            (
                v
                for a in ("model_name", "model", "model_id")
                if isinstance(v := getattr(spec, a, 0), str)
            ),
            type(spec).__name__,
        )
        return {
            "provider": "runnable",
            "model": model,
            "runnable": spec,
            "name": f"{type(spec).__name__}:{model}",
        }
    msg = f"{spec!r} is not a target: {TARGET_SYNTAX}"
    raise TypeError(msg)


DEFAULT_CHAIN: tuple[Target, ...] = tuple(
    Target(f"{provider}:{ids[0]}", successors=ids[1:]) for provider, ids in DEFAULT_FAMILIES
)
"""Two providers with two models each, and of each model who follows it."""


def checked_url(url: str) -> str:
    """Check a base URL, and cut off what follows its path.

    What it says never repeats the URL, which may hold a key: keys belong in `api_key` alone, for
    addresses stand in logs, in errors, and in caches' keys.

    Args:
        url: As a user wrote it.

    Raises:
        ValueError: If it is no URL of a server, or holds a user, a password, a query or a fragment.

    Example:
        ```python
        checked_url("http://localhost:8000/v1/")  # "http://localhost:8000/v1"
        ```
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        msg = 'must start with "http://" or "https://" and name a server'
        raise ValueError(msg)
    try:
        _ = parts.port
    except ValueError:
        msg = "names a port that is none: it is a number from 1 to 65535"
        raise ValueError(msg) from None
    if "@" in url:  # even where an unquoted "/" in a password hides it from the parser
        msg = (
            "must not hold a user or a password: give them as api_key, or as "
            'default_headers={"Authorization": ...}'
        )
        raise ValueError(msg)
    if "?" in url or "#" in url:
        msg = (
            "must not hold a query or a fragment, for paths are added to it: give keys as api_key, "
            "or in default_headers"
        )
        raise ValueError(msg)
    return url.rstrip("/")


def as_target(value: Any) -> Target:
    """Normalise whatever a user may write for one target.

    Raises:
        ValueError: If it is not a target; says what one looks like.
    """
    if isinstance(value, Target):
        return value
    if isinstance(value, dict):
        return Target(**value)
    try:
        return Target(value)
    except TypeError as e:
        raise ValueError(str(e)) from None


def as_chain(values: Any) -> tuple[Target, ...]:
    """Normalise a chain of targets, at the edge, once.

    Raises:
        ValueError: If it is empty, a bare string, or names one target twice.
    """
    if isinstance(values, str):
        msg = f"targets must be a list; for one target write targets=[{values!r}]"
        raise ValueError(msg)  # noqa: TRY004  # pydantic turns ValueError into its own
    try:
        targets = tuple(as_target(v) for v in values)
    except TypeError:
        msg = f"targets must be a list, not {type(values).__name__}; {TARGET_SYNTAX}"
        raise ValueError(msg) from None
    if not targets:
        msg = f"targets is empty: give at least one; {TARGET_SYNTAX}"
        raise ValueError(msg)
    return _unique(targets)


def _unique(targets: Sequence[Target]) -> tuple[Target, ...]:
    """Refuse the same target twice; number those that share a name but differ."""
    seen: dict[str, list[Target]] = {}
    unique = []
    for target in targets:
        twins = seen.setdefault(target.name, [])
        if any(twin == target for twin in twins):
            msg = (
                f"duplicate target {target.name!r}: a target is retried by itself "
                "(see Retry); give two of them different settings or names"
            )
            raise ValueError(msg)
        twins.append(target)
        number = len(twins)
        unique.append(
            target if number == 1 else target.model_copy(update={"name": f"{target.name}#{number}"})
        )
    return tuple(unique)


def target_names(targets: Iterable[Target]) -> str:
    """Join the names for a message."""
    return ", ".join(t.name for t in targets)
