"""Batches of many processes under one limit, by real processes, a real Redis and a simulator.

python -m verification.fleet                  the whole table
python -m verification.fleet --only killed    rows whose description has this word
python -m verification.fleet --workers        in virtual time: the batches, and 1,000 workers
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import NamedTuple

from verification.fleet import alone
from verification.fleet.batches import run_batches
from verification.fleet.runs import Row, play
from verification.fleet.workers import run
from verification.kit.redis_server import MISSING, RedisServer, installed

EVEN, UNEVEN = (300,) * 4, (840, 120, 120, 120)


class Bound(NamedTuple):
    """A row and what it must keep to; infinity for what is only shown.

    Equal batches end together, but for the process that asks first: while it is alone, for some
    tenths of a second, it leases a second's worth of the whole rate at a time, and keeps that lead.
    So there is a bound for all of them, and a closer one for the others.
    """

    name: str
    row: Row
    times_ideal: float
    share_refused: float
    operations: float = 0.25
    unevenness: float = float("inf")
    unevenness_of_others: float = float("inf")


def bounds() -> list[Bound]:
    """The table."""
    rows = []
    for dialect in ("openai", "together"):
        limits: tuple[tuple[str, float, float], ...] = (
            ("requests", 1800, 0),
            ("tokens", 0, 90_000),
        )
        for what, requests, tokens in limits:
            rows += [
                Bound(f"{dialect}, {what}, even", Row(dialect, EVEN, requests, tokens),  # type: ignore[arg-type]
                      1.07, 0.01, unevenness=0.1, unevenness_of_others=0.05),
                Bound(f"{dialect}, {what}, 70/30", Row(dialect, UNEVEN, requests, tokens),  # type: ignore[arg-type]
                      1.07, 0.01),
            ]  # fmt: skip
    inf = float("inf")
    killed, frozen, one = "redis killed", "redis frozen", "process killed"
    return [
        *rows,
        Bound("redis killed 8 s", Row("openai", EVEN, 1800, chaos=killed), 1.15, 0.01),
        Bound("redis frozen 6 s", Row("openai", EVEN, 1800, chaos=frozen), 1.2, 0.01),
        Bound("a process killed", Row("openai", EVEN, 1800, chaos=one), inf, 0.01),
        Bound("(nothing shared)", Row("openai", EVEN, 1800, shared=False), inf, inf, inf),
    ]


def main() -> int:
    """Run it; 1 if a bound is broken."""
    parser = argparse.ArgumentParser(prog="python -m verification.fleet", description=__doc__)
    parser.add_argument("--only", default="", help="a word of the row's description")
    parser.add_argument("--workers", action="store_true", help="only what runs in virtual time")
    args = parser.parse_args()
    if not installed():
        print(MISSING)
        return 1
    broken = 0 if args.workers else _batches(args.only)
    if not args.only and not args.workers:
        broken += alone.main()
    if not args.only:
        broken += _virtual_batches() + _many()
    print(f"{broken} bounds broken")
    return bool(broken)


def _batches(only: str) -> int:
    print(
        "1,200 prompts, 30 a second, a bucket of one second; answers take 0.4 s.\n"
        f"{'row':26} {'x ideal':>8} {'429s':>7} {'failed':>7} {'ops/call':>9} {'ends, s':>12}  load"
    )
    broken = 0
    for bound in bounds():
        if only not in bound.name:
            continue
        result = play(bound.row)
        wrong = [
            name
            for name, value, most in (
                ("x ideal", result.times_ideal, bound.times_ideal),
                ("429s", result.share_refused, bound.share_refused),
                ("failed", result.failed, 0),
                ("ops/call", result.operations_per_call, bound.operations),
                ("ends", result.unevenness, bound.unevenness),
                ("ends of others", result.unevenness_of_others, bound.unevenness_of_others),
            )
            if value > most
        ]
        broken += len(wrong)
        print(
            f"{bound.name:26} {result.times_ideal:8.3f} {result.share_refused:7.2%} "
            f"{result.failed:7} {result.operations_per_call:9.2f} "
            f"{min(result.ends):5.1f}-{max(result.ends):5.1f}  {os.getloadavg()[0]:.1f}"
            + (f"  BROKEN: {', '.join(wrong)}" if wrong else ""),
            flush=True,
        )
    return broken


def _virtual_batches() -> int:
    import redis

    print("\nthe same batches in virtual time, whatever this machine is busy with:")
    broken = 0
    with RedisServer() as server:
        client = redis.Redis.from_url(server.url, decode_responses=True, protocol=2)
        for stall, head_start in ((0.0, 0.0), (0.4, 0.0), (0.0, 0.1)):
            for bound in bounds()[:8]:
                row = bound.row
                outcome = run_batches(
                    client,
                    row.sizes,
                    row.dialect,
                    requests_per_minute=row.requests_per_minute,
                    tokens_per_minute=row.tokens_per_minute,
                    stall=stall,
                    head_start=head_start,
                )
                refused, a_call = (n / outcome.sends for n in (outcome.refused, outcome.operations))
                wrong = (
                    (outcome.times_ideal > bound.times_ideal)
                    + (refused > bound.share_refused)
                    + (a_call > bound.operations)
                    + (outcome.unevenness > bound.unevenness)
                    + (outcome.unevenness_of_others > bound.unevenness_of_others)
                )
                broken += wrong
                print(
                    f"{bound.name:26} {outcome.times_ideal:8.3f} {refused:7.2%} {a_call:17.2f} "
                    f"{min(outcome.ends):5.1f}-{max(outcome.ends):5.1f}"
                    + (f"  (processes stall for up to {stall} s)" if stall else "")
                    + (f"  (one starts {head_start} s before the others)" if head_start else "")
                    + ("  BROKEN" if wrong else ""),
                    flush=True,
                )
        client.close()
    return broken


def _many() -> int:
    import redis

    print("\nthe script driven alone, in virtual time:")
    broken = 0
    with RedisServer() as server:
        client = redis.Redis.from_url(server.url, decode_responses=True, protocol=2)
        for workers, rate, seconds in (
            (4, 30, 30),
            (60, 30, 40),
            (1000, 100, 60),
            (1000, 1000, 20),
        ):
            outcome = run(client, workers, rate, seconds)
            share = outcome.rate(after=seconds / 2) / rate
            counts = outcome.by_worker()
            broken += share < 0.95 or outcome.most_within(1.0) > 1.05 * rate + 1
            state = sum(client.memory_usage(name) or 0 for name in client.scan_iter("*"))
            a_call = outcome.operations / len(outcome.sends)
            each = outcome.script_seconds / outcome.operations * 1e6
            print(
                f"{workers} workers, {rate} turns a second: {share:.1%} of the rate granted; "
                f"at most {outcome.most_within(1.0)} in a second; {a_call:.2f} scripts a call, "
                f"{each:.0f} us each with the round trip; a worker {counts[0]} to {counts[-1]}, "
                f"the median {counts[len(counts) // 2]}; state {state / 1000:.0f} kB",
                flush=True,
            )
        script = client.info("commandstats").get("cmdstat_evalsha", {})
        print(f"in the server: {script.get('usec_per_call')} us a script")
        client.close()
    return broken


if __name__ == "__main__":
    sys.exit(main())
