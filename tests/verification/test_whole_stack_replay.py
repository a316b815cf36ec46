"""A seed replays a run exactly: its hash is the same every time, in every process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from verification.whole_stack.__main__ import main
from verification.whole_stack.mixture import REQUESTS, mixture
from verification.whole_stack.world import digest, play, trace

ROOT = Path(__file__).parents[2]
SEEDS = range(3)


@pytest.fixture(scope="module")
def digests() -> dict[int, str]:
    """The hash of each seed, in this process."""
    return {seed: digest(play(mixture(seed))) for seed in SEEDS}


def test_the_same_seed_gives_the_same_hash(digests):
    """Also after other runs in the same process."""
    again = {seed: digest(play(mixture(seed))) for seed in reversed(SEEDS)}
    assert again == digests


def test_another_process_gives_the_same_hash(digests):
    """Neither its own hash seed nor what was imported before matters."""
    hash_seed = "0" if os.environ.get("PYTHONHASHSEED") != "0" else "1"
    outcome = subprocess.run(
        [sys.executable, "-m", "verification.whole_stack", "--seeds", str(len(SEEDS)), "--hashes"],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    assert outcome.stdout.splitlines() == [f"{seed} {digests[seed]}" for seed in SEEDS]


def test_different_seeds_give_different_hashes(digests):
    """Or the hash would prove nothing."""
    assert len(set(digests.values())) == len(SEEDS)


def test_the_trace_tells_both_sides():
    """What a caller reads is what the server sent, at the same moment."""
    run = play(mixture(0))
    lines = [what for _, what in trace(run)]
    assert any(line.startswith("call 0 ") for line in lines)
    assert sum(line.startswith("server 1 ") for line in lines) == 2


def test_the_command_prints_a_timeline(capsys):
    """In the order of time, with the hash at its end."""
    assert main(["--seed", "0"]) == 0
    printed = capsys.readouterr().out
    times = [float(at) for at in re.findall(r"^ *(\d+\.\d{6})  ", printed, re.MULTILINE)]
    assert len(times) > REQUESTS
    assert times == sorted(times)
    assert printed.split()[-1] == digest(play(mixture(0)))
