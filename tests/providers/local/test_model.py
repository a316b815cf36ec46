"""llama.cpp in this process stops when told to, is shared, and leaves nothing behind.

The tests marked `local` run the real model; it is fetched once into the user's cache folder.
"""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from langchain_resilient import FaultKind, Target
from langchain_resilient.providers.local import LocalModelError, LocalProvider, unload
from langchain_resilient.providers.local import model as model_module
from langchain_resilient.providers.local.dialect import SLOTS
from langchain_resilient.providers.local.model import Generation, LocalModel, get_model
from langchain_resilient.providers.local.weights import WeightsError, ensure_weights
from tests.helpers import UNWARNED_FORK
from tests.providers.local.asking import ask, chunks_of, fault_of, needs_xllamacpp, text_of

pytestmark = needs_xllamacpp


async def idle(model, seconds=10.0):
    """Wait until no thread of the model is at work."""
    async with asyncio.timeout(seconds):
        while model._running:  # noqa: ASYNC110  # its threads set no event
            await asyncio.sleep(0.002)


# -- loading ------------------------------------------------------------------------------------


async def test_a_failed_load_is_not_repeated_at_once(tmp_path, monkeypatch):
    """The first one may have cost a download."""
    loads = []

    def fail():
        loads.append(1)
        raise WeightsError("no network")

    monkeypatch.setattr(model_module, "ensure_weights", fail)
    model = LocalModel(None)
    for _ in range(2):
        with pytest.raises(LocalModelError, match="no network") as caught:
            model.load()
        assert (caught.value.status_code, caught.value.code) == (503, "weights_unavailable")
    assert len(loads) == 1


@pytest.mark.parametrize("value", ["0", "two", "-1", "1.5"])
def test_a_wrong_number_of_threads_is_refused(monkeypatch, value):
    """The error names the variable."""
    monkeypatch.setenv("LANGCHAIN_RESILIENT_THREADS", value)
    with pytest.raises(LocalModelError, match=f"LANGCHAIN_RESILIENT_THREADS.*'{value}'"):
        model_module._positive_int("LANGCHAIN_RESILIENT_THREADS", 1)


# -- stopping -----------------------------------------------------------------------------------


@pytest.mark.local
async def test_closing_stops_the_generation(model):
    """Within a token or two; its thread is free again."""
    before = model.metrics()["tokens_predicted_total"]
    answer = await LocalProvider(Target("local")).open(ask("Write a long story."), stream=True)
    for _ in range(5):
        await anext(answer)
    await answer.aclose()
    await idle(model)
    await asyncio.sleep(0.2)  # for llama.cpp to count
    metrics = model.metrics()
    assert metrics["tokens_predicted_total"] - before < 30
    assert metrics["requests_processing"] == 0


@pytest.mark.local
@pytest.mark.parametrize("stream", [True, False])
async def test_cancelling_stops_the_generation(model, stream):
    """Whether or not it is streamed."""
    before = model.metrics()["tokens_predicted_total"]
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await chunks_of(ask("Write a long story.", seed=3), stream=stream)
    gc.collect()
    await idle(model)
    await asyncio.sleep(0.2)
    assert model.metrics()["tokens_predicted_total"] - before < 150


@pytest.mark.local
async def test_cancelling_stops_the_reading_of_a_long_prompt(model):
    """Between two batches: all 2,400 tokens would take half a minute."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await chunks_of(ask("dog bird " * 1200))
    gc.collect()
    await idle(model, 5.0)


@pytest.mark.local
async def test_an_abandoned_answer_stops(model):
    """An answer that is never closed must not burn a core."""
    answer = await LocalProvider(Target("local")).open(ask("Write a long story."), stream=True)
    await anext(answer)
    del answer
    gc.collect()
    await idle(model, 2.0)


@pytest.mark.local
def test_a_closed_loop_stops_the_generation(model):
    """No thread waits for a closed loop."""
    loop = asyncio.new_event_loop()
    provider = LocalProvider(Target("local"))
    answer = loop.run_until_complete(provider.open(ask("Write a long story."), stream=True))
    loop.close()
    asyncio.run(idle(model, 2.0))
    assert answer.generation.stopped


@pytest.mark.local
async def test_a_request_cancelled_in_the_queue_never_runs(model):
    """It is skipped when a slot becomes free."""
    provider = LocalProvider(Target("local"))
    long = [await provider.open(ask(f"Write a long story {n}."), stream=True) for n in range(SLOTS)]
    for answer in long:
        await anext(answer)  # its prompt is read
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await provider.open(ask("Hi"), stream=True)
    before = model.metrics()["prompt_tokens_total"]
    for answer in long:
        await answer.aclose()
    await idle(model)
    assert model.metrics()["prompt_tokens_total"] == before


async def test_a_request_cancelled_before_the_load_loads_nothing(monkeypatch):
    """It may cost a download."""
    model, generation = LocalModel(None), Generation({})
    generation.stopped = True
    monkeypatch.setattr(model, "load", lambda: pytest.fail("loaded"))
    model.submit(generation)
    async with asyncio.timeout(5):
        assert "unloaded" in str(await generation.chunks.get())
    await asyncio.to_thread(model.close)


@pytest.mark.local
async def test_an_idle_thread_holds_no_answer(model):
    """Nor, through the answer, an event loop."""
    answer = await LocalProvider(Target("local")).open(ask("Hi", max_tokens=2), stream=True)
    assert [chunk async for chunk in answer]
    await idle(model)
    generation = weakref.ref(answer.generation)
    del answer
    async with asyncio.timeout(2):
        while generation() is not None:  # noqa: ASYNC110  # the thread that drops it sets no event
            await asyncio.sleep(0.01)


# -- sharing ------------------------------------------------------------------------------------


@pytest.mark.local
async def test_more_requests_than_slots_wait_their_turn(model):
    """All of them are answered."""
    requests = [ask(f"Count from {n}.", max_tokens=6) for n in range(5)]
    answers = await asyncio.gather(*(chunks_of(r) for r in requests))
    assert all(text_of(chunks) for chunks in answers)


@pytest.mark.local
def test_one_model_serves_many_loops_and_threads(model):
    """Each thread runs its own loops, one after another."""
    server = model.load()

    def work(n):
        return [text_of(asyncio.run(chunks_of(ask(f"Hi {n}", max_tokens=4)))) for _ in range(2)]

    with ThreadPoolExecutor(3) as pool:
        assert all(all(texts) for texts in pool.map(work, range(3)))
    assert model.load() is server


@pytest.mark.local
async def test_the_loop_runs_while_the_model_generates(model):
    """Generation releases the GIL."""
    task = asyncio.create_task(chunks_of(ask("Write a story.", max_tokens=60)))
    max_delay = 0.0
    while not task.done():
        started = time.perf_counter()
        await asyncio.sleep(0.005)
        max_delay = max(max_delay, time.perf_counter() - started)
    assert text_of(await task)
    assert max_delay < 0.5


@pytest.mark.local
async def test_any_file_can_be_a_model(model, tmp_path, monkeypatch):
    """Its path is in the target or the environment; targets with the same path share it."""
    monkeypatch.setenv("LANGCHAIN_RESILIENT_CONTEXT", "256")
    path = tmp_path / "mine.gguf"
    path.symlink_to(ensure_weights())
    target = Target(f"local:{path}")
    chunks = await chunks_of(ask("Hi", max_tokens=3), target=target)
    assert chunks[0]["model"] == ensure_weights().stem
    monkeypatch.setenv("LANGCHAIN_RESILIENT_MODEL", str(path))
    assert get_model("") is get_model(str(path)) is not get_model("smollm2")
    assert (await fault_of(ask("cat " * 300), target)).kind is FaultKind.CONTEXT_LENGTH
    get_model(str(path)).close()


# -- resources ----------------------------------------------------------------------------------


@pytest.mark.local
def test_an_idle_model_takes_no_cpu(model):
    """None of its threads spins."""
    asyncio.run(chunks_of(ask("Hi", max_tokens=3)))
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.05


@pytest.mark.local
@pytest.mark.skipif(os.name != "posix", reason="elsewhere it is a loopback port with a random key")
def test_the_server_cannot_be_reached(model):
    """Its socket has been unlinked."""
    scheme, _, path = model.load().listening_address.partition("://")
    assert scheme == "unix"
    assert not Path(path).parent.exists()


@pytest.mark.local
def test_unloading_frees_the_memory_and_the_threads(model):
    """The next request loads the model again."""
    asyncio.run(chunks_of(ask("Hi", max_tokens=3)))
    loaded = _megabytes()
    unload()
    assert not [t for t in threading.enumerate() if t.name.startswith(model.name)]
    if sys.platform == "linux":
        assert _megabytes() < loaded - 150
    assert text_of(asyncio.run(chunks_of(ask("Hi", max_tokens=3))))


def _megabytes():
    """Memory of this process; 0 where there is no `/proc`."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else ()
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


@pytest.mark.local
async def test_unloading_ends_answers_with_an_error(model):
    """A partial answer neither passes for a complete one nor hangs."""
    provider = LocalProvider(Target("local"))
    answers = [
        await provider.open(ask(f"Write a long story {n}."), stream=False) for n in range(SLOTS)
    ]
    waiting = asyncio.create_task(provider.open(ask("Hi"), stream=True))
    await asyncio.sleep(0.1)
    await asyncio.to_thread(unload)
    for unfinished in (*(anext(a) for a in answers), waiting):
        with pytest.raises(LocalModelError, match="unloaded"):
            await unfinished


# -- processes ----------------------------------------------------------------------------------

_PRELUDE = """
import asyncio, logging, os, signal, sys, threading, time
from langchain_resilient.providers.local import model as local_model
from langchain_resilient.providers.local import LocalProvider, preload
from langchain_resilient.exchange import ChatRequest
from langchain_resilient.options import Target

# Python's development mode tells of steps that a busy machine made slow.
logging.getLogger("asyncio").addFilter(lambda record: "Executing" not in record.msg)

async def ask(text="Hi", **overrides):
    request = ChatRequest([{"role": "user", "content": text}], overrides=overrides)
    return await LocalProvider(Target("local")).open(request, stream=True)

async def count(**overrides):
    return len([c async for c in await ask(**overrides)])
"""


def run(script):
    """Run a script in a new Python; return its output, its errors and its status."""
    process = subprocess.run(
        [sys.executable, "-X", "dev", *UNWARNED_FORK, "-c", _PRELUDE + textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return process.stdout.strip(), process.stderr, process.returncode


_ENDINGS = {
    "loaded": "preload()",
    "idle": "asyncio.run(count(max_tokens=3))",
    "loading": """
        threading.Thread(target=preload, daemon=True).start()
        time.sleep(0.25)
        """,
    "reading": """
        loop = asyncio.new_event_loop()
        answer = loop.run_until_complete(ask("cat " * 3000))
        loop.close()
        """,
    "writing": """
        loop = asyncio.new_event_loop()
        answers = [loop.run_until_complete(ask("Write a story.")) for _ in range(2)]
        loop.close()
        """,
    "abandoned": """
        async def main():
            await anext(await ask("Write a story."))
        asyncio.run(main())
        """,
    "asleep": """
        local_model.IDLE_SECONDS = 1
        asyncio.run(count(max_tokens=3))
        time.sleep(1.5)
        """,
}


@pytest.mark.local
@pytest.mark.parametrize("script", _ENDINGS.values(), ids=_ENDINGS)
def test_a_process_ends_quietly(model, script):
    """Without a crash, output, or a wait for the end of an answer."""
    started = time.monotonic()
    assert run(script) == ("", "", 0)
    assert time.monotonic() - started < 20


@pytest.mark.local
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_loads_its_own(model):
    """The parent's threads do not exist in the child; both answer, and both exit cleanly."""
    result = run(
        """
        asyncio.run(count(max_tokens=3))
        child = os.fork()
        n = asyncio.run(count(max_tokens=3))
        if child:
            _, status = os.waitpid(child, 0)
            print(n > 2, os.waitstatus_to_exitcode(status))
        elif n < 3:
            sys.exit(1)
        """
    )
    assert result == ("True 0", "", 0)


@pytest.mark.local
@pytest.mark.skipif(os.name != "posix", reason="signals are a POSIX thing")
@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_still_reaches_python(model):
    """llama.cpp's server has its own signal handlers."""
    result = run(
        """
        preload()
        async def main():
            answer = await ask("Write a story.")
            os.kill(os.getpid(), signal.SIGINT)
            async for _ in answer: pass
        try:
            asyncio.run(main())
        except KeyboardInterrupt:
            print("interrupted")
        """
    )
    assert result == ("interrupted", "", 0)


def test_importing_the_provider_loads_no_model():
    """Xllamacpp is imported on first use."""
    assert run("print('xllamacpp' in sys.modules)") == ("False", "", 0)
