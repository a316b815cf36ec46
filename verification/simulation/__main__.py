"""`python -m verification.simulation`: the hedging engine over scripted targets, in virtual time.

python -m verification.simulation                          the whole table
python -m verification.simulation --row hang --seeds 1     one row of it
python -m verification.simulation replay --row hang --seed 2 --request 12345
python -m verification.simulation replay --row hang --seed 2 --from 600 --to 610
python -m verification.simulation fuzz --seeds 1000        random fault schedules
python -m verification.simulation replay --fuzz --seed 17  one of them
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import replace
from math import inf

from langchain_resilient.simulation.run import run
from verification.simulation import fuzz, overhead
from verification.simulation.examine import HEADER, LEGEND, examine_all, lines
from verification.simulation.fuzz import broken
from verification.simulation.rows import FULL, ROWS, SMALL, Size
from verification.simulation.users import table

OVERHEAD_SECONDS = 150e-6


def main() -> int:
    """Run what was asked for; 1 if a bound or an invariant breaks."""
    args = _parser().parse_args()
    try:
        return int(args.command(args))
    except BrokenPipeError:
        # The reader of our output went away (`| head`): there is nobody left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _users(args: argparse.Namespace) -> int:
    failed = 0
    for line, holds in table(args.seeds):
        print(line, flush=True)
        failed += not holds
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m verification.simulation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=_table)
    parser.add_argument("--row", action="append", choices=ROWS, help="only this; may be repeated")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--requests", type=int, help="so many a row and seed")
    parser.add_argument("--small", action="store_true", help="the size that the tests run")
    parser.add_argument("--processes", type=int, default=2)
    commands = parser.add_subparsers(metavar="COMMAND")

    replay = commands.add_parser("replay", help="print what happened, event by event")
    what = replay.add_mutually_exclusive_group(required=True)
    what.add_argument("--row", choices=ROWS)
    what.add_argument("--fuzz", action="store_true", help="a seed of the fuzzer")
    replay.add_argument("--seed", type=int, required=True)
    replay.add_argument("--request", type=int, help="only this one")
    replay.add_argument("--from", type=float, dest="since", default=0.0, metavar="SECONDS")
    replay.add_argument("--to", type=float, dest="until", default=inf, metavar="SECONDS")
    replay.add_argument("--requests", type=int, help="as the run had that is replayed")
    replay.add_argument("--small", action="store_true", help="as the run was that is replayed")
    replay.set_defaults(command=_replay)

    users = commands.add_parser("users", help="what a hang costs one user, and a few")
    users.add_argument("--seeds", type=int, default=3)
    users.set_defaults(command=_users)

    fuzzing = commands.add_parser("fuzz", help="random fault schedules against the invariants")
    fuzzing.add_argument("--seeds", type=int, default=1000)
    fuzzing.add_argument("--first", type=int, default=0, help="the first seed")
    fuzzing.add_argument("--processes", type=int, default=2)
    fuzzing.set_defaults(command=_fuzz)

    cost = commands.add_parser("overhead", help="the engine's CPU per request")
    cost.set_defaults(command=_overhead)
    return parser


def _table(args: argparse.Namespace) -> int:
    size = _size(args)
    began = time.monotonic()
    print(HEADER)
    failed, feasible, missed = [], 0.0, 0.0
    for examined in examine_all(args.row or list(ROWS), range(args.seeds), size, args.processes):
        print("\n".join(lines(examined)), flush=True)
        if not examined.passed:
            failed.append(examined.row.name)
        if examined.row.name.startswith("outage"):
            feasible += examined.findings.parts["whole"].feasible
            missed += examined.findings.parts["whole"].missed
    print(LEGEND)
    if feasible:
        print(
            f"Over all outages together {1 - missed / feasible:.4%} of the feasible were answered."
        )
    print(
        f"{args.seeds} seeds x {size.requests} requests a row, {time.monotonic() - began:.0f} s; "
        + (f"FAILED: {', '.join(failed)}" if failed else "every bound holds")
    )
    return 1 if failed else 0


def _replay(args: argparse.Namespace) -> int:
    scenario = fuzz.scenario(args.seed) if args.fuzz else ROWS[args.row](_size(args)).scenario
    if args.fuzz:
        print(scenario)
    done = run(scenario, args.seed, keep=True)
    calls = {call.number: call for call in done.calls}
    for event in done.trace.events:
        if args.since <= event.time <= args.until and args.request in (None, event.request):
            print(event)
    if args.request is not None and args.request in calls:
        call = calls[args.request]
        print(f"\n#{call.number}, from its arrival:")
        for a in call.attempts:
            why = f" ({a.fault})" if a.fault is not None else ""
            print(f"{a.started:14.6f}  {a.kind:<9} {a.target} {a.outcome} at {a.ended:.6f}{why}")
    for what in broken(done)[:10]:
        print(f"BROKEN {what}")
    print(f"trace {done.trace.digest}")
    return 0


def _fuzz(args: argparse.Namespace) -> int:
    began, failed = time.monotonic(), 0
    for seed, problem in fuzz.check_all(range(args.first, args.first + args.seeds), args.processes):
        failed += bool(problem)
        for what in problem[:3]:
            print(f"seed {seed}: {what}", flush=True)
        if len(problem) > 3:  # the first ones tell enough
            print(f"seed {seed}: and {len(problem) - 3} more", flush=True)
    print(f"fuzz: {args.seeds} seeds, {failed} failed, {time.monotonic() - began:.0f} s")
    return 1 if failed else 0


def _overhead(args: argparse.Namespace) -> int:
    del args
    seconds = overhead.measure()
    holds = seconds <= OVERHEAD_SECONDS
    print(
        f"engine: {seconds * 1e6:.0f} us of CPU a request <= {OVERHEAD_SECONDS * 1e6:.0f} us: "
        + ("ok" if holds else "FAIL")
    )
    return 0 if holds else 1


def _size(args: argparse.Namespace) -> Size:
    size = SMALL if args.small else FULL
    return size if args.requests is None else replace(size, requests=args.requests)


if __name__ == "__main__":
    sys.exit(main())
