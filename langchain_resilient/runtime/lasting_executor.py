"""An executor that goes on after the main thread has ended.

Then `concurrent.futures` takes no more work, and with it asyncio resolves no more names; but a
thread of a pool, or a function at exit, may still ask a model.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class LastingExecutor(ThreadPoolExecutor):
    """The usual executor; when that takes no more work, a thread for each piece of it.

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
