"""`Target`: one model at one provider, frozen and validated."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, ClassVar
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field, SecretStr, field_validator, model_validator

from langchain_resilient.policy import SpendCapOption, Timeouts
from langchain_resilient.sampling import Sampling

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from langchain_core.runnables import Runnable

TARGET_SYNTAX = (
    'a target is "provider:model" such as "openai:gpt-4o", "together:meta-llama/..." or "local", '
    "a Target(...), or a LangChain chat model"
)

DEFAULT_CHAIN = (
    "openai:gpt-4",
    "together:mistralai/Mixtral-8x7B-Instruct-v0.1",
    "openai:gpt-3.5-turbo",
    "together:meta-llama/Llama-3.3-70B-Instruct-Turbo",
)
"""Two providers with two models each, interleaved, so that one provider's outage costs one hop."""

_SPEC = re.compile(r"^(?P<provider>[a-z][a-z0-9_-]*)(?::(?P<model>\S.*))?$", re.DOTALL)


Dollars = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Target(Sampling):
    """One model at one provider, with what is special about it.

    Args:
        spec: `"provider:model"`, e.g. `"openai:gpt-4o"`; or a LangChain chat model.
        **fields: The attributes below and every sampling field (`temperature`, ...).

    Raises:
        pydantic.ValidationError: If a field is unknown or out of range; it names the field.

    Example:
        ```python
        Target("openai:gpt-4o", temperature=0.2, max_concurrency=8)
        Target("openai:my-model", base_url="http://localhost:8000/v1", api_key="none")
        ```
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(
        frozen=True, extra="forbid", arbitrary_types_allowed=True
    )

    provider: str
    """Who serves it: `"openai"`, `"together"`, `"local"`, `"runnable"`, or a registered name."""
    model: str = ""
    """The model's id at that provider."""
    runnable: Any = Field(default=None, repr=False)
    """The LangChain model, where the target is one."""
    name: str = ""
    """What receipts and statistics call it; `"provider:model"` unless given."""
    api_key: SecretStr | tuple[SecretStr, ...] | None = None
    """One key, or several that are used in turn: a limited one rests until its hint, a refused or
    spent one is left out. Else the provider's environment variable is read."""
    base_url: str | None = None
    """Another server that speaks the provider's API. The key from the environment is not sent
    there: give `api_key` with it."""
    organization: str | None = None
    """The provider's organization or project id, where it has such a thing."""
    default_headers: dict[str, SecretStr] = Field(default_factory=dict, repr=False)
    """Sent with each request; their values are kept as secrets."""
    max_concurrency: int | None = Field(default=None, ge=1)
    """The most requests under way at this target at one time, over all calls of this process."""
    requests_per_minute: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """The most requests that are sent to its model with one key; they are spread evenly. None goes
    by what the provider says with its answers, if it does (OpenAI)."""
    tokens_per_minute: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """The same for tokens: the prompt's, and `max_tokens` or what answers usually have."""
    timeouts: Timeouts | None = None
    """Instead of the model's own."""
    retry_first: bool = False
    """Ask for one quick retry of this target before the chain moves on."""
    price: tuple[Dollars, Dollars] | None = None
    """Dollars per million tokens of the prompt and of the answer; else `genai-prices` is asked."""
    context_window: int | None = Field(default=None, ge=1)
    """The most tokens it takes, prompt and answer together. Longer requests go to others."""
    weight: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """Its share of first requests under `order="balanced"`; 0 for only when others fail."""
    spend_cap: SpendCapOption = None
    """The most that may be spent on it: `SpendCap(...)`, or dollars a day. Then others answer."""

    def __init__(self, spec: str | Runnable[Any, Any] | None = None, /, **fields: Any) -> None:
        """Take the spec apart; see the class."""
        super().__init__(**({} if spec is None else _parse(spec)) | fields)

    def identity(self) -> dict[str, Any]:
        """What makes its answers its own, as plain data; no key and no header."""
        known = self.model_dump(
            include={"provider", "model", "base_url", "organization"}, exclude_none=True
        )
        if self.runnable is not None:
            # LangChain models say of themselves what changes their answers.
            known["runnable"] = str(getattr(self.runnable, "_identifying_params", self.name))
        return {**known, **self.sampling_params()}

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

    @field_validator("base_url")
    @classmethod
    def _is_url(cls, value: str | None) -> str | None:
        return None if value is None else checked_url(value)

    @model_validator(mode="before")
    @classmethod
    def _name_it(cls, data: Any) -> Any:
        if isinstance(data, dict) and not data.get("name"):
            provider, model = data.get("provider", ""), data.get("model", "")
            data = {**data, "name": f"{provider}:{model}" if model else provider}
        return data


def _parse(spec: Any) -> dict[str, Any]:
    if isinstance(spec, str):
        found = _SPEC.match(spec.strip())
        if not found or (not found["model"] and found["provider"] != "local"):
            msg = f"{spec!r} is not a target: {TARGET_SYNTAX}"
            raise ValueError(msg)
        return {"provider": found["provider"], "model": (found["model"] or "").strip()}
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
        found = tuple(as_target(v) for v in values)
    except TypeError:
        msg = f"targets must be a list, not {type(values).__name__}; {TARGET_SYNTAX}"
        raise ValueError(msg) from None
    if not found:
        msg = f"targets is empty: give at least one; {TARGET_SYNTAX}"
        raise ValueError(msg)
    return _unique(found)


def _unique(targets: Sequence[Target]) -> tuple[Target, ...]:
    """Refuse the same target twice; number those that share a name but differ."""
    seen: dict[str, list[Target]] = {}
    found = []
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
        found.append(
            target if number == 1 else target.model_copy(update={"name": f"{target.name}#{number}"})
        )
    return tuple(found)


def names(targets: Iterable[Target]) -> str:
    """Join the names for a message."""
    return ", ".join(t.name for t in targets)
