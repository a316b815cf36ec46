"""The JSON object in what a model says, without the prose, fences and thoughts around it."""

from __future__ import annotations

_THINKS, _THOUGHT = "<think>", "</think>"


class JSONText:
    r"""Passes on the first JSON object of a text that comes in pieces.

    It knows brackets and strings, and nothing else of JSON: whether it is valid, the reader says.

    Example:
        ```python
        text = JSONText()
        text.feed('Sure: ```json\n{"a": ')  # '{"a": '
        text.feed("1}\n``` Anything else?")  # '1}'
        ```
    """

    __slots__ = ("_before", "_depth", "_escaped", "_in_string", "_over")

    def __init__(self) -> None:
        self._before = ""
        self._depth = 0
        self._escaped = False
        self._in_string = False
        self._over = False

    def feed(self, piece: str) -> str:
        """Take a piece, give what of it belongs to the object."""
        if self._over:
            return ""
        if not self._depth:
            piece = self._beginning(piece)
        return piece[: self._end(piece)]

    def rest(self) -> str:
        """At the end: all that was said if it held no object, for the reader to complain about."""
        said, self._before = self._before, ""
        return "" if self._depth or self._over else said

    def _beginning(self, piece: str) -> str:
        self._before += piece
        _, closed, after = self._before.rpartition(_THOUGHT)
        if not closed and self._before.lstrip().startswith(_THINKS):
            return ""
        return after[after.find("{") :] if "{" in after else ""

    def _end(self, piece: str) -> int:
        """Find where the object ends; the length of the piece if it does not end in it."""
        for place, letter in enumerate(piece):
            if self._escaped:
                self._escaped = False
            elif self._in_string:
                self._escaped = letter == "\\"
                self._in_string = letter != '"'
            elif letter == '"':
                self._in_string = True
            elif letter in "{[":
                self._depth += 1
            elif letter in "}]":
                self._depth -= 1
                if not self._depth:
                    self._over = True
                    return place + 1
        return len(piece)
