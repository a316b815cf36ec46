"""Batches under rate limits, beside the ideal and a plain semaphore.

python -m verification.limits                    the whole table
python -m verification.limits --requests 1000    smaller batches
python -m verification.limits --only mixed       rows whose description has this word
python -m verification.limits --low              limits of 1 to 10 a minute, over the SDKs
python -m verification.limits --low --real       the same in real time: some four minutes
python -m verification.limits --untold           limits of 1 to 3000 a minute that no answer tells
"""

from __future__ import annotations

import argparse
import logging
import math
import multiprocessing
import time

from verification.kit.report import Table
from verification.limits.rows import Row, ideal, rows
from verification.limits.runs import LowLimit, Result, play, play_low

_TABLE = Table(
    ("server", "<7"),
    ("others", ">6.0%"),
    ("prompts", "<8"),
    ("pace", "<20"),
    ("ideal", ">8.1f"),
    ("took", ">8.1f"),
    ("x ideal", ">8.3f"),
    ("sends", ">12"),
    ("429s", ">6"),
    ("of sends", ">9.2%"),
    ("", "<1"),
    gap=" ",
)


def main() -> int:
    """Run it; 1 if a bound is broken."""
    parser = argparse.ArgumentParser(prog="python -m verification.limits", description=__doc__)
    parser.add_argument("--requests", type=int, default=2500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="a word of the row's description")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--low", action="store_true", help="limits of 1 to 10 a minute instead")
    parser.add_argument("--real", action="store_true", help="with --low: in real time")
    parser.add_argument("--untold", action="store_true", help="limits that no answer tells")
    args = parser.parse_args()
    if args.low:
        return low(real=args.real)
    if args.untold:
        return untold()
    began = time.monotonic()
    wanted = [row for row in rows(args.requests, args.seed) if args.only in str(_described(row))]
    print(
        "600 requests and 200,000 tokens a minute; 64 workers; answers take 0.5 to 1.5 s.\n"
        "The ideal: a fluid that flows at the limit, all buckets full at first and empty at last.\n"
        f"Bounds, but for `plain`: {args.requests} prompts in 1.05 x the ideal; 429s 1 % of sends, "
        f"5 % beside others.\n{_TABLE.header()}"
    )
    broken = 0
    with multiprocessing.get_context("spawn").Pool(args.processes, maxtasksperchild=4) as pool:
        for result in pool.imap(play, wanted):
            print(line(result), flush=True)
            broken += bool(result.broken())
    print(f"{broken} of {len(wanted)} rows break a bound; {time.monotonic() - began:.0f} s")
    return bool(broken)


_LOW = Table(
    ("a minute", ">8"), ("dialect", "<8"), ("limit", "<10"), ("calls", "<10"),
    ("fair", ">7.1f"), ("took", ">7.1f"), ("x fair", ">7.3f"), ("gap", ">6.2f"), ("429s", ">5"),
    ("", "<1"),
    gap=" ",
)  # fmt: skip


def low(*, real: bool) -> bool:
    """Show how long calls take at targets that let in very little; whether a bound is broken.

    Args:
        real: In real time, and so for a few calls only.
    """
    print(f"Bound: 1.1 x the fair time, and half a second a call.\n{_LOW.header()}")
    broken = 0
    for limit, dialect in ((1, "openai"), (2, "together"), (3, "openai"), (6, "together"),
                           (10, "openai")):  # fmt: skip
        for how in ("configured", "learned"):
            for batch in (False, True):
                if real and (limit < 3 or (how == "learned" and batch)):
                    continue
                minutes = (1.0 if how == "learned" else 0.0) + 4 / limit if real else 2.0
                row = LowLimit(limit, how, batch, dialect, minutes=minutes)
                result = play_low(row, real=real)
                late = result.seconds > 1.1 * row.fair() + 0.5 * row.calls()
                wrong = late or result.answered != row.calls()
                broken += wrong
                kind = f"{row.calls()} {'batch' if batch else 'alone'}"
                ratio = result.seconds / row.fair()
                gap = result.gap * limit / 60
                print(_LOW.line(limit, dialect, how, kind, row.fair(), result.seconds, ratio, gap,
                                result.refused, "broken" if wrong else ""), flush=True)  # fmt: skip
    print(f"{broken} rows break the bound")
    return bool(broken)


_UNTOLD = Table(
    ("a minute", ">8"), ("window", "<7"), ("hints", "<5"), ("calls", "<10"), ("fair", ">7.1f"),
    ("took", ">7.1f"), ("x fair", ">7.3f"), ("gap", ">6.2f"), ("429s", ">5"),
    ("of sends", ">8.1%"), ("", "<1"), gap=" ",
)  # fmt: skip


def untold() -> bool:
    """Show how a limit is learned from refusals alone; whether a bound is broken."""
    print(
        "Together's SDK. Hints: whether refusals tell how long to wait, in whole seconds. The gap "
        "is the longest, in fair gaps.\nBounds where they do: answered, 4 refusals and the binary "
        "logarithm of the calls, or 1 %, 1.1 x the fair time, 1.35 x by the second; without, 2 x.\n"
        f"{_UNTOLD.header()}"
    )
    broken = 0
    for limit in (1, 2, 3, 6, 10, 60, 120, 300, 3000):
        for window in ("minute", "second"):
            for hints in (True, False):
                for batch in (False, True):
                    few = limit <= 10
                    if (few and window == "second") or not (few or batch):
                        continue
                    low = LowLimit(limit, "learned", batch, "together", 3.0 if few else 2.0,
                                   window, hints)  # fmt: skip
                    broken += _untold(low)
    print(f"{broken} rows break a bound")
    return bool(broken)


def _untold(low: LowLimit) -> bool:
    result = play_low(low)
    most = 1.1 if low.window == "minute" else 1.35
    wrong = result.answered != low.calls()
    if low.hints:
        wrong |= result.refused > max(4 + math.log2(low.calls()), 0.01 * low.calls())
    wrong |= result.seconds > (most if low.hints else 2.0) * low.fair() + 3
    kind = f"{low.calls()} {'batch' if low.batch else 'alone'}"
    print(_UNTOLD.line(low.limit, low.window, "yes" if low.hints else "no", kind, low.fair(),
                       result.seconds, result.seconds / low.fair(), result.gap * low.limit / 60,
                       result.refused, result.refused / (result.refused + result.answered),
                       "broken" if wrong else ""), flush=True)  # fmt: skip
    return wrong


def line(result: Result) -> str:
    """Print one run."""
    return _TABLE.line(
        *_described(result.row), ideal(result.row), result.seconds, result.ratio,
        "+".join(map(str, result.sends)), result.refused, result.share_refused,
        ", ".join(result.broken()),
    )  # fmt: skip


def _described(row: Row) -> tuple[str, float, str, str]:
    limits = row.limits[0]
    pace = row.how if row.how != "plain" else "plain semaphore"
    if len(row.limits) > 1:
        pace += ", equal" if row.equal else f", spread={row.spread}"
    return "both" if len(row.limits) > 1 else limits.window, limits.others, row.sizes, pace


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)  # refusals are what this is about
    raise SystemExit(main())
