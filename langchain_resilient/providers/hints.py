"""What a server says about when to come back.

Read on errors only: Together sends `retry-after` on its 200s as well. The order is the SDKs' own
(`x-should-retry`, `retry-after-ms`, `retry-after`), then the providers' rate-limit resets, then the
sentence in the message.
"""

from __future__ import annotations

import re
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNIT = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SENTENCE = re.compile(
    r"(?:try again|retry)[^.\d]{0,12}((?:\d+(?:\.\d+)?(?:ms|s|m|h))+|\d+ seconds?)", re.IGNORECASE
)


def retry_after(headers: Mapping[str, str], message: str = "") -> float | None:
    """Seconds to wait before the same request may pass; None if the server does not say.

    Args:
        headers: Of the error response; names in any case if the mapping allows it.
        message: The error's text, which at OpenAI ends "Please try again in 6ms."
    """
    for name, read in (
        ("retry-after-ms", _milliseconds),
        ("retry-after", seconds),
        ("x-ratelimit-reset", seconds),
    ):
        value = headers.get(name)
        if value is not None:
            found = _date(value, headers) if name == "retry-after" else None
            found = read(value) if found is None else found
            if found is not None:
                return found
    for bucket in ("requests", "tokens"):
        # Of OpenAI's two buckets only an empty one is a reason to wait.
        if headers.get(f"x-ratelimit-remaining-{bucket}") in ("0", "-1"):
            found = seconds(headers.get(f"x-ratelimit-reset-{bucket}", ""))
            if found is not None:
                return found
    said = _SENTENCE.search(message)
    return seconds(said[1].replace(" seconds", "s").replace(" second", "s")) if said else None


def should_retry(headers: Mapping[str, str]) -> bool | None:
    """Read `x-should-retry`; None if it is absent or odd."""
    return {"true": True, "false": False}.get(str(headers.get("x-should-retry", "")).lower())


def seconds(value: str) -> float | None:
    """Read "20", "1.5" or a Go duration such as "6ms", "1m7.6s"; None if negative or garbage."""
    text = value.strip().lower()
    try:
        found = float(text)
    except ValueError:
        parts = _DURATION.findall(text)
        if not parts or "".join(n + u for n, u in parts) != text:
            return None
        found = sum(float(n) * _UNIT[u] for n, u in parts)
    # Above a year it is a point in time (OpenRouter sends one), or nonsense.
    return found if 0 <= found < _YEAR else None


_YEAR = 365 * 86400.0


def _milliseconds(value: str) -> float | None:
    found = seconds(value)
    return None if found is None else found / 1000


def _date(value: str, headers: Mapping[str, str]) -> float | None:
    """Read an HTTP date against the server's own clock: ours may be wrong (RFC 9110, 10.2.3)."""
    try:
        then = parsedate_to_datetime(value).timestamp()
    except (TypeError, ValueError):
        return None
    try:
        now = parsedate_to_datetime(headers["date"]).timestamp()
    except (KeyError, TypeError, ValueError):
        now = time.time()
    return max(0.0, then - now)
