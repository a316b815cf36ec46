"""Threads for code that blocks: bounded, out of everybody's way, and given up at any time."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import importlib
import os
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from langchain_resilient import threads as threads_module
from langchain_resilient.threads import AHEAD, Threads

if TYPE_CHECKING:
    from collections.abc import Iterator


async def until(condition) -> None:
    """Let the loop turn until something is so, five seconds at most."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  # threads change it
            await asyncio.sleep(0)


def alive(name: str) -> int:
    return sum(thread.name == name for thread in threading.enumerate())


def test_a_module_that_another_thread_is_importing_is_not_there_yet(tmp_path, monkeypatch):
    """It lacks what its lines below will define."""
    (tmp_path / "slow_to_import.py").write_text(
        "import sys\nsys.began.set()\nassert sys.may_end.wait(5)\nname = 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    began, may_end = threading.Event(), threading.Event()
    monkeypatch.setattr(sys, "began", began, raising=False)
    monkeypatch.setattr(sys, "may_end", may_end, raising=False)
    assert threads_module.imported("slow_to_import") is None
    thread = threading.Thread(target=importlib.import_module, args=("slow_to_import",))
    thread.start()
    try:
        assert began.wait(5)
        assert "slow_to_import" in sys.modules
        assert threads_module.imported("slow_to_import") is None
    finally:
        may_end.set()
        thread.join()
    assert threads_module.imported("slow_to_import").name == 1
    monkeypatch.delitem(sys.modules, "slow_to_import")


async def test_results_and_errors_come_back():
    """As from a plain call; `StopIteration`, which no future holds, as a RuntimeError."""
    threads = Threads("results")
    assert await threads.run(max, 1, 2) == 2
    for error, expected in ((KeyError(), KeyError), (SystemExit(), SystemExit)):
        with pytest.raises(expected):
            await threads.run(_raise, error)
    with pytest.raises(RuntimeError):
        await threads.run(_raise, StopIteration())


def _raise(error: BaseException) -> None:
    raise error


async def test_the_callers_context_is_seen():
    """LangChain keeps its run tree in context variables."""
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable")
    variable.set(7)
    assert await Threads("context").run(variable.get) == 7


async def test_there_are_no_more_than_the_limit_and_they_are_used_again():
    """What comes while all are busy waits."""
    threads, gate = Threads("limited", 3), threading.Event()
    jobs = [asyncio.ensure_future(threads.run(gate.wait)) for _ in range(10)]
    await until(lambda: alive("limited") == 3)
    gate.set()
    assert await asyncio.gather(*jobs) == [True] * 10
    for _ in range(20):
        await threads.run(int)
    assert alive("limited") <= 3


async def test_what_is_given_up_before_it_began_is_never_run():
    """And what began goes on alone."""
    threads, gate, ran = Threads("given up", 1), threading.Event(), []
    first = asyncio.ensure_future(threads.run(gate.wait))
    await until(lambda: alive("given up") == 1)
    second = asyncio.ensure_future(threads.run(ran.append, 1))
    await asyncio.sleep(0)
    for job in (first, second):
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
    gate.set()
    assert await threads.run(int) == 0
    assert ran == []


async def test_threads_without_work_end(monkeypatch):
    """So that a model that is dropped leaves nothing behind."""
    monkeypatch.setattr(threads_module, "IDLE", 0.01)
    await Threads("idle").run(int)
    await until(lambda: not alive("idle"))


async def test_an_iterator_is_read_in_one_thread_and_not_far_ahead():
    """Its reader sets the pace."""
    seen, names = [], set()

    def numbers() -> Iterator[int]:
        for number in range(AHEAD * 3):
            seen.append(number)
            names.add(threading.current_thread())
            yield number

    items = Threads("reading").iterate(numbers)
    assert await anext(items) == 0
    await until(lambda: len(seen) >= AHEAD)
    assert len(seen) <= AHEAD + 2
    assert [item async for item in items] == list(range(1, AHEAD * 3))
    assert len(names) == 1


async def test_an_iterators_error_comes_after_its_items():
    """Where it was raised."""

    def numbers() -> Iterator[int]:
        yield 1
        raise KeyError

    items = Threads("failing").iterate(numbers)
    assert await anext(items) == 1
    with pytest.raises(KeyError):
        await anext(items)


async def test_an_iterator_that_is_closed_early_is_closed_in_its_thread():
    """So that what it reads from stops."""
    closed = []

    def endless() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.append(threading.current_thread().name)

    async with contextlib.aclosing(Threads("closing").iterate(endless)) as items:
        await anext(items)
    await until(lambda: closed)
    assert closed == ["closing"]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_after_a_fork_the_child_has_threads_of_its_own():
    """Its parent's are not there."""
    threads = Threads("forked", 1)
    asyncio.run(threads.run(int))
    child = os.fork()
    if not child:
        done = False
        with contextlib.suppress(Exception):
            done = asyncio.run(asyncio.wait_for(threads.run(max, 1, 2), 10)) == 2
        os._exit(0 if done else 1)
    assert os.waitpid(child, 0)[1] == 0
