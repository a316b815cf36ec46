"""`python -m verification.patience`: thinking models, and users who ask one call at a time.

Over real sockets and both SDKs, against the simulator, in real time; the simulation's rows
`thinks-...` and `users` show the same at length. A healthy target that is silent for twenty
seconds must be waited for; one that hangs must cost a lone user no more than a few seconds.

Example:
    ```sh
    python -m verification.patience --median 20 --rounds 20
    ```
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from langchain_resilient import Hedge, ResilientChatModel
from langchain_resilient.testing import Lognormal, NoAnswer, ProviderSimulator, Reply
from verification.kit.report import Table
from verification.kit.scripted_targets import target

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

IN_FLIGHT = 8
MAX_COLD, MAX_WARM = 1.5, 1.06
"""Requests a call, of the first round and from the second on."""

MAX_LOST, MAX_CALL = 8.0, 5.0
"""Seconds that a worker may lose to a hang in all, and within one call."""

WARM_UP_CALLS = 40
CALLS = 25
"""Calls of each worker before the hang, in warm cases, and from it on."""

NORMAL = Lognormal(0.5, 0.5)
"""Seconds to the first text of the first target while it is well."""

_DIALECTS = ("openai", "together")


@dataclass(frozen=True)
class Line:
    """What one case showed.

    Attributes:
        case: What was run.
        figures: In words.
        holds: Whether it is within its bounds.
    """

    case: str
    figures: str
    holds: bool


# -- a healthy target that thinks -----------------------------------------------------------------


async def thinker(sim: ProviderSimulator, dialect: str, median: float, rounds: int) -> Line:
    """Eight calls at a time to a target that thinks, with a fast fallback.

    Args:
        sim: Where they are sent.
        dialect: Of the thinking target; the fallback's is the other.
        median: Seconds that it is silent.
        rounds: How many times eight calls; the first is cold.
    """
    other = _DIALECTS[dialect == "openai"]
    first, second = f"{dialect}:thinker-{median:g}", f"{other}:fast-beside-{dialect}"
    sim.script(first, then=Reply("thought over", first_text=Lognormal(median, 0.3)))
    sim.script(second, then=Reply("at once", first_text=0.3))
    llm = ResilientChatModel(
        targets=[target(sim, first, thinks=True), target(sim, second)], share_learning=False
    )
    ratios, by_first = [], 0
    for _ in range(rounds):
        before = sim.count(first) + sim.count(second)
        answers = await asyncio.gather(*[llm.ainvoke("What is 2 + 2?") for _ in range(IN_FLIGHT)])
        by_first += sum(answer.text == "thought over" for answer in answers)
        ratios.append((sim.count(first) + sim.count(second) - before) / IN_FLIGHT)
    cold, warm = ratios[0], sum(ratios[1:]) / max(1, len(ratios) - 1)
    figures = (
        f"requests a call {cold:.2f} cold (<= {MAX_COLD:g}), {warm:.3f} warm (<= {MAX_WARM:g}); "
        f"{by_first} of {rounds * IN_FLIGHT} answers by the thinker"
    )
    return Line(f"{first}, silent, 8 in flight", figures, cold <= MAX_COLD and warm <= MAX_WARM)


# -- a user whose first target begins to hang -----------------------------------------------------


async def users(
    sim: ProviderSimulator, workers: int, fallback: float, delay: float | None, *, warm: bool
) -> Line:
    """Workers who ask again as soon as they were answered, while the first target hangs.

    Args:
        sim: Where they ask.
        workers: How many.
        fallback: Seconds of the second target's first text.
        delay: Of the hedge; None for the default policy.
        warm: Whether the first target was well for a while before.
    """
    hedge = "learned" if delay is None else f"{delay:g}"
    name = f"{workers}-{fallback:g}-{hedge}-{'warm' if warm else 'cold'}"
    first, second = f"openai:first-{name}", f"together:second-{name}"
    sim.script(first, then=Reply("first", first_text=NORMAL))
    sim.script(second, then=Reply("second", first_text=fallback))
    policy: dict[str, Any] = {} if delay is None else {"hedge": Hedge(delay=delay)}
    llm = ResilientChatModel(
        targets=[target(sim, first), target(sim, second)], share_learning=False, **policy
    )
    if warm:
        await asyncio.gather(*[_ask(llm, WARM_UP_CALLS) for _ in range(workers)])
    sim.script(first, then=NoAnswer())
    lost = await asyncio.gather(*[_ask(llm, CALLS) for _ in range(workers)])
    most, longest = max(map(sum, lost)), max(map(max, lost))
    figures = f"lost {most:.1f} s (<= {MAX_LOST:g}), longest {longest:.1f} s (<= {MAX_CALL:g})"
    case = f"{workers} worker(s), fallback {fallback:g} s, hedge {hedge}"
    return Line(
        f"{case}, {'warm' if warm else 'cold'}", figures, most <= MAX_LOST and longest <= MAX_CALL
    )


async def _ask(llm: ResilientChatModel, count: int) -> list[float]:
    """Ask one call after the other.

    Returns:
        Of each the seconds until the request was sent that was answered.
    """
    lost = []
    for _ in range(count):
        receipt = (await llm.ainvoke("Hello")).response_metadata["resilience"]
        lost += [a["started"] for a in receipt["attempts"] if a["outcome"] == "won"]
    return lost


async def _import_sdks(sim: ProviderSimulator) -> None:
    """Make a call of each dialect: importing its SDK takes a second, which is no hang's fault."""
    await asyncio.gather(
        *[
            ResilientChatModel(targets=[target(sim, f"{dialect}:first")]).ainvoke("Hello")
            for dialect in _DIALECTS
        ]
    )


# -- the program ----------------------------------------------------------------------------------


async def play(cases: Sequence[Callable[[], Awaitable[Line]]], parallel: int) -> list[Line]:
    """Run cases, some of them at a time: most of them wait."""
    room = asyncio.Semaphore(parallel)

    async def run(case: Callable[[], Awaitable[Line]]) -> Line:
        async with room:
            return await case()

    return await asyncio.gather(*map(run, cases))


async def _play_all(
    sim: ProviderSimulator, cases: Sequence[Callable[[], Awaitable[Line]]], parallel: int
) -> list[Line]:
    await _import_sdks(sim)
    return await play(cases, parallel)


def main() -> int:
    """Run all of it; 1 if a bound breaks."""
    parser = argparse.ArgumentParser(
        prog="python -m verification.patience",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--median", type=float, default=20.0, help="seconds of thinking")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--parallel", type=int, default=8, help="cases at a time")
    args = parser.parse_args()
    with ProviderSimulator(seed=0) as sim:
        cases: list[Callable[[], Awaitable[Line]]] = [
            lambda d=dialect: thinker(sim, d, args.median, args.rounds)  # type: ignore[misc]
            for dialect in _DIALECTS
        ]
        cases += [
            lambda c=case: users(sim, *c[:3], warm=c[3])  # type: ignore[misc]
            for case in product((1, 2, 4), (0.3, 1.0), (None, 0.5), (False, True))
        ]
        lines = asyncio.run(_play_all(sim, cases, args.parallel))
    table = Table(("case", "<52"), ("", "<6"), ("figures", "<90"))
    print(table.header())
    for line in lines:
        print(table.line(line.case, "ok" if line.holds else "FAIL", line.figures))
    return 0 if all(line.holds for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
