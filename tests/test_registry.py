"""What the process knows of targets: chance that can be replayed, and is drawn anew in a fork."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from langchain_resilient.runtime.shared_state import reset, shared_rng

FORKS = """
import os
from langchain_resilient.runtime.shared_state import shared_rng
shared_rng()
read, write = os.pipe()
if os.fork() == 0:
    os.write(write, repr(shared_rng().random()).encode())
    os._exit(0)
print(os.read(read, 100).decode() == repr(shared_rng().random()))
"""


def test_a_seed_makes_chance_replayable():
    """What the engine draws after it is the same every time."""
    reset(seed=7)
    first = [shared_rng().random() for _ in range(3)]
    reset(seed=7)
    assert [shared_rng().random() for _ in range(3)] == first


def test_without_a_seed_chance_is_fresh():
    """Also right after one was given."""
    reset(seed=7)
    first = shared_rng().random()
    reset(seed=7)
    reset()
    assert shared_rng().random() != first


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nobody forks here")
def test_a_forked_worker_draws_for_itself():
    """Else all workers of a server would come back to a provider at the same moment."""
    found = subprocess.run(
        [sys.executable, "-c", FORKS], capture_output=True, text=True, check=True, timeout=60
    )
    assert found.stdout.strip() == "False"
