"""Run coroutines in virtual time: hours pass in milliseconds, and a seed replays a run exactly.

`virtual_time` is the decorator for async tests that need a clock that jumps. `run_virtual` runs
whole stacks: the real model over both HTTP transports, down to the bytes.

async-solipsism's loop has a clock that jumps and a loopback of its own; both SDKs run on it
unmodified. The transports need to be told three things only: how to connect (aiohttp's happy
eyeballs would open sockets of the operating system), how to see that an idle connection was closed
(httpcore would poll its file descriptor), and what time it is (both age idle connections by
`time.monotonic`).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import selectors
import sys
import warnings
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import async_solipsism
import pytest

from langchain_resilient import SkippedTargetWarning
from langchain_resilient.runtime.shared_state import reset
from langchain_resilient.threads import Threads

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

T = TypeVar("T")
Transport = Literal["aiohttp", "httpx"]

BEGINNING = 1_800_000_000.0
"""What the calendar says when the loop's clock says 0, in seconds since 1970."""


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


class ExactClock:
    """A clock that arrives exactly where it was sent.

    async-solipsism's own rounds to microseconds; a timer that looks at the clock and finds itself a
    hair too early (anyio's cancel scopes do) would then set itself anew for ever.
    """

    resolution = 1e-6

    def __init__(self) -> None:
        self._now = 0.0

    def time(self) -> float:
        """Seconds since the loop was made."""
        return self._now

    def advance(self, delta: float) -> None:
        """Jump."""
        self._now += delta


def _select(selector: Any, timeout: float | None = None) -> list[tuple[Any, int]]:
    """Do what the selector itself does: with many sockets its map takes half of a run's time."""
    ready = []
    for key in selector._fd_to_key.values():
        socket, wanted = key.fd.socket, key.events
        events = (
            selectors.EVENT_READ if wanted & selectors.EVENT_READ and socket.read_ready() else 0
        )
        if wanted & selectors.EVENT_WRITE and socket.write_ready():
            events |= selectors.EVENT_WRITE
        if events:
            ready.append((key, events))
    if ready or timeout == 0:
        return ready
    found: list[tuple[Any, int]] = type(selector).select(selector, timeout)
    return found


class VirtualLoop(async_solipsism.EventLoop):  # type: ignore[misc]  # it has no types
    """A loop in virtual time that counts its callbacks and can be interrupted at each of them.

    Attributes:
        steps: How many callbacks were run.
        interrupts: What to call right before a callback, by its number.
    """

    def __init__(self) -> None:
        super().__init__()
        self._selector.clock = self._exact_clock = ExactClock()
        self._selector.select = functools.partial(_select, self._selector)
        self.steps = 0
        self.interrupts: dict[int, Callable[[], object]] = {}

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._exact_clock.time()

    def call_soon(
        self, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> asyncio.Handle:
        """Schedule a callback, counted."""
        handle: asyncio.Handle = super().call_soon(self._step, callback, *args, context=context)
        return handle

    async def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> T:
        """Call it here and now: virtual time does not wait for threads."""
        return func(*args)

    def calendar(self) -> float:
        """Seconds since 1970, for dates in headers."""
        return BEGINNING + self.time()

    def _step(self, callback: Callable[..., object], *args: Any) -> None:
        self.steps += 1
        interrupt = self.interrupts.pop(self.steps, None)
        if interrupt is not None:
            interrupt()
        callback(*args)


def run_virtual(
    main: Callable[[VirtualLoop], Coroutine[Any, Any, T]],
    *,
    seed: int = 0,
    transport: Transport = "aiohttp",
) -> T:
    """Run a coroutine in virtual time, in a process that has learned nothing yet.

    Args:
        main: Gets the loop.
        seed: Of what the engine leaves to chance.
        transport: What the SDKs run on.

    Example:
        ```python
        async def sleep_for_a_day(loop: VirtualLoop) -> float:
            await asyncio.sleep(86_400)
            return loop.time()


        assert run_virtual(sleep_for_a_day) == 86_400
        ```
    """
    loop = VirtualLoop()
    reset(seed)
    with (
        _transports_on(loop, transport),
        _no_collector(),
        asyncio.Runner(loop_factory=lambda: loop) as runner,
    ):
        return runner.run(main(loop))


@contextlib.contextmanager
def _transports_on(loop: VirtualLoop, transport: Transport) -> Iterator[None]:
    import aiohappyeyeballs  # only whole stacks need the transports
    import aiohttp.connector

    # Before the first run, so that it does not differ from the others.
    import openai  # noqa: F401
    import together  # noqa: F401

    clock = SimpleNamespace(monotonic=loop.time, time=loop.calendar)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", SkippedTargetWarning)
        patch.setenv("LANGCHAIN_RESILIENT_TRANSPORT", transport)
        patch.setattr(aiohttp.connector, "monotonic", loop.time)
        patch.setattr(
            aiohappyeyeballs, "start_connection", async_solipsism.aiohappyeyeballs_start_connection
        )
        patch.setattr("async_solipsism.socket.ListenSocket.make_connection", _connect)
        patch.setattr(Threads, "run", _run_here)
        for httpcore in ("httpcore", "httpcore2"):
            patch.setattr(f"{httpcore}._backends.anyio.is_socket_readable", _is_readable)
            patch.setattr(f"{httpcore}._async.http11.time", clock)
        yield


async def _run_here(_: Threads, function: Callable[..., T], *args: Any) -> T:
    """Call it here and now: while a thread is busy, virtual time would jump to the deadline."""
    return function(*args)


async def _connect(listener: Any, peer: Any) -> Any:
    """Connect as the library does, and close what has come of it for one who is cancelled then.

    The library forgets the socket of whom it has just let in, and the server would keep its own.
    """
    waiter = asyncio.get_running_loop().create_future()
    listener._queue.append((waiter, peer))
    try:
        return await waiter
    except asyncio.CancelledError:
        if not waiter.cancelled():
            waiter.result().close()
        raise


def _is_readable(sock: Any) -> bool:
    return sock is None or bool(sock.fileno().socket.read_ready())


_frozen = {"modules": 0}
"""How many there were when the collector was last told to leave alone what there is."""


@contextlib.contextmanager
def _no_collector() -> Iterator[None]:
    """Keep the cyclic collector out: when it comes is no matter of the seed."""
    was_on = gc.isenabled()
    gc.disable()
    gc.collect()  # what was dropped before is no business of `gc.collect()` in a run
    if len(sys.modules) > _frozen["modules"]:
        # Nor are modules, which stay: to look through them takes longer than the run.
        gc.freeze()
        _frozen["modules"] = len(sys.modules)
    try:
        yield
    finally:
        if was_on:
            gc.enable()
