"""A guard: a call must not take more than 5 % more instructions than when last looked at."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from verification.instructions import ROOT, baseline, grown

pytestmark = pytest.mark.skipif(
    not baseline(), reason="nothing stored for this Python: `make instructions-baseline`"
)


def counted(*options: str) -> dict[str, float]:
    """Count in a process of its own, where nothing of pytest's runs."""
    command = [sys.executable, "-m", "verification.instructions", *options]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=110, cwd=ROOT
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_a_call_takes_no_more_instructions_than_stored():
    """Counted, not timed; if it is worth it, `make instructions-baseline` stores the new counts."""
    assert grown(counted(), baseline()) == []


def test_the_guard_sees_more_work():
    """A twelfth more instructions of our own in each `ainvoke` are noticed, and in streams none."""
    growth = grown(counted("--burden", "0.085"), baseline())
    assert {line.partition(":")[0] for line in growth} >= {"ainvoke ours"}
    assert not any(line.startswith("chunk") for line in growth)


def test_the_work_that_it_sees_is_as_much_as_said():
    """Else a guard that fails at twice the work would pass for one that fails at 5 % more."""
    burdened, stored = counted("--burden", "0.085"), baseline()["counts"]
    assert 1.05 < burdened["ainvoke ours"] / stored["ainvoke ours"] < 1.11
