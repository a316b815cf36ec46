"""`Target`: one model at one provider, frozen and validated; what a user may write for it."""

# Not `from __future__ import annotations`: pydantic would compile each of them anew.

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import (
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from langchain_resilient.models import DEFAULT_FAMILIES
from langchain_resilient.policies import SpendCapOption, TimeLimits
from langchain_resilient.sampling import (
    TARGETS_WORDS,
    Sampling,
    public_params,
    sampling_params,
)

if TYPE_CHECKING:
    from langchain_core.runnables import Runnable

    TargetSpec = str | Runnable[Any, Any] | None
else:
    # Annotations are evaluated at run time too, where it need not be loaded.
    TargetSpec = Any


API = Literal["auto", "chat", "responses"]

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


@cache
def default_chain() -> tuple[Target, ...]:
    """Two providers with two models each, and of each model who follows it.

    They are made on first need: to build their class takes a tenth of the package's import.

    Example:
        ```python
        ResilientChatModel(targets=[*default_chain(), "local"])
        ```
    """
    return tuple(
        Target(f"{provider}:{ids[0]}", successors=ids[1:]) for provider, ids in DEFAULT_FAMILIES
    )


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
