"""Clues: the numbers, names and quoted words in a prompt that a tool or a schema may want."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T")

_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?![\w])")
_QUOTED = re.compile(
    r"(?<!\w)'((?:[^'\n]|(?<=\w)'(?=\w)){1,200})'(?!\w)|\"([^\"\n]{1,200})\"|`([^`\n]{1,200})`"
    r"|“([^”\n]{1,200})”|「([^」\n]{1,200})」"
)
_NAME = r"[A-Z][\w.-]*(?: [A-Z][\w.-]*)*(?:, ?[A-Z]{2}\b)?"
_PLACES = re.compile(
    r"\b(?:in|at|for|of|from|to|near|about|between) "
    rf"((?:{_NAME})(?:(?:, and |, | and | or )(?:in )?{_NAME})*)"
)
_NAMED = re.compile(r"\b(?:named|called|for user|user) ([A-Z][\w-]*(?: [A-Z][\w-]*)*)")
_CAPITALISED = re.compile(r"(?<=[a-z0-9,;:)] )[A-Z][\w-]*(?: [A-Z][\w-]*)*")
_EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_URL = re.compile(r"https?://[^\s'\"<>)]+")
_DATE = re.compile(r"\b\d{4}-\d{2}-\d{2}(?:T[\d:.]+(?:Z|[+-]\d{2}:?\d{2})?)?")


@dataclass
class Clues:
    """What stands in a prompt, each clue handed out once and in the order it was written.

    Attributes:
        text: The prompt.

    Example:
        ```python
        clues = Clues("Add 3 and 4")
        clues.number(), clues.number()  # (3, 4)
        ```
    """

    text: str
    _taken: dict[str, int] = field(default_factory=dict, repr=False)

    @cached_property
    def numbers(self) -> list[float]:
        """Every number, in order."""
        return [float(n) if "." in n else int(n) for n in _NUMBER.findall(self.text)]

    @cached_property
    def quoted(self) -> list[str]:
        """Everything between quotation marks, in order."""
        return [next(filter(None, groups)) for groups in _QUOTED.findall(self.text)]

    @cached_property
    def places(self) -> list[str]:
        """The names after `in`, `for`, `about`, ...: "Paris and San Francisco, CA" makes two."""
        found: list[str] = []
        for group in _PLACES.findall(self.text):
            found += [name.rstrip(".") for name in re.findall(_NAME, group)]
        return list(dict.fromkeys(found))

    @cached_property
    def names(self) -> list[str]:
        """What is quoted, named or written with a capital inside a sentence, best first."""
        found = [*self.quoted, *_NAMED.findall(self.text), *self.places]
        return list(dict.fromkeys([*found, *_CAPITALISED.findall(self.text)]))

    def mentions(self, word: str) -> bool:
        """Tell whether a word stands in the prompt, whatever its case."""
        return bool(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", self.text, re.IGNORECASE))

    def denies(self, word: str) -> bool:
        """Tell whether the prompt says that it wants none of it: "no punchline"."""
        return bool(
            re.search(rf"\b(?:no|without|omit) {re.escape(word)}\b", self.text, re.IGNORECASE)
        )

    def number(self) -> float | None:
        """Take the next number, if one is left."""
        return self._next("number", self.numbers)

    def name(self, wanted: str, shape: str = "") -> str | None:
        """Take the next value for a string property, if the prompt has one.

        Args:
            wanted: The property's name.
            shape: Its JSON schema `format`; addresses and dates are looked for by their looks.
        """
        for word, looks in (("email", _EMAIL), ("url", _URL), ("uri", _URL), ("date", _DATE)):
            if word in f"{wanted} {shape}".lower():
                found = looks.search(self.text)
                return found[0] if found else None
        value = r"(?: is| of| to|:|=) ?[\"'“]?([^\s,.;\"'”]+)"
        stated = re.search(rf"\b{re.escape(wanted)}\b{value}", self.text, re.IGNORECASE)
        if stated and stated[1].lower() not in {"a", "an", "the"}:
            return stated[1]
        return self._next("name", self.names)

    def _next(self, kind: str, found: Sequence[T]) -> T | None:
        at = self._taken.get(kind, 0)
        self._taken[kind] = at + 1
        return found[at] if at < len(found) else None
