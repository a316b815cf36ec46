"""`python -m verification.judges [JUDGE ...]`: be judged by servers that nobody here wrote.

A judge that can not be had is told, and fails the run unless `--allow-missing`.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import subprocess
import sys
import time
import warnings
from typing import TYPE_CHECKING

from verification.judges import aimock, haproxy, llmock
from verification.judges.checks import hear, manners
from verification.judges.install import MissingError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


_ROUNDS = 2
_LOSERS_TIMEOUT = 900.0
_MISSING = 2


def by_llmock() -> bool:
    """Be judged by llmock: its wire format, its faults, its verdict."""
    with llmock.started() as judge:
        checks = [*manners(judge), *llmock.scenes(judge)]
        return all(row.ok for row in asyncio.run(hear(checks, judge.seen)))


def by_aimock() -> bool:
    """Be judged by aimock: its wire format, and its chaos."""
    with aimock.started() as judge:
        checks = [*manners(judge), *aimock.chaos(judge)]
        return all(row.ok for row in asyncio.run(hear(checks, judge.seen)))


def by_haproxy() -> bool:
    """Be judged by HAProxy: what stands between us and the provider."""
    with haproxy.started() as judge:
        rows = asyncio.run(hear(haproxy.checks(judge), judge.seen, {judge.sim.port}))
        return all(row.ok for row in rows)


def by_llama_cpp() -> bool:
    """Be judged by llama.cpp: its own metrics tell whether it stops for a loser (`make losers`).

    Raises:
        MissingError: If there is no llama.cpp, or no model for it.
    """
    began = time.monotonic()
    command = [sys.executable, "-m", "verification.losers", "--rounds", str(_ROUNDS)]
    done = subprocess.run(
        command, text=True, capture_output=True, timeout=_LOSERS_TIMEOUT, check=False
    )
    if done.returncode == _MISSING:
        raise MissingError(done.stderr.strip())
    print("\n".join(f"    {line}" for line in done.stdout.splitlines()))
    print(f"    {time.monotonic() - began:.0f} s, exit status {done.returncode}", flush=True)
    return done.returncode == 0


JUDGES: dict[str, Callable[[], bool]] = {
    "llmock": by_llmock,
    "aimock": by_aimock,
    "llama.cpp": by_llama_cpp,
    "haproxy": by_haproxy,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status: 1 if a judge found against us, 2 if one was missing.
    """
    options = _parser().parse_args(arguments)
    bad, missing = [], []
    for name in options.judges or JUDGES:
        print(f"\n{name}: {(JUDGES[name].__doc__ or '').splitlines()[0]}", flush=True)
        print(f"{'asked / what it proved':<72}{'requests':>9}{'time':>9}", flush=True)
        try:
            if not JUDGES[name]():
                bad.append(name)
        except MissingError as error:
            print(f"    not judged: {error}", flush=True)
            missing.append(name)
    judged = len(options.judges or JUDGES) - len(missing)
    print(f"\n{judged} judges heard. Against us: {', '.join(bad) or 'none'}.")
    print(f"Not judged: {', '.join(missing) or 'none'}.")
    return 1 if bad else 2 if missing and not options.allow_missing else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m verification.judges", description=__doc__)
    parser.add_argument("judges", nargs="*", choices=[*JUDGES, []], metavar="JUDGE")
    parser.add_argument("--allow-missing", action="store_true", help="they do not fail the run")
    return parser


if __name__ == "__main__":
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    raise SystemExit(main())
