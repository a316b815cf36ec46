"""SDK clients: one per loop and account, closed when the loop goes, silent whatever happens."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from langchain_resilient.providers import connection, create_provider
from langchain_resilient.providers.connection import client_for, close_clients
from langchain_resilient.testing import ProviderSimulator
from tests.helpers import UNWARNED_FORK
from tests.providers.asking import DIALECTS, ask, provider_at
from verification.kit.scripted_targets import target

ROOT = Path(__file__).parents[2]


class Client:
    """An SDK client as far as this module knows one."""

    def __init__(self, failing=False):
        self.closed_on = None
        self.failing = failing

    async def close(self):
        self.closed_on = asyncio.get_running_loop()
        if self.failing:
            raise RuntimeError("will not")


@pytest.fixture
def threaded():
    """A simulator in a thread, for tests that run loops of their own."""
    with ProviderSimulator() as simulator:
        yield simulator


async def test_an_account_has_one_client_on_a_loop():
    """All models share it."""
    first, again = await client_for("a", Client), await client_for("a", Client)
    assert first is again
    assert await client_for("b", Client) is not first


def test_each_loop_has_its_own():
    """A client used on two loops breaks."""
    first, second = (asyncio.run(client_for("a", Client)) for _ in range(2))
    assert first is not second


def run_with_runner(work):
    with asyncio.Runner() as runner:
        return runner.run(work)


@pytest.mark.parametrize("run", [asyncio.run, run_with_runner])
def test_clients_are_closed_on_their_loop_when_it_ends(run):
    """Without anybody asking for it."""

    async def use():
        return await client_for("a", Client), asyncio.get_running_loop()

    client, loop = run(use())
    assert client.closed_on is loop
    assert loop not in connection._by_loop


async def test_clients_can_be_closed_before():
    """Then new calls make new ones."""
    client = await client_for("a", Client)
    await close_clients()
    assert client.closed_on is asyncio.get_running_loop()
    assert await client_for("a", Client) is not client


async def test_closing_spares_the_clients_that_come_after():
    """Even when the remains of those before are collected."""
    await client_for("a", Client)
    await close_clients()
    after = await client_for("a", Client)
    gc.collect()
    await asyncio.sleep(0.01)
    assert after.closed_on is None


async def test_closing_twice_or_nothing_is_harmless():
    """A finaliser need not know."""
    await close_clients()
    await client_for("a", Client)
    await close_clients()
    await close_clients()


def test_a_client_that_will_not_close_holds_up_no_other():
    """Nor does it fail the loop's end."""

    async def use():
        return [await client_for(n, lambda n=n: Client(failing=n == 1)) for n in range(3)]

    assert all(client.closed_on for client in asyncio.run(use()))


def test_threads_with_loops_of_their_own_do_not_meet():
    """A web server's workers, all starting at once."""
    barrier = threading.Barrier(8)

    async def use():
        barrier.wait()
        return [await client_for("a", Client) for _ in range(50)]

    with ThreadPoolExecutor(8) as pool:
        results = [set(made) for made in pool.map(lambda _: asyncio.run(use()), range(8))]
    assert [len(made) for made in results] == [1] * 8
    assert len(set.union(*results)) == 8
    assert all(client.closed_on for made in results for client in made)


def test_the_clients_of_a_loop_closed_badly_are_let_go_later():
    """No `shutdown_asyncgens`, so nobody told us; the next loop finds out."""
    loop = asyncio.new_event_loop()
    client = loop.run_until_complete(client_for("a", Client))
    loop.close()
    asyncio.run(client_for("a", Client))
    assert loop not in connection._by_loop
    assert client.closed_on is not None


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_provider_outlives_its_loops(threaded, dialect):
    """`asyncio.run` again and again, with one model, leaves no connection open."""
    provider = provider_at(threaded, f"{dialect}:m")
    for _ in range(3):
        assert asyncio.run(ask(provider)).text
    threaded.wait_idle(2, sockets=0)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_provider_serves_many_threads(threaded, dialect):
    """Each with a loop of its own."""
    provider = provider_at(threaded, f"{dialect}:m")
    with ThreadPoolExecutor(4) as pool:
        responses = list(pool.map(lambda _: asyncio.run(ask(provider)), range(8)))
    assert len({response.text for response in responses}) == 1
    threaded.wait_idle(2, sockets=0)


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_equal_targets_share_a_client_and_others_do_not(sim, dialect):
    """The key, the headers and the rest of the account tell them apart."""
    base = target(sim, f"{dialect}:m")
    changes = [{}, {"model": "n", "temperature": 0.5}, {"api_key": "sk-another-0123"},
               {"default_headers": {"x": "y"}}, {"organization": "o"}]  # fmt: skip
    for change in changes:
        await ask(create_provider(type(base)(**{**base.model_dump(exclude={"name"}), **change})))
    assert len(connection._by_loop[asyncio.get_running_loop()].by_key) == 4


# -- at the interpreter's end, and after a fork -----------------------------------------------

HEAD = """
import asyncio, os, sys, threading
from langchain_resilient import ResilientChatModel, Target
from langchain_resilient.providers import connection

llm = ResilientChatModel(
    targets=[Target("{dialect}:m", base_url=sys.argv[1], api_key="sk-0123456789")], hedge=None
)


async def one():
    assert (await llm.ainvoke("hello")).text
    print("answered", flush=True)
"""

SCRIPTS = {
    "never closed": """
        loop = asyncio.new_event_loop()
        loop.run_until_complete(one())
    """,
    "in the middle of a stream": """
        async def begin():
            stream = llm.astream("hello")
            await anext(stream)
            print("answered")
            return stream
        loop = asyncio.new_event_loop()
        stream = loop.run_until_complete(begin())
    """,
    "in a daemon's loop": """
        loop = asyncio.new_event_loop()
        threading.Thread(target=loop.run_forever, daemon=True).start()
        asyncio.run_coroutine_threadsafe(one(), loop).result()
    """,
    "exit inside": """
        async def leave():
            await one()
            sys.exit(0)
        asyncio.new_event_loop().run_until_complete(leave())
    """,
    "closed badly": """
        loop = asyncio.new_event_loop()
        loop.run_until_complete(one())
        loop.close()
    """,
    "closed badly, then another": """
        loop = asyncio.new_event_loop()
        loop.run_until_complete(one())
        loop.close()
        asyncio.run(one())
    """,
    "synchronous": """
        assert llm.invoke("hello").text
        print("answered")
    """,
}
FORKS = {
    "the child just ends": """
        loop = asyncio.new_event_loop()
        loop.run_until_complete(one())
        pid = os.fork()
        if pid == 0:
            sys.exit(0)
        os.waitpid(pid, 0)
        loop.run_until_complete(asyncio.wait_for(one(), 3))
    """,
    "the child asks too": """
        loop = asyncio.new_event_loop()
        loop.run_until_complete(one())
        pid = os.fork()
        if pid == 0:
            asyncio.run(asyncio.wait_for(one(), 3))
            assert not connection._by_loop
            sys.exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        loop.run_until_complete(asyncio.wait_for(one(), 3))
    """,
    "while another thread holds the lock": """
        loop = asyncio.new_event_loop()
        loop.run_until_complete(one())
        held, forked = threading.Event(), threading.Event()
        def hold():
            with connection._lock:
                held.set()
                forked.wait()
        threading.Thread(target=hold).start()
        held.wait()
        pid = os.fork()
        forked.set()
        if pid == 0:
            asyncio.run(asyncio.wait_for(one(), 3))
            sys.exit(0)
        assert os.waitpid(pid, 0)[1] == 0
    """,
}


def run_script(simulator, dialect, script):
    code = HEAD.format(dialect=dialect) + textwrap.dedent(script)
    return subprocess.run(
        [sys.executable, *UNWARNED_FORK, "-c", code, simulator.base_url(dialect)],
        capture_output=True, text=True, timeout=30, cwd=ROOT, check=False,
    )  # fmt: skip


# Each script costs the import of an SDK, so they take turns.
@pytest.mark.parametrize(
    ("name", "dialect"), [(name, DIALECTS[n % 2]) for n, name in enumerate(SCRIPTS)]
)
def test_the_interpreter_ends_without_a_word(threaded, name, dialect):
    """Notebooks never close their loop, and aiohttp complains of every session left open."""
    done = run_script(threaded, dialect, SCRIPTS[name])
    assert (done.returncode, done.stderr) == (0, "")
    assert "answered" in done.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.parametrize("name", FORKS)
def test_a_forked_child_leaves_its_parents_clients_alone(threaded, name):
    """It asks over connections of its own, and its end makes the parent's neither deaf nor loud."""
    done = run_script(threaded, "openai", FORKS[name])
    assert (done.returncode, done.stderr) == (0, "")
