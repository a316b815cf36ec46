"""`OTel`: calls as OpenTelemetry spans and metrics, by its conventions for generative AI.

Needs `pip install "langchain-resilient[otel]"`.
"""

from __future__ import annotations

from time import time_ns
from typing import TYPE_CHECKING, Any

from langchain_resilient._version import __version__
from langchain_resilient.errors import MissingExtraError
from langchain_resilient.receipt import Outcome

try:
    from opentelemetry import metrics, trace
except ImportError as error:
    msg = 'spans and metrics need an extra: pip install "langchain-resilient[otel]"'
    raise MissingExtraError(msg) from error

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Span, TracerProvider

    from langchain_resilient.observability.observer import CallDetails
    from langchain_resilient.receipt import AttemptRecord, Break, Receipt

_NAME = "langchain_resilient"

# https://github.com/open-telemetry/semantic-conventions-genai, docs/gen-ai/gen-ai-metrics.md
_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_TOKENS = tuple(4**power for power in range(14))
_PARAMS = {
    "temperature": "gen_ai.request.temperature",
    "max_tokens": "gen_ai.request.max_tokens",
    "top_p": "gen_ai.request.top_p",
    "top_k": "gen_ai.request.top_k",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "presence_penalty": "gen_ai.request.presence_penalty",
    "seed": "gen_ai.request.seed",
}


class OTel:
    """Turns each call into one span with a child span for each attempt, and into metrics.

    The call's span is named `chat <model>` and alone carries `gen_ai.operation.name` and
    `gen_ai.usage.*`, so that nothing is counted twice; the attempts below it say
    `langchain_resilient.attempt.*`. Losers are marked by their outcome and are no errors. Prompts
    and answers are never recorded. Spans are made when the call is over, with the times at which
    things happened; their parent is the span that was current when the call began.

    Args:
        tracer_provider: None for the process's own, which may be set later.
        meter_provider: Likewise.

    Raises:
        MissingExtraError: When this module is imported and `opentelemetry-api` is not
            installed; it says how to install it.

    Example:
        ```python
        from langchain_resilient.observability.otel import OTel

        llm = ResilientChatModel(observers=[OTel()])
        ```
    """

    def __init__(
        self,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        self._tracer = trace.get_tracer(_NAME, __version__, tracer_provider)
        self._meters = _Meters(meter_provider)

    def on_receipt(self, receipt: Receipt, *, call: CallDetails) -> None:
        """Record one finished call."""
        ended = time_ns()
        began = ended - _ns(receipt.seconds)
        given = _call_attributes(receipt, call)
        name = f"chat {given.get('gen_ai.request.model', '')}".rstrip()
        span = self._tracer.start_span(
            name, kind=trace.SpanKind.CLIENT, attributes=given, start_time=began
        )
        for attempt in receipt.attempts:
            self._add_attempt(span, attempt, call, began)
        for stream_break in receipt.breaks:
            _add_break(span, stream_break, began)
        if (error := _error_type(receipt, call)) is not None and call.end != "cancelled":
            span.set_status(trace.StatusCode.ERROR, error)
        span.end(ended)
        self._meters.record(receipt, call)

    def _add_attempt(
        self, above: Span, attempt: AttemptRecord, call: CallDetails, began: int
    ) -> None:
        span = self._tracer.start_span(
            f"attempt {attempt.target}",
            trace.set_span_in_context(above),
            trace.SpanKind.CLIENT,
            _attempt_attributes(attempt, call),
            start_time=began + _ns(attempt.started),
        )
        if attempt.first_text is not None:
            span.add_event("first_text", timestamp=began + _ns(attempt.first_text))
        if attempt.outcome is Outcome.FAILED and attempt.fault is not None:
            span.set_status(trace.StatusCode.ERROR, str(attempt.fault.kind))
        span.end(began + _ns(attempt.ended))

    def __getstate__(self) -> dict[str, Any]:
        """Providers belong to their process: a copy elsewhere uses the ones there."""
        return {}

    def __setstate__(self, _: Mapping[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]  # as new


class _Meters:
    def __init__(self, provider: MeterProvider | None) -> None:
        meter = metrics.get_meter(_NAME, __version__, provider)

        def histogram(name: str, unit: str, what: str, steps: tuple[float, ...]) -> Any:
            return meter.create_histogram(
                name, unit, what, explicit_bucket_boundaries_advisory=steps
            )

        self._seconds = histogram(
            "gen_ai.client.operation.duration", "s", "GenAI operation duration.", _SECONDS
        )
        self._first = histogram(
            "gen_ai.client.operation.time_to_first_chunk",
            "s",
            "From the call to its first text.",
            _SECONDS,
        )
        self._tokens = histogram(
            "gen_ai.client.token.usage", "{token}", "Tokens of answers that counted.", _TOKENS
        )
        self._attempts = meter.create_counter(
            "langchain_resilient.attempts", "{attempt}", "Requests that were sent to targets."
        )
        self._lost = meter.create_counter(
            "langchain_resilient.lost_tokens", "{token}", "Tokens of attempts that did not win."
        )

    def record(self, receipt: Receipt, call: CallDetails) -> None:
        common = _common(receipt, call)
        error = _error_type(receipt, call)
        failed = {} if error is None else {"error.type": error}
        self._seconds.record(receipt.seconds, {**common, **failed})
        for attempt in receipt.attempts:
            self._attempts.add(1, _labels(attempt))
            spent = (attempt.input_tokens or 0) + (attempt.output_tokens or 0)
            if attempt.outcome is not Outcome.WON and spent:
                self._lost.add(spent, {"langchain_resilient.target": attempt.target})
        won = _winner(receipt)
        if won is None:
            return
        if won.first_text is not None:
            self._first.record(won.first_text, common)
        for kind, tokens in (("input", won.input_tokens), ("output", won.output_tokens)):
            if tokens is not None:
                self._tokens.record(tokens, {**common, "gen_ai.token.type": kind})


def _winner(receipt: Receipt) -> AttemptRecord | None:
    return next((a for a in receipt.attempts if a.outcome is Outcome.WON), None)


def _common(receipt: Receipt, call: CallDetails) -> dict[str, Any]:
    """What spans and metrics of a call share; of its winner, or of whom it asked first."""
    attributes: dict[str, Any] = {"gen_ai.operation.name": "chat"}
    first = receipt.attempts[0].target if receipt.attempts else next(iter(call.targets), "")
    target = call.targets.get(receipt.winner or first)
    if target is not None:
        attributes["gen_ai.provider.name"] = target.provider
        attributes["gen_ai.request.model"] = target.model
    if call.response_model is not None:
        attributes["gen_ai.response.model"] = call.response_model
    return attributes


def _call_attributes(receipt: Receipt, call: CallDetails) -> dict[str, Any]:
    attributes = _common(receipt, call)
    attributes.update(_requested(call.params))
    attributes["gen_ai.request.stream"] = call.streamed
    attributes["langchain_resilient.end"] = call.end
    attributes["langchain_resilient.attempts"] = len(receipt.attempts)
    attributes["langchain_resilient.lost_tokens"] = receipt.lost_tokens
    if receipt.winner is not None:
        attributes["langchain_resilient.target"] = receipt.winner
    if call.response_id is not None:
        attributes["gen_ai.response.id"] = call.response_id
    if call.finish_reason is not None:
        attributes["gen_ai.response.finish_reasons"] = [call.finish_reason]
    if (won := _winner(receipt)) is not None:
        attributes.update(_usage(won))
    if (error := _error_type(receipt, call)) is not None:
        attributes["error.type"] = error
    return attributes


def _requested(params: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for ours, theirs in _PARAMS.items():
        if params.get(ours) is not None:
            yield theirs, params[ours]
    stop = params.get("stop")
    if stop:
        yield "gen_ai.request.stop_sequences", [stop] if isinstance(stop, str) else list(stop)


def _usage(won: AttemptRecord) -> Iterator[tuple[str, Any]]:
    counts = {
        "gen_ai.usage.input_tokens": won.input_tokens,
        "gen_ai.usage.output_tokens": won.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": won.cached_tokens,
        "gen_ai.usage.cache_creation.input_tokens": won.written_tokens,
        "gen_ai.response.time_to_first_chunk": won.first_text,
    }
    return ((name, value) for name, value in counts.items() if value is not None)


def _attempt_attributes(attempt: AttemptRecord, call: CallDetails) -> dict[str, Any]:
    attributes = _labels(attempt)
    target = call.targets.get(attempt.target)
    if target is not None:
        attributes["gen_ai.provider.name"] = target.provider
        attributes["gen_ai.request.model"] = target.model
    tokens = (("input", attempt.input_tokens), ("output", attempt.output_tokens))
    for name, count in tokens:
        if count is not None:
            attributes[f"langchain_resilient.attempt.{name}_tokens"] = count
    if attempt.fault is not None and attempt.fault.status is not None:
        attributes["http.response.status_code"] = attempt.fault.status
    return attributes


def _labels(attempt: AttemptRecord) -> dict[str, Any]:
    labels: dict[str, Any] = {
        "langchain_resilient.target": attempt.target,
        "langchain_resilient.attempt.kind": attempt.kind.value,
        "langchain_resilient.attempt.outcome": attempt.outcome.value,
    }
    if attempt.fault is not None:
        labels["error.type"] = attempt.fault.kind.value
    return labels


def _add_break(span: Span, broken: Break, began: int) -> None:
    given: dict[str, Any] = {
        "langchain_resilient.target": broken.target,
        "langchain_resilient.break.action": broken.action,
        "langchain_resilient.break.characters": broken.characters,
    }
    span.add_event("langchain_resilient.break", given, began + _ns(broken.seconds))


def _error_type(receipt: Receipt, call: CallDetails) -> str | None:
    """Name what went wrong, in few words: metrics count by it."""
    return None if receipt.winner is not None else call.end


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
