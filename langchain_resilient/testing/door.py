"""The door: what a provider refuses before it does anything.

A request is refused in this order, without taking a step of the script: an API key that is not
known (401), a body that is no JSON or names no model (400), a retired model (404), an invalid
request (400), one over the context window (400), one over a rate limit (429).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from langchain_resilient.testing.brain import longest_answer, prompt_tokens
from langchain_resilient.testing.patterns import matches, most_specific

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from langchain_resilient.testing.dialects.base import Call
    from langchain_resilient.testing.limits import Limit, Meters
    from langchain_resilient.testing.memory import Reading
    from langchain_resilient.testing.problems import Problem
    from langchain_resilient.testing.records import Seen

Refused = tuple["Problem", dict[str, str]]
"""A problem, and the headers that go with it."""

UNLIMITED: Meters = (None, None)
"""What the rate limits of a target without any stand at."""


@dataclass
class Rules:
    """What requests are refused for at the door. Mappings are replaced, never changed.

    Attributes:
        keys: The API keys that are let in; None lets in all, and none at all.
        retired: Patterns of models that are gone.
        windows: Context windows in tokens, by pattern.
        limits: Rate limits, by pattern.
    """

    keys: set[str] | None = None
    retired: tuple[str, ...] = ()
    windows: Mapping[str, int] = field(default_factory=dict)
    limits: Mapping[str, Limit] = field(default_factory=dict)


def refusal_at_door(
    rules: Rules, call: Call, reading: Reading, seen: Seen, token: str
) -> tuple[Refused | None, Meters]:
    """Let a request in, or say why not.

    Args:
        rules: What is refused.
        call: The request.
        reading: Its body, read.
        seen: When it came, and a digest of its key.
        token: Its API key.

    Returns:
        The refusal, if any, and what the rate limits stand at.
    """
    problem = next(_problems(rules, call, reading, token), None)
    if problem is not None:
        return (problem, {}), UNLIMITED
    pattern = most_specific(rules.limits, call.target) if rules.limits else None
    if pattern is None:
        return None, UNLIMITED
    denied, meters = rules.limits[pattern].admit(call, seen.key, seen.at)
    if denied is None:
        return None, meters
    dialect = call.dialect
    problem = dialect.problem(denied.kind, call, denied.details)
    hints = dict(dialect.ok_headers(*meters))
    hints.pop("retry-after", None)  # Together has one on successes, which says nothing here
    if denied.wait is not None:
        hints |= dialect.wait_headers(denied.wait)
    return (problem, hints), meters


def _problems(rules: Rules, call: Call, reading: Reading, token: str) -> Iterator[Problem]:
    dialect = call.dialect
    if rules.keys is not None and token not in rules.keys:
        kind = "401" if token else "401_missing"
        yield dialect.problem(kind, call, {"key": "sk-****"})
    if reading.unreadable:
        yield dialect.problem("400", call)
    if not call.model:
        missing = "you must provide a model parameter"
        yield replace(dialect.problem("400", call), message=missing)
    if any(matches(pattern, call.target) for pattern in rules.retired):
        yield dialect.problem("404", call)
    if reading.problem is not None:
        yield reading.problem
    window = most_specific(rules.windows, call.target) if rules.windows else None
    if window is not None:
        limit = rules.windows[window]
        tokens, wanted = prompt_tokens(call.body), longest_answer(call.body) or 0
        if tokens + wanted > limit:
            found = {"limit": limit, "tokens": tokens, "wanted": wanted}
            yield dialect.problem("context_too_long", call, found)
