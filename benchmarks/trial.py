"""How one contender meets one fault: seconds to the first text and to all of it.

Runs in each contender's own environment, and imports nothing of this package.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.contenders import Endpoint

if TYPE_CHECKING:
    from benchmarks.contenders import Contender, Factory

TIMEOUT = 10.0
"""Seconds that each contender is told a request may take."""

PATIENCE = 30.0
"""Seconds after which nobody waits any longer."""

APART = 0.25
"""Seconds between the tries, lest they hinder each other."""


@dataclass(frozen=True)
class Trial:
    """What one try came to.

    Attributes:
        first: Seconds to the first text; None without any.
        whole: Seconds to the end.
        verdict: `"text"`, `"empty"`, `"wrong"` (other than was said), `"error NAME"` or `"nothing"`
            (not even an error).
    """

    first: float | None
    whole: float
    verdict: str


class Trials:
    """Some tries at one fault, asked plainly and as a stream, each with a client of its own.

    The clients are made before the clock runs: it is not theirs to be compared here.

    Args:
        factory: Makes the contender.
        primary: The base URL of the model that has the fault.
        fallback: The base URL of the healthy one.
        fault: The name of the faulty model.
        tries: How often, in each way.
    """

    def __init__(
        self, factory: Factory, *, primary: str, fallback: str, fault: str, tries: int
    ) -> None:
        # A key for each try: else a contender with a memory would know the fault already.
        keys = [f"key-{fault}-{number}" for number in range(2 * tries)]
        self._contenders = [
            factory(Endpoint(primary, fault, key), Endpoint(fallback, "healthy", key), TIMEOUT)
            for key in keys
        ]

    async def meet(self, prompt: str, says: str) -> dict[str, list[dict[str, Any]]]:
        """Ask; what became of each try, by the way it was asked.

        Args:
            prompt: What to ask.
            says: What must be answered.
        """

        async def one(number: int, contender: Contender) -> dict[str, Any]:
            await asyncio.sleep(number * APART)
            way = _streamed if number % 2 else _plainly
            return asdict(await way(contender, prompt, says))

        results = await asyncio.gather(*map(one, range(len(self._contenders)), self._contenders))
        return {"plain": results[0::2], "stream": results[1::2]}


async def _plainly(contender: Contender, prompt: str, says: str) -> Trial:
    began = time.perf_counter()
    try:
        text = await asyncio.wait_for(contender.ask(prompt), PATIENCE)
    except Exception as error:  # noqa: BLE001 - what becomes of it is the finding
        return Trial(None, time.perf_counter() - began, _failure(error))
    seconds = time.perf_counter() - began
    return Trial(seconds if text else None, seconds, _verdict(text, says))


async def _streamed(contender: Contender, prompt: str, says: str) -> Trial:
    began = time.perf_counter()
    first, seen = None, ""
    try:
        async with asyncio.timeout(PATIENCE):
            async for text in contender.stream(prompt):
                if text and first is None:
                    first = time.perf_counter() - began
                seen += text
    except Exception as error:  # noqa: BLE001 - what becomes of it is the finding
        return Trial(first, time.perf_counter() - began, _failure(error))
    return Trial(first, time.perf_counter() - began, _verdict(seen, says))


def _failure(error: Exception) -> str:
    return "nothing" if type(error) is TimeoutError else f"error {type(error).__name__}"


def _verdict(text: str, says: str) -> str:
    if text == says:
        return "text"
    return "wrong" if text.strip() else "empty"
