"""Threads for code that blocks: a user's `check`, a LangChain model without asynchronous methods.

The default executor of an event loop has few threads, and looks up names in them too: a function
that hangs there holds up every connection of the process. These are threads for one purpose each.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from _queue import SimpleQueue  # that of `queue` is gevent's, where gevent has put its own
from contextvars import copy_context
from functools import partial
from queue import Empty
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable

T = TypeVar("T")


def imported(name: str) -> Any:
    """Return a module that this process has imported; None while a thread is still importing it.

    Until then it lacks some of its names, and nobody has used it.
    """
    module = sys.modules.get(name)
    spec = getattr(module, "__spec__", None)
    return None if getattr(spec, "_initializing", False) else module


def gevent_patches() -> Any:
    """Return gevent's module of patches where it has put greenlets in the place of threads."""
    monkey = imported("gevent.monkey")
    return monkey if monkey is not None and monkey.is_module_patched("threading") else None


def start_thread(work: Callable[[], None], name: str) -> threading.Thread | None:
    """Start a daemon thread of the operating system, even under gevent: None is returned there."""
    monkey = gevent_patches()
    if monkey is None:
        thread = threading.Thread(target=work, name=name, daemon=True)
        thread.start()
        return thread
    monkey.get_original("_thread", "start_new_thread")(work, ())
    return None


def new_lock() -> Any:
    """Make a lock between threads of the operating system, even under gevent."""
    monkey = gevent_patches()
    return threading.Lock() if monkey is None else monkey.get_original("threading", "Lock")()


def thread_number() -> int:
    """Return the number of the running thread of the operating system, even under gevent."""
    monkey = gevent_patches()
    if monkey is None:
        return threading.get_ident()
    number: int = monkey.get_original("_thread", "get_ident")()
    return number


MAX_THREADS = 64
"""Threads of one purpose; what comes while all are busy waits until one is free."""

IDLE = 5.0
"""Seconds after which a thread without work ends."""

AHEAD = 64
"""Items that a blocking iterator may be ahead of its reader."""


class Threads:
    """Runs functions in threads of their own, for event loops that must not be blocked.

    Threads start when there is work, and are daemons: one that hangs does not hold up the end of
    the process either. A function that was given up before it began is never run; one that was
    begun goes on, and its result is thrown away. Safe for use from any loop and thread.

    Args:
        name: What the threads are called.
        limit: The most of them at one time.

    Example:
        ```python
        threads = Threads("checks")
        await threads.run(time.sleep, 1.0)
        ```
    """

    __slots__ = ("_count", "_idle", "_jobs", "_limit", "_lock", "_name", "_process")

    def __init__(self, name: str, limit: int = MAX_THREADS) -> None:
        self._name = name
        self._limit = limit
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._jobs: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._lock = new_lock()
        self._count = self._idle = 0

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """Call a function in a thread, in the caller's context, and wait for what it returns."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        call = partial(copy_context().run, function, *args)
        self._submit(partial(_run_job, loop, future, call))
        try:
            return await future
        finally:
            del future  # its error refers to this frame: no circle

    async def iterate(self, make: Callable[[], Iterable[T]]) -> AsyncGenerator[T, None]:
        """Yield what a blocking iterator yields; it lives in one thread.

        Closing the generator closes the iterator as soon as that has its next item.

        Args:
            make: Makes it, in that thread.
        """
        loop = asyncio.get_running_loop()
        items: asyncio.Queue[Any] = asyncio.Queue()
        room: SimpleQueue[bool] = SimpleQueue()
        for _ in range(AHEAD):
            room.put(True)
        reading = loop.create_task(self.run(_read, make, loop, items, room))
        reading.add_done_callback(partial(_end, items))
        try:
            while (item := await items.get()) is not _END:
                room.put(True)
                yield item
            await reading
        finally:
            for _ in range(AHEAD + 1):
                room.put(False)
            reading.cancel()

    def _submit(self, job: Callable[[], None]) -> None:
        if self._process != os.getpid():
            self._begin()  # a child has none of its parent's threads
        self._jobs.put(job)
        with self._lock:
            if self._idle:
                self._idle -= 1
                return
            if self._count == self._limit:
                return
            self._count += 1
        start_thread(self._work, self._name)

    def _work(self) -> None:
        while True:
            try:
                job = self._jobs.get_nowait()
            except Empty:
                with self._lock:
                    self._idle += 1
                try:
                    job = self._jobs.get(timeout=IDLE)
                except Empty:
                    with self._lock:
                        if not self._idle:
                            continue  # a job was just counted on this thread
                        self._idle -= 1
                        self._count -= 1
                    return
            job()
            del job  # it holds a whole request


_END: Any = object()


def _run_job(
    loop: asyncio.AbstractEventLoop, future: asyncio.Future[Any], call: Callable[[], Any]
) -> None:
    if future.cancelled():
        return
    value, error = None, None
    try:
        value = call()
    except BaseException as raised:  # noqa: BLE001  # raised where it is waited for
        error = RuntimeError("StopIteration") if isinstance(raised, StopIteration) else raised
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
        loop.call_soon_threadsafe(_settle, future, value, error)
    del future, error  # as in `Threads.run`


def _settle(future: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
    if future.done():
        return  # it was given up
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)


def _read(
    make: Callable[[], Iterable[Any]],
    loop: asyncio.AbstractEventLoop,
    items: asyncio.Queue[Any],
    room: SimpleQueue[bool],
) -> None:
    source = make()
    try:
        for item in source:
            loop.call_soon_threadsafe(items.put_nowait, item)
            if not room.get():
                return
    finally:
        close = getattr(source, "close", None)
        if close is not None:
            close()


def _end(items: asyncio.Queue[Any], task: asyncio.Task[None]) -> None:
    """End the items, and look at the task's exception: a reader that has gone will not."""
    items.put_nowait(_END)
    if not task.cancelled():
        task.exception()
