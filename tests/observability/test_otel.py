"""Spans and metrics, read with OpenTelemetry's own SDK."""

from __future__ import annotations

import asyncio
import copy
import pickle
import subprocess
import sys

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from langchain_resilient import AllTargetsFailedError, Hedge
from langchain_resilient.observability.otel import OTel
from langchain_resilient.testing import Cut, ProviderSimulator, Status
from tests.observability.watching import PROMPT, SLOW, WAYS, ask
from verification.kit.scripted_targets import CANARY, chain

HEDGED = {"hedge": Hedge(delay=0.1, budget=1.0)}


@pytest.fixture
def sim():
    with ProviderSimulator() as simulator:
        yield simulator


class Telescope:
    """OpenTelemetry with its exporters in memory."""

    def __init__(self):
        self._spans, self._reader = InMemorySpanExporter(), InMemoryMetricReader()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self._spans))
        self.meters = MeterProvider([self._reader])
        self.otel = OTel(self.tracers, self.meters)

    def spans(self):
        """The call's first, then its attempts' in order; all others are left out."""
        mine = [s for s in self._spans.get_finished_spans() if s.name != "outside"]
        return sorted(mine, key=lambda span: (span.name.startswith("attempt"), span.start_time))

    def points(self, name):
        exported = self._reader.get_metrics_data()
        metrics = [m for r in exported.resource_metrics for s in r.scope_metrics for m in s.metrics]
        return [point for m in metrics if m.name == name for point in m.data.data_points]


@pytest.fixture
def scope():
    telescope = Telescope()
    yield telescope
    telescope.tracers.shutdown()
    telescope.meters.shutdown()


@pytest.mark.parametrize("way", WAYS)
def test_a_call_is_one_span(sim, scope, way):
    """By the conventions for generative AI."""
    ask(chain(sim, "openai:m", observers=[scope.otel], temperature=0.5), way)
    call, _ = scope.spans()
    attributes = call.attributes
    assert (call.name, call.kind) == ("chat m", trace.SpanKind.CLIENT)
    assert attributes["gen_ai.operation.name"] == "chat"
    assert attributes["gen_ai.provider.name"] == "openai"
    assert attributes["gen_ai.request.model"] == attributes["gen_ai.response.model"] == "m"
    assert attributes["gen_ai.request.temperature"] == 0.5
    assert attributes["gen_ai.request.stream"] == ("stream" in way)
    assert attributes["gen_ai.response.finish_reasons"] == ("stop",)
    assert attributes["gen_ai.usage.input_tokens"] > 0
    assert attributes["gen_ai.usage.output_tokens"] > 0
    assert attributes["gen_ai.response.time_to_first_chunk"] > 0
    assert call.status.status_code is trace.StatusCode.UNSET


@pytest.mark.parametrize("way", WAYS)
def test_each_attempt_is_a_span_below(sim, scope, way):
    """A failed one is an error."""
    sim.script("openai:m", Status(500))
    ask(chain(sim, "openai:m", "together:n", observers=[scope.otel]), way)
    call, failed, won = scope.spans()
    assert (failed.name, won.name) == ("attempt openai:m", "attempt together:n")
    assert {failed.parent.span_id, won.parent.span_id} == {call.context.span_id}
    assert failed.status.status_code is trace.StatusCode.ERROR
    assert (failed.attributes["error.type"], failed.attributes["http.response.status_code"]) == (
        "server",
        500,
    )
    assert won.attributes["langchain_resilient.attempt.kind"] == "fallback"
    assert call.attributes["gen_ai.provider.name"] == "together"


@pytest.mark.parametrize("way", WAYS)
def test_a_loser_is_marked_and_is_no_error(sim, scope, way):
    """It was closed since another was faster."""
    sim.script("openai:m", then=SLOW)
    ask(chain(sim, "openai:m", "together:n", observers=[scope.otel], **HEDGED), way)
    _, loser, winner = scope.spans()
    assert loser.attributes["langchain_resilient.attempt.outcome"] == "lost"
    assert loser.status.status_code is trace.StatusCode.UNSET
    assert winner.attributes["langchain_resilient.attempt.kind"] == "hedge"


@pytest.mark.parametrize("way", WAYS)
def test_spans_lie_where_things_happened(sim, scope, way):
    """Attempts inside of their call, the hedge a tenth of a second after the first."""
    sim.script("openai:m", then=SLOW)
    ask(chain(sim, "openai:m", "together:n", observers=[scope.otel], **HEDGED), way)
    call, loser, winner = scope.spans()
    slack = 1_000_000  # nanoseconds: the call's own begin is reckoned back from its end
    assert call.start_time - slack <= loser.start_time < winner.start_time
    assert max(loser.end_time, winner.end_time) <= call.end_time + slack
    assert winner.start_time - loser.start_time >= 90_000_000


@pytest.mark.parametrize("way", WAYS)
def test_the_parent_is_the_span_of_the_caller(sim, scope, way):
    """Also for synchronous calls, which run in another thread."""
    llm = chain(sim, "openai:m", observers=[scope.otel])
    with scope.tracers.get_tracer("mine").start_as_current_span("outside") as outside:
        ask(llm, way)
    call, _ = scope.spans()
    assert call.parent.span_id == outside.get_span_context().span_id


def test_a_stream_belongs_to_where_it_began(sim, scope):
    """Wherever it is read to its end."""
    llm = chain(sim, "openai:m", observers=[scope.otel])

    async def go():
        with scope.tracers.get_tracer("mine").start_as_current_span("outside") as outside:
            stream = llm.astream("hi")
            await anext(stream)
        async for _ in stream:
            pass
        return outside.get_span_context().span_id

    parent = asyncio.run(go())
    assert scope.spans()[0].parent.span_id == parent


@pytest.mark.parametrize("way", WAYS)
def test_a_failed_call_is_an_error(sim, scope, way):
    """It has no usage."""
    sim.script("openai:m", then=Status(500))
    with pytest.raises(AllTargetsFailedError):
        ask(chain(sim, "openai:m", observers=[scope.otel], max_retries=0), way)
    call, _ = scope.spans()
    assert call.status.status_code is trace.StatusCode.ERROR
    assert call.attributes["error.type"] == "exhausted"
    assert "gen_ai.usage.input_tokens" not in call.attributes


def test_a_broken_stream_is_an_event(sim, scope):
    """With what was done about it."""
    sim.script("openai:m", Cut(3))
    list(chain(sim, "openai:m", "together:n", observers=[scope.otel]).stream("hi"))
    (event,) = scope.spans()[0].events
    assert event.name == "langchain_resilient.break"
    assert event.attributes["langchain_resilient.break.action"] == "continued"


@pytest.mark.parametrize("way", WAYS)
def test_neither_prompts_nor_answers_nor_keys_are_recorded(sim, scope, way):
    """In no span, no event, no metric."""
    sim.script("openai:m", Status(400, message=f"{CANARY}: {PROMPT}"))
    ask(chain(sim, "openai:m", "together:n", observers=[scope.otel]), way)
    names = ["gen_ai.client.operation.duration", "langchain_resilient.attempts"]
    text = "".join(span.to_json() for span in scope.spans())
    text += str([point.attributes for name in names for point in scope.points(name)])
    assert not [word for word in (CANARY, PROMPT, "Answer") if word in text]


def test_usage_is_told_once(sim, scope):
    """By the call's span, and by one point of each kind."""
    sim.script("openai:m", Status(500))
    chain(sim, "openai:m", "together:n", observers=[scope.otel]).invoke("hi")
    assert [("gen_ai.usage.input_tokens" in s.attributes) for s in scope.spans()] == [
        True,
        False,
        False,
    ]
    points = scope.points("gen_ai.client.token.usage")
    assert {p.attributes["gen_ai.token.type"]: p.count for p in points} == {"input": 1, "output": 1}
    assert {p.attributes["gen_ai.provider.name"] for p in points} == {"together"}


def test_how_long_calls_take_is_measured(sim, scope):
    """With the buckets of the conventions."""
    chain(sim, "openai:m", observers=[scope.otel]).invoke("hi")
    for name in ("gen_ai.client.operation.duration", "gen_ai.client.operation.time_to_first_chunk"):
        (point,) = scope.points(name)
        assert (point.count, point.explicit_bounds[0], point.explicit_bounds[-1]) == (
            1,
            0.01,
            81.92,
        )
        assert point.attributes["gen_ai.request.model"] == "m"


def test_attempts_are_counted(sim, scope):
    """By target, kind, outcome and fault."""
    sim.script("openai:m", Status(500))
    chain(sim, "openai:m", "together:n", observers=[scope.otel]).invoke("hi")
    fields = {p.attributes["langchain_resilient.target"]: p for p in scope.points(
        "langchain_resilient.attempts"
    )}  # fmt: skip
    assert fields["openai:m"].attributes["error.type"] == "server"
    assert fields["together:n"].attributes["langchain_resilient.attempt.outcome"] == "won"


@pytest.mark.parametrize("how", ["copy", "pickle"])
def test_it_travels_with_its_model(sim, scope, how):
    """A copy in the same process keeps its providers; a pickle finds those of its new process."""
    llm = chain(sim, "openai:m", observers=[scope.otel])
    there = copy.deepcopy(llm) if how == "copy" else pickle.loads(pickle.dumps(llm))  # noqa: S301
    there.invoke("hi")
    assert len(scope.spans()) == (2 if how == "copy" else 0)
    assert isinstance(there.observers[0], OTel)


def test_without_opentelemetry_the_error_says_what_to_install():
    """And everything else works without it."""
    code = """
import sys
sys.modules["opentelemetry"] = None
import langchain_resilient
langchain_resilient.ResilientChatModel
try:
    import langchain_resilient.observability.otel
except ImportError as error:
    print(error)
"""
    outcome = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert 'pip install "langchain-resilient[otel]"' in outcome.stdout
