"""What may be set on the model, a target and a call alike: how text is drawn from a model."""

# Not `from __future__ import annotations`: pydantic would compile each of them anew.

from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, cast

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError


def _as_words(value: Any) -> Any:
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, list | tuple) or not all(isinstance(w, str) and w for w in words):
        msg = "must be a text, or a list of texts that are not empty"
        raise ValueError(msg)
    return words


def no_bool(value: Any) -> Any:
    """Refuse True and False where a number is meant: they would count as 1 and 0."""
    if isinstance(value, bool):
        msg = f"must be a number, not {value}"
        raise ValueError(msg)  # noqa: TRY004  # pydantic turns ValueError into its own
    return value


Number = Annotated[float, BeforeValidator(no_bool)]
Whole = Annotated[int, BeforeValidator(no_bool)]


def _by_text(value: Any) -> Any:
    return {str(k): v for k, v in value.items()} if isinstance(value, Mapping) else value


if TYPE_CHECKING:
    # For type checkers: what a user may write. Validation makes of it what stands below.
    StopWords = str | Sequence[str]
    TokenBias = Mapping[str, float] | Mapping[int, float]
    Headers = Mapping[str, str | SecretStr] | Mapping[str, str] | Mapping[str, SecretStr]
else:
    StopWords = Annotated[list[str], BeforeValidator(_as_words)]
    TokenBias = Annotated[dict[str, float], BeforeValidator(_by_text)]
    """By the id of a token, which may be written as a number."""
    Headers = dict[str, SecretStr]


def _refuse_change(self: Any, *_: Any, **__: Any) -> Any:
    kind = "dict" if isinstance(self, dict) else "list"
    msg = (
        f"a {kind} in a field cannot be changed in place, which nobody would hear of: set the "
        "field to a new one, like llm.model_kwargs = {**llm.model_kwargs, 'x': 1}"
    )
    raise TypeError(msg)


class FixedDict(dict[str, Any]):
    """A dict in a field: it stays as it was validated. `copy` makes a plain one."""

    __setitem__ = __delitem__ = __ior__ = _refuse_change
    clear = pop = popitem = setdefault = update = _refuse_change

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle it whole, not member by member."""
        return type(self), (dict(self),)

    def copy(self) -> dict[str, Any]:
        """Copy it to a plain dict."""
        return dict(self)


class FixedList(list[Any]):
    """The same for a list."""

    __setitem__ = __delitem__ = __iadd__ = __imul__ = _refuse_change
    append = clear = extend = insert = pop = remove = reverse = sort = _refuse_change

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle it whole, not member by member."""
        return type(self), (list(self),)


def fixed(value: Any) -> Any:
    """Make a value that cannot be changed in place, with all that it holds.

    Example:
        ```python
        fixed({"a": [1]})["a"].append(2)  # TypeError: a list in a field cannot be changed in place
        ```
    """
    if isinstance(value, dict):
        return FixedDict({name: fixed(member) for name, member in value.items()})
    return FixedList(map(fixed, value)) if isinstance(value, list) else value


_HELD = (
    "api_key", "default_headers", "default_query", "extra_body", "extra_headers", "logit_bias",
    "metadata", "model_kwargs", "prediction", "stop",
)  # fmt: skip
"""Fields that hold dicts and lists."""

OTHER_NAMES = {"max_completion_tokens": "max_tokens", "stop_sequences": "stop"}
"""Names that other APIs have for a field."""

_OUT_OF_MODEL_KWARGS = ("extra_headers", "extra_body")
"""Not parameters of the API: they are taken out of `model_kwargs` into fields of their own."""


_TIMEOUT_OF_ATTEMPT = "write time_limits=TimeLimits(first_text=..., chunk_gap=..., answer=...)"
_NO_CLIENT = (
    "write http_async_client=..., or ca_certificates= and client_certificate= of a Target; the "
    "environment (HTTPS_PROXY, SSL_CERT_FILE) counts too"
)

TARGETS_WORDS: Mapping[str, str] = {
    "model_name": 'write it in the spec: Target("openai:gpt-6.1-sol")',
    "model_provider": 'write it in the spec: Target("openai:gpt-6.1-sol")',
    "deployment_name": 'write it in the spec: Target("azure:DEPLOYMENT", azure_endpoint=...)',
    "azure_deployment": 'write it in the spec: Target("azure:DEPLOYMENT", azure_endpoint=...)',
    "openai_api_key": "write api_key=...",
    "together_api_key": "write api_key=...",
    "openai_api_base": "write base_url=...",
    "together_api_base": "write base_url=...",
    "api_base": "write base_url=...",
    "openai_organization": "write organization=...",
    "openai_api_version": "write api_version=...",
    "request_timeout": _TIMEOUT_OF_ATTEMPT,
    "timeout": f"{_TIMEOUT_OF_ATTEMPT}; timeout= belongs to the model, for the whole call",
    "max_retries": "it belongs to the model: ResilientChatModel(max_retries=...)",
    "use_responses_api": 'write api="responses", or api="chat"',
    "reasoning": "write reasoning_effort=...",
    "http_client": _NO_CLIENT,
    "openai_proxy": _NO_CLIENT,
    "rate_limiter": "write requests_per_minute=..., tokens_per_minute=...",
}
"""What to write instead of `ChatOpenAI`'s words (and litellm's) for a target."""


_CHAIN = 'write targets=["openai:gpt-6.1-sol"], a list of provider:model'
_DEPLOYMENT = 'write targets=[Target("azure:DEPLOYMENT", azure_endpoint=...)]'

MODELS_WORDS: Mapping[str, str] = {
    "model": _CHAIN,
    "model_name": _CHAIN,
    "model_id": _CHAIN,
    "models": _CHAIN,
    "llm": _CHAIN,
    "provider": _CHAIN,
    "model_provider": _CHAIN,
    "azure_deployment": _DEPLOYMENT,
    "deployment_name": _DEPLOYMENT,
    "fallbacks": "write them all in one list, in order: targets=[first, second, ...]",
    "openai_api_key": "write api_key=...",
    "together_api_key": "write api_key=...",
    "request_timeout": "write timeout=... (seconds for the whole call), or "
    "time_limits=TimeLimits(first_text=..., answer=...) for each attempt",
    "num_retries": "write max_retries=...",
    "reasoning": "write reasoning_effort=...",
    "max_concurrency": 'write targets=[Target("openai:...", max_concurrency=...)], or for a batch '
    'config={"max_concurrency": ...}',
}
"""The same for a model."""


class KnownFields(BaseModel):
    """Named fields. A name that is none of them is refused, with what to write instead."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        extra="forbid",
        # A key in a misspelt or misplaced argument would stand in the error.
        hide_input_in_errors=True,
        # Of most classes no instance is ever made, and of bases none: built by the first that is.
        defer_build=True,
    )

    _other_names: ClassVar[frozenset[str]] = frozenset()
    """Names that a class takes besides its fields."""
    _moved: ClassVar[Mapping[str, str]] = {}
    """What to write instead of names that other libraries have for what is said otherwise here."""

    @model_validator(mode="before")
    @classmethod
    def _by_known_names(cls, data: Any) -> Any:
        """Say what to write instead of an unknown name."""
        if not isinstance(data, dict):
            return data
        if unknown := [name for name in data if name not in cls._names()]:
            raise ValidationError.from_exception_data(
                cls.__name__, [cls._unknown(str(name)) for name in unknown], hide_input=True
            )
        return data

    @classmethod
    def _names(cls) -> set[str]:
        aliases = {field.alias for field in cls.model_fields.values() if field.alias}
        return {*cls.model_fields, *aliases, *cls._other_names}

    @classmethod
    def _unknown(cls, name: str) -> InitErrorDetails:
        return InitErrorDetails(
            type=PydanticCustomError(
                "extra_forbidden",
                "Extra inputs are not permitted: {hint}",
                {"hint": cls._hint(name)},
            ),
            loc=(name,),
            input=None,
        )

    @classmethod
    def _hint(cls, name: str) -> str:
        """What to write instead of a name that is not known."""
        if name in cls._moved:
            return cls._moved[name]
        if near := get_close_matches(name, sorted(cls._names()), n=1):
            return f"did you mean {near[0]}?"
        return f"there are {', '.join(sorted(cls._names()))}"

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Copy it, with some fields changed; they are validated as by the constructor."""
        copy = super().model_copy(deep=deep)
        if not update:
            return copy
        fields = {name: getattr(copy, name) for name in copy.model_fields_set}
        return type(self)(**{**fields, **update})


class Sampling(KnownFields):
    """How text is drawn from a model. None leaves a parameter to the provider's default.

    What a provider's API does not take (`top_k` at OpenAI) is left out for that provider, with one
    warning. `max_completion_tokens` and `stop_sequences` are taken for `max_tokens` and `stop`.
    """

    temperature: Number | None = Field(default=None, ge=0, le=2)
    """Randomness, 0 to 2."""
    max_tokens: Whole | None = Field(default=None, ge=1)
    """The longest answer, in tokens."""
    top_p: Number | None = Field(default=None, ge=0, le=1)
    """Draw from the smallest set of tokens with this total probability, 0 to 1."""
    top_k: Whole | None = Field(default=None, ge=1)
    """Draw from this many of the likeliest tokens."""
    min_p: Number | None = Field(default=None, ge=0, le=1)
    """Drop tokens less likely than this share of the likeliest, 0 to 1."""
    stop: StopWords | None = None
    """The answer ends before any of these; where a target has no such thing, on our side."""
    seed: Whole | None = None
    """For repeatable answers, as far as a provider can."""
    frequency_penalty: Number | None = Field(default=None, ge=-2, le=2)
    """Against words in proportion to how often they came, -2 to 2."""
    presence_penalty: Number | None = Field(default=None, ge=-2, le=2)
    """Against words that came at all, -2 to 2."""
    repetition_penalty: Number | None = Field(default=None, gt=0)
    """Together's and llama.cpp's own penalty; 1 is none."""
    logit_bias: TokenBias | None = None
    """Added to the score of a token id, -100 to 100."""
    logprobs: bool | None = None
    """Ask for the log probability of each token."""
    top_logprobs: Whole | None = Field(default=None, ge=0, le=20)
    """Ask for those of this many likeliest tokens, 0 to 20."""
    n: Whole | None = Field(default=None, ge=1, le=128)
    """How many answers to one prompt, 1 to 128."""
    reasoning_effort: Annotated[str, Field(min_length=1)] | None = None
    """How long a model thinks: `"none"`, `"minimal"`, `"low"`, `"medium"`, `"high"`, `"xhigh"`, as
    far as it knows them. Sent in each provider's own words; a model that cannot think more or less
    is said to by a warning."""
    verbosity: str | None = None
    """How much is said: `"low"`, `"medium"` or `"high"`, where a model can be told."""
    service_tier: str | None = None
    """What is paid for being served: `"auto"`, `"default"`, `"flex"`, ..."""
    store: bool | None = None
    """Whether the provider keeps the answer for its own tools."""
    user: str | None = None
    """Who asks, for the provider's watch over misuse; `safety_identifier` replaces it."""
    safety_identifier: str | None = None
    """The same, hashed by you."""
    prompt_cache_key: str | None = None
    """Requests with the same key share the provider's prompt cache."""
    prediction: dict[str, Any] | None = None
    """Text that the answer will mostly repeat: `{"type": "content", "content": ...}`."""
    stream_usage: bool | None = None
    """False asks for no token counts at the end of a stream."""
    extra_body: dict[str, Any] | None = None
    """More fields of the request's body, for one server's own extensions; they go before all."""
    extra_headers: Headers | None = Field(default=None, repr=False)
    """More headers of the request; their values are kept as secrets."""
    model_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Any other parameter of the chat-completions API, sent as it is."""

    _held: ClassVar[frozenset[str]] = frozenset(_HELD)
    """Fields of it that hold dicts and lists."""

    @model_validator(mode="after")
    def _fix_what_fields_hold(self) -> Self:
        """Refuse changes in place: what is made of a model's fields would not hear of them."""
        fields = self.__dict__
        for name in self._held:
            if isinstance(fields.get(name), dict | list):
                fields[name] = fixed(fields[name])
        return self

    @model_validator(mode="before")
    @classmethod
    def _by_known_names(cls, data: Any) -> Any:
        """Take other names for a field, and say what to write instead of an unknown one."""
        if not isinstance(data, dict):
            return data
        for other, name in OTHER_NAMES.items():
            if other in data:
                if data.get(name) is not None:
                    msg = f"{other} and {name} are the same: give one of them"
                    raise ValueError(msg)
                data = {**data, name: data[other]}
                del data[other]
        more = data.get("model_kwargs")
        if isinstance(more, dict) and (own := [n for n in _OUT_OF_MODEL_KWARGS if n in more]):
            rest = {n: value for n, value in more.items() if n not in own}
            data = {**{n: more[n] for n in own}, **data, "model_kwargs": rest}
        return super()._by_known_names(data)  # type: ignore[operator]  # a class method to be

    @classmethod
    def _hint(cls, name: str) -> str:
        """What to write instead of a name that is not known."""
        if name in cls._moved:
            return cls._moved[name]
        near = get_close_matches(name, sorted(cls._names()), n=1)
        own = f"a parameter of the API goes into model_kwargs={{{name!r}: ...}}"
        return f"did you mean {near[0]}? Else {own}" if near else own

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Show what was set, not all that could be."""
        return set_fields(self, super().__repr_args__())


def set_fields(
    model: BaseModel, pairs: Iterable[tuple[str | None, Any]]
) -> Iterator[tuple[str | None, Any]]:
    """Leave out what is as it is without a word: defaults, and what is empty.

    Args:
        model: Whose fields they are.
        pairs: All its fields with their values, as pydantic's `__repr_args__` gives them.
    """
    for name, value in pairs:
        field = type(model).model_fields.get(name or "")
        usual = None if field is None else field.get_default(call_default_factory=True)
        # Compared with nothing: a profile would be looked up for that, with the prices.
        is_empty = value.__class__ in (dict, tuple) and not value
        if not is_empty and value != usual:
            yield name, value


SAMPLING_FIELDS = tuple(name for name in Sampling.model_fields if name != "model_kwargs")
"""The names of the fields, in order."""

_PARAMETERS = frozenset(SAMPLING_FIELDS) - {"stream_usage", "extra_headers"}


def sampling_params(sampling: Sampling) -> dict[str, Any]:
    """Those that are set, as chat-completions parameters; `extra_headers` in clear text."""
    params = public_params(sampling)
    if sampling.extra_headers:
        secrets = cast("dict[str, SecretStr]", sampling.extra_headers).items()
        params["extra_headers"] = {name: value.get_secret_value() for name, value in secrets}
    return params


def public_params(sampling: Sampling) -> dict[str, Any]:
    """The same without what is secret."""
    params: dict[str, Any] = {}
    # Few are set, and LangChain asks with each call.
    for name in sorted(sampling.model_fields_set & _PARAMETERS):
        value = getattr(sampling, name)
        # An empty `stop` is LangChain's way to say none; OpenAI refuses `[]`.
        if value is not None and value != []:
            params[name] = value
    if sampling.stream_usage is False:
        params["stream_options"] = {"include_usage": False}
    params.update(sampling.model_kwargs)
    return params
