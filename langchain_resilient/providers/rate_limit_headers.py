"""Reads retry hints from error responses, and rate limits from the headers of every answer.

The headers are `x-ratelimit-{limit,remaining,reset}-{requests,tokens}`
(https://platform.openai.com/docs/guides/rate-limits). Together's go without the last word and are
not to be trusted on answers: they are left alone.
"""

from __future__ import annotations

import re
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from langchain_resilient.exchange import RateLimitLevel, RateLimitStatus

if TYPE_CHECKING:
    from collections.abc import Mapping


_UNIT = "milliseconds?|ms|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d"
_PIECE = re.compile(rf"(\d+(?:\.\d+)?) ?({_UNIT})(?![a-z])")

_SENTENCE = re.compile(
    rf"(?:try again|retry)[^.\d]{{0,30}}((?:\d+(?:\.\d+)? ?(?:{_UNIT})(?![a-z]) ?)+)", re.IGNORECASE
)

_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_YEAR = 365 * 86400.0

_MAX_HINT_LENGTH = 64
"""Characters of a hint; on more, the expressions here would spend seconds."""

_REMAINING = "x-ratelimit-remaining-"


def retry_after(headers: Mapping[str, str], message: str = "") -> float | None:
    """Seconds to wait before the same request may pass; None if the server does not say.

    Args:
        headers: Of the error response; names in lower case, or in any if the mapping allows it.
        message: The error's text, which at OpenAI ends "Please try again in 6ms."
    """
    milliseconds = parse_seconds(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return milliseconds / 1000
    for name in ("retry-after", "x-ratelimit-reset"):
        seconds = _wait(headers.get(name, ""), headers)
        if seconds is not None:
            return seconds
    return _empty_buckets(headers) or _sentence(message)


def should_retry(headers: Mapping[str, str]) -> bool | None:
    """Read `x-should-retry`; None if it is absent or odd."""
    return {"true": True, "false": False}.get(headers.get("x-should-retry", "").lower())


def parse_seconds(value: str) -> float | None:
    """Read "20", "1.5", a Go duration such as "1m7.6s", or "8 seconds"; None if it is none.

    Above a year it is no duration.
    """
    text = value.strip().lower()
    if len(text) > _MAX_HINT_LENGTH:
        return None
    try:
        pieces = float(text)
    except ValueError:
        if not text or _PIECE.sub("", text).strip():
            return None
        pieces = sum(float(n) * _scale(unit) for n, unit in _PIECE.findall(text))
    return pieces if 0 <= pieces < _YEAR else None


def _scale(unit: str) -> float:
    return 0.001 if unit.startswith(("ms", "mil")) else _SECONDS[unit[0]]


def _wait(value: str, headers: Mapping[str, str]) -> float | None:
    """Read a duration or a point in time: an HTTP date, or seconds or milliseconds since 1970.

    A server with a clock dates its answers (RFC 9110, 6.6.1); without a date a point in time says
    nothing.
    """
    moment = parse_seconds(value)
    if moment is not None:
        return moment
    then = _date(value) or _epoch(value)
    sent = _date(headers.get("date", ""))
    if then is None or sent is None:
        return None
    # By the server's own clock alone: ours may be wrong by hours (RFC 9110, 10.2.3).
    wait = then - sent
    return max(0.0, wait) if wait < _YEAR else None


def _date(value: str) -> float | None:
    try:
        moment = parsedate_to_datetime(value)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (TypeError, ValueError, IndexError, OverflowError):
        return None


def _epoch(value: str) -> float | None:
    """OpenRouter's resets are milliseconds since 1970, others' are seconds."""
    digits = value.strip().partition(".")[0]
    if not digits.isdecimal():
        return None
    scale = {10: 1.0, 13: 0.001}.get(len(digits))
    return scale * int(digits) or None if scale else None


def _empty_buckets(headers: Mapping[str, str]) -> float | None:
    """When the last of the empty buckets is full again; only those are a reason to wait."""
    names = (name.lower() for name in headers if name.lower().startswith(_REMAINING))
    buckets = (name.removeprefix(_REMAINING) for name in names if _is_empty(headers[name]))
    resets = (parse_seconds(headers.get(f"x-ratelimit-reset-{bucket}", "")) for bucket in buckets)
    return max((reset for reset in resets if reset is not None), default=None)


def _is_empty(remaining: str) -> bool:
    try:
        return float(remaining) <= 0
    except ValueError:
        return False


def _sentence(message: str) -> float | None:
    match = _SENTENCE.search(message)
    return parse_seconds(match[1]) if match else None


_MINUTE = 60.0

_MAX_WINDOW_SECONDS = 300.0
"""Seconds; a limit that takes longer to fill up is a day's or an hour's: no matter of pace."""


def rate_limit_status(headers: Mapping[str, str]) -> RateLimitStatus | None:
    """Read what an answer says of its rate limits; None if it says nothing to go by.

    Args:
        headers: Of the response; names in lower case, or in any if the mapping allows it.

    Example:
        ```python
        rate_limit_status(
            {"x-ratelimit-limit-requests": "600", "x-ratelimit-remaining-requests": "599"}
        )
        ```
    """
    requests, tokens = _level(headers, "requests"), _level(headers, "tokens")
    return RateLimitStatus(requests, tokens) if requests or tokens else None


def _level(headers: Mapping[str, str], kind: str) -> RateLimitLevel | None:
    limit = _number(headers.get(f"x-ratelimit-limit-{kind}", ""))
    remaining = _number(headers.get(f"x-ratelimit-remaining-{kind}", ""))
    if not limit or remaining is None:
        return None
    reset = parse_seconds(headers.get(f"x-ratelimit-reset-{kind}", ""))
    if reset is None:
        # Together tells a limit of its tokens, which its answers then do not keep to.
        return None
    # The bucket is full again after `reset`: that tells its window and its size.
    if remaining < limit and reset * limit / (limit - remaining) > _MAX_WINDOW_SECONDS:
        return None
    # What remains is rounded down. A bucket of a whole minute tells the rest of a request, too.
    level = limit - reset * limit / _MINUTE
    if remaining < level < remaining + 1:
        remaining = level
    return RateLimitLevel(
        limit, remaining, min(limit, max(1.0, remaining + reset * limit / _MINUTE))
    )


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 0 <= number < float("inf") else None
