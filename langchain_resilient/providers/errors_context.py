"""Reads the numbers of an error that says a request is too long for its model's context window."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

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
