"""Refusals: error responses with the real bodies and headers of providers and gateways."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any, ClassVar, Literal

from langchain_resilient.testing.answer_generator import max_answer_tokens, prompt_tokens
from langchain_resilient.testing.answers import frozen_pairs
from langchain_resilient.testing.delays import Delay
from langchain_resilient.testing.dialects.base import IncomingRequest, go_duration
from langchain_resilient.testing.error_bodies import BAD_GATEWAY_PAGE, ErrorBody
from langchain_resilient.testing.exchange import Exchange
from langchain_resilient.testing.http import reason
from langchain_resilient.testing.steps.base import AT_ONCE, Reply, Step

REQUESTS_PER_MINUTE = 60
"""The limit that scripted rate-limit errors speak of."""


@dataclass(frozen=True)
class HttpDate:
    """A `Retry-After` written as a date, some seconds from now.

    Attributes:
        seconds: From now by the simulator's wall clock; negative lies in the past.
    """

    seconds: float

    def text(self, now: float) -> str:
        """Write the date.

        Args:
            now: Seconds since 1970.
        """
        return format_datetime(datetime.fromtimestamp(now + self.seconds, UTC), usegmt=True)


@dataclass(frozen=True, repr=False)
class Refusal(Step):
    """The base of the error responses: hints on when to come back, and how long it takes.

    Attributes:
        retry_after: The `retry-after` header: seconds, an `HttpDate`, or any text, garbage too.
        retry_after_ms: The `retry-after-ms` header, as it is.
        reset: The `x-ratelimit-reset*` headers: seconds, written as the dialect does, or any text.
        should_retry: The `x-should-retry` header.
        headers: Further headers; they win over the others.
        latency: Seconds before the response.
    """

    kind: ClassVar[str] = "500"

    retry_after: float | str | HttpDate | None = field(default=None, kw_only=True)
    retry_after_ms: float | str | None = field(default=None, kw_only=True)
    reset: float | str | None = field(default=None, kw_only=True)
    should_retry: bool | None = field(default=None, kw_only=True)
    headers: Any = field(default=(), kw_only=True)
    latency: Delay = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "headers", frozen_pairs(self.headers))

    def error(self, request: IncomingRequest) -> ErrorBody:
        """Return the error in the words of the request's dialect."""
        return request.dialect.error(self.kind, request, self.details(request))

    def details(self, request: IncomingRequest) -> Mapping[str, object]:  # noqa: ARG002 - for those that depend on it
        """Return what the message is filled in with."""
        return {"limit": REQUESTS_PER_MINUTE, "wait": "1s"}

    async def play(self, exchange: Exchange) -> None:
        """Send the error."""
        await exchange.sleep(self.latency)
        exchange.refuse(
            self.error(exchange.request), self.hints(exchange.request, exchange.wall_clock())
        )

    def hints(self, request: IncomingRequest, now: float) -> dict[str, str]:
        """Return the headers that say when to come back.

        Args:
            request: The request refused.
            now: Seconds since 1970.
        """
        after = self.retry_after
        values = {
            "retry-after": after.text(now) if isinstance(after, HttpDate) else _number(after),
            "retry-after-ms": _number(self.retry_after_ms),
            # Real servers date all responses; clients compare `retry-after` with that.
            "date": HttpDate(0).text(now) if isinstance(after, HttpDate) else None,
            "x-should-retry": None if self.should_retry is None else str(self.should_retry).lower(),
        }
        hints = {name: value for name, value in values.items() if value is not None}
        if self.reset is not None:
            hints |= request.dialect.reset_headers(self.reset, REQUESTS_PER_MINUTE)
        return hints | dict(self.headers)


def _number(value: object) -> str | None:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return None if value is None else str(value)


@dataclass(frozen=True, repr=False)
class Status(Refusal):
    """Any error status, with the body that the provider sends for it.

    Without hints no hint header is sent; `RateLimited` has the provider's usual ones.

    Attributes:
        code: The HTTP status code.
        message: Replaces the message.
        type: Overrides the error's `type`.
        error_code: Overrides the error's `code`.
        param: Overrides the error's `param`.
        body: Replaces the whole body: text, sent as plain text unless `headers` say otherwise.

    Example:
        ```python
        Status(500)
        Status(429, retry_after=30)
        Status(503, retry_after=HttpDate(5), should_retry=False)
        Status(429, reset="6m0s")
        ```
    """

    code: int
    message: str | None = field(default=None, kw_only=True)
    type: str | None = field(default=None, kw_only=True)
    error_code: str | int | None = field(default=None, kw_only=True)
    param: str | None = field(default=None, kw_only=True)
    body: str | None = field(default=None, kw_only=True)

    @property
    def name(self) -> str:
        """What `RecordedRequest.step` calls it: `"Status 500"`."""
        return f"Status {self.code}"

    def error(self, request: IncomingRequest) -> ErrorBody:
        """Return the error."""
        known = request.dialect.errors
        kind = str(self.code) if str(self.code) in known else "400" if self.code < 500 else "500"  # noqa: PLR2004 - the server's faults begin there
        error = replace(
            request.dialect.error(kind, request, self.details(request)), status=self.code
        )
        changes: dict[str, Any] = {
            "message": self.message,
            "type": self.type,
            "code": self.error_code,
            "param": self.param,
            "text": self.body,
        }
        changes = {name: value for name, value in changes.items() if value is not None}
        if self.message is not None and self.body is None:
            changes["text"] = None
        return replace(error, **changes, html=error.html and self.body is None)


Feature = Literal["json_schema", "json_object", "tools"]
"""What a model may be unable to do: structured outputs, JSON mode, calling tools."""

_TOO_LARGE = 30_000  # tokens per minute, the limit in most public threads about it


@dataclass(frozen=True, repr=False)
class RateLimited(Refusal):
    """A 429 with all the provider's hints to come back in `seconds`.

    Attributes:
        seconds: What the hint headers and the message say.
        of: What is used up: `"requests"` or `"tokens"`.
    """

    seconds: float = 20.0
    of: str = "requests"

    def error(self, request: IncomingRequest) -> ErrorBody:
        """Return the error."""
        used = {"limit": REQUESTS_PER_MINUTE, "used": REQUESTS_PER_MINUTE, "requested": 1}
        kind = "429" if self.of == "requests" else "429_tokens"
        return request.dialect.error(kind, request, {**used, "wait": go_duration(self.seconds)})

    def hints(self, request: IncomingRequest, now: float) -> dict[str, str]:
        """Return `retry-after`, OpenAI's `retry-after-ms`, and the reset headers."""
        usual = {"retry-after": f"{max(1, round(self.seconds))}"}
        if request.dialect.name == "openai":
            usual["retry-after-ms"] = f"{round(self.seconds * 1000)}"
        usual |= request.dialect.reset_headers(self.seconds, REQUESTS_PER_MINUTE)
        return usual | super().hints(request, now)


@dataclass(frozen=True, repr=False)
class RequestTooLarge(Refusal):
    """A 429 that can never succeed: the request alone exceeds the limit of tokens per minute.

    No retry hint, all of the limit remaining, a reset of `0s`.

    Attributes:
        limit: Tokens per minute.
    """

    kind: ClassVar[str] = "request_too_large"
    limit: int = _TOO_LARGE

    def details(self, request: IncomingRequest) -> Mapping[str, object]:
        """Return the limit and more tokens than that."""
        return {
            "limit": self.limit,
            "requested": max(prompt_tokens(request.body), self.limit + 601),
        }

    def hints(self, request: IncomingRequest, now: float) -> dict[str, str]:
        """Return headers of a limit that is not used at all."""
        kinds = {"limit": self.limit, "remaining": self.limit, "reset": "0s"}
        usual = {f"x-ratelimit-{name}-tokens": str(value) for name, value in kinds.items()}
        return (usual if request.dialect.name == "openai" else {}) | super().hints(request, now)


@dataclass(frozen=True, repr=False)
class Quota(Refusal):
    """The credit is used up: `insufficient_quota` (429) at OpenAI, 402 at Together; no hints."""

    kind: ClassVar[str] = "quota"


@dataclass(frozen=True, repr=False)
class InvalidKey(Refusal):
    """401: the key is wrong."""

    kind: ClassVar[str] = "401"


@dataclass(frozen=True, repr=False)
class Overloaded(Refusal):
    """503: `server_is_overloaded` at OpenAI, "overloaded or not ready yet" at Together."""

    kind: ClassVar[str] = "overloaded"


@dataclass(frozen=True, repr=False)
class SlowDown(Refusal):
    """429 `slow_down`: requests were ramped up too fast, even though under the limits."""

    kind: ClassVar[str] = "slow_down"


@dataclass(frozen=True, repr=False)
class ModelNotFound(Refusal):
    """404: `model_not_found` at OpenAI, `model_not_available` at Together."""

    kind: ClassVar[str] = "404"


@dataclass(frozen=True, repr=False)
class BadRequest(Refusal):
    """400: the request is wrong, and would be with every provider."""

    kind: ClassVar[str] = "400"


@dataclass(frozen=True, repr=False)
class ContextTooLong(Refusal):
    """400: the conversation is longer than the model can read, whatever its length.

    For a limit that only long requests run into, see `ProviderSimulator.context_window`.

    Attributes:
        limit: The model's context in tokens.
        code: The status; Together was seen to send 422 as well.
    """

    kind: ClassVar[str] = "context_too_long"
    limit: int = 8192
    code: int = 400

    def details(self, request: IncomingRequest) -> Mapping[str, object]:
        """Return the limit and more tokens than that."""
        return {
            "limit": self.limit,
            "tokens": max(prompt_tokens(request.body), self.limit + 1),
            "wanted": max_answer_tokens(request.body) or 1,
        }

    def error(self, request: IncomingRequest) -> ErrorBody:
        """Return the error."""
        return replace(super().error(request), status=self.code)


@dataclass(frozen=True, repr=False)
class ContentFilter(Refusal):
    """The safety system intervenes: a 400, or an answer that ends with `content_filter`.

    Attributes:
        after: None refuses the request; a number breaks the answer off after that many pieces.
    """

    kind: ClassVar[str] = "content_filter"
    after: int | None = None

    async def play(self, exchange: Exchange) -> None:
        """Refuse, or stop in the middle of the answer."""
        if self.after is None:
            await super().play(exchange)
        else:
            choice = exchange.shortened(Reply(), self.after, "content_filter")
            await exchange.prepare(Reply(finish_reason="content_filter"), choice).write_all()


@dataclass(frozen=True, repr=False)
class UnsupportedParameter(Refusal):
    """400 for requests that have a certain parameter; others are answered.

    Attributes:
        parameter: The request's field that this model does not take.
        otherwise: The step for requests without it.
    """

    kind: ClassVar[str] = "unsupported_parameter"
    parameter: str
    otherwise: Step = AT_ONCE

    def choose(self, request: IncomingRequest, elapsed: float) -> Step:
        """Refuse only what has the parameter."""
        return self if self.parameter in request.body else self.otherwise.choose(request, elapsed)

    def details(self, request: IncomingRequest) -> Mapping[str, object]:  # noqa: ARG002 - the same for all
        """Return the parameter."""
        return {"param": self.parameter}


@dataclass(frozen=True, repr=False)
class Lacks(Refusal):
    """Refuses requests for something that the model cannot do; others are answered.

    OpenAI answers 400 to a `response_format`, and 404 to `tools`, though the model exists.

    Attributes:
        features: What it cannot do: `"json_schema"`, `"json_object"`, `"tools"`; several in a
            tuple.
        otherwise: The step for other requests.

    Example:
        ```python
        sim.script("openai:gpt-6-luna", then=Lacks("json_schema"))
        sim.script("together:*", then=Lacks(("json_schema", "tools"), Reply("{}")))
        ```
    """

    features: Feature | tuple[Feature, ...]
    otherwise: Step = AT_ONCE

    def choose(self, request: IncomingRequest, elapsed: float) -> Step:
        """Refuse only requests that need one of the features."""
        return (
            self.otherwise.choose(request, elapsed) if self._missing(request.body) is None else self
        )

    def error(self, request: IncomingRequest) -> ErrorBody:
        """Return the error."""
        feature = self._missing(request.body)
        kind = "no_tools" if feature == "tools" else "no_response_format"
        return request.dialect.error(kind, request, {"feature": feature})

    def _missing(self, body: Mapping[str, Any]) -> str | None:
        """Return the first feature that a request needs and the model lacks."""
        lacks = (self.features,) if isinstance(self.features, str) else self.features
        wanted = [(body.get("response_format") or {}).get("type")]
        wanted += ["tools"] if body.get("tools") else []
        return next((feature for feature in wanted if feature in lacks), None)


@dataclass(frozen=True, repr=False)
class NoStreaming(Refusal):
    """400 for requests with `stream`; plain ones are answered.

    Attributes:
        otherwise: The step for plain requests.
    """

    kind: ClassVar[str] = "no_streaming"
    otherwise: Step = AT_ONCE

    def choose(self, request: IncomingRequest, elapsed: float) -> Step:
        """Refuse only streams."""
        return self if request.stream else self.otherwise.choose(request, elapsed)


@dataclass(frozen=True, repr=False)
class RejectPrefill(Refusal):
    """400 for conversations that end with the assistant's own message; others are answered.

    Attributes:
        otherwise: The step for other conversations.
    """

    kind: ClassVar[str] = "no_prefill"
    otherwise: Step = AT_ONCE

    def choose(self, request: IncomingRequest, elapsed: float) -> Step:
        """Refuse only prefill."""
        prefilled = request.body["messages"][-1].get("role") == "assistant"
        return self if prefilled else self.otherwise.choose(request, elapsed)


@dataclass(frozen=True, repr=False)
class Html(Step):
    """An error page, as proxies before the provider send it.

    Attributes:
        code: The HTTP status code; 200 is possible too.
    """

    code: int = 502

    async def play(self, exchange: Exchange) -> None:
        """Send the page."""
        page = ErrorBody(self.code, text=BAD_GATEWAY_PAGE, html=True)
        host = f"{exchange.request.dialect.name} gateway"
        exchange.refuse(page.filled({"code": self.code, "reason": reason(self.code), "host": host}))


Shape = Literal[
    "flat", "object", "message", "reason", "detail", "string", "code", "upstream", "text"
]


@dataclass(frozen=True, repr=False)
class Compatible(Step):
    """An error in the words of some server that is compatible with OpenAI.

    Attributes:
        code: The HTTP status code.
        shape: How the body looks: `"flat"` (`{"code", "error"}`), `"object"` (`{"object":
            "error", ...}`), `"message"` (`{"message"}`), `"reason"` (`{"code", "reason",
            "message"}`), `"detail"` (`{"detail": [...]}`), `"string"` (`{"error": "..."}`),
            `"code"` (`{"error": {"code": 429, ...}}`), `"upstream"` (a provider's error inside),
            or `"text"`.
        message: What it says.
    """

    code: int = 400
    shape: Shape = "flat"
    message: str = "The request could not be served."

    async def play(self, exchange: Exchange) -> None:
        """Send it."""
        if self.shape == "text":
            exchange.respond(self.code, self.message.encode(), "text/plain; charset=utf-8")
            return
        exchange.respond(self.code, exchange.request.dialect.dumps(self._body()))

    def _body(self) -> dict[str, Any]:
        located = {"type": "invalid", "loc": ["body", "messages"], "msg": self.message}
        upstream = {
            "raw": f'{{"error":{{"message":"{self.message}"}}}}',
            "provider_name": "Upstream",
        }
        wrapped = {"message": "Provider returned error", "code": self.code, "metadata": upstream}
        bodies: dict[str, dict[str, Any]] = {
            "flat": {"code": str(self.code), "error": self.message},
            "object": {
                "object": "error",
                "message": self.message,
                "type": "invalid_request_error",
                "param": None,
                "code": "3505",
            },
            "message": {"message": self.message},
            "reason": {
                "code": self.code,
                "reason": "FAILED",
                "message": self.message,
                "metadata": {},
            },
            "detail": {"detail": [located]},
            "string": {"error": self.message},
            "code": {"error": {"code": self.code, "message": self.message}},
            "upstream": {"error": wrapped, "user_id": "user_simulated"},
        }
        return bodies[self.shape]
