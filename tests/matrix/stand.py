"""Where cells are played: a simulator, names and keys of their own, and what is left behind."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from langchain_resilient.chat_model import ResilientChatModel
from langchain_resilient.runtime import shared_state
from langchain_resilient.testing.simulator import ProviderSimulator
from tests.helpers import CANARY, target
from tests.matrix.stock import WORKERS, busy_connections, keys_of
from tests.streams.bench import Bench
from tests.streams.census import Census, settled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from langchain_resilient.testing.request_log import RecordedRequest

_THREADS = 64
"""Enough that a synchronous call never waits for a thread, which would be taken for slowness."""


class Stand(Bench):
    """A bench on which no cell shares a key: what blocks an account must not be another's loss."""

    def __init__(self, sim: ProviderSimulator, census: Census) -> None:
        super().__init__(sim, census)
        self._seen: dict[str, list[RecordedRequest]] = defaultdict(list)
        self._read = 0

    def model(self, *specs: str, **fields: Any) -> ResilientChatModel:
        """Make a model over named targets."""
        keyed = [target(self.sim, spec, api_key=f"{CANARY}-{spec}") for spec in specs]
        return ResilientChatModel(targets=keyed, **fields)

    def seen(self, spec: str) -> list[RecordedRequest]:
        """Return the requests to a target; each is looked through once, for there are many."""
        requests = self.sim.requests
        for one in requests[self._read :]:
            self._seen[one.target].append(one)
        self._read = len(requests)
        return self._seen[spec]

    async def behind(
        self, number: int, model: ResilientChatModel, specs: Sequence[str]
    ) -> list[str]:
        """Wait for what a call made to be gone, and list what is still there."""
        left = await self.left(number, specs)
        keys = keys_of(model)
        return left + await settled(lambda: busy_connections(keys))


@asynccontextmanager
async def stand() -> AsyncIterator[Stand]:
    """Start a simulator that nobody knows yet."""
    shared_state.reset()
    with ProviderSimulator(remember=1_000_000) as sim, Census() as census:
        yield Stand(sim, census)


def hire() -> None:
    """Give the running loop the threads in which synchronous calls are made."""
    workers = ThreadPoolExecutor(_THREADS, thread_name_prefix=WORKERS)
    asyncio.get_running_loop().set_default_executor(workers)
