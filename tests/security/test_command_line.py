"""The commands, as programs of their own with a key in their environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from langchain_resilient.testing import InvalidKey, Reply, Status
from tests.security.canary import Echo, leaks, new_key

if TYPE_CHECKING:
    from pathlib import Path

    from langchain_resilient.testing import ProviderSimulator

KEY = new_key()
LOUD = "import logging,sys; logging.basicConfig(level=logging.DEBUG); "
MAIN = "from langchain_resilient.cli import main; sys.exit(main(sys.argv[1:]))"


def run(
    sim: ProviderSimulator, folder: Path, *arguments: str
) -> subprocess.CompletedProcess[bytes]:
    """Run a command with every logger at DEBUG, and a crash reporter that dumps all threads."""
    keys = {"OPENAI_API_KEY": KEY, "TOGETHER_API_KEY": KEY, "PYTHONFAULTHANDLER": "1",
            "OPENAI_BASE_URL": sim.base_url("openai"), "OPENAI_LOG": "debug",
            "TOGETHER_BASE_URL": sim.base_url("together")}  # fmt: skip
    return subprocess.run(
        [sys.executable, "-c", LOUD + MAIN, *arguments],
        env={**os.environ, **keys}, cwd=folder, capture_output=True, timeout=100, check=False,
    )  # fmt: skip


def test_no_command_prints_or_writes_a_key(sim, tmp_path):
    """ask, batch, journal, targets, answered or refused: standard output, errors, and files."""
    results: list[bytes] = []

    def told(*arguments: str) -> int:
        done = run(sim, tmp_path, *arguments)
        results.extend((done.stdout, done.stderr))
        return done.returncode

    chain = ("-t", "openai:bad", "-t", "together:good")
    (tmp_path / "prompts.txt").write_text("one\ntwo\nthree\n")
    sim.script("openai:bad", then=Echo(KEY, "error", 401))
    assert told("ask", *chain, "hello") == 0
    assert told("targets", "--json") == 0
    sim.script("together:good", Reply("fine"), Status(500), then=InvalidKey())
    assert told("batch", *chain, "--timeout", "5", "-o", "out.jsonl", "prompts.txt") == 1
    assert told("journal", "show", "--failed", "out.jsonl.journal") == 0
    assert told("journal", "export", "out.jsonl.journal", "-o", "all.jsonl") == 0
    files = [one.read_bytes() for one in tmp_path.iterdir()]
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert sum("answer" in row for row in rows) == 1
    assert leaks(KEY, *results, *files) == []


@pytest.mark.parametrize("argument", ["--apikey={}", "-k{}"])
def test_a_key_is_no_argument_of_a_command(sim, tmp_path, argument):
    """Arguments stand in the list of processes, so there is none to give a key with."""
    assert run(sim, tmp_path, "ask", argument.format("x"), "hello").returncode == 2
