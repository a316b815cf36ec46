"""Takes secrets out of what a provider raised or answered, before anybody logs or keeps it."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Collection

MIN_SECRET_LENGTH = 8
"""Characters; what is shorter ("none", "EMPTY") guards nothing and stands in any text."""

_OF_THE_BODY = ("content-length", "content-encoding", "transfer-encoding")


def redact_error(error: BaseException, secrets: Collection[str]) -> None:
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
        return redact(value, secrets)
    if hasattr(value, "_replace"):  # aiohttp's request, a named tuple
        return redact(value._replace(headers=dict(value.headers)), secrets)
    plain_headers = {n: v for n, v in value.headers.items() if n.lower() not in _OF_THE_BODY}
    headers, make = redact(plain_headers, secrets), type(value)
    if not hasattr(value, "status_code"):
        return make(value.method, redact(str(value.url), secrets), headers=headers)
    try:
        body = redact(value.text, secrets).encode()
    except Exception:  # noqa: BLE001  # it was not read, or is no text
        body = b""
    asked = _clean(value.request, secrets)
    return make(value.status_code, headers=headers, content=body, request=asked)


def redact(value: Any, secrets: Collection[str]) -> Any:
    """Copy plain data with the secrets taken out of its texts; what holds none stays as it is."""
    clean = value
    if isinstance(value, str):
        for secret in secrets:
            if len(secret) >= MIN_SECRET_LENGTH:
                clean = clean.replace(secret, "[key]")
    elif isinstance(value, bytes | bytearray):
        text = value.decode("latin-1")
        clean = redact(text, secrets).encode("latin-1")
    elif isinstance(value, Mapping):
        clean = {redact(name, secrets): redact(field, secrets) for name, field in value.items()}
    elif isinstance(value, list | tuple):
        members = [redact(member, secrets) for member in value]
        # A named tuple (aiohttp puts one into its errors) is made in another way.
        clean = getattr(type(value), "_make", type(value))(members)
    return value if clean == value else clean


def clear_locals(error: BaseException) -> None:
    """Clear the local variables of the frames that an exception has left.

    Reports of crashes show them, keys in the SDKs' among them; and they would keep whole answers
    alive for as long as a receipt holds the exception. The lines of its traceback stay.

    Args:
        error: The exception; those it was raised from, and those in a group, are cleaned too.
    """
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        current = pending.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        traceback.clear_frames(current.__traceback__)
        pending += [current.__cause__, current.__context__]
        if isinstance(current, BaseExceptionGroup):
            pending += current.exceptions
