"""What an exception tells of itself, whoever raised it: status, headers, error object, words.

It reads attributes by name, for the vendors share no base class: openai's and together's SDKs,
anthropic's, google's, botocore's, httpx's own. What is found is made to one shape here, so that
the classifier in `faults.py` is a table.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pydantic_core import from_json

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

LONGEST_MESSAGE = 300
"""Characters of a message that is shown to people."""

LONGEST_READ = 8000
"""Characters that are read of a message: on more, the expressions here would spend minutes."""

SHORTEST_SECRET = 8
"""Characters; what is shorter ("none", "EMPTY") guards nothing and stands in any text."""

_OF_THE_BODY = ("content-length", "content-encoding", "transfer-encoding")

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
    if _is_of_the_parser(error):
        return None
    for number in _numbers(error):
        if isinstance(number, int) and 200 <= number < 600:  # noqa: PLR2004  # HTTP's own numbers
            return int(number)
    # Some servers put the status into the error object, as a number or as digits.
    for key in ("status", "status_code", "code"):
        digits = str(told.get(key, ""))
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
    """Take secrets out of an exception, in place: providers repeat keys they refuse.

    Out of its words and attributes, and of the request and the response that it carries.

    Args:
        error: The exception; those it was raised from are cleaned too.
        secrets: The exact texts.
    """
    secrets = [form for secret in secrets for form in _forms(secret)]
    for _ in range(6):
        for name in ("args", *vars(error)):
            with suppress(Exception):  # a property says what the others say; nothing may fail here
                value = getattr(error, name)
                clean = _clean(value, secrets)
                if clean is not value:
                    setattr(error, name, clean)
        inner = error.__cause__ or error.__context__
        if inner is None:
            return
        error = inner


def _forms(secret: str) -> tuple[str, ...]:
    """How a text may be written in a URL and in JSON."""
    return secret, quote(secret, safe=""), "".join(f"\\u{ord(c):04x}" for c in secret)


def _clean(value: Any, secrets: Collection[str]) -> Any:
    """Copy what an exception carries: plain data, or an SDK's request or response."""
    if isinstance(value, Mapping) or not hasattr(value, "headers"):
        return without(value, secrets)
    if hasattr(value, "_replace"):  # aiohttp's request, a named tuple
        return without(value._replace(headers=dict(value.headers)), secrets)
    given = {n: v for n, v in value.headers.items() if n.lower() not in _OF_THE_BODY}
    headers, make = without(given, secrets), type(value)
    if not hasattr(value, "status_code"):
        return make(value.method, without(str(value.url), secrets), headers=headers)
    try:
        body = without(value.text, secrets).encode()
    except Exception:  # noqa: BLE001  # it was not read, or is no text
        body = b""
    asked = _clean(value.request, secrets)
    return make(value.status_code, headers=headers, content=body, request=asked)


def forget_locals(error: BaseException) -> None:
    """Clear the local variables of the frames that an exception has left.

    Reports of crashes show them, keys in the SDKs' among them; and they would keep whole answers
    alive for as long as a receipt holds the exception. The lines of its traceback stay.

    Args:
        error: The exception; those it was raised from, and those in a group, are cleaned too.
    """
    seen: set[int] = set()
    left: list[BaseException | None] = [error]
    while left:
        one = left.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        traceback.clear_frames(one.__traceback__)
        left += [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            left += one.exceptions


def without(value: Any, secrets: Collection[str]) -> Any:
    """Copy plain data with the secrets taken out of its texts; what holds none stays as it is."""
    clean = value
    if isinstance(value, str):
        for secret in secrets:
            if len(secret) >= SHORTEST_SECRET:
                clean = clean.replace(secret, "[key]")
    elif isinstance(value, bytes | bytearray):
        text = value.decode("latin-1")
        clean = without(text, secrets).encode("latin-1")
    elif isinstance(value, Mapping):
        clean = {without(name, secrets): without(one, secrets) for name, one in value.items()}
    elif isinstance(value, list | tuple):
        members = [without(one, secrets) for one in value]
        # A named tuple (aiohttp puts one into its errors) is made in another way.
        clean = getattr(type(value), "_make", type(value))(members)
    return value if clean == value else clean
