"""The callers: they use the model in every way there is, and many of them go away in the middle."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from langchain_resilient import ResilientChatModel, Target, TimeLimits
from verification.soak.providers import KEYS, STRANGER, TARGETS, WRONG_KEY

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from random import Random

DEADLINE = 20.0
GRACE = 1.0
"""Seconds past its deadline after which a call counts as late: the loop is as busy as can be."""

CANCELLED = 0.15
"""The share of calls whose task is cancelled, at a random moment."""


class Person(BaseModel):
    """Somebody."""

    name: str
    age: int


def weather_in(city: str) -> str:
    """Tell the weather of a city."""
    return city


def model(urls: dict[str, str]) -> ResilientChatModel:
    """The model, as an application would set it up. Models share what they learn."""

    def target(spec: str) -> Target:
        dialect = spec.partition(":")[0]
        key: Any = WRONG_KEY if spec == STRANGER else KEYS[0 if dialect == "openai" else 1]
        return Target(spec, base_url=urls[dialect], api_key=key)

    return ResilientChatModel(
        targets=[target(spec) for spec in TARGETS],
        timeout=DEADLINE,
        time_limits=TimeLimits(connect=1, first_text=2, chunk_gap=1),
    )


class Callers:
    """Ask, and count what became of it.

    Args:
        urls: Where the providers are.
        random: Decides everything.
    """

    def __init__(self, urls: dict[str, str], random: Random) -> None:
        self._urls = urls
        self._llm = model(urls)
        self._reader = self._llm.with_structured_output(Person, repair=True)
        self._agent = self._llm.bind_tools([weather_in], tool_choice="any")
        self._random = random
        self._number = 0
        self.outcomes: Counter[str] = Counter()
        self.latencies: list[float] = []
        self._ways: dict[Callable[[str], Awaitable[int]], float] = {
            self._ainvoke: 40,
            self._astream: 30,
            self._astream_left: 8,
            self._astream_dropped: 2,
            self._structured: 8,
            self._tools: 6,
            self._abatch: 2,
            self._amap_left: 1,
            self._invoke: 1,
            self._stream_left: 1,
            self._model_of_its_own: 1,
        }

    async def call(self) -> int:
        """Make one call; returns how many prompts it was."""
        self._number += 1
        (way,) = self._random.choices(list(self._ways), list(self._ways.values()))
        task = asyncio.ensure_future(way(f"q{self._number}"))
        cancelling = None
        if self._random.random() < CANCELLED:
            delay = self._random.expovariate(1 / 0.15)
            cancelling = asyncio.get_running_loop().call_later(delay, task.cancel)
        began = time.monotonic()
        try:
            asked = await task
        except asyncio.CancelledError:
            self.outcomes["cancelled"] += 1
            return 1
        except Exception as error:  # noqa: BLE001  # every error is a result
            self.outcomes[type(error).__name__] += 1
            return 1
        finally:
            if cancelling is not None:
                cancelling.cancel()
            self.outcomes["late"] += time.monotonic() - began > DEADLINE + GRACE
        self.outcomes["answered"] += 1
        if way in (self._ainvoke, self._astream):
            self.latencies.append(time.monotonic() - began)
        return asked

    async def _ainvoke(self, prompt: str) -> int:
        assert (await self._llm.ainvoke(prompt)).text
        return 1

    async def _astream(self, prompt: str) -> int:
        assert [chunk async for chunk in self._llm.astream(prompt)]
        return 1

    async def _astream_left(self, prompt: str) -> int:
        """The reader goes away, and closes the stream."""
        pieces = self._random.randint(1, 6)
        async with aclosing(self._llm.astream(prompt)) as chunks:  # type: ignore[type-var]
            async for _ in chunks:
                pieces -= 1
                if not pieces:
                    break
        return 1

    async def _astream_dropped(self, prompt: str) -> int:
        """The reader goes away, and leaves the stream to the garbage collector."""
        async for _ in self._llm.astream(prompt):
            break
        return 1

    async def _structured(self, prompt: str) -> int:
        assert isinstance(await self._reader.ainvoke(prompt), Person)
        return 1

    async def _tools(self, prompt: str) -> int:
        assert (await self._agent.ainvoke(prompt)).tool_calls
        return 1

    async def _abatch(self, prompt: str) -> int:
        prompts = [f"{prompt} {part}" for part in range(self._random.randint(2, 6))]
        assert all(answer.text for answer in await self._llm.abatch(prompts))
        return len(prompts)

    async def _amap_left(self, prompt: str) -> int:
        """Takes two of an endless list."""
        asked = 0
        endless = (f"{prompt} {part}" for part in range(10**9))
        async with aclosing(self._llm.amap(endless, max_concurrency=3)) as answers:
            async for _ in answers:
                asked += 1
                if asked == 2:
                    break
        return asked

    async def _invoke(self, prompt: str) -> int:
        assert (await asyncio.to_thread(self._llm.invoke, prompt)).text
        return 1

    async def _stream_left(self, prompt: str) -> int:
        """A synchronous reader, in a thread, who goes away."""
        await asyncio.to_thread(lambda: next(iter(self._llm.stream(prompt))))
        return 1

    async def _model_of_its_own(self, prompt: str) -> int:
        """Some applications make a model for each request."""
        assert (await model(self._urls).ainvoke(prompt)).text
        return 1
