"""What is run: the provider's limits, the work, and who does it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, Literal

from langchain_resilient.testing.answer_generator import max_answer_tokens, prompt_tokens

if TYPE_CHECKING:
    from langchain_resilient.testing.admission import Window

How = Literal["learned", "configured", "plain"]
Sizes = Literal["short", "mixed", "capped"]

WORKERS = 64
FASTEST, SLOWEST = 0.5, 1.5
"""Seconds that a provider takes for an answer."""


@dataclass(frozen=True)
class Limits:
    """What a provider lets in.

    Attributes:
        requests: A minute.
        tokens: A minute.
        window: Whether a minute's worth or a second's may come at once.
        others: The share of it that others use up.
    """

    requests: float = 600
    tokens: float = 200_000
    window: Window = "minute"
    others: float = 0.0


@dataclass(frozen=True)
class Row:
    """One run.

    Attributes:
        limits: Of each target of the chain.
        how: `"learned"` and `"configured"` are ours; `"plain"` is a semaphore with SDK retries.
        sizes: `"short"` prompts are limited by requests a minute, `"mixed"` ones (10 to 4,000
            tokens) by tokens; `"capped"` ones are mixed and half of them set `max_tokens`.
        requests: How many.
        spread: The model's.
        equal: Whether its targets are equal, as of `order="balanced"`: then all limits are used
            from the beginning; else the first target's savings are spent before.
        seed: Of the work and of all chance.
    """

    limits: tuple[Limits, ...] = (Limits(),)
    how: How = "learned"
    sizes: Sizes = "short"
    requests: int = 2500
    spread: bool = True
    equal: bool = False
    seed: int = 0

    @property
    def most_refused(self) -> float:
        """The share of sends that may be refused with a 429."""
        return 0.05 if any(limits.others for limits in self.limits) else 0.01

    def work(self) -> list[dict[str, object]]:
        """Make the prompts: what `ainvoke` and `create` take."""
        random = Random(self.seed)
        return [self._item(number, random) for number in range(self.requests)]

    def _item(self, number: int, random: Random) -> dict[str, object]:
        tokens = 20 if self.sizes == "short" else min(4000, int(random.lognormvariate(6.2, 0.9)))
        content = f"{number} {'the ' * tokens}"[: 4 * max(tokens, 3)]
        item: dict[str, object] = {"messages": [{"role": "user", "content": content}]}
        if self.sizes == "capped" and random.random() < 0.5:
            item["max_tokens"] = random.choice((200, 500, 1000))
        return item


def ideal(row: Row) -> float:
    """Seconds that the work takes at least: a fluid that flows as fast as all limits let it.

    All buckets begin full, and are empty at the end. What is let in last takes `FASTEST` seconds. A
    limit of requests that the user has stated is kept in every single minute, whatever was saved up
    at the provider: the last requests wait a minute for each time that it is used up before them.
    """
    costs = [max(prompt_tokens(w), max_answer_tokens(w) or 0) for w in row.work()]
    waits = [0.0]
    for kind, amount in (("requests", len(costs)), ("tokens", sum(costs))):
        rates = [getattr(x, kind) / 60 for x in row.limits]
        saved = sum(r * (60 if x.window == "minute" else 1) for r, x in _zip(rates, row.limits))
        flow = sum(r * (1 - x.others) for r, x in _zip(rates, row.limits))
        waits.append((amount - saved) / flow)
    if row.how == "configured":
        a_minute = sum(limits.requests for limits in row.limits)
        waits.append(60 * (math.ceil(len(costs) / a_minute) - 1))
    return max(waits) + FASTEST


def _zip(rates: list[float], limits: tuple[Limits, ...]) -> zip[tuple[float, Limits]]:
    return zip(rates, limits, strict=True)


def rows(requests: int = 2500, seed: int = 0) -> list[Row]:
    """All rows of the table; those that are to be compared stand together."""
    results = []
    for window in ("minute", "second"):
        for others in (0.0, 0.3):
            limits = (Limits(window=window, others=others),)
            for sizes in ("short", "mixed", "capped"):
                row = Row(limits, "learned", sizes, requests, seed=seed)
                results += [row, replace(row, how="configured")]
                if sizes != "capped":
                    results.append(replace(row, how="plain"))
    two = (Limits(), Limits(300, 100_000, window="second"))
    for spread, equal in ((True, True), (True, False), (False, False)):
        results.append(Row(two, "learned", "mixed", requests, spread, equal, seed))
    return results
