"""Steps of the simulator that only these tables need."""

from __future__ import annotations

import math
from dataclasses import dataclass

from langchain_resilient.testing.exchange import Exchange
from langchain_resilient.testing.steps.base import Reply, Step

_THOUGHT = "Let me see what is asked here, and what is known of it, one by one. " * 8


@dataclass(frozen=True)
class Thinks(Step):
    """Reasoning and no text, until the connection is closed in the middle of the body.

    Attributes:
        pieces: How many pieces of reasoning.
        gap: Seconds between them.
    """

    pieces: int
    gap: float = 0.0

    async def play(self, exchange: Exchange) -> None:
        """Think aloud, and die."""
        writer = exchange.prepare(Reply(reasoning=_THOUGHT))
        await writer.open()
        thoughts = [f for f in writer.rendered.pieces if f.early and not f.text]
        for thought in thoughts[: self.pieces]:
            writer.inject(thought.data.decode())
            await exchange.sleep(self.gap)
        exchange.close()


@dataclass(frozen=True)
class ThenKeepAlives(Step):
    """Some text, and then keep-alives for ever: bytes come, content does not.

    Attributes:
        after: How many pieces of the answer come first.
        interval: Seconds between two keep-alives.
    """

    after: int
    interval: float = 0.05

    async def play(self, exchange: Exchange) -> None:
        """Begin, and keep the client waiting."""
        writer = exchange.prepare(Reply())
        await writer.open()
        await writer.write_pieces(self.after)
        while exchange.request.stream:
            writer.inject(": keep-alive\n\n")
            await exchange.drain()
            await exchange.sleep(self.interval)
        await exchange.sleep(math.inf)
