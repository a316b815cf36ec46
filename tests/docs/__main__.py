"""`python -m tests.docs`: run every page, and count what was run and what was only checked."""

from __future__ import annotations

import sys
from dataclasses import astuple
from typing import Any

from tests.conftest import ROOT
from tests.docs.pages import PAGES
from tests.docs.running import PageError, run

HEAD = ("page", "python run", "output compared", "only compiled", "shell run", "by name", "skipped")


def main(wanted: list[str]) -> int:
    """Run the pages whose path ends in one of these; all pages if there are none."""
    rows: list[tuple[Any, ...]] = []
    failed = 0
    pages = [p for p in PAGES if not wanted or str(p).endswith(tuple(wanted))]
    for page in pages:
        try:
            rows.append((str(page.relative_to(ROOT)), *astuple(run(page))))
        except PageError as error:
            failed += 1
            print(error, file=sys.stderr)
    totals = [sum(row[n] for row in rows) for n in range(1, len(HEAD))]
    print(_table([HEAD, *rows, ("total", *totals)]))
    return 1 if failed else 0


def _table(rows: list[tuple[Any, ...]]) -> str:
    widths = [max(len(str(cell)) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join(
        f"{row[0]!s:<{widths[0]}}  "
        + "  ".join(f"{cell!s:>{w}}" for cell, w in zip(row[1:], widths[1:], strict=True))
        for row in rows
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
