"""One background event loop for the process's synchronous calls.

Sync calls must work with and without a running loop, from many threads, and after a fork; clients
and connections should outlive each call. So they all run on one loop in one daemon thread.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import time
from _queue import SimpleQueue  # that of `queue` is gevent's, where gevent has put its own
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from math import inf
from queue import Empty
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from langchain_resilient.threads import gevent_patches, start_thread, thread_number

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator


T = TypeVar("T")

MAX_ITEMS_AHEAD = 256
"""Items that are read ahead of a slow synchronous consumer."""


class BackgroundLoop:
    """An event loop in a thread of its own. Use `run` and `iterate` from any thread."""

    def __init__(self) -> None:
        self._inner: BackgroundLoop | None = None
        self._ended = False
        self._filling: set[asyncio.Task[None]] = set()
        # Made in its thread: gevent's selectors belong to the thread that makes them.
        started: SimpleQueue[tuple[asyncio.AbstractEventLoop, int]] = SimpleQueue()
        work = partial(self._run_forever, started)
        self._thread = start_thread(work, "langchain-resilient")
        self._loop, self._number = started.get()

    def _run_forever(self, started: SimpleQueue[tuple[asyncio.AbstractEventLoop, int]]) -> None:
        """Run the loop until it is stopped: not until one task of many raises `SystemExit`."""
        loop = _new_loop()
        started.put((loop, thread_number()))
        try:
            while True:
                try:
                    loop.run_forever()
                except (KeyboardInterrupt, SystemExit):
                    continue  # whoever waits for that task raises it
                return
        finally:
            self._ended = True

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop itself."""
        return self._loop

    @property
    def ended(self) -> bool:
        """Whether its thread is gone: closed, or by a defect."""
        return self._ended

    def hold(self, task: asyncio.Task[None]) -> None:
        """Keep a task of this loop until it is done; asyncio alone does not."""
        self._filling.add(task)
        task.add_done_callback(self._filling.discard)

    def _is_here(self) -> bool:
        return thread_number() == self._number

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine and wait for its result. Ctrl-C cancels it."""
        if self._is_here():
            # A synchronous call inside our own loop (a callback that asks the model): waiting for
            # this loop would wait for ever, so it gets a loop of its own.
            return self._next().run(work)
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return self._wait(future)
        except BaseException:
            future.cancel()
            raise

    def _wait(self, future: Future[T]) -> T:
        if gevent_patches() is not None:
            _wait_in_greenlet(future)
        while True:
            try:
                return future.result(timeout=_LOOK_UP)
            except TimeoutError:
                if future.done():
                    raise  # it is the work's own
                if self._ended:
                    msg = "the event loop of synchronous calls has ended"
                    raise RuntimeError(msg) from None

    async def run_from_loop(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine and wait for its result on the running loop, which is not blocked."""
        if self._is_here():
            return await work
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    def iterate(
        self, source: AsyncGenerator[T, None], *, ahead: int = MAX_ITEMS_AHEAD, wait: bool = False
    ) -> Iterator[T]:
        """Yield what an async generator yields; closing the iterator closes it.

        Args:
            source: The generator.
            ahead: How many items are read before they are wanted.
            wait: Whether closing early, or Ctrl-C, waits until the generator is closed; closing it
                for a few seconds at most.
        """
        if self._is_here():
            yield from self._next().iterate(source, ahead=ahead, wait=wait)
            return
        pipe: _Pipe[T] = _Pipe(self, source, ahead)
        patience = inf
        try:
            # Ctrl-C may come while this hands the work over: what it started is stopped below.
            pipe.start()
            yield from pipe.drain()
        except GeneratorExit:
            # Closed, or collected: in any thread, with any lock in its hands that the loop needs.
            patience = _PATIENCE
            raise
        finally:
            pipe.stop()
            # An iterator may be collected in the loop's own thread, which must not wait for itself.
            if wait and not self._is_here():
                pipe.wait(patience)

    def close(self) -> None:
        """Cancel what runs, close the clients and the loop."""
        if self._inner is not None:
            self._inner.close()
        if self._loop.is_closed():
            return
        if self._ended:  # by a defect: what it left lying is ended here
            self._loop.run_until_complete(_shut_down())
            self._loop.close()
            return
        asyncio.run_coroutine_threadsafe(_shut_down(), self._loop).result(timeout=5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        if self._thread is not None:
            self._thread.join(timeout=5)
            self._loop.close()

    def _next(self) -> BackgroundLoop:
        self._inner = self._inner or BackgroundLoop()
        return self._inner


def _new_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    loop.set_default_executor(LastingExecutor(thread_name_prefix="langchain-resilient"))
    return loop


class CallersLoop(BackgroundLoop):
    """For the interpreter's end, when no thread starts any more: each call runs its own loop."""

    def __init__(self) -> None:
        """Start nothing."""

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine here."""
        with _own_loop() as loop:
            return loop.run_until_complete(work)

    def iterate(
        self,
        source: AsyncGenerator[T, None],
        *,
        ahead: int = 0,  # noqa: ARG002  # none
        wait: bool = True,  # noqa: ARG002  # always
    ) -> Iterator[T]:
        """Yield what an async generator yields; nothing is read ahead."""

        async def step() -> Any:
            return await anext(source, _END)

        with _own_loop() as loop:
            try:
                while (item := loop.run_until_complete(step())) is not _END:
                    yield item
            finally:
                loop.run_until_complete(source.aclose())


@contextmanager
def _own_loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = _new_loop()
    try:
        yield loop
    finally:
        # Not as asyncio.Runner does it, which starts a thread to end the executor.
        loop.run_until_complete(_shut_down())
        loop.close()


class _Pipe(Generic[T]):
    """Carries items from the loop to a thread without a wake-up for each token."""

    def __init__(
        self, background: BackgroundLoop, source: AsyncGenerator[T, None], ahead: int
    ) -> None:
        self._background = background
        self._greenlets = gevent_patches() is not None
        self._loop = background.loop
        self._source = source
        self._ahead = ahead
        self._items: SimpleQueue[Any] = SimpleQueue()
        self._room = asyncio.Event()
        self._blocked = False
        self._task: asyncio.Task[None] | None = None
        self._error: BaseException | None = None
        self._ended = threading.Event()

    # -- in the thread --------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to fill it."""
        self._loop.call_soon_threadsafe(self._begin)

    def drain(self) -> Iterator[T]:
        """Yield the items, then raise what the source raised."""
        qsize = self._items.qsize
        while (item := self._get()) is not _END:
            if self._blocked and not qsize():
                self._loop.call_soon_threadsafe(self._room.set)
            yield item
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Close the source, if it has not ended; once."""
        if not self._ended.is_set() and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._cancel)

    def wait(self, seconds: float) -> None:
        """Wait until the source is closed, so long at most."""
        until = time.monotonic() + seconds
        while not self._loop.is_closed() and (left := until - time.monotonic()) > 0:
            if self._ended.wait(min(_LOOK_UP, left)):
                return

    def _get(self) -> Any:
        if self._greenlets:
            while self._items.empty() and not self._ended.is_set():
                time.sleep(_POLL)  # gevent's: other greenlets go on
        while True:
            try:
                return self._items.get(timeout=_LOOK_UP)
            except Empty:
                if self._background.ended:
                    msg = "the event loop of synchronous calls has ended"
                    raise RuntimeError(msg) from None

    # -- on the loop, in this order -------------------------------------------------------------

    def _begin(self) -> None:
        self._task = self._loop.create_task(self._fill())
        self._task.add_done_callback(self._end)
        # While it waits for room, nothing else would: not even a reader that is garbage, which the
        # collector would free together with the call, instead of letting it end.
        self._background.hold(self._task)

    async def _fill(self) -> None:
        try:
            async for item in self._source:
                self._items.put(item)
                if self._items.qsize() >= self._ahead:
                    await self._wait_for_room()
        finally:
            await self._source.aclose()

    async def _wait_for_room(self) -> None:
        self._room.clear()
        # Set before the second look: a reader that empties the queue after it will see the flag.
        self._blocked = True
        if self._items.qsize() >= self._ahead:
            await self._room.wait()
        self._blocked = False

    def _cancel(self) -> None:
        if self._task is None:
            self._ended.set()  # it was never begun: there is nothing to close
        else:
            self._task.cancel()

    def _end(self, task: asyncio.Task[None]) -> None:
        self._error = CancelledError() if task.cancelled() else task.exception()
        self._items.put(_END)
        self._ended.set()


_LOOK_UP = 1.0
"""Seconds after which a waiting thread looks up: a Ctrl-C in the moment before it falls asleep does
not wake it."""

_PATIENCE = 5.0
"""Seconds that whoever closes an iterator waits for its source, at most."""

_POLL = 0.002
"""Seconds between two looks of a greenlet at what its stream has brought."""

_END = object()


def _wait_in_greenlet(future: Future[Any]) -> None:
    """Wait until a future of another thread is done; other greenlets of this thread go on."""
    # gevent is loaded: its patches are in force.
    done: Any = import_module("gevent.event").Event()
    loop: Any = import_module("gevent").get_hub().loop
    future.add_done_callback(lambda _: loop.run_callback_threadsafe(done.set))
    done.wait()


async def _shut_down() -> None:
    loop = asyncio.get_running_loop()
    me = asyncio.current_task()
    others = [task for task in asyncio.all_tasks(loop) if task is not me]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await loop.shutdown_asyncgens()


_background_loop: BackgroundLoop | None = None
_lock = threading.Lock()
_abandoned: list[BackgroundLoop] = []


def background_loop() -> BackgroundLoop:
    """The process's background loop, started on first use."""
    global _background_loop  # noqa: PLW0603  # one per process is its whole point
    if _background_loop is None or _background_loop.ended:
        with _lock:
            if _background_loop is None or _background_loop.ended:
                try:
                    _background_loop = BackgroundLoop()
                except RuntimeError:  # from Python 3.12 on, at the interpreter's end
                    return CallersLoop()
                atexit.register(_close_at_exit)
    return _background_loop


def started_loops() -> list[BackgroundLoop]:
    """Each background loop of the process that runs; none before the first synchronous call."""
    loops: list[BackgroundLoop] = []
    loop = _background_loop
    while loop is not None:
        loops.append(loop)
        loop = loop._inner  # noqa: SLF001  # our own
    return loops


def _close_at_exit() -> None:
    global _background_loop
    if _background_loop is not None:
        closing, _background_loop = _background_loop, None
        closing.close()


def _after_fork() -> None:
    """Start afresh in a child: it has the parent's loop but not the thread that ran it."""
    global _background_loop, _lock  # noqa: PLW0603
    if _background_loop is not None:
        # Kept for ever: collecting it would unregister the parent's sockets from the shared epoll.
        _abandoned.append(_background_loop)
        _background_loop = None
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class LastingExecutor(ThreadPoolExecutor):
    """The usual executor; when that takes no more work, a thread for each piece of it.

    It takes none once the main thread has ended, and with it asyncio resolves no more names; but a
    thread of a pool, or a function at exit, may still ask a model.

    From Python 3.12 on not even a thread starts at the interpreter's end: then the work is done
    where it is handed in.
    """

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Have a function called; see `concurrent.futures.Executor.submit`."""
        try:
            return super().submit(fn, *args, **kwargs)
        except RuntimeError:
            future: Future[T] = Future()
            work = (future, fn, args, kwargs)
            try:
                threading.Thread(target=_do, args=work, daemon=True).start()
            except RuntimeError:
                _do(*work)
            return future


def _do(future: Future[T], fn: Callable[..., T], args: Any, kwargs: Any) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(fn(*args, **kwargs))
    except BaseException as error:  # noqa: BLE001  # whoever waits for it raises it
        future.set_exception(error)
