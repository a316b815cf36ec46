"""Patterns of targets: `"openai:gpt-6-luna"`, `"openai:gpt-*"`, `"together:*"`, `"*"`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import TypeVar

T = TypeVar("T")


@lru_cache(maxsize=1024)
def _expression(pattern: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part) for part in pattern.split("*")), re.DOTALL)


def matches(pattern: str, target: str) -> bool:
    """Tell whether a target fits a pattern, in which `*` stands for any text.

    Example:
        ```python
        matches("openai:*", "openai:gpt-6-luna")  # True
        ```
    """
    return pattern in ("*", target) or _expression(pattern).fullmatch(target) is not None


def most_specific(patterns: Iterable[str], target: str) -> str | None:
    """Return the pattern that fits best: the target itself, else the longest."""
    fitting = [pattern for pattern in patterns if matches(pattern, target)]
    return max(fitting, key=lambda p: (p == target, len(p.replace("*", ""))), default=None)


def checked_pattern(pattern: str) -> str:
    """Return a pattern, or explain what is wrong with it.

    Raises:
        ValueError: If it can match no target.
    """
    dialect, colon, model = pattern.partition(":")
    if pattern == "*" or (
        colon and model and (dialect in {"openai", "together"} or "*" in dialect)
    ):
        return pattern
    msg = (
        f'{pattern!r} matches no target: write "openai:MODEL" or "together:MODEL", where * stands '
        'for any text, or "*" for everything'
    )
    raise ValueError(msg)
