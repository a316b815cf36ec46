"""The command line of the measurements."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from verification.service import faults, overhead, warm


def main() -> int:
    """Run one of them; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m verification.service")
    programs = parser.add_subparsers(required=True, dest="program")
    latency = programs.add_parser("overhead", help="what the service adds to latency")
    latency.add_argument("--rate", type=float, default=100, help="requests a second, each way")
    latency.add_argument("--seconds", type=float, default=30, help="for each kind of request")
    beside = programs.add_parser("beside", help="what it and other proxies add to latency")
    beside.add_argument("--rate", type=float, default=20, help="requests a second, each way")
    beside.add_argument("--seconds", type=float, default=30, help="for each kind of request")
    beside.add_argument("--litellm", type=Path, help="litellm's program, its proxy installed")
    failing = programs.add_parser("faults", help="what is lost and leaked while targets fail")
    failing.add_argument("--requests", type=int, default=10_000)
    failing.add_argument("--seed", type=int, default=0)
    warming = programs.add_parser("warm", help="first calls and first hedges, cold and warm")
    warming.add_argument("--idle", type=float, default=120, help="seconds before the hedge")
    warming.add_argument("--tries", type=int, default=3, help="processes of each kind")
    args = parser.parse_args()
    if args.program == "faults":
        return faults.measure(args.requests, args.seed)
    if args.program == "warm":
        return warm.measure(args.idle, args.tries)
    if args.program == "beside":
        return overhead.compare(args.rate, args.seconds, args.litellm)
    return overhead.measure(args.rate, args.seconds)


if __name__ == "__main__":
    sys.exit(main())
