"""The ways to lose, or to be no longer wanted, while llama.cpp is at work.

Each scene returns the moment from which on nobody wants the server's answer, or None if that did
not come.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langchain_resilient import Hedge, ResilientChatModel, Target, TimeLimits
from verification.kit.scripted_targets import target

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from langchain_resilient.testing import ProviderSimulator
    from verification.losers.llama import Llama

MAX_TOKENS = 400
"""What the server would generate if nobody closed its connection: some ten seconds' work."""

_SPOKEN = 5
_LONG_PROMPT = "It was a dark and stormy night, and the rain fell in torrents. " * 40


@dataclass(frozen=True)
class Stage:
    """Where a scene is played, once.

    Attributes:
        llama: The server that loses.
        sim: Serves the target that wins.
        dialect: `"openai"` or `"together"`: whose SDK talks to the server.
        transport: The HTTP transport; it must be in force in this process.
        number: Of this play.
    """

    llama: Llama
    sim: ProviderSimulator
    dialect: str
    transport: str
    number: int

    @property
    def prompt(self) -> str:
        """One that the server has never seen: a prompt that it has cached would be too quick."""
        return f"{self.number}. Tell a very long story about a ship with {self.number} sails."

    def alone(self) -> ResilientChatModel:
        """Make a model that can only ask llama.cpp."""
        return self._model()

    def raced(self, **fields: Any) -> ResilientChatModel:
        """Make a model that asks llama.cpp first and can turn to the simulator."""
        return self._model(target(self.sim, f"{self.dialect}:other-{self.number}"), **fields)

    def _model(self, *others: Target, **fields: Any) -> ResilientChatModel:
        base = self.llama.url + ("/v1" if self.dialect == "openai" else "")
        first = Target(
            f"{self.dialect}:smollm2",
            base_url=base,
            api_key="none",
            # Clients are shared; one of another transport must not be taken for this one.
            default_headers={"X-Transport": self.transport},
        )
        fields = {"hedge": None, "max_tokens": MAX_TOKENS, "share_learning": False, **fields}
        return ResilientChatModel(targets=[first, *others], **fields)

    async def generating(self) -> None:
        """Wait until the server generates tokens for a request that began just now."""
        begun = self.llama.samples[-1].decodes
        await self.llama.until(lambda s: s.decodes > begun + 2 * _SPOKEN, after=time.monotonic())


async def late(stage: Stage) -> float:
    """It still reads its long prompt when the hedge's first text comes."""
    model = stage.raced(hedge=Hedge(delay=0.3))
    stream = model.astream(f"{stage.number}. {_LONG_PROMPT}Why?")
    await anext(stream)
    at = time.monotonic()
    await read(stream)
    return at


async def whole(stage: Stage) -> float:
    """It generates a whole, unstreamed answer when the hedge's comes: `Hedge(on="response")`."""
    await stage.raced(hedge=Hedge(delay=1.0, on="response")).ainvoke(stage.prompt)
    return time.monotonic()


async def closed_early(stage: Stage) -> float:
    """The consumer of `astream` has seen enough, and closes it."""
    stream: Any = stage.alone().astream(stage.prompt)
    await read(stream, _SPOKEN)
    at = time.monotonic()
    await stream.aclose()
    return at


async def closed_early_sync(stage: Stage) -> float:
    """The consumer of `stream` breaks out of its loop."""

    def some() -> float:
        stream: Any = stage.alone().stream(stage.prompt)
        for _ in range(_SPOKEN):
            next(stream)
        at = time.monotonic()
        stream.close()
        return at

    return await asyncio.to_thread(some)


async def cancelled(stage: Stage) -> float:
    """The task that reads `astream` is cancelled."""
    spoken = asyncio.Event()

    async def listen() -> None:
        stream = stage.alone().astream(stage.prompt)
        await read(stream, _SPOKEN)
        spoken.set()
        await read(stream)

    return await _cancel(listen(), spoken.wait())


async def cancelled_ainvoke(stage: Stage) -> float:
    """The task that waits for `ainvoke`, which streams upstream, is cancelled."""
    return await _cancel(stage.alone().ainvoke(stage.prompt), stage.generating())


async def paused(stage: Stage) -> float:
    """It stands still in the middle, and another has gone on by the time it wakes up."""
    stream = stage.raced(hedge=Hedge(pause=0.3)).astream(stage.prompt)
    await read(stream, _SPOKEN)
    stage.llama.pause()
    try:
        await read(stream)
    finally:
        at = time.monotonic()
        stage.llama.go_on()
    return at


async def crawling(stage: Stage) -> float | None:
    """It is given up in the middle, since it generates too slowly; another goes on."""
    limits = TimeLimits(min_tokens_per_second=10_000, throughput_window=1.0)
    model = stage.raced(time_limits=limits)
    began = time.monotonic()  # as the call does, which knows nothing of what went before
    last: Any = None
    async for chunk in model.astream(stage.prompt):
        last = chunk.response_metadata.get("resilience", last)
    breaks = (last or {}).get("breaks")
    return began + float(breaks[0]["seconds"]) if breaks else None


async def read(stream: AsyncIterator[Any], chunks: int | None = None) -> None:
    """Read a stream, or so much of it."""
    while chunks != 0:
        if await anext(stream, None) is None:
            return
        chunks = None if chunks is None else chunks - 1


async def _cancel(work: Any, ready: Any) -> float:
    """Cancel some work as soon as it is ready for that."""
    task, signal = asyncio.ensure_future(work), asyncio.ensure_future(ready)
    await asyncio.wait((task, signal), return_when=asyncio.FIRST_COMPLETED)
    at = time.monotonic()
    for one in (task, signal):
        one.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return at


@dataclass(frozen=True)
class Scene:
    """One way to lose.

    Attributes:
        name: For the table.
        play: Plays it.
        bound: Seconds within which the server must be idle.
    """

    name: str
    play: Callable[[Stage], Awaitable[float | None]]
    bound: float


_SENDING = 0.5
_SILENT = 3.0
"""llama.cpp looks whether its client is there when it sends, else once a second
(`HTTP_POLLING_SECONDS` in its `server-context.cpp`), and finishes a batch first."""

SCENES = (
    Scene("hedge speaks first, while it reads its prompt", late, _SILENT),
    Scene('whole answers raced, Hedge(on="response")', whole, _SILENT),
    Scene("astream: consumer closes the stream", closed_early, _SENDING),
    Scene("stream: consumer breaks out of the loop", closed_early_sync, _SENDING),
    Scene("astream: caller is cancelled", cancelled, _SENDING),
    Scene("ainvoke: cancelled while streaming upstream", cancelled_ainvoke, _SENDING),
    Scene("pause in the middle, another goes on", paused, _SENDING),
    Scene("too slow in the middle, another goes on", crawling, _SENDING),
)
