"""What an exception tells of itself, whoever raised it: status, headers, error object, words.

It reads attributes by name, for the vendors share no base class: openai's and together's SDKs,
anthropic's, google's, botocore's, httpx's own. What is found is made to one shape here, so that
the classifier in `faults.py` is a table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

LONGEST_MESSAGE = 300
"""Characters of a message that is shown to people."""

LONGEST_READ = 8000
"""Characters that are read of a message: on more, the expressions here would spend minutes."""

SHORTEST_SECRET = 8
"""Characters; what is shorter ("none", "EMPTY") guards nothing and stands in any text."""

_TAG = re.compile(r"<(style|script)\b.*?</\1>|<[^>]*>", re.DOTALL | re.IGNORECASE)
_SECRET = re.compile(
    r"\b(?:sk|tgp|pk|rk|gsk|key|xai)[-_][\w*-]{6,}|(?<=bearer )[^\s'\"]{6,}|"
    r"(?<=api[-_]key[=:])\S+|(?<=key provided: )\S+?(?=[.,;]?(?:\s|$))",
    re.IGNORECASE,
)
_REFUSED = re.compile(
    r"unsupported|unrecognized|unknown[ _]param|not support|not permitted|unexpected keyword",
    re.IGNORECASE,
)
_NAMED = re.compile(
    r"['\"`](\w+)['\"`]|(?:supplied|parameters?): ([\w, ]+)|(\w+): extra inputs", re.IGNORECASE
)


def headers(error: BaseException) -> Mapping[str, str]:
    """The response's headers, names in lower case."""
    response = getattr(error, "response", None)
    found = getattr(response, "headers", None) or getattr(error, "headers", None)
    if found is None and isinstance(response, dict):
        found = _amazon(response).get("HTTPHeaders")
    items: Iterable[tuple[Any, Any]] = found.items() if isinstance(found, Mapping) else ()
    return {str(name).lower(): str(value) for name, value in items}


def details(error: BaseException) -> Mapping[str, Any]:
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
    if isinstance(body.get("detail"), str | list):
        return {**body, "message": _located(body["detail"])}
    return body


def _located(detail: Any) -> str:
    """Say what FastAPI's validation found, without the input that it repeats."""
    if isinstance(detail, str):
        return detail
    found = (one for one in detail if isinstance(one, dict))
    return "; ".join(f"{'.'.join(map(str, d.get('loc') or ()))}: {d.get('msg')}" for d in found)


def status(error: BaseException, told: Mapping[str, Any]) -> int | None:
    """The HTTP status, from wherever it stands.

    Args:
        error: The exception.
        told: Its `details`.
    """
    for number in _numbers(error):
        if isinstance(number, int) and 200 <= number < 600:  # noqa: PLR2004  # HTTP's own numbers
            return int(number)
    # Some servers put the status into the error object, as a number or as digits.
    for key in ("status", "status_code", "code"):
        digits = str(told.get(key, ""))
        if len(digits) == 3 and digits.isdecimal() and digits[0] in "45":  # noqa: PLR2004
            return int(digits)
    return None


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


def words(error: BaseException, told: Mapping[str, Any]) -> str:
    """All that it says, in one line, without secrets.

    Args:
        error: The exception.
        told: Its `details`.
    """
    body = getattr(error, "body", None)
    said = told.get("message") or (body if isinstance(body, str) else None)
    text = str(said or error) or type(error).__name__
    metadata, cause = told.get("metadata"), error.__cause__
    if isinstance(metadata, dict) and metadata.get("raw"):
        # OpenRouter's own message is always "Provider returned error".
        text = f"{text}: {metadata['raw']}"
    if not told and cause is not None and str(cause):
        text = f"{text} ({type(cause).__name__}: {cause})"
    text = text[:LONGEST_READ]
    if "<html" in text[:1000].lower():
        text = _TAG.sub(" ", text)
    # The SDKs read half of a surrogate pair out of JSON, which nothing can write down again.
    text = text.encode("utf-8", "replace").decode()
    return " ".join(_SECRET.sub("[key]", text).split())


def short(text: str) -> str:
    """Cut to what people will read."""
    return text if len(text) <= LONGEST_MESSAGE else f"{text[:LONGEST_MESSAGE]}..."


def request_id(error: BaseException, sent: Mapping[str, str]) -> str | None:
    """The provider's id for the request.

    Args:
        error: The exception.
        sent: Its `headers`.
    """
    names = ("x-request-id", "request-id", "apim-request-id", "cf-ray")
    own = getattr(error, "request_id", None)
    return own or next((sent[name] for name in names if sent.get(name)), None)


def refused_parameters(error: BaseException, optional: Collection[str]) -> set[str]:
    """Find which optional parameters an error says are not taken: models differ within one API.

    Args:
        error: The exception.
        optional: The parameters that the request can do without.
    """
    told = details(error)
    if not isinstance(error, TypeError) and status(error, told) not in (400, 422):
        return set()
    text = words(error, told)
    if not _REFUSED.search(f"{told.get('code')} {text}"):
        return set()
    named = re.split(r"[.\[]", str(told.get("param") or ""))[0]
    found = {named} if named else set(re.findall(r"\w+", " ".join(_quoted(text))))
    return found & set(optional)


def _quoted(text: str) -> Iterator[str]:
    return (name for names in _NAMED.findall(text) for name in names)


def scrub(error: BaseException, secrets: Collection[str]) -> None:
    """Take secrets out of what an exception says, in place: providers repeat keys they refuse.

    Args:
        error: The exception; those it was raised from are cleaned too.
        secrets: The exact texts.
    """
    for _ in range(6):
        for name in ("args", "message", "body"):
            value = getattr(error, name, None)
            clean = without(value, secrets)
            if clean != value:
                with suppress(AttributeError):  # a property says what the others say
                    setattr(error, name, clean)
        inner = error.__cause__ or error.__context__
        if inner is None:
            return
        error = inner


def without(value: Any, secrets: Collection[str]) -> Any:
    """Copy plain data with the secrets taken out of its texts."""
    if isinstance(value, str):
        for secret in secrets:
            if len(secret) >= SHORTEST_SECRET:
                value = value.replace(secret, "[key]")
        return value
    if isinstance(value, dict):
        return {name: without(one, secrets) for name, one in value.items()}
    # Exactly these: a named tuple (aiohttp puts one into its errors) is made in another way.
    if type(value) in (list, tuple):
        return type(value)(without(one, secrets) for one in value)
    return value
