"""`python -m langchain_resilient.testing`: the simulator as a command."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from langchain_resilient.testing.dialects import DIALECTS
from langchain_resilient.testing.json_script import load_script
from langchain_resilient.testing.request_log import RecordedRequest
from langchain_resilient.testing.simulator import ProviderSimulator


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the simulator until it is interrupted or terminated.

    Args:
        arguments: The command line, without the program's name.

    Returns:
        The exit code: 0, or 2 if the script is wrong or the port is taken.
    """
    options = parser().parse_args(arguments)
    simulator = ProviderSimulator(
        options.seed, port=options.port, log=_log if options.verbose else None
    )
    try:
        if options.script is not None:
            load_script(simulator, json.loads(options.script.read_text()))
        asyncio.run(_serve(simulator))
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


def parser() -> argparse.ArgumentParser:
    """Declare the options."""
    options = argparse.ArgumentParser(
        prog="python -m langchain_resilient.testing",
        description="Two simulated providers on this machine, for tests without keys.",
    )
    options.add_argument("--port", type=int, default=0, help="0 takes a free one (default)")
    options.add_argument("--seed", type=int, default=0, help="seeds all chance (default: 0)")
    options.add_argument(
        "--script",
        type=Path,
        metavar="FILE",
        help='JSON such as {"openai:gpt-6-luna": [{"step": "Status", "code": 500}]}',
    )
    options.add_argument("--verbose", action="store_true", help="print a line for each request")
    return options


async def _serve(simulator: ProviderSimulator) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    async with simulator:
        for dialect in DIALECTS:
            sys.stdout.write(f"{dialect:9} {simulator.base_url(dialect)}\n")
        sys.stdout.flush()
        await stopped.wait()


def _log(record: RecordedRequest) -> None:
    kind = "stream" if record.stream else "plain"
    seconds = (record.ended_at or record.at) - record.at
    end = " aborted by the client" if record.aborted else ""
    line = (
        f"{record.target} {kind} {record.step} -> {record.status or 'no status'} in {seconds:.3f} s"
    )
    sys.stdout.write(f"{line}, {len(record.pieces)} pieces{end}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
