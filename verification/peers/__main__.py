"""Compare with ChatOpenAI and ChatTogether; exit with 0 only if every difference has a reason."""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

from langchain_resilient.testing import ProviderSimulator
from verification.peers.cases import CASES
from verification.peers.comparing import Difference, differences, peer_model
from verification.peers.reasons import REASONS, page, unexplained

PAGE = Path(__file__).parents[2] / "docs" / "differences.md"


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m verification.peers", description=__doc__)
    parser.add_argument("--peer", choices=("openai", "together"), action="append")
    parser.add_argument("--case", action="append", choices=[case.name for case in CASES])
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name} and stop")
    args = parser.parse_args(arguments)
    if args.write:
        PAGE.write_text(page(), encoding="utf-8")
        return 0
    warnings.simplefilter("ignore")  # of parameters that a target does not know: a reason says so
    peers = args.peer or ["openai", "together"]
    for peer in peers:
        peer_model(peer)
    chosen = [case for case in CASES if not args.case or case.name in args.case]
    with ProviderSimulator() as sim:
        every = [d for peer in peers for case in chosen for d in differences(sim, peer, case)]
    missing = unexplained(every)
    for difference in missing:
        print(_line(difference))
    unseen = [r.differs for r in REASONS if not any(map(r.explains, every))]
    if not args.case and not args.peer:
        for differs in unseen:
            print(f"no longer differs: {differs}")
    print(
        f"{len(chosen)} calls of {' and '.join(peers)}: {len(every)} fields differ, "
        f"{len(missing)} without a reason"
    )
    return bool(missing)


def _line(d: Difference) -> str:
    again = f"python -m verification.peers --peer {d.peer} --case {d.case!r}"
    return f"{d.peer}, {d.case}, {d.way}: {d.field}: {d.theirs!r} there, {d.ours!r} here ({again})"


if __name__ == "__main__":
    sys.exit(main())
