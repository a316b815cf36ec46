"""`python -m verification.kill`: `kill -9` at random moments of a batch with a journal.

The command `langchain-resilient batch` runs in processes that are killed, against a simulator in
this one, which survives them and saw every request. In the end each prompt must have its own
answer, once, in order; nothing that the journal held after a kill may have changed or been asked
again after it.

Example:
    ```sh
    python -m verification.kill --kills 50 --prompts 2000 --seed 1
    ```
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import sqlite3
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from langchain_resilient import cli
from langchain_resilient.batch.journal_file import JournalFile
from langchain_resilient.testing import ProviderSimulator, Reply, Uniform
from verification.kit.wall_clock import WallClock

if TYPE_CHECKING:
    from collections.abc import Sequence
    from multiprocessing.context import ForkServerProcess

CONCURRENCY = 16
MAX_RUN_SECONDS = 60.0
"""Seconds that one run of the command may take."""

EARLY_SHARE = 0.1
"""The share of kills that hit a process while it starts."""

_MODULES = ["langchain_resilient.cli", "langchain_resilient.chat_model", "openai", "aiohttp"]


@dataclass
class Verdict:
    """What a schedule of kills did.

    Attributes:
        kills: Processes that were killed.
        early: Of these, before their first request.
        requests: Requests sent in all.
        recorded: The number of answers in the journal after each kill.
        repeated: Requests for prompts whose answer the journal held after an earlier kill.
        late: Requests that came after the moment at which the prompt's answer was recorded.
        wrong: Any other defects, in words.
    """

    kills: int = 0
    early: int = 0
    requests: int = 0
    recorded: list[int] = field(default_factory=list)
    repeated: int = 0
    late: int = 0
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        prompts = self.recorded[-1]
        return (
            f"{self.kills} kills, {self.early} of them before the first request; "
            f"{prompts} prompts, {self.requests} requests, so {self.requests - prompts} for "
            f"answers that were not recorded yet; recorded after each kill: {self.recorded}\n"
            f"asked again after a kill though recorded: {self.repeated}\n"
            f"asked after being recorded: {self.late}\n"
            f"wrong: {'; '.join(self.wrong) or 'nothing'}"
        )


class Schedule:
    """One batch and the kills in it, in a directory of its own."""

    def __init__(
        self, folder: Path, sim: ProviderSimulator, clock: WallClock, prompts: int, seed: int
    ) -> None:
        self._random = Random(seed)
        self._sim = sim
        self._clock = clock
        self._texts = [f"{number} of {prompts}, seed {seed}" for number in range(prompts)]
        self._prompts = folder / "prompts.jsonl"
        self._answers = folder / "answers.jsonl"
        self._journal = folder / "answers.jsonl.journal"
        self._context = multiprocessing.get_context("forkserver")
        # Most of a start is imports: they are done once, in the process that forks.
        self._context.set_forkserver_preload(_MODULES)
        self._known: dict[str, tuple[str, float]] = {}
        self._requests_at: dict[str, int] = {}
        self.verdict = Verdict()
        rows = (
            {"prompt": f"Say exactly: {text}", "number": n} for n, text in enumerate(self._texts)
        )
        self._prompts.write_text("".join(f"{json.dumps(row)}\n" for row in rows))

    def run(self, kills: int) -> Verdict:
        """Kill the command so many times, then let it end, and check what it left."""
        max_requests = 2 * len(self._texts) * 0.8 / max(1, kills)
        for number in range(kills):
            early = number < kills * EARLY_SHARE
            self._kill(0 if early else self._random.uniform(1, max_requests))
            self._check_journal()
        self._end()
        self._check_journal()
        self._check_answers()
        self._check_requests()
        return self.verdict

    # -- kills ------------------------------------------------------------------------------------

    def _start(self) -> ForkServerProcess:
        names = [str(self._prompts), "-o", str(self._answers)]
        options = ["-t", "openai:m", "--max-concurrency", str(CONCURRENCY), "-q"]
        arguments = (["batch", *names, *options], self._sim.base_url("openai"))
        process = self._context.Process(target=_command, args=arguments)
        process.start()
        return process

    def _kill(self, after: float) -> None:
        """Start the command and kill it some moments after so many requests."""
        before, deadline = self._sim.count(), time.monotonic() + MAX_RUN_SECONDS
        process = self._start()
        while self._sim.count() < before + after and process.is_alive():
            time.sleep(0.001)
            if time.monotonic() > deadline:
                self.verdict.wrong.append("a run hangs")
                break
        time.sleep(self._random.uniform(0, 0.05 if after else 0.5))
        process.kill()
        process.join()
        if process.exitcode != -9:
            self.verdict.wrong.append(f"a run ended with {process.exitcode} before it was killed")
        self.verdict.kills += 1
        self.verdict.early += self._sim.count() == before

    def _end(self) -> None:
        if self._answers.exists():
            self.verdict.wrong.append("there is an output before the end")
        for sent in (True, False):
            before = self._sim.count()
            process = self._start()
            process.join(MAX_RUN_SECONDS)
            process.kill()
            if process.exitcode != 0:
                self.verdict.wrong.append(f"the last run ended with {process.exitcode}")
            if not sent and self._sim.count() > before:
                self.verdict.wrong.append("a run with nothing to do sent something")

    # -- checks -----------------------------------------------------------------------------------

    def _check_journal(self) -> None:
        """Read the journal; it must still hold, unchanged, what it held before."""
        recorded = self._recorded()
        lost = [key for key, known in self._known.items() if recorded.get(key) != known]
        if lost:
            self.verdict.wrong.append(f"{len(lost)} recorded answers were lost or changed")
        self._known |= recorded
        for text, _ in recorded.values():
            self._requests_at.setdefault(text, self._sim.count())
        self.verdict.recorded.append(len(recorded))

    def _recorded(self) -> dict[str, tuple[str, float]]:
        """Read a copy: the files themselves are for the next process to recover."""
        if not self._journal.exists() or not self._journal.stat().st_size:
            return {}
        with tempfile.TemporaryDirectory() as folder:
            for path in (self._journal, Path(f"{self._journal}-wal")):
                if path.exists():
                    shutil.copy(path, folder)
            file = JournalFile(
                Path(folder, self._journal.name), lock_timeout=MAX_RUN_SECONDS, create=False
            )
            rows = list(file.select("SELECT * FROM items WHERE answer IS NOT NULL"))
            file.close()
        return {r["exact"]: (json.loads(r["answer"])["content"], r["recorded"]) for r in rows}

    def _check_answers(self) -> None:
        if not self._answers.exists():
            self.verdict.wrong.append("there is no output")
            return
        rows = [json.loads(line) for line in self._answers.read_text().splitlines()]
        wanted = list(enumerate(self._texts))
        if [(row["number"], row.get("answer")) for row in rows] != wanted:
            self.verdict.wrong.append("an answer is missing, double or at the wrong place")
        connection = sqlite3.connect(self._journal)
        if connection.execute("PRAGMA integrity_check").fetchone() != ("ok",):
            self.verdict.wrong.append("the journal is not sound")
        connection.close()

    def _check_requests(self) -> None:
        requests = self._sim.requests
        self.verdict.requests = len(requests)
        moment = dict(self._known.values())
        # The journal has the wall's clock, which may be set; the simulator's is monotonic.
        time_of = self._clock.time_of
        for number, seen in enumerate(requests):
            text = seen.body["messages"][-1]["content"].removeprefix("Say exactly: ")
            self.verdict.repeated += number >= self._requests_at[text]
            self.verdict.late += time_of(seen.at) > moment[text]


def _command(arguments: list[str], base_url: str) -> None:
    os.environ.update(OPENAI_BASE_URL=base_url, OPENAI_API_KEY="any")
    sys.exit(cli.main(arguments))


def kill(kills: int, prompts: int, seed: int, latency: tuple[float, float]) -> Verdict:
    """Run one schedule.

    Args:
        kills: The number of kills.
        prompts: The number of prompts.
        seed: Seeds all randomness.
        latency: The minimum and maximum seconds to an answer.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        ProviderSimulator(seed, remember=10**6) as sim,
        WallClock() as clock,
    ):
        sim.script("*", then=Reply(first_text=Uniform(*latency)))
        return Schedule(Path(folder), sim, clock, prompts, seed).run(kills)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status: 1 if anything is wrong.
    """
    parser = argparse.ArgumentParser(prog="python -m verification.kill")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--prompts", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    begin = time.monotonic()
    verdict = kill(options.kills, options.prompts, options.seed, (0.02, 0.2))
    sys.stdout.write(f"{verdict}\nseed {options.seed}, {time.monotonic() - begin:.0f} s\n")
    return 1 if verdict.wrong or verdict.repeated or verdict.late else 0


if __name__ == "__main__":
    sys.exit(main())
