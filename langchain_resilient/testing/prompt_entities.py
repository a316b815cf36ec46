"""The numbers, names and quoted words in a prompt, with which tools and schemas are filled in."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

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
class PromptEntities:
    """What a prompt mentions; each entity is handed out once, in the order of the text.

    Attributes:
        text: The prompt.

    Example:
        ```python
        entities = PromptEntities("Add 3 and 4")
        entities.number(), entities.number()  # (3, 4)
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
        places: list[str] = []
        for group in _PLACES.findall(self.text):
            places += [name.rstrip(".") for name in re.findall(_NAME, group)]
        return list(dict.fromkeys(places))

    @cached_property
    def names(self) -> list[str]:
        """What is quoted, named or capitalised inside a sentence, best first."""
        likely = [*self.quoted, *_NAMED.findall(self.text), *self.places]
        return list(dict.fromkeys([*likely, *_CAPITALISED.findall(self.text)]))

    def mentions(self, word: str) -> bool:
        """Tell whether the prompt contains a word, whatever its case."""
        return bool(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", self.text, re.IGNORECASE))

    def denies(self, word: str) -> bool:
        """Tell whether the prompt asks to leave something out: "no punchline"."""
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
            shape: Its JSON schema `format`; addresses and dates are found by their form.
        """
        for word, pattern in (("email", _EMAIL), ("url", _URL), ("uri", _URL), ("date", _DATE)):
            if word in f"{wanted} {shape}".lower():
                match = pattern.search(self.text)
                return match[0] if match else None
        value = r"(?: is| of| to|:|=) ?[\"'“]?([^\s,.;\"'”]+)"
        stated = re.search(rf"\b{re.escape(wanted)}\b{value}", self.text, re.IGNORECASE)
        if stated and stated[1].lower() not in {"a", "an", "the"}:
            return stated[1]
        return self._next("name", self.names)

    def _next(self, kind: str, values: Sequence[T]) -> T | None:
        index = self._taken.get(kind, 0)
        self._taken[kind] = index + 1
        return values[index] if index < len(values) else None
