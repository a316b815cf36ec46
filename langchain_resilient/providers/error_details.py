"""Reads what exceptions of providers hold: headers, the error object, status, words, sizes.

Attributes and class names are looked at, never the classes of an SDK; see `errors`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pydantic_core import ValidationError, from_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


MAX_MESSAGE_LENGTH = 300
"""Characters of a message that is shown to people."""

MAX_TEXT_READ = 8000
"""Characters that are read of a message: on more, the expressions here would spend minutes."""

_TAG = re.compile(r"<(style|script)\b.*?</\1>|<[^>]*>", re.DOTALL | re.IGNORECASE)

_SECRET = re.compile(
    r"\b(?:sk|tgp|pk|rk|gsk|key|xai)[-_][\w*-]{6,}|(?<=bearer )[^\s'\"]{6,}|"
    r"(?<=api[-_]key[=:])\S+|(?<=key provided: )\S+?(?=[.,;]?(?:\s|$))",
    re.IGNORECASE,
)

_REFUSED_NAMES = frozenset({"ClientConnectorError", "ServerDisconnectedError"})
"""aiohttp's, for what is no timeout."""


def error_headers(error: BaseException) -> Mapping[str, str]:
    """Return the response's headers, names in lower case."""
    response = getattr(error, "response", None)
    headers = getattr(response, "headers", None) or getattr(error, "headers", None)
    if headers is None and isinstance(response, dict):
        headers = _amazon(response).get("HTTPHeaders")
    items: Iterable[tuple[Any, Any]] = headers.items() if isinstance(headers, Mapping) else ()
    return {str(name).lower(): str(value) for name, value in items}


def error_details(error: BaseException) -> Mapping[str, Any]:
    """The error object: OpenAI's body is it, Together's holds it, others are flat; {} if none."""
    body = getattr(error, "body", None)
    if isinstance(body, str) and body.lstrip().startswith("{"):
        with suppress(ValueError):
            body = from_json(body)
    response = getattr(error, "response", None)
    if body is None and isinstance(response, dict):
        body = {str(name).lower(): value for name, value in (response.get("Error") or {}).items()}
    if isinstance(body, list) and body:
        body = body[0]  # Google's, in its compatible dialect
    if not isinstance(body, dict):
        return {}
    inner = body.get("error")
    if isinstance(inner, dict):
        return inner
    if isinstance(inner, str):
        return {"message": inner, **{k: body[k] for k in ("code", "type") if body.get(k)}}
    if isinstance(body.get("detail"), dict):
        detail: dict[str, Any] = body["detail"]
        return detail
    if isinstance(body.get("detail"), str | list):
        return {**body, "message": _located(body["detail"])}
    return body


def _located(detail: Any) -> str:
    """Describe FastAPI's validation errors without the input that they repeat."""
    if isinstance(detail, str):
        return detail
    lines = (line for line in detail if isinstance(line, dict))
    return "; ".join(f"{'.'.join(map(str, d.get('loc') or ()))}: {d.get('msg')}" for d in lines)


def error_status(error: BaseException, details: Mapping[str, Any]) -> int | None:
    """Return the HTTP status, wherever the exception keeps it.

    Args:
        error: The exception.
        details: Its `error_details`.
    """
    if _is_of_the_parser(error):
        return None
    for number in _numbers(error):
        if isinstance(number, int) and 200 <= number < 600:  # noqa: PLR2004  # HTTP's own numbers
            return int(number)
    # Some servers put the status into the error object, as a number or as digits.
    for key in ("status", "status_code", "code"):
        digits = str(details.get(key, ""))
        if len(digits) == 3 and digits.isdecimal() and digits[0] in "45":  # noqa: PLR2004
            return int(digits)
    return None


def _is_of_the_parser(error: BaseException) -> bool:
    """Whether aiohttp could not read what came as HTTP: the 400 that it then has is no server's."""
    cause = error.__cause__ or error
    return "HttpProcessingError" in {kind.__name__ for kind in type(cause).__mro__}


def _numbers(error: BaseException) -> Iterator[Any]:
    if any(c.__name__ == "HttpProcessingError" for c in type(error.__cause__).__mro__):
        return  # the 400 is aiohttp's own: what came was no HTTP
    response = getattr(error, "response", None)
    yield getattr(error, "status_code", None)
    yield getattr(error, "status", None)
    yield getattr(response, "status_code", None)
    yield getattr(error, "code", None)
    if isinstance(response, dict):
        yield _amazon(response).get("HTTPStatusCode")


def _amazon(response: Mapping[str, Any]) -> Mapping[str, Any]:
    return response.get("ResponseMetadata") or {}


def error_text(error: BaseException, details: Mapping[str, Any]) -> str:
    """Return the whole message of an exception on one line, without secrets.

    Args:
        error: The exception.
        details: Its `error_details`.
    """
    body = getattr(error, "body", None)
    words = details.get("message") or (body if isinstance(body, str) else None)
    text = str(words or _client_text(error)) or type(error).__name__
    metadata, cause = details.get("metadata"), error.__cause__
    if isinstance(metadata, dict) and metadata.get("raw"):
        # OpenRouter's own message is always "Provider returned error".
        text = f"{text}: {metadata['raw']}"
    if not details and cause is not None and str(cause):
        if any(class_names(e) & _REFUSED_NAMES for e in causes(cause)):
            # httpx-aiohttp takes any failure to connect for a timeout: the causes know better.
            text, cause = "Connection error.", cause.__cause__ or cause
        text = f"{text} ({type(cause).__name__}: {cause})"
    text = text[:MAX_TEXT_READ]
    if "<html" in text[:1000].lower():
        text = _TAG.sub(" ", text)
    # The SDKs read half of a surrogate pair out of JSON, which nothing can write down again.
    text = text.encode("utf-8", "replace").decode()
    return " ".join(_SECRET.sub("[key]", text).split())


def _client_text(error: BaseException) -> str:
    """Describe pydantic's validation errors without the input that they repeat, a prompt or key."""
    if not isinstance(error, ValidationError):
        return str(error)
    return _located(error.errors(include_url=False, include_input=False, include_context=False))


def truncate(text: str) -> str:
    """Truncate a message for display."""
    return text if len(text) <= MAX_MESSAGE_LENGTH else f"{text[:MAX_MESSAGE_LENGTH]}..."


def request_id(error: BaseException, headers: Mapping[str, str]) -> str | None:
    """The provider's id for the request.

    Args:
        error: The exception.
        headers: Its `error_headers`.
    """
    names = ("x-request-id", "request-id", "apim-request-id", "cf-ray")
    own = getattr(error, "request_id", None)
    return own or next((headers[name] for name in names if headers.get(name)), None)


def class_names(error: BaseException) -> set[str]:
    """The names of its class and its bases: no SDK need be imported for them."""
    return {c.__name__ for c in type(error).__mro__}


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception, and what it was raised from, as a traceback would show them."""
    for _ in range(6):
        if error is None:
            return
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


# -- the sizes in an error that says a request is too long ----------------------------------------

MIN_WINDOW = 64
"""Tokens; a smaller number in such an error is about something else."""

_MAX_CONTEXT_TEXT = 2000
"""Characters that are read: what an error repeats of a prompt tells nothing, and costs time."""

_N = r"(\d[\d,]{0,11})(?!\d)"
_SIZE = r"(?:length|window|size|limit)"

_LIMIT = (
    rf"exceed context limit: \d+ \+ \d+ > {_N}",
    rf"with {_N} maximum context",
    rf"(?:context|prompt|model)(?:'s)? (?:context |token )?{_SIZE}[^.\d]{{0,30}}{_N}",
    rf"tokens? > {_N}",
    rf"maximum number of (?:input )?tokens[^.\d]{{0,20}}{_N}",
    rf"(?:configured limit of|exceeds the limit of|cannot exceed|must be <=) {_N}",
    rf"\blimit:? {_N}, (?:used:? [\d,]+, )?requested",
)

_BELOW = (rf"must have less than {_N} tokens",)

_GIVEN = (
    rf"resulted in {_N} tokens",
    rf"\((?:about )?{_N} (?:of text input|in (?:the messages|your prompt|the prompt))",
    rf"exceed context limit: {_N} \+",
    rf"prompt is too long: {_N}",
    rf"prompt too long: {_N}",
    rf"given: {_N}",
    rf"(?:prompt|request) (?:contains|has) {_N} (?:input )?tokens",
    rf"passed {_N} input tokens",
    rf"(?:token count|prompt \(length|request|requested tokens) \(?{_N}(?: tokens)?\) ",
    rf"token count of {_N}",
    rf"requested:? {_N}\)",
    rf"received {_N}",
)


def _compiled(patterns: Iterable[str]) -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(pattern, re.IGNORECASE) for pattern in patterns)


_LIMITS, _BELOWS, _GIVENS = map(_compiled, (_LIMIT, _BELOW, _GIVEN))


def token_counts(details: Mapping[str, Any], text: str) -> tuple[int | None, int | None]:
    """Read the numbers of an error that says a request is too long.

    Args:
        details: The error object; llama.cpp's has the numbers in fields of their own.
        text: What it says to people.

    Returns:
        The most tokens the target takes, and the tokens it counted in the prompt; None for what it
        does not tell.

    Example:
        ```python
        token_counts({}, "prompt is too long: 200001 tokens > 200000 maximum")  # (200000, 200001)
        ```
    """
    text = text[:_MAX_CONTEXT_TEXT]
    limit = _number_field(details, "n_ctx") or _first_number(_LIMITS, text)
    if limit is None and (below := _first_number(_BELOWS, text)) is not None:
        limit = below - 1
    given = _number_field(details, "n_prompt_tokens") or _first_number(_GIVENS, text)
    return (limit if limit is not None and limit >= MIN_WINDOW else None), given


def _first_number(patterns: Iterable[re.Pattern[str]], text: str) -> int | None:
    for pattern in patterns:
        if match := pattern.search(text):
            return int(match[1].replace(",", ""))
    return None


def _number_field(details: Mapping[str, Any], name: str) -> int | None:
    value = details.get(name)
    return value if isinstance(value, int) and value > 0 else None
