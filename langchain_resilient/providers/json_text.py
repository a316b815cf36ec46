"""Reads JSON, and what is nearly JSON: of servers that build it by hand, or cut characters in two.

A chunk that no strict parser takes may still hold a part of an answer, so it is read as far as that
can be done without guessing: every rule here has one reading only. What is cut short has none.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json

from langchain_resilient.providers.errors import AnswerError

if TYPE_CHECKING:
    from collections.abc import Iterator


MAX_JSON_VALUES = 1_000_000
"""Objects and lists in one body or event: each of two bytes can take 200 bytes of memory."""

MAX_LENIENT_BYTES = 4 * MAX_JSON_VALUES
"""Bytes from which on they are counted, and only strict JSON is read."""

MAX_DEPTH = 200
"""How deep objects and lists may be nested: jiter's own limit, and about as deep as pydantic writes
a message that holds them."""

REPLACEMENT = "\ufffd"
"""Stands for a character of which only a part came."""

_LABEL = re.compile(r"(?:[\s\ufeff\x00]*data:)+", re.IGNORECASE)
"""A second `data:` inside the data, as relays write it."""

_PADDING = "\ufeff\x00 \t\r\n"

_TOKEN = re.compile(
    r"""
    (?P<space> [\s\x00\ufeff]+ )
    | (?P<string> "[^"\\]*(?:\\.[^"\\]*)*" | '[^'\\]*(?:\\.[^'\\]*)*' )
    | (?P<number> -?\d[\d.eE+-]* )
    | (?P<word> [+-]?[A-Za-z]+ )
    | (?P<mark> [][{}:,] )
    """,
    re.VERBOSE | re.DOTALL,
)

_WORDS = {
    "null": "null", "none": "null", "undefined": "null",
    "true": "true", "false": "false",
    "nan": "NaN", "inf": "Infinity", "infinity": "Infinity",
    "-nan": "NaN", "-inf": "-Infinity", "-infinity": "-Infinity",
    "+inf": "Infinity", "+infinity": "Infinity",
}  # fmt: skip

_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|U00[01][0-9a-fA-F]{5}|x[0-9a-fA-F]{2}|.)|\"", re.DOTALL)


def parse_json(data: bytes) -> Any:
    """Decode strict JSON.

    Raises:
        AnswerError: If it would take too much memory.
        ValueError: If it is none, or nested more than `MAX_DEPTH` deep.
    """
    if len(data) >= MAX_LENIENT_BYTES and data.count(b"{") + data.count(b"[") > MAX_JSON_VALUES:
        message = f"the answer holds more than {MAX_JSON_VALUES} objects and lists"
        raise AnswerError(message, status_code=200)
    return from_json(data)


def parse_leniently(data: bytes) -> Any:
    r"""Read JSON with the usual faults.

    These are: bytes that are no UTF-8 (each becomes U+FFFD), half a surrogate pair (which stays in
    the string, see `SurrogateJoiner`), raw control characters in strings, unknown escapes, commas
    before a closing bracket, Python's notation (single quotes, `None`, `True`), `-inf` and its
    like, a byte-order mark or NUL around it, and a repeated `data:` before it.

    Args:
        data: What a strict parser refused.

    Raises:
        ValueError: If it cannot be read; it may be cut short, nested more than `MAX_DEPTH` deep, or
            be something else.

    Example:
        ```python
        parse_leniently(b"{'text': 'a\tb', 'n': -inf,}")  # {'text': 'a\tb', 'n': -inf}
        ```
    """
    text = data.decode("utf-8", "replace")
    if match := _LABEL.match(text):
        text = text[match.end() :]
    text = text.strip(_PADDING).removesuffix(",")
    try:
        try:
            value = json.loads(text, strict=False)
        except ValueError:
            value = json.loads("".join(_strict_tokens(text)), strict=False)
        if not _is_nested_deeper(value, MAX_DEPTH):
            return value
    except RecursionError:
        pass
    msg = "nested too deep"
    raise ValueError(msg)


def _is_nested_deeper(value: Any, most: int) -> bool:
    level = [value]
    for _ in range(most + 1):
        level = [v for v in level if isinstance(v, dict | list)]
        if not level:
            return False
        level = [m for v in level for m in (v.values() if isinstance(v, dict) else v)]
    return True


def _strict_tokens(text: str) -> Iterator[str]:
    """Write each token as JSON has it; a comma waits until it is known that something follows."""
    at, comma = 0, ""
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            msg = f"no JSON at character {at}"
            raise ValueError(msg)
        at, piece = match.end(), match[0]
        if match["space"]:
            continue
        if piece == "," and not comma:
            comma = piece
            continue
        if piece in "]}":
            comma = ""
        written = piece
        if match["string"]:
            written = _strict_string(piece)
        elif match["word"]:
            written = _WORDS.get(piece.lower(), piece)
        yield comma
        yield written
        comma = ""
    yield comma


def _strict_string(text: str) -> str:
    """Write a string with JSON's quotes and escapes; unknown escapes stand for themselves."""

    def escape(match: re.Match[str]) -> str:
        kind = match[1]
        if kind is None:  # a quote inside single quotes
            return '\\"'
        if kind[0] == "x" and len(kind) == 3:  # noqa: PLR2004  # \x and two digits
            return f"\\u00{kind[1:]}"
        if kind[0] == "U" and len(kind) > 1:
            return json.dumps(chr(min(int(kind[1:], 16), 0x10FFFF)))[1:-1]
        if len(kind) > 1 or kind in '"\\/bfnrt':
            return match[0]
        return "'" if kind == "'" else "\\\\" + kind

    return f'"{_ESCAPE.sub(escape, text[1:-1])}"'


_HIGH = re.compile("[\ud800-\udbff]$")
_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_HALF = re.compile("[\ud800-\udfff]")


def join_surrogates(text: str) -> str:
    r"""Join the halves of characters in a text; a half alone becomes U+FFFD.

    Example:
        ```python
        join_surrogates("\ud83d\ude00 \ud83d")  # '😀 \ufffd'
        ```
    """
    if not _HALF.search(text):
        return text
    return _HALF.sub(REPLACEMENT, _PAIR.sub(_joined, text))


def _joined(pair: re.Match[str]) -> str:
    return pair[0].encode("utf-16", "surrogatepass").decode("utf-16")


class SurrogateJoiner:
    """Joins characters of a stream that a server split over two chunks.

    A first half at the end of a text is held back until the next piece of the same text brings the
    second half; if that does not come, U+FFFD stands for it.

    Attributes:
        halves: What is held back, by the place of the text in a chunk.
    """

    __slots__ = ("halves",)

    def __init__(self) -> None:
        self.halves: dict[tuple[Any, ...], str] = {}

    def join(self, chunk: Any) -> Any:
        """Return a chunk with whole characters only."""
        if not isinstance(chunk, dict) or not isinstance(chunk.get("choices"), list):
            return _walk(chunk, (), None)
        choices = [self._choice(choice) for choice in chunk["choices"]]
        rest = {k: _walk(v, (), None) for k, v in chunk.items() if k != "choices"}
        return {**rest, "choices": choices}

    def _choice(self, choice: Any) -> Any:
        if not isinstance(choice, dict):
            return _walk(choice, (), None)
        index = choice.get("index") or 0
        place = (index if isinstance(index, int | float) else 0,)
        streamed = {"delta", "text"}
        joined = {
            str(k): _walk(v, (*place, k), self.halves if k in streamed else None)
            for k, v in choice.items()
        }
        if choice.get("finish_reason"):
            for left in [key for key in self.halves if key[0] == place[0]]:
                del self.halves[left]
                _put(joined, left[1:])
        return joined

    def rest(self) -> dict[str, Any] | None:
        """Make the chunk of what is still held back at the end of the stream; None for nothing."""
        choices = []
        for place in list(self.halves):
            choice: dict[str, Any] = {"index": place[0]}
            del self.halves[place]
            _put(choice, place[1:])
            choices.append(choice)
        return {"choices": choices} if choices else None


def _walk(value: Any, place: tuple[Any, ...], halves: dict[tuple[Any, ...], str] | None) -> Any:
    """Copy a value with whole characters in all its strings."""
    if isinstance(value, str):
        return join_surrogates(value) if halves is None else _piece(value, place, halves)
    if isinstance(value, dict):
        return {
            join_surrogates(str(k)): _walk(v, (*place, k), None if k in _NAMES else halves)
            for k, v in value.items()
        }
    if isinstance(value, list):
        return [_walk(v, (*place, _index(v, n)), halves) for n, v in enumerate(value)]
    return value


_NAMES = frozenset({"role", "id", "type", "name", "format", "signature"})
"""Strings of a delta that are no pieces of a longer text."""


def _index(value: Any, number: int) -> int:
    index = value.get("index") if isinstance(value, dict) else None
    return index if isinstance(index, int) else number


def _piece(text: str, place: tuple[Any, ...], halves: dict[tuple[Any, ...], str]) -> str:
    text = halves.pop(place, "") + text
    if _HIGH.search(text):
        halves[place] = text[-1]
        text = text[:-1]
    return join_surrogates(text)


def _put(choice: dict[str, Any], place: tuple[Any, ...]) -> None:
    """Write U+FFFD for a half that stayed alone, before whatever the text has there."""
    spot: Any = choice
    for number, key in enumerate(place[:-1]):
        nested: Any = [] if isinstance(place[number + 1], int) else {}
        if isinstance(key, int):
            match = [v for n, v in enumerate(spot) if _index(v, n) == key]
            if not match:
                match = [{"index": key}]
                spot.extend(match)
            spot = match[0]
        else:
            if not isinstance(spot.get(key), type(nested)):
                spot[key] = nested
            spot = spot[key]
    if isinstance(spot, dict):
        spot[place[-1]] = REPLACEMENT + str(spot.get(place[-1]) or "")
