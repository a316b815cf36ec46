"""Run a coroutine on a loop whose clock jumps: hours pass in milliseconds."""

from __future__ import annotations

import asyncio
import functools
import gc
from typing import TYPE_CHECKING, Any

import async_solipsism

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


def virtual_time(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Make an async test run in virtual time, and fail if it leaves a task behind."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        async def checked() -> None:
            await test(*args, **kwargs)
            for _ in range(5):
                await asyncio.sleep(0)
            left = asyncio.all_tasks() - {asyncio.current_task()}
            assert not left, f"tasks left running: {left}"

        with asyncio.Runner(loop_factory=async_solipsism.EventLoop) as runner:
            runner.run(checked())
        gc.collect()

    return run
