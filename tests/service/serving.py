"""A service over a simulator, at a port of its own."""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from langchain_resilient import ResilientChatModel, Target
from langchain_resilient.service.config import ServiceConfig
from langchain_resilient.service.run import server_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from langchain_resilient.testing import ProviderSimulator

NAMES = ("openai:gpt-6.1-sol", "together:qwen")


def model(
    sim: ProviderSimulator, *names: str, api: str = "auto", **fields: Any
) -> ResilientChatModel:
    """Over targets of the simulator."""
    targets = [
        Target(name, api_key="upstream-key", base_url=sim.base_url(name.partition(":")[0]), api=api)
        for name in names or NAMES
    ]
    return ResilientChatModel(targets=targets, share_learning=False, **fields)


@contextmanager
def served(llm: ResilientChatModel, **config: Any) -> Iterator[str]:
    """Serve a model in a thread; gives the base URL, without `/v1`."""
    server = server_for(llm, ServiceConfig(**{"port": 0, "warm": False, **config}))
    ready = threading.Event()

    async def run() -> None:
        # As `uvicorn.Server.serve`, without the signals, which are the main thread's.
        server.config.load()
        server.lifespan = server.config.lifespan_class(server.config)
        await server.startup()
        ready.set()
        await server.main_loop()
        await server.shutdown()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    try:
        assert ready.wait(20)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()
