"""`python -m verification.fuzz`: malformed answers by the hundred thousand, and hostile sizes.

Example:
    ```sh
    python -m verification.fuzz                        # all four parts
    python -m verification.fuzz memory --cases 20000   # one of them, shorter
    ```
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import re
import subprocess
import sys
import tempfile
import time
import warnings
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

from verification.fuzz import hostile
from verification.fuzz.batches import Batch, grown, over_sockets, without_sockets
from verification.fuzz.world import Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PARTS = ("memory", "sockets", "guided", "hostile")
_PROCESSES = 2
_SHOWN = 10


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts; print what came of them.

    Returns:
        The exit status: 1 if anything came that must not.
    """
    options = _parser().parse_args(arguments)
    logging.disable(logging.CRITICAL)  # faults are what this is about
    warnings.simplefilter("ignore")
    bad = False
    for part in options.parts or PARTS:
        print(f"\n== {part}", flush=True)
        began = time.perf_counter()
        if part == "memory":
            bad |= _batches(without_sockets, options.cases, options.seed)
        elif part == "sockets":
            bad |= _batches(over_sockets, options.socket_cases, options.seed)
        elif part == "guided":
            bad |= _guided(options.runs, options.seconds)
        else:
            bad |= any(one.problems() for one in hostile.run(list(hostile.EXPECTED)))
        print(f"{time.perf_counter() - began:.0f} s", flush=True)
    print("\nsomething is wrong" if bad else "\nnothing is wrong")
    return int(bad)


def _batches(play: Callable[[tuple[int, int]], list[Batch]], cases: int, seed: int) -> bool:
    """Share the cases among processes; each says how its memory went."""
    shares = [(seed + number, cases // _PROCESSES) for number in range(_PROCESSES)]
    tally = Tally()
    growth = []
    with get_context("spawn").Pool(_PROCESSES) as pool:
        for batches in pool.imap_unordered(play, shares):
            growth.append(grown(batches))
            for batch in batches:
                tally.add(batch.tally)
    _print(tally)
    for before, after in growth:
        print(f"memory at 20 % of the run: {before:.1f} MB; at its end: {after:.1f} MB")
    leaks = any(after - before > hostile.MAX_GROWTH for before, after in growth)
    return bool(tally.problems) or leaks


def _print(tally: Tally) -> None:
    answers = tally.came["answer"]
    print(f"{tally.cases} cases: {answers} answers, {tally.came.total() - answers} errors of ours")
    print(f"crashes {tally.crashes}, hangs {tally.hangs}, left open {tally.unclosed}")
    for name, counts in (("errors", tally.came), ("faults", tally.faults)):
        listed = ", ".join(f"{kind} {n}" for kind, n in counts.most_common() if kind != "answer")
        print(f"{name}: {listed}")
    for problem in tally.problems[:_SHOWN]:
        print(f"WRONG: {problem[:2000]}")
    if len(tally.problems) > _SHOWN:
        print(f"... and {len(tally.problems) - _SHOWN} more")


def _guided(runs: int, seconds: int) -> bool:
    if importlib.util.find_spec("atheris") is None:
        print("left out: atheris is not installed (pip install atheris)")
        return False
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "verification.fuzz.guided", f"{folder}/corpus",
                   f"-runs={runs}", f"-max_total_time={seconds}", "-max_len=1000", "-timeout=20",
                   "-rss_limit_mb=2048", f"-artifact_prefix={folder}/"]  # fmt: skip
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=False
        )
        counts = Path(f"{folder}/corpus.counts")
        print(counts.read_text() if counts.exists() else "nothing was counted")
        for crash in Path(folder).glob("*-*"):
            print(f"WRONG: {crash.name}: {crash.read_bytes()!r}")
    matches = re.findall(r"Done \d+ runs.*|cov: \d+|^\S+Error: .*", done.stderr, re.MULTILINE)
    print("; ".join(dict.fromkeys(matches[-4:])))
    if done.returncode:
        print(f"WRONG: exit code {done.returncode}; the last words:\n{done.stderr[-2000:]}")
    return done.returncode != 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m verification.fuzz", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], help="which parts; else all")
    parser.add_argument("--cases", type=int, default=100_000, help="without sockets")
    parser.add_argument("--socket-cases", type=int, default=4_000, help="over sockets")
    parser.add_argument("--runs", type=int, default=100_000, help="of the coverage-guided fuzzer")
    parser.add_argument("--seconds", type=int, default=180, help="that it may take")
    parser.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
