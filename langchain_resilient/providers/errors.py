"""Turns any exception of a provider into a `Fault`: the only classifier.

It looks at attributes and class names, never at the classes of an SDK: openai and together share no
base class, a LangChain model may raise any vendor's error, and no SDK must be imported to read one.
Each rule has a test in `tests/providers/test_errors.py`.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic_core import ValidationError

from langchain_resilient.faults import TRAITS, Fault, FaultKind
from langchain_resilient.providers.error_details import (
    causes,
    class_names,
    error_details,
    error_headers,
    error_status,
    error_text,
    request_id,
    token_counts,
    truncate,
)
from langchain_resilient.providers.rate_limit_headers import retry_after, should_retry
from langchain_resilient.providers.redaction import clear_locals

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping


# -- the classifier --------------------------------------------------------------------------------


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


def classify(error: BaseException) -> Fault:
    """Classify an exception.

    Args:
        error: From an SDK, a transport, a decoder or a LangChain model. The local variables of the
            frames that it has left are cleared; see `clear_locals`.

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
    clear_locals(error)
    return fault


def _classify(error: BaseException) -> Fault:
    headers, details = error_headers(error), error_details(error)
    status, text = error_status(error, details), error_text(error, details)
    has_response = status is not None or bool(details)
    kind = _by_status(error, status, details, text) if has_response else _by_name(error, text)
    again = should_retry(headers)
    if kind is FaultKind.CONNECTION and _is_lasting(error, status):
        again = False
    if kind is FaultKind.CONNECTION and status in (404, 405, 410):
        text = f"{text} ({_missing_path(error)})"
    if status == _PROXY_REFUSES:
        text = f"{text} (the proxy wants a user and a password: give them in the proxy's own URL)"
    limit, given = token_counts(details, text) if TRAITS[kind].too_long else (None, None)
    return Fault(
        kind=kind,
        message=truncate(text),
        status=status,
        code=next((_code(details[k]) for k in ("code", "type") if details.get(k)), None),
        retry_after=retry_after(headers, text),
        should_retry=again,
        request_id=request_id(error, headers),
        limit=limit,
        given=given,
        cause=error,
    )


def _code(value: Any) -> str:
    return str(value)[:_MAX_CODE_LENGTH].encode("utf-8", "replace").decode()


def _by_status(  # noqa: PLR0911  # a table reads best as a table
    error: BaseException, status: int | None, details: Mapping[str, Any], message: str
) -> FaultKind:
    words = ("code", "type", "error_type", "status", "reason")
    codes = {str(details[k]).lower() for k in words if details.get(k)}
    codes |= {code.partition(".")[0] for code in codes}  # Alibaba's: "Throttling.RateQuota"
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
        return FaultKind.CONTENT_FILTER if _FILTER.search(text) else _forbidden(error, codes, text)
    if status in (404, 405, 410):
        return _missing(error, message)
    if status is None:
        return _in_stream(codes, text)
    if status >= 500 or status in (408, 409, 425):  # noqa: PLR2004
        no_streams = status in (500, 501) and _STREAMING.search(text)
        return FaultKind.NO_STREAMING if no_streams else FaultKind.SERVER
    if status < 400 or status == _PROXY_REFUSES:  # noqa: PLR2004
        return FaultKind.BROKEN if status < 300 else FaultKind.CONNECTION  # noqa: PLR2004
    return _bad_request(error, details, text)


def _missing(error: BaseException, message: str) -> FaultKind:
    """Classify a 404, 405 or 410: there is no such model, or no such address."""
    if _NO_FEATURE.search(message):
        return FaultKind.BAD_REQUEST
    no_address = _NO_PATH.search(message) or _is_page(error)
    return FaultKind.CONNECTION if no_address else FaultKind.NOT_FOUND


def _forbidden(error: BaseException, codes: Collection[str], text: str) -> FaultKind:
    """Classify a 401 or 403: only what speaks of the key or the account is about all its models."""
    if _is_page(error):
        return FaultKind.CONNECTION  # a front door, which knows neither
    if _NOT_THIS_MODEL.search(text):
        return FaultKind.NOT_FOUND
    if error_status(error, {}) != 403 or _AUTH.intersection(codes) or _ACCOUNT.search(text):  # noqa: PLR2004
        return FaultKind.AUTH
    return FaultKind.CONNECTION


def _is_page(error: BaseException) -> bool:
    """Whether an error came as a page for people."""
    body = getattr(error, "body", None)
    text = str(error) if body is None else body
    return isinstance(text, str) and _PAGE.search(text[:1000]) is not None


def _in_stream(codes: Collection[str], text: str) -> FaultKind:
    """Classify an error object that came without a status: the provider broke off by itself."""
    if _CONTEXT.search(text):
        return FaultKind.CONTEXT_LENGTH
    if _FILTER.search(text):
        return FaultKind.CONTENT_FILTER
    return FaultKind.BAD_REQUEST if "invalid_request_error" in codes else FaultKind.SERVER


def _bad_request(error: BaseException, details: Mapping[str, Any], text: str) -> FaultKind:
    if _CONTEXT.search(text) or "ContextOverflowError" in class_names(error):
        return FaultKind.CONTEXT_LENGTH
    if _FILTER.search(text):
        return FaultKind.CONTENT_FILTER
    if details.get("param") == "stream" or _STREAMING.search(text) or _STREAM_FIELD.search(text):
        return FaultKind.NO_STREAMING
    if _KEY.search(text):
        return FaultKind.AUTH
    about_model = details.get("param") in (None, "", "model")
    gone = about_model and _NO_MODEL.search(text)
    return FaultKind.NOT_FOUND if gone else FaultKind.BAD_REQUEST


def _by_name(error: BaseException, message: str) -> FaultKind:
    """Classify by the names in the exception's and its causes' family trees."""
    own = class_names(error)
    for name, kind in _BY_OWN_NAME.items():
        if name in own:
            return kind
    if own & _DECODE_NAMES or _UNWRITABLE.search(message):
        return FaultKind.BROKEN if own & _DECODE_NAMES else FaultKind.BAD_REQUEST
    # aiohttp's transports report a dropped connection as a timeout: the cause knows better.
    if any(class_names(e) & _RESET_NAMES for e in causes(error)):
        return FaultKind.CONNECTION
    if own & _TIMEOUT_NAMES:
        return FaultKind.TIMEOUT
    if own & _CONNECTION_NAMES or _CLOSED.search(message):
        return FaultKind.CONNECTION
    # A bare APIError is an error event inside a stream.
    return FaultKind.SERVER if "APIError" in own else FaultKind.INTERNAL


def _missing_path(error: BaseException) -> str:
    """Say which address is not there, and what it probably lacks."""
    url = str(getattr(getattr(error, "response", None), "url", "") or "the address").split("?")[0]
    forgotten = "" if "/v1/" in url else "; most base URLs end with /v1"
    return f"{url} does not exist there: check base_url{forgotten}"


def _is_lasting(error: BaseException, status: int | None) -> bool:
    """Whether a connection fails for a reason that no second try removes."""
    # A status is a redirect, or the page of a front door.
    return status is not None or any(
        class_names(e) & _LASTING_NAMES or "CERTIFICATE_VERIFY_FAILED" in str(e)
        for e in causes(error)
    )


def was_closed(error: BaseException) -> bool:
    """Whether a server had closed the connection before it read the request, as far as one sees."""
    return any(
        "ServerDisconnectedError" in class_names(e) or "without sending a response" in str(e)
        for e in causes(error)
    )


def _inside(error: BaseException) -> Iterator[BaseException]:
    """Yield what an exception group holds, or what a wrapper was raised from."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield inner
            yield from _inside(inner)
    elif error.__cause__ is not None:
        yield error.__cause__
        yield from _inside(error.__cause__)


# -- its tables ------------------------------------------------------------------------------------

_MAX_CODE_LENGTH = 100

_PROXY_REFUSES = 407
"""The status of a proxy that was given no credentials, or wrong ones."""

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
     "credit_limit", "rate_limit_error", "too_many_requests", "throttled", "throttling",
     "throttlingexception", "resource_exhausted"}
)  # fmt: skip

_AUTH = frozenset(
    {"invalid_api_key", "authentication_error", "permission_error", "account_deactivated"}
)

_PAGE = re.compile(r"<(?:!doctype|html|head|body|title)\b", re.IGNORECASE)

_NOT_THIS_MODEL = re.compile(
    r"(?:access|allowed|permi\w+|authori[sz]ed|entitled|enabled|sample)\b[^.]{0,60}\bmodel\b|"
    r"\bmodel\b[^.]{0,80}\b(?:denied|"
    r"not (?:be )?(?:accessible|allowed|available|enabled|permitted))",
    re.IGNORECASE,
)

_ACCOUNT = re.compile(
    r"key|token|credential|auth|account|organi[sz]ation|project|permission|access|subscription|"
    r"billing|country|region|territory|\bip\b|\brole\b|scope|suspended|blocked",
    re.IGNORECASE,
)

_NO_PATH = re.compile(
    r"^\W*(?:not found|method not allowed|404|405)\W*$|invalid url|cannot post|no route|"
    r"(?:page|path|url|endpoint|resource) (?:was )?not found|404 page",
    re.IGNORECASE,
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
    # A dot inside an id (`gpt-3.5-turbo`) ends no sentence.
    r"\bmodel\b(?:[^.]|\.\S){0,120}?\b(?:not exist|not found|decommissioned|"
    r"(?:is|was|been|be) (?:retired|deprecated|discontinued|sunset|shut ?down|removed)|"
    r"no longer (?:available|supported|served|exists?)|end[- ]of[- ]life)|"
    r"supported (?:api )?model names",
    re.IGNORECASE,
)

_NO_FEATURE = re.compile(r"not support(?!ed models)|endpoints found that support", re.IGNORECASE)

_STREAMING = re.compile(
    r"stream(?!_options)\w*[^.]{0,40}(?:not|un)[ -]?(?:be )?(?:supported|allowed|available)|"
    r"(?:not|n't) support[^.]{0,20}stream",
    re.IGNORECASE,
)

_UNWRITABLE = re.compile(r"not JSON serializable|unable to serialize", re.IGNORECASE)
"""What Python says of a request that holds what JSON has no place for: the caller's mistake."""

_STREAM_FIELD = re.compile(r"(?:^|body\.|; )stream: ")
"""A server that validates with pydantic names the field."""

_CLOSED = re.compile(
    r"(?:loop|client|session|connector) (?:is|has been) closed|^connection closed\.?$",
    re.IGNORECASE,
)
"""Words of what was closed beneath a call, by `aclose` of another model of the same account too."""

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

_LASTING_NAMES = frozenset(
    {"ConnectionSetupError", "SSLCertVerificationError", "ClientConnectorCertificateError",
     "UnsupportedProtocol", "InvalidURL"}
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
    # A request that the client itself refuses, in pydantic's and Amazon's words.
    "ValidationError": FaultKind.BAD_REQUEST,
    "ParamValidationError": FaultKind.BAD_REQUEST,
    "UnsupportedContentError": FaultKind.UNSUPPORTED,
    # A request that cannot be written down, and `bind_tools` of a model that knows no tools.
    "UnicodeEncodeError": FaultKind.BAD_REQUEST,
    "PydanticSerializationError": FaultKind.BAD_REQUEST,
    "ConnectionSetupError": FaultKind.CONNECTION,
    "UnusableKeyError": FaultKind.AUTH,
    "NotImplementedError": FaultKind.BAD_REQUEST,
}


# -- parameters that the target refuses ------------------------------------------------------------

_REFUSED = re.compile(
    r"unsupported|unrecognized|unknown[ _]param|not support|not permitted|unexpected keyword",
    re.IGNORECASE,
)

_NAMED = re.compile(
    r"['\"`](\w+)['\"`]|(?:supplied|parameters?): ([\w, ]+)|(\w+): extra inputs", re.IGNORECASE
)


def refused_parameters(error: BaseException, optional: Collection[str]) -> set[str]:
    """Find which optional parameters an error says are not taken: models differ within one API.

    Args:
        error: The exception.
        optional: The parameters that the request can do without.
    """
    details = error_details(error)
    refuses = isinstance(error, TypeError | ValidationError)
    if not refuses and error_status(error, details) not in (400, 422):
        return set()
    text = error_text(error, details)
    if not _REFUSED.search(f"{details.get('code')} {text}"):
        return set()
    named = refused_parameter(details)
    names = {named} if named else set(re.findall(r"\w+", " ".join(_quoted(text))))
    return names & set(optional)


_PARTS = {"reasoning.effort": "reasoning_effort", "text.verbosity": "verbosity"}
"""Parts of parameters of the Responses API, and what they are called elsewhere."""


def refused_parameter(details: Mapping[str, Any]) -> str:
    """Return the parameter that an error is about, as it says itself; empty if it does not."""
    param = str(details.get("param") or "")
    return _PARTS.get(param) or re.split(r"[.\[]", param)[0]


def refused_fields(error: BaseException, fields: Collection[str]) -> set[str]:
    """Find which fields of messages an error says are not taken.

    Args:
        error: The exception.
        fields: Fields that the messages can do without.
    """
    details = error_details(error)
    if error_status(error, details) not in (400, 422):
        return set()
    text = f"{details.get('code')} {details.get('param')} {error_text(error, details)}"
    return set(re.findall(r"\w+", text)) & set(fields) if _REFUSED.search(text) else set()


_WANTS_REASONING = re.compile(
    r"reasoning_content\b.{0,80}\b(?:must be passed|missing|required|pass(?:ed)? back)|"
    r"missing\b.{0,30}\breasoning_content",
    re.IGNORECASE | re.DOTALL,
)


def wants_reasoning(error: BaseException) -> bool:
    """Whether an error says that a history lacks the reasoning of the model's own answers."""
    details = error_details(error)
    status = error_status(error, details)
    return status in (400, 422) and bool(_WANTS_REASONING.search(error_text(error, details)))


_NAME = re.compile(
    r"messages\W\S*\bname\b|\b(?:property|field|key|argument|parameter)\s*['\"`]name['\"`]|"
    r"['\"`]name['\"`][^.]{0,40}(?:unsupported|not (?:supported|permitted|allowed))",
    re.IGNORECASE,
)

_WORDLESS = re.compile(
    r"(?:error code: ?)?(?:422)?[\s:.-]*(?:none|\{\}|\[\]|null|unprocessable (?:entity|content)|"
    r"validation error|invalid request|bad request)?[\s:.-]*",
    re.IGNORECASE,
)


def refuses_names(error: BaseException) -> bool:
    """Whether an error is about the `name` of a message, which few servers know."""
    details = error_details(error)
    if error_status(error, details) not in (400, 422):
        return False
    return _NAME.search(f"{details.get('param')} {error_text(error, details)}") is not None


def says_nothing(error: BaseException) -> bool:
    """Whether an error is a 422 without a word on what is wrong."""
    details = error_details(error)
    if error_status(error, details) != 422:  # noqa: PLR2004  # HTTP's own numbers read best as such
        return False
    return _WORDLESS.fullmatch(error_text(error, details)) is not None


def _quoted(text: str) -> Iterator[str]:
    return (name for names in _NAMED.findall(text) for name in names)
