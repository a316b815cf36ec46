"""Makes values fit to be written as JSON: half of a surrogate pair is what scraped text holds."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from math import isfinite
from typing import Any

from pydantic_core import from_json, to_json

from langchain_resilient import notices

_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_SURROGATE = re.compile("[\ud800-\udfff]")

REPLACEMENT = "\ufffd"
"""Stands for half of a surrogate pair, which UTF-8 cannot say: Unicode's own character for this."""


def encode(body: Mapping[str, Any]) -> bytes:
    """Write a request's body as JSON; mend what JSON cannot hold only where that fails.

    Raises:
        ValueError: If it holds an object that is nothing in JSON; names its type.
    """
    try:
        return to_json(body, inf_nan_mode="null")
    except ValueError:
        return to_json(writable(body), inf_nan_mode="null")


def json_text(value: Mapping[str, Any], *, separators: tuple[str, str] | None = None) -> str:
    """Write the arguments of a call as the text that a request holds, as LangChain does.

    Args:
        value: What may hold halves of surrogate pairs, NaN, dates, ...: they are mended.
        separators: As of `json.dumps`.

    Raises:
        ValueError: If it holds an object that is nothing in JSON; names its type.

    Example:
        ```python
        json_text({"city": "Zürich"})  # '{"city": "Zürich"}'
        ```
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=separators)
    except (TypeError, ValueError):
        text = json.dumps(from_json(encode(value)), ensure_ascii=False, separators=separators)
    return writable_text(text)


def writable_text(text: str) -> str:
    """Join the surrogate pairs of a text, and replace what is only half of one, with a warning.

    Example:
        ```python
        writable_text("cut" + chr(0xD83D))  # "cut", and U+FFFD
        ```
    """
    if not _SURROGATE.search(text):
        return text
    joined = _PAIR.sub(_join, text)
    mended = _SURROGATE.sub(REPLACEMENT, joined)
    if mended != joined:
        _warn_replaced()
    return mended


def writable(value: Any) -> Any:
    """Copy plain data so that it can be written as JSON; nothing in the value is changed."""
    if isinstance(value, str):
        return writable_text(value)
    if isinstance(value, bytes | bytearray):
        return value.decode("utf-8", "replace")
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, Mapping):
        return {writable(name): writable(field) for name, field in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [writable(member) for member in value]
    return value


def _join(pair: re.Match[str]) -> str:
    return pair[0].encode("utf-16-le", "surrogatepass").decode("utf-16-le")


@cache
def _warn_replaced() -> None:
    """Once per process: scraped texts come in thousands."""
    msg = "a prompt holds half of a surrogate pair, which cannot be sent: U+FFFD is sent for it"
    notices.warn(msg, UnicodeWarning)
