"""The same through the model, the real SDK and the simulator's HTTP, on a virtual loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_resilient.chat_model import ResilientChatModel
from langchain_resilient.options import Target
from langchain_resilient.providers import sdk
from langchain_resilient.testing.delays import Uniform
from langchain_resilient.testing.simulator import ProviderSimulator
from langchain_resilient.testing.steps.base import Reply
from tests.limits.rows import FASTEST, SLOWEST, Row
from tests.limits.world import Result, crowd
from tests.whole_stack.virtual import run_virtual

if TYPE_CHECKING:
    from tests.whole_stack.virtual import VirtualLoop


def play(row: Row) -> Result:
    """Run a row that is ours."""

    async def main(loop: VirtualLoop) -> Result:
        async with ProviderSimulator(row.seed, wall_clock=loop.calendar, remember=1) as sim:
            llm = ResilientChatModel(targets=_targets(sim, row), spread=row.spread)

            async def one(item: dict[str, Any]) -> bool:
                most = {"max_tokens": item["max_tokens"]} if "max_tokens" in item else {}
                return bool(await llm.ainvoke(item["messages"], priority="batch", **most))

            began = loop.time()
            failed = await crowd(one, row)
            seconds = loop.time() - began
            await sdk.close_clients()
            names = [f"openai:m{number}" for number in range(len(row.limits))]
            sends = tuple(sim.count(name) for name in names)
            refused = sum(sim.count(name, status=429) for name in names)
        return Result(row, seconds, sends, refused, failed)

    return run_virtual(main, seed=row.seed)


def _targets(sim: ProviderSimulator, row: Row) -> list[Target]:
    found = []
    for number, limits in enumerate(row.limits):
        name = f"openai:m{number}"
        said = {
            "requests_per_minute": limits.requests,
            "tokens_per_minute": limits.tokens,
        }
        reply = Reply(words=10, latency=0.05, first_text=Uniform(FASTEST, SLOWEST))
        sim.script(name, then=reply)
        sim.limit(name, **said, window=limits.window, others=limits.others)
        configured = said if row.how == "configured" else {}
        found.append(Target(name, base_url=sim.base_url("openai"), api_key="k", **configured))
    return found
