"""Prompts a second over real sockets, beside LangChain's own `abatch` and litellm's Router.

The server is the simulator, which answers at once, in a process of its own; each contestant has a
process of its own too. Rounds are interleaved and medians taken, since the machine is shared; CPU
is the contestant's own.

    python -m benchmarks.batch_throughput [--prompts 10000] [--rounds 3]

Rivals live in the environments that `make bench` builds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks.environments import python_of
from benchmarks.overhead import server
from benchmarks.rivals import CONTESTANTS

SCRIPT = Path(__file__).with_name("rivals.py")


def run(name: str, python: str, url: str, prompts: int, workers: int) -> dict[str, float] | None:
    """One contestant, once; None where it is not installed."""
    command = [python, str(SCRIPT), name, url, str(prompts), str(workers)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        print(f"{name}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return None
    parsed: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return parsed


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--prompts", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    fields: dict[str, list[dict[str, float]]] = {}
    for _ in range(args.rounds):
        for name in CONTESTANTS:
            python = sys.executable if name.startswith("ours") else python_of(name)
            with server() as url:
                one = run(name, python, url, args.prompts, args.workers)
            if one is not None:
                fields.setdefault(name, []).append(one)
                print(f"  {name:28} {args.prompts / one['wall']:7.0f} prompts/s", flush=True)
    print(f"{args.prompts:,} prompts, {args.workers} at a time, medians of {args.rounds} rounds:")
    for name, rounds in fields.items():
        wall, cpu = (statistics.median(one[kind] for one in rounds) for kind in ("wall", "cpu"))
        print(
            f"{name:28} {args.prompts / wall:7.0f} prompts/s  "
            f"{cpu / args.prompts * 1e3:6.2f} ms CPU a prompt"
        )


if __name__ == "__main__":
    main()
