"""`python -m verification.lane`: what `lane="batch"` promises, over real SDKs and the simulator.

- `backlogs`: many prompts over providers that are fast, slow, stuck and expiring, in virtual time:
  what it costs against live requests, and whether the deadline is kept.
- `seeds`: random backlogs, faults, outages and live rate limits, in virtual time: each prompt is
  answered once and in time, wherever the live limits allow it.
- `kills`: `kill -9` of real processes: nothing is lost, and no prompt is in two batches.
- `memory`: the memory of a process that works through very many prompts.

Example:
    ```sh
    python -m verification.lane seeds --seeds 1000
    python -m verification.lane seeds --first 17 --seeds 1  # replays one
    ```
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import multiprocessing
import os
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from langchain_resilient import ResilientChatModel, Target
from langchain_resilient.batch import lane_batch
from langchain_resilient.testing import (
    Backlog,
    Lognormal,
    ProviderSimulator,
    Reply,
    Uniform,
    answer_to,
)
from verification.kit.inline_journal import InlineJournal
from verification.kit.virtual_time import VirtualLoop, run_virtual

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from langchain_resilient import BatchReport

HOUR = 3600.0
PRICE = (1.0, 2.0)
"""Dollars per million tokens, in and out."""

MAX_COST = 0.55
"""Of what live requests cost, where the provider keeps up."""


@dataclass
class Run:
    """What one batch did.

    Attributes:
        prompts: How many there were.
        seconds: How long it took, in virtual time.
        wrong: Prompts without their own answer.
        cost: Dollars, as a share of what live requests would have cost.
        live: Requests of their own that were sent.
        twice: Prompts that are in more than one batch which did not fail.
        report: The batch's own.
    """

    prompts: int
    seconds: float
    wrong: int
    cost: float
    live: int
    twice: int
    report: BatchReport


def model(name: str, base_url: str, per_minute: float | None = None) -> ResilientChatModel:
    """Make the model of all runs.

    Args:
        name: The provider.
        base_url: Where it is.
        per_minute: Live requests, as the user states them; None to learn them.
    """
    target = Target(
        f"{name}:m", base_url=base_url, api_key="k", price=PRICE, batch_discount=0.5,
        requests_per_minute=per_minute,
    )  # fmt: skip
    return ResilientChatModel(targets=[target], timeout=600)


def prompts_in_two_batches(sim: ProviderSimulator) -> int:
    """Count the prompts that are in more than one batch which did not fail."""
    seen: Counter[str] = Counter()
    # Its own record: the files are deleted once their answers are here.
    for batch in sim._batches.batches.values():
        if batch.failure is None:
            lines = (batch.file.data or b"").splitlines()
            seen.update(json.loads(line)["custom_id"] for line in lines)
    return sum(count > 1 for count in seen.values())


def run_batch(
    name: str,
    count: int,
    backlog: Backlog,
    *,
    within: float | None,
    set_up: Callable[[ProviderSimulator], None] = lambda _sim: None,
    seed: int = 0,
    stated: float | None = None,
) -> Run:
    """Answer some prompts in virtual time."""

    async def main(loop: VirtualLoop) -> Run:
        async with ProviderSimulator(seed, wall_clock=loop.calendar) as sim:
            sim.backlog("*", backlog)
            sim.script("*", then=Reply(latency=Lognormal(2.0, 0.5)))
            set_up(sim)
            llm, reports, dollars = model(name, sim.base_url(name), stated), [], 0.0
            right: set[int] = set()
            with tempfile.TemporaryDirectory() as folder:
                answers = llm.amap(
                    (f"q{n}" for n in range(count)) if within is None else questions(count),
                    lane="batch",
                    within=within,
                    journal=InlineJournal(Path(folder) / "run.db"),
                    return_exceptions=True,
                    report=reports.append,
                )
                async for index, answer in answers:
                    if isinstance(answer, Exception) or answer.text != answer_to(f"q{index}"):
                        continue
                    right.add(index)
                    usage = answer.usage_metadata or {}
                    dollars += usage["input_tokens"] * PRICE[0] + usage["output_tokens"] * PRICE[1]
            seconds = loop.time()
            # Its own loop only: that of synchronous calls, if there is one, lives in real time.
            await llm._ready().aclose()
            cost = reports[0].spent * 1e6 / dollars if dollars else 0.0
            twice = prompts_in_two_batches(sim)
            return Run(count, seconds, count - len(right), cost, sim.count(), twice, reports[0])

    return run_virtual(main, seed=seed)


def questions(count: int) -> list[str]:
    """Make some prompts."""
    return [f"q{n}" for n in range(count)]


# -- backlogs ------------------------------------------------------------------------------------

BACKLOGS: dict[str, tuple[Backlog, float | None, bool]] = {
    "fast": (Backlog(seconds=600), 6 * HOUR, True),
    "slow": (Backlog(seconds=4 * HOUR), 6 * HOUR, True),
    "with faults": (
        Backlog(seconds=HOUR, errors=0.01, missing=0.01, repeated=0.01, broken=0.01),
        6 * HOUR,
        True,
    ),
    "too slow": (Backlog(seconds=12 * HOUR, cancelling=300), 6 * HOUR, False),
    "stuck at 60 %": (Backlog(seconds=HOUR, stuck_at=0.6), 6 * HOUR, False),
    "expiring": (Backlog(seconds=20 * HOUR, window=10 * HOUR), None, False),
}
"""How the provider works, the deadline, and whether the provider keeps up."""


_HEAD = ("provider", "backlog", "within", "took", "by batch", "live", "cost", "wrong", "", "real")
_LINE = "{:<9} {:<14} {:>6} {:>8} {:>8} {:>7} {:>6} {:>5} {:<6} {:>6}"


def run_backlogs(args: argparse.Namespace) -> bool:
    """Work through each backlog at both providers."""
    good = True
    sys.stdout.write(_LINE.format(*_HEAD) + "\n")
    for name in ("openai", "together"):
        for title, (backlog, within, keeps_up) in BACKLOGS.items():
            began = time.perf_counter()
            run = run_batch(name, args.prompts, backlog, within=within)
            in_time = within is None or run.seconds <= within
            held = in_time and not run.wrong and not run.twice
            held = held and (not keeps_up or run.cost <= MAX_COST)
            good = good and held
            row = (
                name, title, "-" if within is None else f"{within / HOUR:g} h",
                f"{run.seconds / HOUR:.2f} h", f"{run.report.batched:,}", f"{run.live:,}",
                f"{run.cost:.3f}", run.wrong, "held" if held else "BROKEN",
                f"{time.perf_counter() - began:.0f} s",
            )  # fmt: skip
            sys.stdout.write(_LINE.format(*row) + "\n")
            sys.stdout.flush()
    return good


# -- seeds ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scenario:
    """One random world.

    Attributes:
        name: The provider.
        count: Prompts.
        within: Seconds.
        backlog: How batches are worked on.
        per_minute: Live requests that are let through.
        outage: When files and batches do not work.
        mishaps: What else goes wrong, by operation.
    """

    name: str
    count: int
    within: float
    backlog: Backlog
    per_minute: float
    outage: tuple[float, float]
    mishaps: tuple[tuple[str, Any], ...] = field(default=())

    @property
    def stated(self) -> float | None:
        """What the user says of the limit: Together's headers know no less than one a second."""
        return self.per_minute if self.name == "together" else None

    def set_up(self, sim: ProviderSimulator) -> None:
        """Tell the simulator."""
        sim.limit("*", requests_per_minute=self.per_minute)
        sim.batch_outage(self.name, *self.outage)
        for operation, mishap in self.mishaps:
            sim.break_batches(self.name, operation, mishap)  # type: ignore[arg-type]  # our names


def scenario(seed: int, count: int) -> Scenario:
    """Draw a world in which all prompts could be asked live in a third of the time."""
    random = Random(f"lane:{seed}")
    within = random.choice([HOUR, 2 * HOUR, 6 * HOUR])
    # Live requests, with a little more than half of what is sent counted as let through.
    slowest = count / (within / 3) * 60
    per_minute = max(2.0, slowest * random.choice([1.0, 2.0, 10.0]))
    backlog = Backlog(
        seconds=Lognormal(random.choice([300.0, HOUR, 4 * HOUR, 12 * HOUR]), 0.7),
        start=Uniform(0, 600),
        finalizing=Uniform(0, 300),
        cancelling=Uniform(0, random.choice([60, 600, 3000])),
        stuck_at=random.choice([None, None, None, 0.0, 0.6, 0.95]),
        window=random.choice([86_400.0, within / 2]),
        errors=random.choice([0.0, 0.0, 0.05, 1.0]),
        missing=random.choice([0.0, 0.05]),
        repeated=random.choice([0.0, 0.05]),
        broken=random.choice([0.0, 0.05]),
        fails=random.choice([None] * 9 + ["invalid_model"]),
    )
    start = random.uniform(0, within)
    outage = (start, start + random.choice([0.0, 60.0, HOUR, within]))
    operations = ["upload", "files", "create", "poll", "list", "cancel", "download"]
    mishaps = tuple(
        (random.choice(operations), random.choice([500, 429, "lost", "half", "cut"]))
        for _ in range(random.randint(0, 6))
    )
    name = random.choice(["openai", "together"])
    return Scenario(name, count, within, backlog, per_minute, outage, mishaps)


def run_seeds(args: argparse.Namespace) -> bool:
    """Run random worlds."""
    broken, late, costs, began = 0, 0, [], time.perf_counter()
    for seed in range(args.first, args.first + args.seeds):
        world = scenario(seed, args.prompts)
        run = run_batch(
            world.name, world.count, world.backlog, within=world.within, set_up=world.set_up,
            seed=seed, stated=world.stated,
        )  # fmt: skip
        costs.append(run.cost)
        is_late = run.seconds > world.within or run.report.late > 0
        late += is_late
        if is_late or run.wrong or run.twice:
            broken += 1
            sys.stdout.write(
                f"seed {seed}: {run.seconds:.0f} s of {world.within:.0f}, {run.wrong} wrong, "
                f"{run.twice} in two batches: {world}\n"
            )
        if not (seed + 1) % 100:
            sys.stdout.write(f"{seed + 1}: {broken} broken, {time.perf_counter() - began:.0f} s\n")
            sys.stdout.flush()
    sys.stdout.write(
        f"{args.seeds} seeds of {args.prompts} prompts: {broken} broken, {late} late, mean cost "
        f"{sum(costs) / len(costs):.3f} of live, {time.perf_counter() - began:.0f} s\n"
    )
    return not broken


# -- kills ---------------------------------------------------------------------------------------


def _work(base_url: str, folder: str, count: int) -> None:
    """Answer the prompts, in a process that may be killed."""
    lane_batch.POLL_SECONDS = (0.1, 0.2)
    lane_batch.RETRY_SECONDS = (0.1, 0.5)
    logging.getLogger("langchain_resilient").setLevel(logging.CRITICAL)
    llm = model("openai", base_url)
    answers = llm.batch(questions(count), lane="batch", journal=Path(folder) / "run.db")
    Path(folder, "answers.json").write_text(json.dumps([answer.text for answer in answers]))
    os._exit(0)


def run_kills(args: argparse.Namespace) -> bool:
    """Kill processes at random moments, a few times for each batch."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["langchain_resilient.chat_model", "openai", "aiohttp"])
    random, kills, broken, began = Random(f"kills:{args.seed}"), 0, 0, time.perf_counter()
    while kills < args.kills:
        with ProviderSimulator() as sim, tempfile.TemporaryDirectory() as folder:
            sim.backlog("*", Backlog(seconds=1.5, start=0.2, finalizing=0.1))
            url, left = sim.base_url("openai"), random.randint(1, 4)
            while not Path(folder, "answers.json").exists():
                process = context.Process(target=_work, args=(url, folder, args.prompts))
                process.start()
                process.join(random.uniform(0.1, 3.0) if left else 120.0)
                if process.is_alive():
                    process.kill()
                    process.join()
                    kills, left = kills + 1, left - 1
            answers = json.loads(Path(folder, "answers.json").read_text())
            wrong = sum(a != answer_to(f"q{n}") for n, a in enumerate(answers))
            wrong += args.prompts - len(answers)
            twice = prompts_in_two_batches(sim)
            if wrong or twice:
                broken += 1
                sys.stdout.write(f"after {kills} kills: {wrong} wrong, {twice} in two batches\n")
    sys.stdout.write(
        f"{kills} kills, {broken} batches broken, {time.perf_counter() - began:.0f} s\n"
    )
    return not broken


# -- memory --------------------------------------------------------------------------------------


def _serve(port: Any) -> None:
    with ProviderSimulator(remember=10) as sim:
        sim.backlog("*", Backlog(seconds=1, start=0, finalizing=0, reply=Reply("yes")))
        port.send(sim.base_url("openai"))
        port.recv()


def _resident() -> float:
    """Megabytes of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


class _EnoughError(Exception):
    """All prompts were read."""


def run_memory(args: argparse.Namespace) -> bool:
    """Work through many prompts, with the provider in another process."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    provider = context.Process(target=_serve, args=(theirs,), daemon=True)
    provider.start()
    url, samples, began = ours.recv(), [], time.perf_counter()
    lane_batch.POLL_SECONDS = (0.5, 2.0)

    def prompts() -> Iterator[str]:
        for n in range(args.prompts):
            if not n % max(1, args.prompts // 20):
                samples.append((f"{n:,} read", _resident()))
            yield f"q{n}"
        if args.reading:
            raise _EnoughError

    async def work() -> int:
        llm, done = model("openai", url), 0
        with tempfile.TemporaryDirectory() as folder:
            journal = Path(folder) / "run.db"
            async for _ in llm.amap(prompts(), lane="batch", journal=journal):
                done += 1
                if not done % max(1, args.prompts // 20):
                    samples.append((f"{done:,} done", _resident()))
        await llm.aclose()
        return done

    try:
        done = asyncio.run(work())
    except _EnoughError:
        done = args.prompts
    ours.send(None)
    provider.join(10)
    for label, megabytes in samples:
        sys.stdout.write(f"{label:>18} {megabytes:8.1f} MB\n")
    # The first tenth loads modules and fills the caches.
    settled = [megabytes for _, megabytes in samples[len(samples) // 10 :]]
    growth = max(settled) - settled[0]
    sys.stdout.write(
        f"{done:,} prompts, {growth:.1f} MB more at most than after the first tenth, "
        f"{time.perf_counter() - began:.0f} s\n"
    )
    return done == args.prompts and growth <= args.most


# -- the command ---------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    """Describe the command."""
    main_parser = argparse.ArgumentParser(prog="python -m verification.lane")
    commands = main_parser.add_subparsers(required=True)
    backlogs = commands.add_parser("backlogs")
    backlogs.add_argument("--prompts", type=int, default=10_000)
    backlogs.set_defaults(run=run_backlogs)
    seeds = commands.add_parser("seeds")
    seeds.add_argument("--seeds", type=int, default=1000)
    seeds.add_argument("--first", type=int, default=0)
    seeds.add_argument("--prompts", type=int, default=60)
    seeds.set_defaults(run=run_seeds)
    kills = commands.add_parser("kills")
    kills.add_argument("--kills", type=int, default=50)
    kills.add_argument("--prompts", type=int, default=200)
    kills.add_argument("--seed", type=int, default=1)
    kills.set_defaults(run=run_kills)
    memory = commands.add_parser("memory")
    memory.add_argument("--prompts", type=int, default=1_000_000)
    memory.add_argument("--reading", action="store_true", help="end when all prompts are read")
    memory.add_argument("--most", type=float, default=100.0, help="megabytes that it may grow by")
    memory.set_defaults(run=run_memory)
    return main_parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one of the proofs; 0 only if everything held."""
    args = parser().parse_args(argv)
    logging.getLogger("langchain_resilient").setLevel(logging.ERROR)
    return 0 if args.run(args) else 1


if __name__ == "__main__":
    sys.exit(main())
