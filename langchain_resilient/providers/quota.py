"""Read the rate limits that OpenAI, and many servers of its API, tell with every answer.

The headers are `x-ratelimit-{limit,remaining,reset}-{requests,tokens}`
(https://platform.openai.com/docs/guides/rate-limits). Together's go without the last word and are
not to be trusted on answers: they are left alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_resilient.providers.hints import seconds
from langchain_resilient.quota import Level, Quota

if TYPE_CHECKING:
    from collections.abc import Mapping

_MINUTE = 60.0

_LONGEST_WINDOW = 300.0
"""Seconds; a limit that takes longer to fill up is a day's or an hour's: no matter of pace."""


def quota(headers: Mapping[str, str]) -> Quota | None:
    """Read what an answer says of its rate limits; None if it says nothing to go by.

    Args:
        headers: Of the response; names in lower case, or in any if the mapping allows it.

    Example:
        ```python
        quota({"x-ratelimit-limit-requests": "600", "x-ratelimit-remaining-requests": "599"})
        ```
    """
    requests, tokens = _level(headers, "requests"), _level(headers, "tokens")
    return Quota(requests, tokens) if requests or tokens else None


def _level(headers: Mapping[str, str], kind: str) -> Level | None:
    limit = _number(headers.get(f"x-ratelimit-limit-{kind}", ""))
    remaining = _number(headers.get(f"x-ratelimit-remaining-{kind}", ""))
    if not limit or remaining is None:
        return None
    reset = seconds(headers.get(f"x-ratelimit-reset-{kind}", ""))
    if reset is None:
        # Together tells a limit of its tokens, which its answers then do not keep to.
        return None
    # The bucket is full again after `reset`: that tells its window and its size.
    if remaining < limit and reset * limit / (limit - remaining) > _LONGEST_WINDOW:
        return None
    return Level(limit, remaining, min(limit, max(1.0, remaining + reset * limit / _MINUTE)))


def _number(text: str) -> float | None:
    try:
        found = float(text)
    except ValueError:
        return None
    return found if 0 <= found < float("inf") else None
