"""The one classifier: whatever a provider raised or answered, as a `Fault`.

It asks for attributes, never for classes of an SDK: openai and together share no base class, a
LangChain model may raise any vendor's error, and nothing heavy must be imported to read one.
The table behind it is section 3 of the hedging study; each row has a test.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from langchain_resilient.fault import Fault, FaultKind
from langchain_resilient.providers.hints import retry_after, should_retry

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


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


_QUOTA = frozenset(
    {
        "insufficient_quota",
        "credit_balance_exhausted",
        "organization_spend_limit_exceeded",
        "project_spend_limit_exceeded",
        "organization_usage_limit_exceeded",
        "billing_hard_limit_reached",
        "billing_not_active",
    }
)
_NOT_FOUND = frozenset(
    {
        "model_not_found",
        "model_not_available",
        "dedicated_endpoint_not_running",
        "deploymentnotfound",
    }
)
_CONTEXT = re.compile(
    r"context_length|maximum context|context (?:length|window|size)|`?inputs`? tokens \+|"
    r"prompt is too long|too many (?:input )?tokens|reduce the length of the messages",
    re.IGNORECASE,
)
_FILTER = re.compile(
    r"content_filter|content_policy|content management policy|ResponsibleAI|moderation|"
    r"safety (?:model|system|filter)",
    re.IGNORECASE,
)
_TOO_LARGE = re.compile(r"request too large", re.IGNORECASE)
_RATE = frozenset(
    {"rate_limit_exceeded", "slow_down", "dynamic_request_limited", "dynamic_token_limited",
     "credit_limit", "rate_limit_error", "too_many_requests", "throttled"}
)  # fmt: skip
_STREAMING = re.compile(r"stream\w*[^.]{0,40}(?:not|un)[ -]?(?:be )?(?:supported|allowed|available)"
                        r"|(?:not|n't) support[^.]{0,20}stream", re.IGNORECASE)  # fmt: skip

_TIMEOUT_NAMES = frozenset(
    {"APITimeoutError", "TimeoutException", "TimeoutError", "ModelTimeoutError"}
)
_CONNECTION_NAMES = frozenset(
    {"APIConnectionError", "TransportError", "RequestError", "ClientError", "OSError", "SSLError",
     "ModelConnectionError", "ConnectionError", "EndOfStream", "BrokenResourceError"}
)  # fmt: skip
_RESET_NAMES = frozenset(
    {"ServerDisconnectedError", "ClientOSError", "ConnectionResetError", "RemoteProtocolError",
     "ClientPayloadError", "ReadError", "ConnectionRefusedError", "ClientConnectorError"}
)  # fmt: skip
_DECODE_NAMES = frozenset({"JSONDecodeError", "UnicodeDecodeError", "DecodingError",
"BadChunkError",
                           "EventTooLongError", "APIResponseValidationError"})  # fmt: skip
_BY_LANGCHAIN_NAME = {
    "ContextOverflowError": FaultKind.CONTEXT_LENGTH,
    "ModelAuthenticationError": FaultKind.AUTH,
    "ModelPermissionDeniedError": FaultKind.AUTH,
    "ModelNotFoundError": FaultKind.NOT_FOUND,
    "ModelRateLimitError": FaultKind.RATE_LIMIT,
    "ModelInvalidRequestError": FaultKind.BAD_REQUEST,
    "ModelAPIError": FaultKind.SERVER,
    "ContentFilterFinishReasonError": FaultKind.CONTENT_FILTER,
    "LengthFinishReasonError": FaultKind.EMPTY,
    "ResourceExhausted": FaultKind.RATE_LIMIT,
}


def classify(error: BaseException) -> Fault:
    """Say what an exception means.

    Args:
        error: From an SDK, a transport, a decoder or a LangChain model.

    Returns:
        A fault of the kind that fits best; `INTERNAL` for what no provider would raise.
    """
    headers = _headers(error)
    details = _details(error)
    status = _status(error, details)
    code = next((str(details[k]) for k in ("code", "type") if details.get(k)), None)
    message = _message(error, details)
    kind = (
        _by_status(status, details, message)
        if status is not None or details
        else _by_name(error, message)
    )
    return Fault(
        kind=kind,
        message=message,
        status=status,
        code=code,
        retry_after=retry_after(headers, message),
        should_retry=should_retry(headers),
        request_id=getattr(error, "request_id", None) or headers.get("x-request-id"),
        cause=error,
    )


def _by_status(  # noqa: PLR0911  # a table reads best as a table
    status: int | None, details: Mapping[str, Any], message: str
) -> FaultKind:
    codes = {str(details[k]).lower() for k in ("code", "type", "error_type") if details.get(k)}
    text = f"{' '.join(codes)} {message}"
    if status == 402 or codes & _QUOTA:  # noqa: PLR2004  # HTTP's own numbers read best as such
        return FaultKind.QUOTA
    if _TOO_LARGE.search(message) or status == 413:  # noqa: PLR2004
        return FaultKind.TOO_LARGE
    if status == 429 or codes & _RATE:  # noqa: PLR2004
        return FaultKind.RATE_LIMIT
    if status in (401, 403):
        return _forbidden(text)
    if status == 404 or codes & _NOT_FOUND:  # noqa: PLR2004
        return FaultKind.NOT_FOUND
    if status is None or status >= 500 or status in (408, 409, 425):  # noqa: PLR2004
        return _in_stream(text) if status is None else FaultKind.SERVER
    if status < 400:  # noqa: PLR2004
        return FaultKind.BROKEN if status < 300 else FaultKind.CONNECTION  # noqa: PLR2004
    return _bad_request(details, text)


def _forbidden(text: str) -> FaultKind:
    return FaultKind.CONTENT_FILTER if _FILTER.search(text) else FaultKind.AUTH


def _in_stream(text: str) -> FaultKind:
    """Classify an error object that came without a status: the provider broke off by itself."""
    if _CONTEXT.search(text):
        return FaultKind.CONTEXT_LENGTH
    return FaultKind.CONTENT_FILTER if _FILTER.search(text) else FaultKind.SERVER


def _bad_request(details: Mapping[str, Any], text: str) -> FaultKind:
    if _CONTEXT.search(text):
        return FaultKind.CONTEXT_LENGTH
    if _FILTER.search(text):
        return FaultKind.CONTENT_FILTER
    if details.get("param") == "stream" or _STREAMING.search(text):
        return FaultKind.NO_STREAMING
    return FaultKind.BAD_REQUEST


def _by_name(error: BaseException, message: str) -> FaultKind:
    """Classify by the names in the exception's and its causes' family trees."""
    names = {c.__name__ for e in _chain(error) for c in type(e).__mro__}
    own = {c.__name__ for c in type(error).__mro__}
    for name, kind in _BY_LANGCHAIN_NAME.items():
        if name in own:
            return kind
    if own & _DECODE_NAMES:
        return FaultKind.BROKEN
    # aiohttp's transports report a dropped connection as a timeout: the cause knows better.
    if names & _RESET_NAMES:
        return FaultKind.CONNECTION
    if own & _TIMEOUT_NAMES:
        return FaultKind.TIMEOUT
    if own & _CONNECTION_NAMES or "Event loop is closed" in message:
        return FaultKind.CONNECTION
    # A bare APIError is an error event inside a stream.
    return FaultKind.SERVER if "APIError" in own else FaultKind.INTERNAL


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    for _ in range(6):
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__


def _headers(error: BaseException) -> Mapping[str, str]:
    found = getattr(getattr(error, "response", None), "headers", None)
    return found if hasattr(found, "get") else {}  # type: ignore[return-value]  # duck-typed


def _details(error: BaseException) -> Mapping[str, Any]:
    """Find the error object: OpenAI's body is it, Together's holds it, others are flat."""
    body = getattr(error, "body", None)
    if isinstance(body, dict):
        inner = body.get("error")
        if isinstance(inner, dict):
            return inner
        if isinstance(inner, str):
            return {"message": inner, **{k: body[k] for k in ("code", "type") if body.get(k)}}
        if isinstance(body.get("detail"), str | list):
            return {"message": str(body["detail"]), **body}
        return body
    return {}


def _status(error: BaseException, details: Mapping[str, Any]) -> int | None:
    for found in (getattr(error, "status_code", None), getattr(error, "status", None)):
        if isinstance(found, int) and 200 < found < 600:  # noqa: PLR2004
            return found
    # Some servers put the status into the error object, as a number or as digits.
    for key in ("status", "status_code", "code"):
        digits = str(details.get(key, ""))
        if len(digits) == 3 and digits.isdigit() and digits[0] in "45":  # noqa: PLR2004
            return int(digits)
    return None


def _message(error: BaseException, details: Mapping[str, Any]) -> str:
    raw = details.get("message") if details else None
    text = raw if isinstance(raw, str) and raw.strip() else str(error) or type(error).__name__
    cause = error.__cause__
    if not details and cause is not None and str(cause):
        text = f"{text} ({type(cause).__name__}: {cause})"
    line = " ".join(_redact(text).split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."


_LONGEST = 300
_SECRET = re.compile(
    r"\b(sk|tgp|pk|rk|gsk|key)[-_][\w-]{6,}|(?<=Bearer )\S+|(?<=api[-_]key[=:])\S+", re.IGNORECASE
)


def _redact(text: str) -> str:
    """Providers like to repeat the key they refuse."""
    return _SECRET.sub("[key]", text)
