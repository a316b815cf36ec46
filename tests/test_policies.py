"""Policies: what may be written for them, what is said about what may not, when is asked again."""

from __future__ import annotations

from random import Random

import pytest
from pydantic import TypeAdapter, ValidationError
from tenacity import (
    RetryCallState,
    retry_if_exception_type,
    stop_after_attempt,
    wait_fixed,
    wait_incrementing,
)

from langchain_resilient import (
    Fault,
    FaultKind,
    Hedge,
    ResilientChatModel,
    Retry,
    TimeLimits,
)
from langchain_resilient.engine.attempt import Candidate
from langchain_resilient.engine.candidates import retry_state
from langchain_resilient.engine.target_state import TargetState
from langchain_resilient.policies import HedgeOption

SERVER = Fault(FaultKind.SERVER, "x")


def state(tries: int) -> RetryCallState:
    lane = Candidate(0, TargetState("t", "p"), TimeLimits())
    lane.tries = tries
    return retry_state([], lane, 0.0, Random(0))


@pytest.mark.parametrize(
    ("cls", "fields"),
    [
        (TimeLimits, {"connect": -1}),
        (TimeLimits, {"first_text": 0}),
        (TimeLimits, {"chunk_gap": float("inf")}),
        (Hedge, {"delay": -0.1}),
        (Hedge, {"budget": 1.5}),
        (Hedge, {"max_parallel": 0}),
        (Hedge, {"on": "headers"}),
        (Retry, {"stop": 3}),
        (Retry, {"wiat": wait_fixed(1)}),
    ],
)
def test_a_value_out_of_range_is_named(cls, fields):
    """The error's place is the argument."""
    with pytest.raises(ValidationError) as caught:
        cls(**fields)
    assert caught.value.errors()[0]["loc"] == tuple(fields)


@pytest.mark.parametrize(
    ("written", "meant"),
    [(1.5, Hedge(delay=1.5)), (0, Hedge(delay=0)), (None, None), (False, None)],
)
def test_a_hedge_may_be_written_as_its_delay(written, meant):
    """A number is a fixed delay, None and False mean never; True would say no delay."""
    assert TypeAdapter(HedgeOption).validate_python(written) == meant


def test_by_default_a_transient_fault_is_retried_with_full_jitter():
    """The ceiling doubles up to eight seconds, and the engine's generator draws."""
    waits = [Retry().again_after(state(n), SERVER) for n in range(1, 8)]
    ceilings = [1.0, 2.0, 4.0, 8.0, 8.0, 8.0, 8.0]
    assert all(w is not None and 0 <= w <= c for w, c in zip(waits, ceilings, strict=True))
    assert Retry().again_after(state(3), SERVER) == Retry().again_after(state(3), SERVER)


@pytest.mark.parametrize("kind", [FaultKind.AUTH, FaultKind.CONTEXT_LENGTH, FaultKind.QUOTA])
def test_by_default_what_cannot_pass_is_not_retried(kind):
    """Asking again would be answered the same."""
    assert Retry().again_after(state(1), Fault(kind, "x")) is None


def test_stop_and_wait_compose_as_in_tenacity():
    """The objects are the user's own, joined with `|` and `+`."""
    retry = Retry(
        stop=stop_after_attempt(2) | stop_after_attempt(9),
        wait=wait_fixed(1) + wait_incrementing(5),
    )
    assert retry.again_after(state(1), SERVER) == 6
    assert retry.again_after(state(2), SERVER) is None


def test_a_retry_predicate_sees_the_providers_own_exception():
    """`retry_if_exception_type` works as written."""
    lane = Candidate(0, TargetState("t", "p"), TimeLimits())
    from langchain_resilient import AttemptKind
    from langchain_resilient.engine.attempt import Attempt

    attempt = Attempt(1, lane, AttemptKind.PRIMARY, 0.0)
    attempt.fault = Fault(FaultKind.AUTH, "x", cause=KeyError("k"))
    lane.tries = 1
    seen = retry_state([attempt], lane, 1.0, Random(0))
    assert (
        Retry(retry=retry_if_exception_type(KeyError)).again_after(seen, attempt.fault) is not None
    )
    assert Retry(retry=retry_if_exception_type(OSError)).again_after(seen, SERVER) is None


@pytest.mark.parametrize(("retries", "tries"), [(0, 1), (2, 3)])
def test_max_retries_counts_retries_of_one_target(retries, tries):
    """Two retries are three tries."""
    retry = Retry().at_most(retries)
    assert retry.again_after(state(tries), SERVER) is None
    if tries > 1:
        assert retry.again_after(state(tries - 1), SERVER) is not None


@pytest.mark.parametrize("written", [["server"], {FaultKind.SERVER}, ("server",)])
def test_fallback_on_takes_kinds_by_name(written):
    """As enum members or strings."""
    llm = ResilientChatModel(targets=["text:x"], fallback_on=written)
    assert llm.fallback_on == {FaultKind.SERVER}


@pytest.mark.parametrize("bad", [["sever"], "server", 7])
def test_a_wrong_kind_of_fault_is_told_the_known_ones(bad):
    """A misspelt kind must not silently turn fallback off."""
    with pytest.raises(ValidationError, match="fallback_on"):
        ResilientChatModel(targets=["text:x"], fallback_on=bad)
