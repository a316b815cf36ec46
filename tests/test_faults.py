"""The one table of what each kind of fault means."""

from __future__ import annotations

import pytest

from langchain_resilient import AllTargetsFailedError, Fault, FaultKind, errors
from langchain_resilient.faults import TRAITS, TRANSIENT


def test_every_kind_has_a_row():
    """In the order of the kinds, so that the table reads beside them."""
    assert list(TRAITS) == list(FaultKind)


@pytest.mark.parametrize("kind", FaultKind)
def test_a_kind_says_one_thing_about_asking_again(kind):
    """Later, never in this call, or not with this account; without streaming at once."""
    traits = TRAITS[kind]
    verdicts = traits.transient + traits.excludes_target + traits.blocks_account
    assert verdicts == (kind is not FaultKind.NO_STREAMING)


@pytest.mark.parametrize("kind", FaultKind)
def test_the_error_that_a_row_names_exists(kind):
    """It is a kind of `AllTargetsFailedError`; most kinds name none."""
    name = TRAITS[kind].error
    assert not name or issubclass(getattr(errors, name), AllTargetsFailedError)


def test_a_fault_shows_the_traits_of_its_kind():
    """So that nothing else needs a table of its own."""
    assert Fault(FaultKind.QUOTA, "no money").traits is TRAITS[FaultKind.QUOTA]


def test_what_is_retried_by_default():
    """`Retry` with a predicate of its own may go by the same set."""
    assert {
        FaultKind.SERVER,
        FaultKind.CONNECTION,
        FaultKind.TIMEOUT,
        FaultKind.STALL,
        FaultKind.BROKEN,
        FaultKind.EMPTY,
        FaultKind.INVALID,
        FaultKind.RATE_LIMIT,
    } == TRANSIENT
