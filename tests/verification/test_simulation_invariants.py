"""Each invariant is broken by what it is there to find."""

from __future__ import annotations

from dataclasses import replace

import pytest

from langchain_resilient import AttemptKind, Hedge, Outcome
from langchain_resilient.simulation.engine import Rules
from langchain_resilient.simulation.latency import Recorded
from langchain_resilient.simulation.run import Run, Scenario, run
from langchain_resilient.simulation.targets import Script
from langchain_resilient.simulation.trace import Event
from verification.simulation.fuzz import broken

TARGETS = tuple(Script(f"p{i}:m", Recorded([1.0])) for i in range(2))
SCENARIO = Scenario(TARGETS, Rules(5.0, Hedge(delay=2.0, burst=1)), requests=20, cancels={7: 0.5})


@pytest.fixture
def done() -> Run:
    """A run in which nothing happens: every request is answered after a second, but one."""
    return run(SCENARIO, 1, keep=True)


def test_a_sound_run_breaks_nothing(done):
    """Not even with a caller that went away."""
    assert broken(done) == []


def _no_end(done: Run) -> None:
    done.trace.events = [
        e for e in done.trace.events if (e.request, e.what) != (3, "answered")
    ]  # fmt: skip


def _two_ends(done: Run) -> None:
    done.trace.events.append(Event(9.0, 3, "exhausted", ""))


def _sent_after_the_end(done: Run) -> None:
    done.trace.events += [Event(30.0, 3, "send", "p0:m"), Event(30.0, 3, "close", "p0:m")]


def _two_winners(done: Run) -> None:
    done.calls[3].attempts *= 2


def _answered_by_nobody(done: Run) -> None:
    _change(done, outcome=Outcome.FAILED)


def _sent_after_the_commit(done: Run) -> None:
    first = done.calls[3].attempts[0]
    done.calls[3].attempts = (
        replace(first, first_text=0.4),
        replace(first, started=0.6, outcome=Outcome.LOST),
    )


def _four_at_once(done: Run) -> None:
    lost = replace(done.calls[3].attempts[0], outcome=Outcome.LOST)
    done.calls[3].attempts += (lost,) * 3


def _past_the_deadline(done: Run) -> None:
    done.calls[3].seconds = 5.2


def _outlived_its_caller(done: Run) -> None:
    done.calls[7].seconds = 0.7


def _never_closed(done: Run) -> None:
    done.trace.events = [e for e in done.trace.events if (e.request, e.what) != (3, "close")]


def _closed_twice(done: Run) -> None:
    done.trace.events.append(Event(9.0, 3, "close", "p0:m"))


def _no_receipt(done: Run) -> None:
    done.calls[3].attempts = ()


def _disregarded(done: Run) -> None:
    done.pushbacks["p0:m"].append((0.0, 1e9))


def _hedged_too_often(done: Run) -> None:
    for call in done.calls:
        call.attempts += (replace(call.attempts[0], kind=AttemptKind.HEDGE),)


def _leaked(done: Run) -> None:
    done.leaks["tasks"] = 1


def _complained(done: Run) -> None:
    done.complaints.append("exception was never retrieved")


def _change(done: Run, **fields) -> None:
    done.calls[3].attempts = (replace(done.calls[3].attempts[0], **fields),)


@pytest.mark.parametrize(
    ("damage", "rule"),
    [
        (_no_end, "one_end"),
        (_two_ends, "one_end"),
        (_sent_after_the_end, "nothing_after_the_end"),
        (_two_winners, "answers"),
        (_answered_by_nobody, "answers"),
        (_sent_after_the_commit, "answers"),
        (_four_at_once, "live"),
        (_past_the_deadline, "punctual"),
        (_outlived_its_caller, "punctual"),
        (_never_closed, "each_send_ends"),
        (_closed_twice, "each_send_ends"),
        (_no_receipt, "each_send_is_known"),
        (_disregarded, "pushback"),
        (_hedged_too_often, "budget"),
        (_leaked, "nothing_left"),
        (_complained, "nothing_left"),
    ],
)
def test_damage_is_found_by_its_rule(done, damage, rule):
    """A run that was tampered with breaks that rule."""
    damage(done)
    assert rule in {text.partition(":")[0] for text in broken(done)}
