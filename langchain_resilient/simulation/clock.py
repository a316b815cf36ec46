"""Virtual time: an event loop whose clock jumps to the next timer."""

from __future__ import annotations

import asyncio
import warnings
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

Result = TypeVar("Result")


class MissingSimulateExtraError(ImportError):
    """The library for virtual time is not installed."""

    def __init__(self) -> None:
        super().__init__(
            'simulations need the extra "simulate": pip install "langchain-resilient[simulate]"'
        )


def run_virtual(main: Coroutine[object, object, Result]) -> Result:
    """Run a coroutine on a loop of its own, in virtual time that starts at 0 seconds.

    Raises:
        MissingSimulateExtraError: If `async-solipsism` is not installed; says how to get it.

    Example:
        ```python
        run_virtual(asyncio.sleep(3600))  # at once
        ```
    """
    try:
        import async_solipsism  # noqa: PLC0415  # only simulations need it
    except ImportError:
        main.close()
        raise MissingSimulateExtraError from None
    with warnings.catch_warnings():
        # Two timers closer than the clock's microsecond: they simply run in the same tick.
        warnings.simplefilter("ignore", async_solipsism.ResolutionWarning)
        with asyncio.Runner(loop_factory=async_solipsism.EventLoop) as runner:
            return runner.run(main)
