"""`python -m tests.simulation`: the table of the hedging engine, over scripted targets.

python -m tests.simulation                          the whole table
python -m tests.simulation --row hang --seeds 1     one row of it
python -m tests.simulation replay --row hang --seed 3 --request 1234
python -m tests.simulation replay --row hang --seed 3 --from 600 --to 610
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from math import inf

from langchain_resilient.simulation.run import run
from tests.simulation.examine import examine_all
from tests.simulation.rows import FULL, ROWS, SMALL
from tests.simulation.table import HEADER, LEGEND, lines


def main() -> int:
    """Run what was asked for; 1 if a bound breaks."""
    args = _parser().parse_args()
    return int(args.command(args))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.set_defaults(command=_table)
    parser.add_argument("--row", action="append", choices=ROWS, help="only this; may be repeated")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--requests", type=int, help="a seed and row")
    parser.add_argument("--small", action="store_true", help="the size that the tests run")
    parser.add_argument("--processes", type=int, default=2)
    commands = parser.add_subparsers()

    replay = commands.add_parser("replay", help="print what happened, event by event")
    replay.add_argument("--row", choices=ROWS, required=True)
    replay.add_argument("--seed", type=int, required=True)
    replay.add_argument("--request", type=int, help="only this one")
    replay.add_argument("--from", type=float, dest="since", default=0.0, metavar="SECONDS")
    replay.add_argument("--to", type=float, dest="until", default=inf, metavar="SECONDS")
    replay.add_argument("--requests", type=int)
    replay.add_argument("--small", action="store_true")
    replay.set_defaults(command=_replay)
    return parser


def _table(args: argparse.Namespace) -> int:
    size = _size(args)
    began = time.monotonic()
    print(HEADER)
    failed = []
    for examined in examine_all(args.row or list(ROWS), range(args.seeds), size, args.processes):
        print("\n".join(lines(examined)), flush=True)
        if not examined.passed:
            failed.append(examined.row.name)
    print(LEGEND)
    print(
        f"{args.seeds} seeds x {size.requests} requests a row, {time.monotonic() - began:.0f} s; "
        + (f"FAILED: {', '.join(failed)}" if failed else "every bound holds")
    )
    return 1 if failed else 0


def _replay(args: argparse.Namespace) -> int:
    done = run(ROWS[args.row](_size(args)).scenario, args.seed, keep=True)
    try:
        for event in done.trace.events:
            if args.since <= event.time <= args.until and args.request in (None, event.request):
                print(event)
        print(f"trace {done.trace.digest}")
    except BrokenPipeError:
        sys.stderr.close()
    return 0


def _size(args: argparse.Namespace):
    size = SMALL if args.small else FULL
    return size if args.requests is None else replace(size, requests=args.requests)


if __name__ == "__main__":
    sys.exit(main())
