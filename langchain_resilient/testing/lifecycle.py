"""Starting, stopping and waiting, on an event loop of yours or in a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

from langchain_resilient.testing.request_handler import RequestHandler
from langchain_resilient.testing.request_log import RequestLog
from langchain_resilient.testing.server import Server

T = TypeVar("T")

_JOIN_TIMEOUT = 5.0  # seconds


class LoopThread:
    """An event loop in a thread of its own, which runs coroutines for other threads.

    Safe to use from any of them.

    Args:
        name: The thread's name.
    """

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        # A daemon: a test that dies without stopping it must not keep the process alive.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine there; return or raise what it does."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def stop(self) -> None:
        """Stop the loop and wait for the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_JOIN_TIMEOUT)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            asyncio.set_event_loop(None)
            self._loop.close()


class ConditionWaiters:
    """Lets tasks of one loop wait for conditions that are checked only when something changes."""

    def __init__(self) -> None:
        self._conditions: dict[asyncio.Future[None], Callable[[], bool]] = {}

    def notify(self) -> None:
        """Something has changed: wake the tasks whose condition is now true."""
        if self._conditions:
            for future, condition in list(self._conditions.items()):
                if not future.done() and condition():
                    future.set_result(None)

    async def until(self, condition: Callable[[], bool], seconds: float) -> None:
        """Wait until a condition is true.

        Raises:
            TimeoutError: If that takes more seconds than allowed.
        """
        if condition():
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._conditions[future] = condition
        try:
            await asyncio.wait_for(future, seconds)
        finally:
            del self._conditions[future]


class Lifecycle:
    """How `ProviderSimulator` starts, stops and waits.

    Args:
        handler: Handles the requests.
        log: Knows what is in flight.
        port: The port to listen on; 0 takes a free one.
    """

    def __init__(self, handler: RequestHandler, log: RequestLog, port: int) -> None:
        self._handler = handler
        self._log = log
        self._requested_port = port
        self._port: int | None = None
        self._waiters = ConditionWaiters()
        self._server = Server(handler.handle, self._waiters.notify)
        self._thread: LoopThread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> Self:
        """Start in a thread of its own.

        Returns:
            The simulator.

        Raises:
            RuntimeError: If it is running.
            OSError: If the port is taken.
        """
        self._check_stopped()
        self._thread = LoopThread("provider-simulator")
        try:
            self._thread.run(self.astart())
        except BaseException:
            self._thread.stop()
            self._thread = None
            raise
        return self

    def stop(self) -> None:
        """Stop the thread: hanging requests are dropped. Does nothing if it is not running."""
        thread, self._thread = self._thread, None
        if thread is not None:
            try:
                thread.run(self._close())
            finally:
                thread.stop()

    async def astart(self) -> Self:
        """Start on the running loop; see `start`."""
        self._check_stopped()
        loop = asyncio.get_running_loop()
        self._port = await self._server.start(self._requested_port)
        self._loop = loop
        self._handler.start()
        return self

    async def astop(self) -> None:
        """Stop: hanging requests are dropped. Does nothing if it is not running."""
        if self._thread is not None:
            await asyncio.to_thread(self.stop)
        else:
            await self._close()

    async def _close(self) -> None:
        if self._loop is not None:
            self._loop = None
            self._port = None
            await self._server.stop()

    def _check_stopped(self) -> None:
        if self._loop is not None:
            msg = "this simulator is running; stop it before you start it again"
            raise RuntimeError(msg)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return await self.astart()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.astop()

    @property
    def port(self) -> int:
        """The port it listens on.

        Raises:
            RuntimeError: If it is not running.
        """
        if self._port is None:
            msg = "the simulator is not running: use it in a with or async with statement"
            raise RuntimeError(msg)
        return self._port

    @property
    def in_flight(self) -> int:
        """The number of requests being answered now, hanging ones too."""
        return self._log.in_flight

    @property
    def open_sockets(self) -> int:
        """The number of connections open now, idle ones too."""
        return len(self._server.connections)

    def wait_idle(self, timeout: float = 5.0, *, sockets: int | None = None) -> None:
        """Wait until nothing is in flight, from another thread than the simulator's.

        Args:
            timeout: Seconds.
            sockets: Wait also until no more connections than this are open.

        Raises:
            TimeoutError: If it takes longer; the message says what is left.
            RuntimeError: If the simulator runs on a loop of yours: there use `await_idle`.
        """
        self._own_thread("await_idle").run(self._until_idle(timeout, sockets))

    async def await_idle(self, timeout: float = 5.0, *, sockets: int | None = None) -> None:  # noqa: ASYNC109 - the twin of wait_idle
        """Wait until nothing is in flight; see `wait_idle`. Works on any loop."""
        if self._thread is not None:
            await asyncio.to_thread(self.wait_idle, timeout, sockets=sockets)
        else:
            await self._until_idle(timeout, sockets)

    async def _until_idle(self, seconds: float, sockets: int | None) -> None:
        def idle() -> bool:
            return self.in_flight == 0 and (sockets is None or self.open_sockets <= sockets)

        await self._until(idle, seconds)

    def wait_requests(self, count: int, timeout: float = 5.0, *, pattern: str = "*") -> None:
        """Wait until a number of chat requests have come, from another thread than the simulator's.

        Args:
            count: How many since the start or `reset`, those that were refused included.
            timeout: Seconds.
            pattern: To which targets.

        Raises:
            TimeoutError: If it takes longer.
            RuntimeError: If the simulator runs on a loop of yours: there use `await_requests`.
        """
        self._own_thread("await_requests").run(self._until_requested(count, timeout, pattern))

    async def await_requests(
        self,
        count: int,
        timeout: float = 5.0,  # noqa: ASYNC109 - the twin of wait_requests
        *,
        pattern: str = "*",
    ) -> None:
        """Wait for a number of chat requests; see `wait_requests`. Works on any loop."""
        if self._thread is not None:
            await asyncio.to_thread(self.wait_requests, count, timeout, pattern=pattern)
        else:
            await self._until_requested(count, timeout, pattern)

    async def _until_requested(self, count: int, seconds: float, pattern: str) -> None:
        await self._until(lambda: self._log.count(pattern, None) >= count, seconds)

    async def _until(self, condition: Callable[[], bool], seconds: float) -> None:
        try:
            await self._waiters.until(condition, seconds)
        except TimeoutError:
            pending = [f"{r.target} {r.step}" for r in self._log.requests if r.ended_at is None]
            msg = (
                f"after {seconds:g} s {self._log.count('*', None)} requests have come, "
                f"{self.in_flight} are in flight {pending[:10]} and {self.open_sockets} "
                "connections are open"
            )
            raise TimeoutError(msg) from None

    def _own_thread(self, twin: str) -> LoopThread:
        if self._thread is None:
            msg = f"this simulator runs on your own event loop: use `await sim.{twin}()`"
            raise RuntimeError(msg)
        return self._thread
