"""Starting, stopping and waiting: on a loop of yours, or in a thread."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

from langchain_resilient.testing.server import Server
from langchain_resilient.testing.thread import LoopThread
from langchain_resilient.testing.waiting import Waiters

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from langchain_resilient.testing.desk import Desk
    from langchain_resilient.testing.records import Ledger


class Running:
    """The half of `ProviderSimulator` that runs; see there.

    Args:
        desk: Handles the requests.
        ledger: Knows what is in flight.
        port: The port to listen on; 0 takes a free one.
    """

    def __init__(self, desk: Desk, ledger: Ledger, port: int) -> None:
        self._desk = desk
        self._ledger = ledger
        self._wanted_port = port
        self._port: int | None = None
        self._waiters = Waiters()
        self._server = Server(desk.handle, self._waiters.look)
        self._thread: LoopThread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> Self:
        """Start in a thread of its own.

        Returns:
            The simulator.

        Raises:
            RuntimeError: If it runs already.
            OSError: If the port is taken.
        """
        self._must_rest()
        self._thread = LoopThread("provider-simulator")
        try:
            self._thread.run(self.astart())
        except BaseException:
            self._thread.stop()
            self._thread = None
            raise
        return self

    def stop(self) -> None:
        """Stop the thread: hanging requests are dropped. Does nothing if it does not run."""
        thread, self._thread = self._thread, None
        if thread is not None:
            try:
                thread.run(self._close())
            finally:
                thread.stop()

    async def astart(self) -> Self:
        """Start on the running loop; see `start`."""
        self._must_rest()
        loop = asyncio.get_running_loop()
        self._port = await self._server.start(self._wanted_port)
        self._loop = loop
        self._desk.open()
        return self

    async def astop(self) -> None:
        """Stop: hanging requests are dropped. Does nothing if it does not run."""
        if self._thread is not None:
            await asyncio.to_thread(self.stop)
        else:
            await self._close()

    async def _close(self) -> None:
        if self._loop is not None:
            self._loop = None
            self._port = None
            await self._server.stop()

    def _must_rest(self) -> None:
        if self._loop is not None:
            msg = "this simulator runs already; stop it before you start it again"
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
            RuntimeError: If it does not run.
        """
        if self._port is None:
            msg = "the simulator does not run: use it in a with or async with statement"
            raise RuntimeError(msg)
        return self._port

    @property
    def in_flight(self) -> int:
        """How many requests are being answered now, hanging ones too."""
        return self._ledger.in_flight

    @property
    def open_sockets(self) -> int:
        """How many connections are open now, idle ones too."""
        return len(self._server.connections)

    def wait_idle(self, timeout: float = 5.0, *, sockets: int | None = None) -> None:
        """Wait until nothing is in flight, from another thread than the simulator's.

        Args:
            timeout: Seconds.
            sockets: Wait also until no more than so many connections are open.

        Raises:
            TimeoutError: If it takes longer; the message says what is left.
            RuntimeError: If the simulator runs on a loop of yours: there use `await_idle`.
        """
        self._other_thread("await_idle").run(self._until_idle(timeout, sockets))

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
        """Wait until so many chat requests have come, from another thread than the simulator's.

        Args:
            count: How many since the start or `reset`, those refused at the door included.
            timeout: Seconds.
            pattern: To which targets.

        Raises:
            TimeoutError: If it takes longer.
            RuntimeError: If the simulator runs on a loop of yours: there use `await_requests`.
        """
        self._other_thread("await_requests").run(self._until_come(count, timeout, pattern))

    async def await_requests(
        self,
        count: int,
        timeout: float = 5.0,  # noqa: ASYNC109 - the twin of wait_requests
        *,
        pattern: str = "*",
    ) -> None:
        """Wait until so many chat requests have come; see `wait_requests`. Works on any loop."""
        if self._thread is not None:
            await asyncio.to_thread(self.wait_requests, count, timeout, pattern=pattern)
        else:
            await self._until_come(count, timeout, pattern)

    async def _until_come(self, count: int, seconds: float, pattern: str) -> None:
        await self._until(lambda: self._ledger.count(pattern, None) >= count, seconds)

    async def _until(self, condition: Callable[[], bool], seconds: float) -> None:
        try:
            await self._waiters.until(condition, seconds)
        except TimeoutError:
            flying = [f"{s.target} {s.step}" for s in self._ledger.requests if s.ended_at is None]
            msg = (
                f"after {seconds:g} s {self._ledger.count('*', None)} requests have come, "
                f"{self.in_flight} are in flight {flying[:10]} and {self.open_sockets} connections "
                "are open"
            )
            raise TimeoutError(msg) from None

    def _other_thread(self, twin: str) -> LoopThread:
        if self._thread is None:
            msg = f"this simulator runs on your own event loop: use `await sim.{twin}()`"
            raise RuntimeError(msg)
        return self._thread
