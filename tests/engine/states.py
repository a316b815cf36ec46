"""States of targets to begin a test with."""

from __future__ import annotations

from random import Random

from langchain_resilient import Fault, FaultKind
from langchain_resilient.engine.target_speed import ENOUGH_SAMPLES
from langchain_resilient.engine.target_state import SILENT_AFTER, Account, TargetState

TRIP_AFTER = 5


def state(keys: int = 1, **options) -> TargetState:
    return TargetState("p:m", "p", accounts=[Account() for _ in range(keys)], **options)


def known(seconds: float = 0.5, count: int = ENOUGH_SAMPLES) -> TargetState:
    """A target whose speed is known."""
    target = state()
    for _ in range(count):
        target.record_first_text(seconds, 0.0, plain=False, late=False)
    return target


def fail(target, kind=FaultKind.SERVER, now=0.0, key=0, trip_after=TRIP_AFTER, **fault) -> None:
    target.record_failure(Fault(kind, "no", **fault), now, Random(1), key, trip_after)


def silence(target: TargetState, now: float = 10.0, started: float = 5.0) -> TargetState:
    """Five late requests, sent then, that nobody answers."""
    for _ in range(SILENT_AFTER):
        target.record_late(now, TRIP_AFTER, started=started)
    return target


def tripped() -> TargetState:
    return silence(state())
