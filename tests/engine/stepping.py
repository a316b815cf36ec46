"""A loop in virtual time that does something before a chosen step of its own."""

from __future__ import annotations

import asyncio
import warnings
from collections import defaultdict
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import async_solipsism

from verification.kit.scripted_engine import Failure

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from langchain_resilient import FaultKind
    from langchain_resilient.engine.race import Race


class SteppedLoop(async_solipsism.EventLoop):
    """Counts its iterations: so an await is found by number.

    Attributes:
        steps: How many iterations it has begun.
        acts: What is called before an iteration, by its number.
        complaints: What was reported to its exception handler.
    """

    def __init__(self) -> None:
        super().__init__()
        self.acts: defaultdict[int, list[Callable[[], object]]] = defaultdict(list)
        self.steps = 0
        self.complaints: list[str] = []
        self.set_exception_handler(lambda _, context: self.complaints.append(str(context)))

    def _run_once(self) -> None:
        self.steps += 1
        for act in self.acts.pop(self.steps, ()):
            act()
        super()._run_once()

    def timers(self) -> int:
        """How many timers somebody still waits for."""
        return sum(not handle.cancelled() for handle in self._scheduled)


def run_stepped(main: Callable[[SteppedLoop], Coroutine[Any, Any, None]]) -> None:
    """Run a coroutine function on such a loop."""
    with warnings.catch_warnings():
        # Two timers closer than the clock's microsecond: they simply run in the same tick.
        warnings.simplefilter("ignore", async_solipsism.ResolutionWarning)
        loop = SteppedLoop()
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(main(loop))


@dataclass
class Act:
    """What one request gets: words, or a fault, each after a while; or nothing at all."""

    words: int = 2
    after: float = 0.5
    gap: float = 0.5
    fault: FaultKind | None = None
    hangs: bool = False


@dataclass
class Upstream:
    """A target that counts its streams, and takes its time to close them."""

    acts: Sequence[Act]
    closing: float = 0.3
    sent: int = 0
    opened: int = 0
    closes: list[str] = field(default_factory=list)

    async def open(self, request: Any, *, stream: bool) -> Stream:
        act = self.acts[min(self.sent, len(self.acts) - 1)]
        self.sent += 1
        await asyncio.sleep(act.after / 2)
        if act.fault is not None and not act.words:
            raise Failure(act.fault)
        self.opened += 1
        return Stream(self, act, self.opened)


class Stream:
    """One answer."""

    def __init__(self, upstream: Upstream, act: Act, number: int) -> None:
        self.upstream, self.act, self.number = upstream, act, number
        self.said = 0

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> dict[str, Any]:
        act = self.act
        if act.hangs:
            await asyncio.Event().wait()
        await asyncio.sleep(act.gap if self.said else act.after / 2)
        self.said += 1
        if self.said <= act.words:
            return {"word": f"{self.number} "}
        if act.fault is not None:
            raise Failure(act.fault)
        if self.said > act.words + 1:
            raise StopAsyncIteration
        return {"finish": True}

    async def aclose(self) -> None:
        self.upstream.closes.append(f"begun {self.number}")
        await asyncio.sleep(self.upstream.closing)
        self.upstream.closes.append(f"done {self.number}")


async def read(race: Race, *, streaming: bool, pause: float = 0.0) -> None:
    """Be a caller: of the whole answer, or of its chunks, with a pause after each."""
    if not streaming:
        await race.answer()
        return
    async with aclosing(race.chunks()) as chunks:
        async for _ in chunks:
            await asyncio.sleep(pause)
