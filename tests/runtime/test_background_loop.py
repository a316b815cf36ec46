"""The background loop: results, errors, cancellation and streams across the thread border."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import importlib.util
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from langchain_resilient.runtime import background_loop as background_loop_module
from langchain_resilient.runtime.background_loop import (
    MAX_ITEMS_AHEAD,
    BackgroundLoop,
    CallersLoop,
    LastingExecutor,
    _Pipe,
)


@pytest.fixture
def portal():
    background = BackgroundLoop()
    yield background
    background.close()


def test_results_and_errors_come_back(portal):
    """As from a plain call."""

    async def work(fail: bool) -> int:
        if fail:
            raise KeyError("x")
        return 7

    assert portal.run(work(False)) == 7
    with pytest.raises(KeyError):
        portal.run(work(True))


def test_the_callers_context_is_seen(portal):
    """LangChain keeps its run tree in context variables."""
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable")
    variable.set(7)

    async def read() -> int:
        return variable.get()

    assert portal.run(read()) == 7


def test_an_iterator_closed_early_closes_its_source(portal):
    """So that the upstream stops."""
    closed = []

    async def source():
        try:
            for i in range(10**6):
                yield i
                await asyncio.sleep(0)
        finally:
            closed.append(True)

    items = portal.iterate(source())
    assert next(items) == 0
    items.close()
    until = time.monotonic() + 5
    while not closed and time.monotonic() < until:
        time.sleep(0.001)
    assert closed == [True]


def test_a_slow_consumer_holds_the_source_within_a_bound(portal):
    """Nothing is read ahead without end, and nothing is lost."""
    made = 0

    async def source():
        nonlocal made
        for made in range(1, 5 * MAX_ITEMS_AHEAD):
            yield made

    longest = 0
    for taken in portal.iterate(source()):
        longest = max(longest, made - taken)
    assert longest <= MAX_ITEMS_AHEAD
    assert taken == 5 * MAX_ITEMS_AHEAD - 1


def test_a_source_that_fails_raises_after_what_it_gave(portal):
    """In order."""

    async def source():
        yield 1
        raise KeyError("x")

    items = portal.iterate(source())
    assert next(items) == 1
    with pytest.raises(KeyError):
        next(items)


def test_close_ends_what_runs(portal):
    """No task and no generator is left."""
    ended = []

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    asyncio.run_coroutine_threadsafe(forever(), portal._loop)
    portal.run(asyncio.sleep(0))
    portal.close()
    assert ended == [True]
    assert portal._loop.is_closed()


def test_a_waiting_iterator_closes_its_source_before_it_returns(portal):
    """So that nothing of it runs on, in a `finally` of the caller or after Ctrl-C."""
    closed = []

    async def source():
        try:
            for i in range(10**6):
                yield i
                await asyncio.sleep(0)
        finally:
            await asyncio.sleep(0.02)
            closed.append(True)

    items = portal.iterate(source(), wait=True)
    assert next(items) == 0
    items.close()
    assert closed == [True]


def test_whoever_closes_an_iterator_does_not_wait_for_ever(portal, monkeypatch):
    """It may be the collector, in a thread with a lock in its hands that the source waits for."""
    monkeypatch.setattr(background_loop_module, "_PATIENCE", 0.05)
    lock, closed = threading.Lock(), threading.Event()

    async def source():
        try:
            while True:
                yield 1
                await asyncio.sleep(0)
        finally:
            with lock:
                closed.set()

    items = portal.iterate(source(), wait=True)
    next(items)
    with lock:
        items.close()
        assert not closed.is_set()
    assert closed.wait(5)


def test_an_iterator_that_only_the_collector_frees_closes_its_source(portal, monkeypatch):
    """And not the collector itself, which would, in its own thread, if nothing held the call."""
    told, made, closed = [], [], threading.Event()
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    portal.loop.call_soon_threadsafe(
        portal.loop.set_exception_handler, lambda _, context: told.append(context)
    )

    async def source():
        try:
            for i in range(10**6):
                made.append(i)
                yield i
        finally:
            await asyncio.sleep(0)
            closed.set()

    gc.collect()
    gc.disable()
    try:
        items = portal.iterate(source(), ahead=4)
        next(items)
        until = time.monotonic() + 10
        while len(made) < 4 and time.monotonic() < until:
            time.sleep(0.001)
        portal.run(asyncio.sleep(0.01))  # now it waits for its reader
        circle = [items]
        circle.append(circle)
        del items, circle
        gc.collect()
    finally:
        gc.enable()
    assert closed.wait(5)
    assert told == []


def test_little_is_read_ahead_where_that_is_wanted(portal):
    """Each item may cost money."""
    made = []

    async def source():
        for i in range(1000):
            made.append(i)
            yield i

    items = portal.iterate(source(), ahead=4, wait=True)
    assert next(items) == 0
    items.close()
    assert len(made) <= 6


def test_an_interrupt_while_work_is_handed_over_leaves_nothing_running(portal, monkeypatch):
    """The handing over gives the loop's thread the first turn: Ctrl-C does come just then."""
    events = []
    begun = threading.Event()

    async def source():
        events.append("begun")
        begun.set()
        try:
            await asyncio.Event().wait()
            yield 0
        finally:
            events.append("closed")

    def start_and_interrupt(pipe):
        start(pipe)
        assert begun.wait(5)
        raise KeyboardInterrupt

    start = _Pipe.start
    monkeypatch.setattr(_Pipe, "start", start_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        next(portal.iterate(source(), wait=True))
    assert events == ["begun", "closed"]


def test_a_loop_that_ended_is_an_error_and_not_a_silence(portal, monkeypatch):
    """Whoever waits for it is told, streams too; the next call gets a new one."""
    monkeypatch.setattr(background_loop_module, "_LOOK_UP", 0.01)
    entered = threading.Event()

    async def hang() -> None:
        entered.set()
        await asyncio.Event().wait()

    async def items():
        yield 1
        await hang()

    stream = portal.iterate(items())
    assert next(stream) == 1
    for wait in (lambda: portal.run(hang()), lambda: next(stream)):
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(wait)
            assert entered.wait(5)
            if not portal.ended:
                portal.loop.call_soon_threadsafe(portal.loop.stop)
            with pytest.raises(RuntimeError, match="has ended"):
                waiting.result(10)
    monkeypatch.setattr(background_loop_module, "_background_loop", portal)
    fresh = background_loop_module.background_loop()
    assert fresh is not portal
    fresh.close()


GEVENT = """
from gevent import monkey; monkey.patch_all()
import asyncio, time, gevent
from langchain_core.language_models import FakeListChatModel
from langchain_core.runnables import RunnableLambda
from langchain_resilient import DeadlineExceededError, ResilientChatModel

async def hang(_):
    await asyncio.sleep(60)

ticks = []
def tick():
    while True:
        ticks.append(1)
        gevent.sleep(0.01)

gevent.spawn(tick)
began = time.monotonic()
try:
    ResilientChatModel(targets=[RunnableLambda(hang)], timeout=0.3).invoke("hi")
except DeadlineExceededError:
    assert time.monotonic() - began < 3
    assert len(ticks) > 5  # other greenlets went on
try:
    asyncio.get_running_loop()
except RuntimeError:
    print("no loop here")
llm = ResilientChatModel(
    targets=[FakeListChatModel(responses=["yes"])], timeout=9, check=lambda m: bool(m.text)
)
jobs = [gevent.spawn(llm.invoke, "hi") for _ in range(9)]
gevent.joinall(jobs, timeout=20)
print({job.value.text for job in jobs}, "".join(chunk.text for chunk in llm.stream("hi")))
"""


@pytest.mark.skipif(importlib.util.find_spec("gevent") is None, reason="gevent is not installed")
def test_under_gevent_it_is_a_thread_of_the_operating_system():
    """A greenlet would block the loop of its callers, and be blocked by them."""
    command = [sys.executable, "-c", GEVENT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split("\n") == ["no loop here", "{'yes'} yes", ""]


# -- after the end of the main thread ------------------------------------------------------------

_LATE = """
import atexit, logging, sys, threading, time
from concurrent.futures import ThreadPoolExecutor, thread as pools
from langchain_resilient import ResilientChatModel, Target
from langchain_resilient.testing import ProviderSimulator

logging.disable()
simulator = ProviderSimulator()
simulator.start()
url = simulator.base_url("openai").replace("127.0.0.1", "localhost")
targets = [Target(f"openai:{m}", base_url=at, api_key="k")
           for m, at in (("dead", "http://127.0.0.1:9/v1"), ("m", url))]
options = {"timeout": 20, "max_retries": 0, "hedge": None, "remember": sys.argv[3]}
llm = ResilientChatModel(targets=targets, **options)
if sys.argv[2] == "used":
    llm.invoke("hello")

def ask():
    if sys.argv[1] == "thread":
        threading.main_thread().join()
    while sys.argv[1] == "pool" and not pools._shutdown:
        time.sleep(0.01)
    print(bool(llm.invoke("hello").content), any(chunk.content for chunk in llm.stream("hello")))
    llm.targets, llm.last_resort = targets[:1], "sorry"
    print(llm.invoke("hello").content == "sorry")

if sys.argv[1] == "thread":
    threading.Thread(target=ask).start()
elif sys.argv[1] == "pool":
    ThreadPoolExecutor(1).submit(ask).add_done_callback(lambda job: job.result())
else:
    atexit.register(ask)
"""


@pytest.mark.parametrize(
    ("where", "used"), [("thread", "used"), ("pool", "used"), ("pool", "new"), ("atexit", "new")]
)
def test_a_call_after_the_end_of_the_main_thread_is_answered(where, used, tmp_path):
    """In a thread, a pool's job, or at exit: by the fallback, whole, as a stream, and at last.

    What it has learned is remembered.
    """
    path = tmp_path / "learned.json"
    command = [sys.executable, "-W", "ignore", "-c", _LATE, where, used, path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout.split(), done.stderr) == (["True", "True", "True"], "")
    assert path.exists()


@pytest.mark.parametrize("threads", [True, False])
def test_an_executor_that_takes_no_more_work_goes_on(monkeypatch, threads):
    """In a thread for each piece of it, or right here."""
    executor = LastingExecutor()
    executor.shutdown()
    if not threads:
        monkeypatch.setattr(threading.Thread, "start", _refused)
    assert executor.submit(divmod, 7, 2).result(timeout=5) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        executor.submit(divmod, 7, 0).result(timeout=5)


def _refused(self):
    msg = "can't create new thread at interpreter shutdown"
    raise RuntimeError(msg)


def test_without_threads_each_call_runs_a_loop_of_its_own(monkeypatch):
    """Results, errors and streams; a stream that is left is closed."""
    monkeypatch.setattr(background_loop_module, "_background_loop", None)
    monkeypatch.setattr(threading.Thread, "start", _refused)
    loop = background_loop_module.background_loop()
    assert type(loop) is CallersLoop
    closed = []

    async def source():
        try:
            for number in range(3):
                await asyncio.sleep(0)
                yield number
        finally:
            closed.append(True)

    assert loop.run(asyncio.sleep(0, 7)) == 7
    assert list(loop.iterate(source())) == [0, 1, 2]
    items = loop.iterate(source())
    assert next(items) == 0
    items.close()
    assert closed == [True, True]
