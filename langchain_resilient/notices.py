"""Warnings that point at the line of the user's code that is under way, and are told once.

A warning arises deep inside a call: on the loop's thread, in the task of one attempt. `warnings`
would blame a line of this package; what helps is the line that made the call. Where a filter makes
errors of warnings, one raised there would be taken for a failure of the target.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

_OURS = "langchain_resilient"
_LIBRARIES = frozenset(
    {_OURS, "langchain_core", "langchain", "langgraph", "langsmith", "openai", "together",
     "pydantic", "tenacity", "aiohttp", "httpx", "httpcore", "anyio", "uvloop", "opentelemetry"}
) | sys.stdlib_module_names  # fmt: skip
"""Whose lines are not the user's."""

logger: logging.Logger = logging.getLogger("langchain_resilient")


def warn(message: str, category: type[Warning]) -> None:
    """Warn at the user's line. It is logged as well where somebody has set logging up.

    Without that Python would print the log line beside the warning: the same words twice. The
    record's `warning_category` tells whoever shows both that they are one.

    Where the filter makes an error of it (`python -W error`), it is raised inside `may_raise` and
    logged anywhere else.

    Args:
        message: What happened, to which target.
        category: The class of the warning.
    """
    logged = logger.hasHandlers()
    if logged:
        logger.warning(message, extra={"warning_category": category.__name__})
    try:
        _warn_at(users_frame(), message, category)
    except category:
        if getattr(_this_thread, "may_raise", False):
            raise
        if not logged:
            logger.warning(message)


_this_thread = threading.local()


@contextmanager
def may_raise() -> Iterator[None]:
    """Let warnings be raised where the filter makes errors of them: while a model is made.

    Nowhere else: what a call warns of must not change what becomes of it.
    """
    before = getattr(_this_thread, "may_raise", False)
    _this_thread.may_raise = True
    try:
        yield
    finally:
        _this_thread.may_raise = before


def _warn_at(frame: FrameType | None, message: str, category: type[Warning]) -> None:
    if frame is None:
        warnings.warn(message, category, stacklevel=4)
        return
    names = frame.f_globals
    warnings.warn_explicit(
        message,
        category,
        frame.f_code.co_filename,
        frame.f_lineno,
        names.get("__name__", "unknown"),
        names.setdefault("__warningregistry__", {}),
    )


def users_frame() -> FrameType | None:
    """Find the user's line: in this thread, a task of this loop, or a thread that waits for one.

    With several calls under way it may be that of another: all of them are alike to a warning that
    is told once.
    """
    here, beneath_a_loop = None, False
    for frame in _outwards(sys._getframe(1)):  # noqa: SLF001
        if _is_users(frame):
            here = frame
            break
        beneath_a_loop = beneath_a_loop or _module(frame) in {"asyncio", "uvloop"}
    if here is not None and not beneath_a_loop:
        return here
    return _of_a_task() or here or _of_a_waiting_thread()


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


def _is_users(frame: FrameType) -> bool:
    return _module(frame) not in _LIBRARIES


def _of_a_task() -> FrameType | None:
    try:
        tasks = asyncio.all_tasks()
    except RuntimeError:  # no loop runs here
        return None
    maybe = None
    for task in tasks:
        users = None
        for frame in _inwards(task.get_coro()):
            if _module(frame) == _OURS:
                if users is not None:
                    return users
                break
            if _is_users(frame):
                users = frame
        else:
            maybe = users or maybe  # it awaits an async generator, into which nobody can look
    return maybe


def _inwards(awaited: Any) -> Iterator[FrameType]:
    """The frames of a coroutine and of what it awaits, as far as Python shows them."""
    while awaited is not None:
        for kind, inner in (("cr", "await"), ("ag", "await"), ("gi", "yieldfrom")):
            frame = getattr(awaited, f"{kind}_frame", None)
            if frame is not None:
                yield frame
                awaited = getattr(awaited, f"{kind}_{inner}", None)
                break
        else:
            return


def _of_a_waiting_thread() -> FrameType | None:
    own = threading.get_ident()
    for thread, innermost in sys._current_frames().items():  # noqa: SLF001
        ours = False
        for frame in _outwards(innermost) if thread != own else ():
            if ours and _is_users(frame):
                return frame
            ours = ours or _module(frame) == _OURS
    return None
