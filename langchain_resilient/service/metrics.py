"""What `/metrics` tells: requests of clients, calls of the model, attempts at targets."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from langchain_resilient.observability.observer import CallDetails
    from langchain_resilient.observability.stats import Stats
    from langchain_resilient.receipt import Receipt

CONTENT_TYPE = CONTENT_TYPE_LATEST

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class Metrics:
    """Counts for Prometheus; an observer of the model (see `Observer`).

    All of it is counted and read in the event loop of the service, so plain dicts suffice; they
    become Prometheus's metrics when somebody asks. Its own counters cost a plain call a tenth of
    its time.

    Attributes:
        in_flight: Requests that are being answered.
        waiting: Requests that wait for their turn.
    """

    def __init__(self) -> None:
        self.in_flight = 0
        self.waiting = 0
        self._requests: Counter[tuple[str, str]] = Counter()
        self._seconds = _Times()
        self._calls: Counter[str] = Counter()
        self._attempts: Counter[tuple[str, str, str, str]] = Counter()
        self._first_text = _Times()
        self._tokens: Counter[tuple[str, str]] = Counter()
        self._lost = 0
        self._breaks: Counter[tuple[str, str]] = Counter()
        self._stats: Callable[[], Stats] | None = None
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def watch(self, stats: Callable[[], Stats]) -> None:
        """Tell the state of the targets too, as it is when somebody asks."""
        self._stats = stats

    def on_response(self, path: str, status: int, seconds: float) -> None:
        """Count one request of a client that has ended."""
        self._requests[path, str(status)] += 1
        self._seconds.add(path, seconds)

    def on_receipt(self, receipt: Receipt, *, call: CallDetails) -> None:
        """Count one finished call."""
        self._calls[call.end] += 1
        for attempt in receipt.attempts:
            fault = attempt.fault.kind.value if attempt.fault is not None else ""
            target = attempt.target
            self._attempts[target, attempt.kind.value, attempt.outcome.value, fault] += 1
            if attempt.first_text is not None:
                self._first_text.add(target, attempt.first_text - attempt.started)
            if attempt.input_tokens:
                self._tokens[target, "input"] += attempt.input_tokens
            if attempt.output_tokens:
                self._tokens[target, "output"] += attempt.output_tokens
        if receipt.lost_tokens:
            self._lost += receipt.lost_tokens
        for broken in receipt.breaks:
            self._breaks[broken.target, broken.action] += 1

    def page(self) -> bytes:
        """Write all of it in Prometheus's format."""
        page: bytes = generate_latest(self._registry)
        return page

    def describe(self) -> list[Any]:
        """Name nothing beforehand, so that registering reads no statistics."""
        return []

    def collect(self) -> Iterator[Any]:
        """Give all of it to Prometheus's client."""
        yield _counter(
            "requests", "Requests of clients.", self._requests, "path", "status"
        )  # fmt: skip
        yield self._seconds.metric("request_seconds", "From a request to the end of it.", "path")
        yield GaugeMetricFamily(
            "resilient_in_flight", "Requests that are being answered.", self.in_flight
        )
        yield GaugeMetricFamily(
            "resilient_waiting", "Requests that wait for their turn.", self.waiting
        )
        calls = {(end,): count for end, count in self._calls.items()}
        yield _counter("calls", "Calls of the model by their end.", calls, "end")
        yield _counter(
            "attempts", "Requests to targets.", self._attempts,
            "target", "kind", "outcome", "fault",
        )  # fmt: skip
        yield self._first_text.metric(
            "first_text_seconds", "From a request to a target to its first text.", "target"
        )
        yield _counter("tokens", "Tokens, losers' too.", self._tokens, "target", "direction")
        yield _counter("lost_tokens", "Tokens of attempts that did not win.", {(): self._lost})
        yield _counter(
            "stream_breaks", "Streams that died after some text.", self._breaks, "target", "action"
        )
        if self._stats is not None:
            yield from _targets(self._stats())


class _Times:
    """How long something took, by one label: counts in buckets, and the sum."""

    def __init__(self) -> None:
        self._series: dict[str, list[int]] = {}
        self._sums: dict[str, float] = {}

    def add(self, label: str, seconds: float) -> None:
        """Count one."""
        counts = self._series.get(label)
        if counts is None:
            counts = self._series[label] = [0] * (len(_SECONDS) + 1)
            self._sums[label] = 0.0
        counts[bisect_left(_SECONDS, seconds)] += 1
        self._sums[label] += seconds

    def metric(self, name: str, text: str, label: str) -> HistogramMetricFamily:
        """Give all of it to Prometheus's client, whose buckets count what is below them too."""
        family = HistogramMetricFamily(f"resilient_{name}", text, labels=[label])
        bounds = [*map(str, _SECONDS), "+Inf"]
        for value, counts in self._series.items():
            buckets = list(zip(bounds, accumulate(counts), strict=True))
            family.add_metric([value], buckets, self._sums[value])
        return family


def _counter(name: str, text: str, values: Any, *labels: str) -> CounterMetricFamily:
    family = CounterMetricFamily(f"resilient_{name}", text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _targets(stats: Stats) -> Iterator[GaugeMetricFamily]:
    """The state of each target."""
    health = GaugeMetricFamily(
        "resilient_target_health", "1 for the state that a target is in.",
        labels=["target", "health"],
    )  # fmt: skip
    spent = GaugeMetricFamily(
        "resilient_spent_dollars", "Dollars, losers included, where the price is known.",
        labels=["target"],
    )  # fmt: skip
    for target in stats.targets:
        health.add_metric([target.name, target.health or "unknown"], 1)
        if target.spent is not None:
            spent.add_metric([target.name], target.spent)
    yield health
    yield spent
