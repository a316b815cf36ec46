"""Run mixtures of faults by the hundred, or replay one and print its timeline.

Example:
    ```sh
    python -m verification.whole_stack --seeds 1000
    python -m verification.whole_stack --seed 17
    ```
"""

from __future__ import annotations

import argparse
import logging
import time
from typing import TYPE_CHECKING

from verification.whole_stack.mixture import mixture
from verification.whole_stack.verdict import problems
from verification.whole_stack.world import digest, play, trace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from verification.kit.virtual_time import Transport

_PROGRESS = 100
"""Seeds between two lines of progress."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status: 1 if a condition was broken.
    """
    options = _parser().parse_args(arguments)
    if options.seed is not None:
        return replay(options.seed, options.transport)
    seeds = range(options.first, options.first + options.seeds)
    if options.hashes:
        for seed in seeds:
            print(seed, digest(play(mixture(seed), options.transport)))
        return 0
    return run_many(seeds, options.transport)


def replay(seed: int, transport: Transport) -> int:
    """Print what happens in one mixture, and what is wrong with it."""
    scenario = mixture(seed)
    run = play(scenario, transport)
    for target in scenario.targets:
        where = scenario.addresses.get(target, "at the simulator")
        print(f"{target} {where}: {scenario.script[target]} {scenario.fields[target]}")
    print(f"{scenario.model}\n")
    for at, what in trace(run):
        print(f"{at:12.6f}  {what}")
    wrong = problems(run)
    print(f"\n{digest(run)}", *wrong, sep="\n")
    return bool(wrong)


def run_many(seeds: range, transport: Transport) -> int:
    """Run many mixtures; print the seeds of those with something wrong, and the sum of it."""
    began = time.perf_counter()
    calls, sends, hours, bad = 0, 0, 0.0, 0
    for number, seed in enumerate(seeds, 1):
        run = play(mixture(seed), transport)
        calls, sends = calls + len(run.outcomes), sends + len(run.seen)
        hours += run.seconds / 3600
        wrong = problems(run)
        bad += bool(wrong)
        for problem in wrong:
            print(f"seed {seed}: {problem}", flush=True)
        if number % _PROGRESS == 0 or number == len(seeds):
            print(
                f"{number} seeds, {calls} calls, {sends} requests at the server, "
                f"{hours:.2f} virtual hours in {time.perf_counter() - began:.0f} s: "
                f"{bad} seeds with something wrong",
                flush=True,
            )
    return bool(bad)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m verification.whole_stack", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, metavar="N", help="how many mixtures")
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="the first one's seed")
    parser.add_argument("--seed", type=int, metavar="SEED", help="replay one, with its timeline")
    parser.add_argument("--hashes", action="store_true", help="print each seed's hash instead")
    parser.add_argument("--transport", choices=("aiohttp", "httpx"), default="aiohttp")
    return parser


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)  # faults are what this is about
    raise SystemExit(main())
