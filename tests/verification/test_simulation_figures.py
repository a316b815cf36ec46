"""The figures of runs whose figures can be told by hand."""

from __future__ import annotations

from math import inf, isnan

import pytest

from langchain_resilient import AttemptKind, AttemptRecord, FaultKind, Hedge, Outcome
from langchain_resilient.simulation.engine import Rules
from langchain_resilient.simulation.faults import Fail, Phase
from langchain_resilient.simulation.latency import Recorded
from langchain_resilient.simulation.run import Call, Run, Scenario
from langchain_resilient.simulation.targets import Script
from langchain_resilient.simulation.trace import Trace
from verification.simulation.bounds import Verdict
from verification.simulation.figures import Sheet, average, hedge_excess


def attempt(kind="primary", target="p0:m", started=0.0, outcome=Outcome.WON) -> AttemptRecord:
    return AttemptRecord(target, AttemptKind(kind), started, None, started + 1.0, outcome)


def finished(*calls: Call, budget=0.05, effect=None) -> Run:
    phases = () if effect is None else (Phase(0.0, 1e9, effect),)
    targets = (Script("p0:m", Recorded([1.0]), phases), Script("p1:m", Recorded([2.0])))
    rules = Rules(10.0, Hedge(delay=1.0, budget=budget))
    scenario = Scenario(targets, rules, requests=len(calls))
    return Run(scenario, 1, list(calls), {}, {}, {}, [], Trace())


def call(number, seconds=1.0, *attempts, end="answered", arrived=None) -> Call:
    when = float(number) if arrived is None else arrived
    return Call(number, when, seconds, end, attempts or (attempt(),))


def test_percentiles_count_the_unanswered_as_never():
    """Three of four answered: the slowest of all is infinite."""
    figures = Sheet(
        finished(call(0), call(1), call(2, 3.0), call(3, 9.0, end="exhausted"))
    ).figures()
    assert (figures.p50, figures.p95, figures.p999) == (1.0, inf, inf)


def test_a_window_counts_who_arrived_in_it():
    """From its start until just before its end."""
    sheet = Sheet(finished(*(call(n, n + 1.0) for n in range(10))))
    figures = sheet.figures(((2.0, 4.0), (7.0, 8.0)))
    assert (figures.requests, figures.p50, figures.p99) == (3, 4.0, 8.0)


def test_an_empty_window_has_no_figures():
    """Nobody arrived."""
    assert Sheet(finished(call(0))).figures(((5.0, 6.0),)) is None


def test_extra_sends_are_counted_by_kind():
    """Two requests, and one each of hedge, fallback and shadow."""
    more = (attempt("hedge"), attempt("fallback", outcome=Outcome.FAILED), attempt("shadow"))
    figures = Sheet(finished(call(0), call(1, 1.0, attempt(), *more))).figures()
    assert (figures.extra, figures.hedges, figures.fallbacks, figures.shadows) == (
        1.5,
        0.5,
        0.5,
        0.5,
    )
    assert (figures.rescues, figures.retries) == (0.0, 0.0)


def test_a_failed_shadow_wastes_nobodys_time():
    """A failed attempt does."""
    failed = attempt(outcome=Outcome.FAILED)
    shadow = attempt("shadow", outcome=Outcome.FAILED)
    figures = Sheet(finished(call(0), call(1, 1.0, failed, shadow, attempt("fallback")))).figures()
    assert figures.wasted == 0.5


def test_availability_is_of_what_was_feasible():
    """All four could have been answered in time, and three were."""
    figures = Sheet(finished(call(0), call(1), call(2), call(3, 10.0, end="deadline"))).figures()
    assert (figures.feasible, figures.missed, figures.availability) == (4, 1, 0.75)


def test_baselines_are_of_the_same_requests():
    """The first target fails at once: alone nobody is answered, a plain fallback takes 2 s more."""
    figures = Sheet(finished(call(0), effect=Fail(FaultKind.SERVER, after=0.5))).figures()
    assert (figures.alone99, figures.plain99) == (inf, 2.5)


def test_the_delay_is_that_of_hedges_of_the_first_target():
    """Others are hedged after another target's delay."""
    calls = [
        call(0, 1.0, attempt(), attempt("hedge", "p1:m", started=1.5)),
        call(1, 1.0, attempt(target="p1:m"), attempt("hedge", "p0:m", started=4.0)),
        call(2),
    ]
    assert Sheet(finished(*calls)).figures().delay == 1.5


def test_without_hedges_there_is_no_delay():
    """Not a number, which no bound holds for."""
    figures = Sheet(finished(call(0))).figures()
    assert isnan(figures.delay)
    assert not Verdict("delay", figures.delay, 1.0).holds


def test_the_share_of_the_first_target_is_of_first_sends():
    """A hedge to it does not count."""
    calls = [call(0), call(1, 1.0, attempt(target="p1:m"), attempt("hedge", "p0:m"))]
    assert Sheet(finished(*calls)).figures().at_first == 0.5


@pytest.mark.parametrize(
    ("hedged", "excess"),
    [((), 0.0), ((0,), 1.0), ((0, 1, 2), 3 - 2 * 0.5), ((0, 9), 1.0), ((7, 8, 9), 3 - 2 * 0.5)],
)
def test_the_worst_window_of_hedges_is_found(hedged, excess):
    """Ten requests, a budget of one half, and hedges half a second after some of them."""
    calls = [
        call(n, 1.0, attempt(), *([attempt("hedge", started=0.5)] if n in hedged else []))
        for n in range(10)
    ]
    assert hedge_excess(finished(*calls, budget=0.5)) == pytest.approx(excess)


def test_figures_of_seeds_are_averaged():
    """And what is infinite for one is infinite for all."""
    one, two = Sheet(finished(call(0, 1.0))).figures(), Sheet(finished(call(0, 2.0))).figures()
    assert average([one, two]).p50 == 1.5
    never = Sheet(finished(call(0, 10.0, end="deadline"))).figures()
    assert average([one, never]).p50 == inf


@pytest.mark.parametrize(
    ("verdict", "holds"),
    [
        (Verdict("x", 1.0, 1.0), True),
        (Verdict("x", 1.01, 1.0), False),
        (Verdict("x", inf, 1.0), False),
        (Verdict("x", 0.99, 1.0, at_least=True), False),
        (Verdict("x", 1.0, 1.0, at_least=True), True),
    ],
)
def test_a_verdict_holds_up_to_its_limit(verdict, holds):
    """And not a bit further."""
    assert verdict.holds is holds
