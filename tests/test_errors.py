"""Which classes an error is of: this package's, and LangChain's for what its causes share."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from typing import Any

import pytest
from langchain_core.exceptions import (
    ContextOverflowError,
    ModelAPIError,
    ModelAuthenticationError,
    ModelConnectionError,
    ModelError,
    ModelInvalidRequestError,
    ModelNotFoundError,
    ModelPermissionDeniedError,
    ModelRateLimitError,
    ModelRefusalError,
    ModelTimeoutError,
)

from langchain_resilient import (
    AllTargetsFailedError,
    AttemptKind,
    AttemptRecord,
    AuthenticationFailedError,
    DeadlineExceededError,
    Fault,
    Outcome,
    RateLimitedError,
    Receipt,
    RequestRejectedError,
    ResilientChatModel,
    ResilientError,
    StreamBrokenError,
    Target,
)
from langchain_resilient import FaultKind as K
from langchain_resilient import testing as t
from langchain_resilient.errors import all_targets_failed, request_rejected, stream_broken
from langchain_resilient.receipt import REFUSED_BEFORE

FAMILY = (
    ContextOverflowError,
    ModelAPIError,
    ModelAuthenticationError,
    ModelConnectionError,
    ModelInvalidRequestError,
    ModelNotFoundError,
    ModelPermissionDeniedError,
    ModelRateLimitError,
    ModelRefusalError,
    ModelTimeoutError,
)


def receipt(*faults: Fault | K | None, kind: AttemptKind = AttemptKind.PRIMARY) -> Receipt:
    """What happened to a call; None is an attempt that was still silent."""
    attempts = []
    for number, given in enumerate(faults):
        fault = Fault(given, "no") if isinstance(given, K) else given
        outcome = Outcome.LOST if fault is None else Outcome.FAILED
        attempts.append(
            AttemptRecord(
                target=f"t{number}",
                kind=kind,
                started=0.0,
                first_text=None,
                ended=1.0,
                outcome=outcome,
                fault=fault,
            )
        )
    return Receipt(attempts=tuple(attempts), winner=None, seconds=1.0)


def families(error: BaseException) -> set[type[ModelError]]:
    return {family for family in FAMILY if isinstance(error, family)}


def failed(*faults: Any) -> AllTargetsFailedError:
    return all_targets_failed(receipt(*faults), deadline=False, timeout=9.0)


@pytest.mark.parametrize(("faults", "expected"), [
    ((K.SERVER,), {ModelAPIError}),
    ((K.SERVER, K.BROKEN), {ModelAPIError}),
    ((K.CONNECTION, K.CONNECTION), {ModelConnectionError}),
    ((K.TIMEOUT, K.STALL), {ModelTimeoutError}),
    ((K.RATE_LIMIT, K.QUOTA), {ModelRateLimitError}),
    ((K.BAD_REQUEST,), {ModelInvalidRequestError}),
    ((K.CONTENT_FILTER,), {ModelRefusalError}),
    ((K.NOT_FOUND,), {ModelNotFoundError}),
    ((K.CONTEXT_LENGTH,), {ContextOverflowError}),
    ((Fault(K.AUTH, "no", status=401),), {ModelAuthenticationError}),
    ((Fault(K.AUTH, "no", status=403),), {ModelAuthenticationError, ModelPermissionDeniedError}),
    ((Fault(K.AUTH, "no", status=403), Fault(K.AUTH, "no", status=401)),
     {ModelAuthenticationError}),
    ((K.SERVER, K.RATE_LIMIT), set()),
    ((K.EMPTY,), set()),
    ((K.INTERNAL,), set()),
    ((Fault(K.INTERNAL, "no", cause=ModelAPIError()),), {ModelAPIError}),
], ids=lambda x: ", ".join(sorted(getattr(y, "__name__", str(y))[:40] for y in x)))  # fmt: skip
def test_what_the_causes_have_in_common(faults, expected):
    """A clause for one of LangChain's classes catches the error where it fits every cause."""
    error = failed(*faults)
    assert families(error) == expected
    assert isinstance(error, AllTargetsFailedError)
    assert error.is_retryable is False


def test_it_is_called_what_it_is_written_as():
    """The class that joins two has no name of its own."""
    error = failed(K.SERVER)
    assert type(error).__name__ == "AllTargetsFailedError"
    assert type(failed(K.SERVER)) is type(error)
    assert type(failed(K.RATE_LIMIT)) is RateLimitedError
    assert isinstance(failed(Fault(K.AUTH, "no", status=403)), AuthenticationFailedError)


def test_a_deadline_over_one_kind_of_failure_is_both():
    """Unless someone was still silent: then it is the time alone."""
    limited = receipt(K.RATE_LIMIT, K.RATE_LIMIT)
    error = all_targets_failed(limited, deadline=True, timeout=1.0)
    assert isinstance(error, DeadlineExceededError)
    assert families(error) == {ModelTimeoutError, ModelRateLimitError}
    silent = all_targets_failed(receipt(K.RATE_LIMIT, None), deadline=True, timeout=1.0)
    assert families(silent) == {ModelTimeoutError}


def test_attempts_that_are_alike_are_counted_instead_of_listed():
    """Servers that are down for a whole deadline are asked dozens of times, in turn."""
    made = receipt(*[Fault(K.CONNECTION, "no")] * 30, K.SERVER)
    alike = tuple(
        replace(attempt, target=f"t{number % 2}", ended=float(number))
        for number, attempt in enumerate(made.attempts)
    )
    error = all_targets_failed(replace(made, attempts=alike), deadline=False, timeout=9)
    assert str(error).splitlines()[1:4] == [
        "  1. t0 (primary, 15 times, the last) after 28.00 s: connection: no",
        "  2. t1 (primary, 15 times, the last) after 29.00 s: connection: no",
        "  31. t0 (primary) after 30.00 s: server: no",
    ]


def test_probes_do_not_count():
    """Nobody waits for them."""
    attempts = receipt(K.SERVER).attempts + receipt(None, kind=AttemptKind.SHADOW).attempts
    error = all_targets_failed(Receipt(attempts, None, 1.0), deadline=False, timeout=None)
    assert families(error) == {ModelAPIError}


def test_the_other_errors_too():
    """A broken stream is of what broke it, a rejected request of what refused it."""
    broken = stream_broken(receipt(K.CONNECTION), "half", 9.0)
    assert families(broken) == {ModelConnectionError}
    assert isinstance(broken, StreamBrokenError)
    assert broken.partial == "half"
    rejected = request_rejected(receipt(K.BAD_REQUEST, K.BAD_REQUEST))
    assert type(rejected) is RequestRejectedError


@pytest.mark.parametrize("error", [
    failed(K.SERVER),
    failed(Fault(K.AUTH, "no", status=403)),
    stream_broken(receipt(K.CONNECTION), "half", 9.0),
    RateLimitedError("slow"),
    ResilientError("x"),
], ids=lambda error: type(error).__name__)  # fmt: skip
def test_it_can_be_pickled_and_copied(error):
    """As process pools need."""
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error)):  # noqa: S301
        assert str(other) == str(error)
        assert type(other) is type(error)


@pytest.mark.parametrize(
    ("faults", "reasons", "expected"),
    [
        ([], [REFUSED_BEFORE[K.AUTH]], ModelAuthenticationError),
        ([], [REFUSED_BEFORE[K.QUOTA]], ModelRateLimitError),
        ([], [REFUSED_BEFORE[K.NOT_FOUND]], ModelNotFoundError),
        ([K.AUTH], [REFUSED_BEFORE[K.AUTH]] * 2, ModelAuthenticationError),
        ([], [REFUSED_BEFORE[K.AUTH], REFUSED_BEFORE[K.QUOTA]], None),
        ([], [REFUSED_BEFORE[K.AUTH], "its turn never came"], None),
        ([K.SERVER], [REFUSED_BEFORE[K.AUTH]], None),
        ([], [], None),
    ],
)
def test_what_was_not_asked_for_what_an_earlier_call_met_is_the_same_error(
    faults, reasons, expected
):
    """Unless others were not asked for another reason."""
    skipped = tuple((f"s{number}", reason) for number, reason in enumerate(reasons))
    error = all_targets_failed(
        replace(receipt(*faults), skipped=skipped), deadline=False, timeout=1.0
    )
    found = {ModelAuthenticationError, ModelRateLimitError, ModelNotFoundError} & set(
        type(error).__mro__
    )
    assert found == ({expected} if expected else set())


@pytest.mark.parametrize(
    ("step", "expected"),
    [(t.Status(401), ModelAuthenticationError), (t.Quota(), ModelRateLimitError)],
)
async def test_a_batch_with_a_wrong_key_gives_each_row_the_same_error(step, expected):
    """Those too that were not asked any more."""
    async with t.ProviderSimulator() as sim:
        sim.script("*", then=step)
        url = sim.base_url("openai")
        llm = ResilientChatModel(
            targets=[Target("openai:m", base_url=url, api_key="sk-wrong-0123456789")],
            share_learning=False,
        )
        rows = await llm.abatch(
            [f"question {number}" for number in range(30)],
            {"max_concurrency": 4},
            return_exceptions=True,
        )
        assert [isinstance(row, expected) for row in rows] == [True] * 30
        assert len(sim.requests) < 30
