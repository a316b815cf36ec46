"""What `/metrics` tells: requests of clients, calls of the model, attempts at targets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from langchain_resilient.observability.observer import CallDetails
    from langchain_resilient.observability.stats import Stats
    from langchain_resilient.receipt import Receipt

CONTENT_TYPE = CONTENT_TYPE_LATEST

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """Counts for Prometheus; an observer of the model (see `Observer`).

    Attributes:
        in_flight: Requests that are being answered.
        waiting: Requests that wait for their turn.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"resilient_{name}", text, labels, registry=self._registry)

        def histogram(name: str, text: str, *labels: str) -> Histogram:
            return Histogram(
                f"resilient_{name}", text, labels, registry=self._registry, buckets=_SECONDS
            )

        self.requests = counter("requests", "Requests of clients.", "path", "status")
        self.seconds = histogram("request_seconds", "From a request to the end of it.", "path")
        self.in_flight = Gauge(
            "resilient_in_flight", "Requests that are being answered.", registry=self._registry
        )
        self.waiting = Gauge(
            "resilient_waiting", "Requests that wait for their turn.", registry=self._registry
        )
        self._calls = counter("calls", "Calls of the model by their end.", "end")
        self._attempts = counter(
            "attempts", "Requests to targets.", "target", "kind", "outcome", "fault"
        )
        self._first_text = histogram(
            "first_text_seconds", "From a request to a target to its first text.", "target"
        )
        self._tokens = counter("tokens", "Tokens, losers' too.", "target", "direction")
        self._lost = counter("lost_tokens", "Tokens of attempts that did not win.")
        self._breaks = counter(
            "stream_breaks", "Streams that died after some text.", "target", "action"
        )

    def watch(self, stats: Callable[[], Stats]) -> None:
        """Tell the state of the targets too, as it is when somebody asks."""
        self._registry.register(_Targets(stats))

    def on_receipt(self, receipt: Receipt, *, call: CallDetails) -> None:
        """Count one finished call."""
        self._calls.labels(call.end).inc()
        for attempt in receipt.attempts:
            fault = attempt.fault.kind.value if attempt.fault is not None else ""
            target = attempt.target
            self._attempts.labels(target, attempt.kind.value, attempt.outcome.value, fault).inc()
            if attempt.first_text is not None:
                self._first_text.labels(target).observe(attempt.first_text - attempt.started)
            for direction, tokens in (
                ("input", attempt.input_tokens),
                ("output", attempt.output_tokens),
            ):
                if tokens:
                    self._tokens.labels(target, direction).inc(tokens)
        if receipt.lost_tokens:
            self._lost.inc(receipt.lost_tokens)
        for broken in receipt.breaks:
            self._breaks.labels(broken.target, broken.action).inc()

    def page(self) -> bytes:
        """Write all of it in Prometheus's format."""
        page: bytes = generate_latest(self._registry)
        return page


class _Targets:
    """The state of each target, read when it is asked for."""

    def __init__(self, stats: Callable[[], Stats]) -> None:
        self._stats = stats

    def describe(self) -> list[Any]:
        """Name nothing beforehand, so that registering reads no statistics."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Read the statistics."""
        health = GaugeMetricFamily(
            "resilient_target_health", "1 for the state that a target is in.",
            labels=["target", "health"],
        )  # fmt: skip
        spent = GaugeMetricFamily(
            "resilient_spent_dollars", "Dollars, losers included, where the price is known.",
            labels=["target"],
        )  # fmt: skip
        for target in self._stats().targets:
            health.add_metric([target.name, target.health or "unknown"], 1)
            if target.spent is not None:
                spent.add_metric([target.name], target.spent)
        yield health
        yield spent
