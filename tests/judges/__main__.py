"""`python -m tests.judges [JUDGE ...]`: be judged by servers that nobody here wrote.

A judge that can not be had is told, and fails the run unless `--allow-missing`.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import warnings
from typing import TYPE_CHECKING

from tests.judges import aimock, haproxy, llama, llmock
from tests.judges.checks import hear
from tests.judges.install import MissingError
from tests.judges.manners import manners

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


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


JUDGES: dict[str, Callable[[], bool]] = {
    "llmock": by_llmock,
    "aimock": by_aimock,
    "llama.cpp": llama.judged,
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
    parser = argparse.ArgumentParser(prog="python -m tests.judges", description=__doc__)
    parser.add_argument("judges", nargs="*", choices=[*JUDGES, []], metavar="JUDGE")
    parser.add_argument("--allow-missing", action="store_true", help="they do not fail the run")
    return parser


if __name__ == "__main__":
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    raise SystemExit(main())
