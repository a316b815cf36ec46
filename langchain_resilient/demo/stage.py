"""Sets the stage: two copies of the same three providers, a chat model before each."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from langchain_resilient.chat_model import ResilientChatModel
from langchain_resilient.demo.baseline import fallbacks
from langchain_resilient.demo.schedule import PROVIDERS, rehearse
from langchain_resilient.demo.traffic import DEADLINE, Side, flow
from langchain_resilient.options import Target
from langchain_resilient.testing.simulator import ProviderSimulator

if TYPE_CHECKING:
    from langchain_core.runnables import Runnable

    from langchain_resilient.observability.stats import Stats


class Show:
    """One show: what is asked, of whom, and how it goes.

    Each side has providers of its own, so that neither uses up the other's patience.

    Args:
        length: Of the show, in seconds.
        rate: Requests a second, for each side.
        seed: Of all the providers' randomness.

    Example:
        ```python
        show = Show(length=120, rate=4, seed=0)
        asyncio.run(show.run())
        print(show.ours.score.quantile(0.95), show.theirs.score.quantile(0.95))
        ```
    """

    def __init__(self, *, length: float, rate: float, seed: int) -> None:
        self.length = length
        self.rate = rate
        self.seed = seed
        self.sides: tuple[Side, ...] = ()
        self._began: float | None = None
        self._ended: float | None = None
        self._llm: ResilientChatModel | None = None

    @property
    def ours(self) -> Side:
        """The side of `ResilientChatModel`."""
        return self.sides[0]

    @property
    def theirs(self) -> Side:
        """The side of LangChain's retry and fallbacks."""
        return self.sides[1]

    @property
    def started(self) -> bool:
        """Whether any request was sent."""
        return self._began is not None

    def clock(self) -> float:
        """Seconds since the show began; it stands still at the end."""
        if self._began is None:
            return 0.0
        return (time.monotonic() if self._ended is None else self._ended) - self._began

    def stats(self) -> Stats | None:
        """What our side's targets did; None before it began."""
        return None if self._llm is None else self._llm.stats()

    async def run(self) -> None:
        """Play it from beginning to end."""
        with ExitStack() as stack:
            opened = time.monotonic()
            ours, theirs = (stack.enter_context(ProviderSimulator(self.seed)) for _ in range(2))
            places = [(_openai_url(theirs, p.dialect), p.model) for p in PROVIDERS]
            async with fallbacks(places) as rival:
                await _warm_up(rival, ours)
                self._llm = ResilientChatModel(targets=_targets(ours), timeout=DEADLINE)
                names = ("langchain-resilient", "LangChain retry + fallbacks")
                models = (self._llm, rival)
                self.sides = tuple(map(Side, names, models))
                for simulator in (ours, theirs):
                    rehearse(simulator, self.length, time.monotonic() - opened)
                self._began = time.monotonic()
                try:
                    await flow(self.sides, length=self.length, rate=self.rate, clock=self.clock)
                finally:
                    self._ended = time.monotonic()


async def _warm_up(rival: Runnable[Any, Any], ours: ProviderSimulator) -> None:
    """Load both sides' SDKs with a request that does not count."""
    spare = ResilientChatModel(targets=_targets(ours), share_learning=False)
    await asyncio.gather(spare.ainvoke("warm up"), rival.ainvoke("warm up"))


def _targets(simulator: ProviderSimulator) -> list[Target]:
    return [
        Target(
            f"{provider.dialect}:{provider.model}",
            name=provider.name,
            base_url=simulator.base_url(provider.dialect),
            api_key="demo",
        )
        for provider in PROVIDERS
    ]


def _openai_url(simulator: ProviderSimulator, dialect: str) -> str:
    """Where the OpenAI SDK finds a dialect: Together's own SDK would add the `/v1` itself."""
    base = simulator.base_url(dialect)
    return base if base.endswith("/v1") else f"{base}/v1"
