"""The command line of the measurements."""

from __future__ import annotations

import argparse
import sys

from verification.service import overhead


def main() -> int:
    """Run one of them; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m verification.service")
    programs = parser.add_subparsers(required=True, dest="program")
    latency = programs.add_parser("overhead", help="what the service adds to latency")
    latency.add_argument("--rate", type=float, default=100, help="requests a second, each way")
    latency.add_argument("--seconds", type=float, default=30, help="for each kind of request")
    args = parser.parse_args()
    return overhead.measure(args.rate, args.seconds)


if __name__ == "__main__":
    sys.exit(main())
