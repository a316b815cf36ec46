"""The one classifier: whatever a provider raised or answered, as a `Fault`.

It asks for attributes, never for classes of an SDK: openai and together share no base class, a
LangChain model may raise any vendor's error, and nothing heavy must be imported to read one.
The table behind it is section 3 of the hedging study; each row has a test.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from langchain_resilient.fault import Fault, FaultKind
from langchain_resilient.providers import evidence
from langchain_resilient.providers.context import token_counts
from langchain_resilient.providers.hints import retry_after, should_retry

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping


class AnswerError(Exception):
    """A provider's answer that is an error in itself: `{"error": ...}` in a 200 stream, or garbage.

    Attributes:
        status_code: The status of the response it came in.
        body: The decoded error, or None.
    """

    def __init__(self, message: str, body: Any = None, *, status_code: int | None = None) -> None:
        super().__init__(message)
        self.body = body
        self.status_code = status_code


_LONGEST_CODE = 100
_TOO_LONG = frozenset({FaultKind.CONTEXT_LENGTH, FaultKind.TOO_LARGE})
_QUOTA = frozenset(
    {
        "insufficient_quota",
        "credit_balance_exhausted",
        "organization_spend_limit_exceeded",
        "project_spend_limit_exceeded",
        "organization_usage_limit_exceeded",
        "billing_hard_limit_reached",
        "billing_not_active",
        "billing_error",
    }
)
_NOT_FOUND = frozenset(
    {
        "model_not_found",
        "model_not_available",
        "model_decommissioned",
        "dedicated_endpoint_not_running",
        "deploymentnotfound",
    }
)
_RATE = frozenset(
    {"rate_limit_exceeded", "slow_down", "dynamic_request_limited", "dynamic_token_limited",
     "credit_limit", "rate_limit_error", "too_many_requests", "throttled", "throttlingexception",
     "resource_exhausted"}
)  # fmt: skip
_AUTH = frozenset(
    {"invalid_api_key", "authentication_error", "permission_error", "account_deactivated"}
)
_POOR = re.compile(
    r"credit balance is too low|insufficient (?:balance|credits|funds)", re.IGNORECASE
)
_TOO_LARGE = re.compile(r"request too large", re.IGNORECASE)
_KEY = re.compile(r"(?:incorrect|invalid) api key|api key not valid", re.IGNORECASE)
_CONTEXT = re.compile(
    r"context_length|context_size|maximum context|context (?:length|window|size|limit)|"
    r"`?inputs`? tokens \+|must have less than \d+ tokens|prompt is too long|input is too long|"
    r"maximum (?:prompt|model) length|model token limit|prompt token count|"
    r"too many (?:input )?tokens|"
    r"input tokens? (?:count )?[^.]{0,20}exceeds?\b|reduce the length of the messages",
    re.IGNORECASE,
)
_FILTER = re.compile(
    r"content_filter|content_policy|content management policy|ResponsibleAI|moderation|"
    r"safety (?:model|system|filter)|flagged as|invalid_prompt|data_inspection_failed",
    re.IGNORECASE,
)
_NO_MODEL = re.compile(
    r"\bmodel\b[^.]{0,80}\b(?:not exist|not found|decommissioned)|supported (?:api )?model names",
    re.IGNORECASE,
)
_NO_FEATURE = re.compile(r"not support(?!ed models)|endpoints found that support", re.IGNORECASE)
_STREAMING = re.compile(
    r"stream(?!_options)\w*[^.]{0,40}(?:not|un)[ -]?(?:be )?(?:supported|allowed|available)|"
    r"(?:not|n't) support[^.]{0,20}stream",
    re.IGNORECASE,
)
_CLOSED = re.compile(r"(?:loop|client|session|connector) (?:is|has been) closed", re.IGNORECASE)

_TIMEOUT_NAMES = frozenset(
    {"APITimeoutError", "TimeoutException", "TimeoutError", "ModelTimeoutError"}
)
_CONNECTION_NAMES = frozenset(
    {"APIConnectionError", "TransportError", "RequestError", "ClientError", "OSError", "EOFError",
     "ModelConnectionError", "EndOfStream", "BrokenResourceError", "CancelledError"}
)  # fmt: skip
_RESET_NAMES = frozenset(
    {"ServerDisconnectedError", "ClientOSError", "ConnectionError", "RemoteProtocolError",
     "ClientPayloadError", "ReadError", "WriteError", "ConnectError", "ConnectTimeout"}
)  # fmt: skip
_DECODE_NAMES = frozenset(
    {"JSONDecodeError", "UnicodeError", "DecodingError", "BadChunkError",
     "EventTooLongError", "APIResponseValidationError", "AnswerError"}
)  # fmt: skip
_BY_OWN_NAME = {
    "ContextOverflowError": FaultKind.CONTEXT_LENGTH,
    "ModelAuthenticationError": FaultKind.AUTH,
    "ModelPermissionDeniedError": FaultKind.AUTH,
    "ModelNotFoundError": FaultKind.NOT_FOUND,
    "ModelRateLimitError": FaultKind.RATE_LIMIT,
    "ModelInvalidRequestError": FaultKind.BAD_REQUEST,
    "ModelAPIError": FaultKind.SERVER,
    "ContentFilterFinishReasonError": FaultKind.CONTENT_FILTER,
    "OpenAIRefusalError": FaultKind.CONTENT_FILTER,
    "LengthFinishReasonError": FaultKind.EMPTY,
    # A request that cannot be written down, and `bind_tools` of a model that knows no tools.
    "UnicodeEncodeError": FaultKind.BAD_REQUEST,
    "NotImplementedError": FaultKind.BAD_REQUEST,
}


def classify(error: BaseException) -> Fault:
    """Say what an exception means.

    Args:
        error: From an SDK, a transport, a decoder or a LangChain model. The local variables of the
            frames that it has left are cleared; see `evidence.forget_locals`.

    Returns:
        A fault of the kind that fits best; `INTERNAL` for what no provider would raise.
    """
    try:
        fault = _classify(error)
        if fault.kind is FaultKind.INTERNAL:
            known = (f for e in _inside(error) if (f := _classify(e)).kind is not fault.kind)
            fault = replace(next(known, fault), cause=error)
    except Exception:  # noqa: BLE001  # an exception whose own attributes raise
        fault = Fault(FaultKind.INTERNAL, type(error).__name__, cause=error)
    evidence.forget_locals(error)
    return fault


def _classify(error: BaseException) -> Fault:
    headers, details = evidence.headers(error), evidence.details(error)
    status, text = evidence.status(error, details), evidence.words(error, details)
    told = status is not None or bool(details)
    kind = _by_status(error, status, details, text) if told else _by_name(error, text)
    limit, given = token_counts(details, text) if kind in _TOO_LONG else (None, None)
    return Fault(
        kind=kind,
        message=evidence.short(text),
        status=status,
        code=next((_code(details[k]) for k in ("code", "type") if details.get(k)), None),
        retry_after=retry_after(headers, text),
        should_retry=should_retry(headers),
        request_id=evidence.request_id(error, headers),
        limit=limit,
        given=given,
        cause=error,
    )


def _code(value: Any) -> str:
    return str(value)[:_LONGEST_CODE].encode("utf-8", "replace").decode()


def _by_status(  # noqa: PLR0911  # a table reads best as a table
    error: BaseException, status: int | None, details: Mapping[str, Any], message: str
) -> FaultKind:
    words = ("code", "type", "error_type", "status", "reason")
    codes = {str(details[k]).lower() for k in words if details.get(k)}
    text = f"{' '.join(codes)} {message}"
    if status == 402 or codes & _QUOTA or _POOR.search(message):  # noqa: PLR2004  # HTTP's own numbers read best as such
        return FaultKind.QUOTA
    if status == 413 or _TOO_LARGE.search(message):  # noqa: PLR2004
        return FaultKind.TOO_LARGE
    if codes & _NOT_FOUND:
        return FaultKind.NOT_FOUND
    if status == 429 or codes & _RATE:  # noqa: PLR2004
        return FaultKind.RATE_LIMIT
    if status in (401, 403) or codes & _AUTH:
        return FaultKind.CONTENT_FILTER if _FILTER.search(text) else FaultKind.AUTH
    if status in (404, 405, 410):
        return FaultKind.BAD_REQUEST if _NO_FEATURE.search(message) else FaultKind.NOT_FOUND
    if status is None:
        return _in_stream(codes, text)
    if status >= 500 or status in (408, 409, 425):  # noqa: PLR2004
        return FaultKind.SERVER
    if status < 400:  # noqa: PLR2004
        return FaultKind.BROKEN if status < 300 else FaultKind.CONNECTION  # noqa: PLR2004
    return _bad_request(error, details, text)


def _in_stream(codes: Collection[str], text: str) -> FaultKind:
    """Classify an error object that came without a status: the provider broke off by itself."""
    if _CONTEXT.search(text):
        return FaultKind.CONTEXT_LENGTH
    if _FILTER.search(text):
        return FaultKind.CONTENT_FILTER
    return FaultKind.BAD_REQUEST if "invalid_request_error" in codes else FaultKind.SERVER


def _bad_request(error: BaseException, details: Mapping[str, Any], text: str) -> FaultKind:
    if _CONTEXT.search(text) or "ContextOverflowError" in _names(error):
        return FaultKind.CONTEXT_LENGTH
    if _FILTER.search(text):
        return FaultKind.CONTENT_FILTER
    if details.get("param") == "stream" or _STREAMING.search(text):
        return FaultKind.NO_STREAMING
    if _KEY.search(text):
        return FaultKind.AUTH
    return FaultKind.NOT_FOUND if _NO_MODEL.search(text) else FaultKind.BAD_REQUEST


def _by_name(error: BaseException, message: str) -> FaultKind:
    """Classify by the names in the exception's and its causes' family trees."""
    own = _names(error)
    for name, kind in _BY_OWN_NAME.items():
        if name in own:
            return kind
    if own & _DECODE_NAMES:
        return FaultKind.BROKEN
    # aiohttp's transports report a dropped connection as a timeout: the cause knows better.
    if any(_names(e) & _RESET_NAMES for e in _chain(error)):
        return FaultKind.CONNECTION
    if own & _TIMEOUT_NAMES:
        return FaultKind.TIMEOUT
    if own & _CONNECTION_NAMES or _CLOSED.search(message):
        return FaultKind.CONNECTION
    # A bare APIError is an error event inside a stream.
    return FaultKind.SERVER if "APIError" in own else FaultKind.INTERNAL


def _names(error: BaseException) -> set[str]:
    return {c.__name__ for c in type(error).__mro__}


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    for _ in range(6):
        if error is None:
            return
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _inside(error: BaseException) -> Iterator[BaseException]:
    """Yield what an exception group holds, or what a wrapper was raised from."""
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield one
            yield from _inside(one)
    elif error.__cause__ is not None:
        yield error.__cause__
        yield from _inside(error.__cause__)
