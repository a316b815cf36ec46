"""The fields of `ResilientChatModel`: what a user may set, validated once."""

# Not `from __future__ import annotations`: pydantic would compile each of them anew.

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, cast

from langchain_core.messages import AIMessage
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, field_validator

from langchain_resilient.fleet.options import Shared, SharedOption
from langchain_resilient.observability.observer import Observer
from langchain_resilient.options import Target, as_chain, as_target, checked_client, default_chain
from langchain_resilient.policies import (
    ALL_FAULTS,
    THINKING_DEADLINE,
    FallbackOn,
    Health,
    Hedge,
    HedgeOption,
    OnBreak,
    Retry,
    Seconds,
    SpendCap,
    SpendCapOption,
    TimeLimits,
)
from langchain_resilient.sampling import MODELS_WORDS, TARGETS_WORDS, Sampling


def _provider_entry(name: str) -> "ProviderEntry":
    from langchain_resilient.providers import provider_entry  # noqa: PLC0415  # keeps import light

    return provider_entry(name)


def _as_last_resort(value: Any) -> Target | None:
    if value is None or isinstance(value, Target):
        return value
    from langchain_resilient.providers import known_providers  # noqa: PLC0415  # keeps import light

    if isinstance(value, str) and value.partition(":")[0] not in known_providers():
        return Target(provider="text", model=value, name="text")
    return as_target(value)


KeySource = Callable[[], Any]
"""Gives the key of the moment."""

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_core.runnables import Runnable

    from langchain_resilient.providers import ProviderEntry

    # For type checkers: what a user may write. What it becomes, `chain_of` and its neighbours tell.
    Chain = Sequence[str | Target | Runnable[Any, Any] | dict[str, Any]]
    LastResort = str | Target | Runnable[Any, Any] | None
    HedgeField = Hedge | float | None
    SpendCapField = SpendCap | float | None
    SharedField = Shared | str | None
    Observers = Sequence[Observer]
    File = str | Path
    Keys = (
        str
        | SecretStr
        | KeySource
        | Mapping[str, str]
        | Mapping[str, SecretStr]
        | Mapping[str, KeySource]
        | None
    )
else:
    File = Path
    Chain = Annotated[tuple[Target, ...], BeforeValidator(as_chain)]
    LastResort = Annotated[Target | None, BeforeValidator(_as_last_resort)]
    HedgeField = HedgeOption
    Observers = tuple[Observer, ...]
    SpendCapField = SpendCapOption
    Keys = SecretStr | dict[str, SecretStr | KeySource] | KeySource | None
    SharedField = SharedOption

_NO_SERVER = frozenset({"local", "runnable", "text"})
"""Providers that send nothing themselves."""

_ADDRESS = re.compile(r" at 0x[0-9A-Fa-f]+")


def function_identity(function: Callable[..., Any]) -> str:
    """Describe a function, so that the text is the same in every process, and another's is another.

    Its name alone would not do: all lambdas of a module have one. Of what a function calls only the
    names count.

    Example:
        ```python
        function_identity(print)  # "builtins.print"
        ```
    """
    if isinstance(function, partial):
        bound = _ADDRESS.sub("", f"{function.args!r} {sorted(function.keywords.items())!r}")
        return f"partial {function_identity(function.func)} {bound}"
    plain = getattr(function, "__func__", function)
    kind = plain if hasattr(plain, "__qualname__") else type(plain)
    name = f"{kind.__module__}.{kind.__qualname__}"
    code = getattr(plain, "__code__", None)
    if code is None:
        # An object that can be called says by its repr what it is, if it has one of its own.
        return name if plain is kind else f"{name} {_ADDRESS.sub('', repr(plain))}"
    cells = [_cell(cell) for cell in plain.__closure__ or ()]
    parts = [*_code_parts(code), plain.__defaults__, plain.__kwdefaults__, cells]
    text = _ADDRESS.sub("", repr(parts))
    return f"{name} {hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:16]}"


def _cell(cell: Any) -> Any:
    try:
        value = cell.cell_contents
    except ValueError:  # it is empty as yet
        return None
    return function_identity(value) if hasattr(value, "__code__") else value


def _code_parts(code: Any) -> list[Any]:
    consts = [_code_parts(c) if hasattr(c, "co_code") else c for c in code.co_consts]
    return [code.co_code, code.co_names, consts]


def as_plain_data(value: Any) -> Any:
    """Turn an argument of a call into what JSON can hold; what it holds already stays as it is."""
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(name): as_plain_data(member) for name, member in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [as_plain_data(member) for member in value]
    if isinstance(value, BaseModel):
        own = (
            value.identity()
            if isinstance(value, Target)
            else value.model_dump(mode="json", fallback=str, warnings=False)
        )
        return as_plain_data(own)
    if is_dataclass(value) and not isinstance(value, type):
        named = {field.name: getattr(value, field.name) for field in fields(value)}
        return {name: as_plain_data(member) for name, member in named.items()}
    return str(getattr(value, "__qualname__", None) or _ADDRESS.sub("", str(value)))


class Configuration(Sampling):
    """What is set on a model for all its targets, beside the sampling fields."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        extra="forbid", arbitrary_types_allowed=True, populate_by_name=True
    )

    _moved: ClassVar[Mapping[str, str]] = MODELS_WORDS
    # LangChain reads and writes its own `metadata`.
    _held: ClassVar[frozenset[str]] = Sampling._held - {"metadata"}  # noqa: SLF001  # our own

    targets: Chain = Field(default_factory=default_chain, validate_default=True)
    """The chain, in order of preference: `"provider:model"`, `Target(...)`, LangChain models."""
    api_key: Keys = Field(default=None, repr=False)
    """For targets without their own: the key of their provider, a function that gives the key of
    the moment, or a dict by provider; else the environment's."""
    default_query: dict[str, str] | None = None
    """For targets without their own: parameters of the query of each request's URL."""
    http_async_client: Any = Field(default=None, exclude=True, repr=False)
    """For targets without their own: the HTTP client, see `Target.http_async_client`."""
    timeout: Seconds | None = 120.0
    """The deadline for the whole call, in seconds, over all retries, hedges and fallbacks. Where it
    is left out and a model of the chain reasons, or the call asks for that, it is 600. In a batch
    each prompt has its own, which runs from when it is first sent."""
    time_limits: TimeLimits = Field(default_factory=TimeLimits)
    """Limits inside the deadline, for targets without their own."""
    hedge: HedgeField = Field(default_factory=Hedge)
    """When to ask a second target beside a late one: `Hedge(...)`, a delay in seconds, or None."""
    order: Literal["chain", "fastest", "cheapest", "balanced"] = "chain"
    """Which target is asked first: as given; the one that speaks first by what was learned (one
    request in twenty explores another); the one that costs least; or each in proportion to its
    `Target.weight`."""
    affinity: bool = False
    """Whether a conversation stays at the target that answered it last, and so holds its prompt
    cache, while that is well. Conversations are told apart by how they begin, or by the string that
    a call gives as `affinity=`."""
    spread: bool = True
    """Whether a call goes on to the next target where one is saturated (its rate limit or its
    `max_concurrency` is used up), or waits for its turn there, as long as its deadline allows. A
    limit that is known and not used up is spent first, as a burst; with targets that are equal
    (`order="balanced"` or `"fastest"`, or one `Target.group`) nobody waits for the first."""
    health: Health | None = Field(default_factory=Health)
    """When a target that hangs or fails is left out for a while; None for never."""
    share_learning: bool = True
    """Whether what is learned of targets (speed, health, limits, budgets) is shared with the other
    models of this process that have the same targets, across event loops and threads."""
    remember: File | None = Field(default=None, exclude=True, repr=False)
    """A file in which what was learned of targets (times, sizes, health) is kept for later
    processes; it holds no prompt and no key. Several processes may share it; what is old fades.
    None keeps nothing."""
    shared: SharedField = Field(default=None, exclude=True)
    """Where several processes share limits: the URL of a Redis or Valkey server, or `Shared(...)`
    (extra `shared`). None shares nothing beyond this process."""
    retry: Retry = Field(default_factory=Retry)
    """When a failed target is asked again: tenacity objects."""
    max_retries: int | None = Field(default=None, ge=0)
    """How often one target may be asked again within a call; None goes on until the deadline."""
    fallback_on: FallbackOn = ALL_FAULTS
    """After which kinds of fault another target is asked."""
    on_break: OnBreak = "continue"
    """What happens if a stream dies after some of its text was delivered. `"continue"`: another
    target goes on from there, by a prompt; JSON and tool calls are never glued together, they raise
    as below. `"replace"`: a chunk whose `response_metadata` holds `resilience_replaced` says that
    all before it is void, and a new answer follows; `sum_chunks` adds such a stream up. `"raise"`:
    `StreamBrokenError`, whose `partial` holds the text so far. Under `invoke`, handlers see the
    same, but unless it is `"raise"` the message is always one whole answer: what cannot be
    continued is replaced. Events of `version="v3"` know no marker: there `"replace"` continues."""
    last_resort: LastResort = None
    """Who answers when no target can: `"local"`, a target, a fixed text, or any Runnable. Never
    silent: the receipt's last attempt is of the kind `last_resort`."""
    last_resort_after: float = Field(default=5.0, gt=0, allow_inf_nan=False)
    """Seconds after which the last resort is asked where no target can be reached (refused, no
    route, no name); else it is asked shortly before the deadline, or when nobody is left."""
    spend_cap: SpendCapField = None
    """The most that may be spent on all targets together: `SpendCap(...)`, or dollars a day. Then
    targets that are free answer, or the last resort; with neither, calls raise `SpendCapError`."""
    check: Callable[[AIMessage], Any] | None = None
    """Called with each whole answer; False or an exception means the next target is asked. Streams
    are held back until it has approved. A function runs in a thread, so that it holds up nothing
    else; a coroutine function runs on the call's event loop. The deadline holds for both."""
    observers: Observers = Field(default=(), exclude=True, repr=False)
    """Objects whose `on_receipt(receipt, *, call)` hears of every finished call, such as `OTel()`:
    see `Observer`. They change no answer."""
    keep_warm: bool = Field(default=False, alias="warm")
    """Whether connections to all targets are opened before they are needed and kept open, so that
    neither a first call nor a first hedge waits for a handshake: what `awarm()` does, from the
    model's construction on."""
    streaming: bool = False
    """LangChain's switch: stream under `invoke` too, for the sake of callback handlers."""

    @field_validator("targets")
    @classmethod
    def _known_providers(cls, chain: tuple[Target, ...]) -> tuple[Target, ...]:
        for target in chain:
            _provider_entry(target.provider)
        return chain

    @field_validator("http_async_client")
    @classmethod
    def _is_client(cls, value: Any) -> Any:
        return checked_client(value)

    @classmethod
    def _hint(cls, name: str) -> str:
        """What to write instead of a name that is not known."""
        if name in cls._moved:
            return cls._moved[name]
        if name in Target.model_fields or name == "azure_endpoint":
            return f'it belongs to a target: targets=[Target("openai:...", {name}=...)]'
        if name in TARGETS_WORDS:
            said = TARGETS_WORDS[name]
            return f'it belongs to a target, targets=[Target("openai:...", ...)]: {said}'
        return super()._hint(name)


# What follows from the fields, as functions: a model shows nothing but what users use.


def chain_of(config: Configuration) -> tuple[Target, ...]:
    """The targets, as validation made them."""
    return cast("tuple[Target, ...]", config.targets)


def last_resort_of(config: Configuration) -> Target | None:
    """The last resort, as validation made it."""
    return cast("Target | None", config.last_resort)


def hedge_of(config: Configuration) -> Hedge | None:
    """The hedge, as validation made it."""
    return cast("Hedge | None", config.hedge)


def spend_cap_of(config: Configuration) -> SpendCap | None:
    """The model's own spend cap, as validation made it."""
    return cast("SpendCap | None", config.spend_cap)


def shared_of(config: Configuration) -> Shared | None:
    """What processes share, as validation made it."""
    return cast("Shared | None", config.shared)


def observers_of(config: Configuration) -> tuple[Observer, ...]:
    """The observers, as validation made them."""
    return cast("tuple[Observer, ...]", config.observers)


def keyed_targets(config: Configuration) -> list[Target]:
    """The chain, with `api_key` given to the targets that need one and have none.

    Raises:
        ValueError: If one key would go to several providers: a key is nobody else's business.
    """
    chain = chain_of(config)
    key = cast("SecretStr | dict[str, SecretStr | KeySource] | KeySource | None", config.api_key)
    without = [t for t in chain if t.api_key is None and _provider_entry(t.provider).api_key_env]
    providers = sorted({t.provider for t in without})
    if key and not isinstance(key, dict) and len(providers) > 1:
        example = ", ".join(f'"{name}": ...' for name in providers)
        msg = f"api_key is one key, but the chain has {' and '.join(providers)}: "
        raise ValueError(msg + f"give api_key={{{example}}}, or a key with each Target")
    return [_with_client(_with_key(target, key), config) for target in chain]


def _with_client(target: Target, config: Configuration) -> Target:
    own = {"default_query": config.default_query, "http_async_client": config.http_async_client}
    missing = {n: v for n, v in own.items() if v is not None and getattr(target, n) is None}
    if not missing or target.provider in _NO_SERVER:
        return target
    return target.model_copy(update=missing)


def _with_key(
    target: Target, key: SecretStr | dict[str, SecretStr | KeySource] | KeySource | None
) -> Target:
    own = key.get(target.provider) if isinstance(key, dict) else key
    if (
        own is None
        or target.api_key is not None
        or not _provider_entry(target.provider).api_key_env
    ):
        return target
    return target.model_copy(update={"api_key": own})


def deadline_of(config: Configuration) -> float | None:
    """Seconds for a whole call: longer, if nobody said otherwise, where a target reasons."""
    patient = has_default_deadline(config) and any(t.reasons() for t in keyed_targets(config))
    return THINKING_DEADLINE if patient else config.timeout


def has_default_deadline(config: Configuration) -> bool:
    """Whether `timeout` was left out."""
    return "timeout" not in config.model_fields_set


def reserve_of(config: Configuration) -> float:
    """Seconds that the last resort is left before the deadline: few for a fixed text."""
    last = last_resort_of(config)
    if last is None or config.timeout is None:
        return 0.0
    return 0.05 if last.provider == "text" else min(10.0, config.timeout / 3)


def grace_of(config: Configuration) -> float:
    """Seconds that a fixed text is given to be said, even past the deadline, by a busy loop."""
    last = last_resort_of(config)
    return 1.0 if last is not None and last.provider == "text" else 0.0
