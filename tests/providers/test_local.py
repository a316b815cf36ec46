"""The embedded model answers, stops when told to, and leaves nothing behind.

The tests marked `local` run the real model; it is fetched once into the user's cache folder.
"""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import json
import os
import subprocess
import sys
import textwrap
import threading
import time
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from langchain_resilient.exchange import ChatRequest
from langchain_resilient.faults import FaultKind
from langchain_resilient.options import Target
from langchain_resilient.providers import local, local_model, local_server
from langchain_resilient.providers.errors import classify
from langchain_resilient.providers.local import LocalProvider, preload
from langchain_resilient.providers.local_errors import LocalModelError, MissingExtraError
from langchain_resilient.providers.local_model import model_at, unload
from langchain_resilient.providers.weights import WeightsError, ensure_weights

needs_xllamacpp = pytest.mark.skipif(
    importlib.util.find_spec("xllamacpp") is None,
    reason='xllamacpp is not installed: pip install "langchain-resilient[local]"',
)
pytestmark = needs_xllamacpp


@pytest.fixture(scope="session")
def model():
    """The embedded model, loaded."""
    try:
        ensure_weights()
    except WeightsError as error:
        pytest.skip(f"no weights: {error}")
    preload()
    yield model_at("")
    unload()


def ask(text, **overrides):
    return ChatRequest([{"role": "user", "content": text}], overrides=overrides)


async def chunks_of(request, *, stream=True, target=None):
    answer = await LocalProvider(target or Target("local")).open(request, stream=stream)
    return [chunk async for chunk in answer]


def text_of(chunks):
    deltas = [c["choices"][0]["delta"] for c in chunks if c["choices"]]
    return "".join(d.get("content") or "" for d in deltas)


async def idle(model, seconds=10.0):
    """Wait until no thread of the model is at work."""
    async with asyncio.timeout(seconds):
        while model._running:  # noqa: ASYNC110  # its threads set no event
            await asyncio.sleep(0.002)


# -- answers ------------------------------------------------------------------------------------


@pytest.mark.local
async def test_streams_chunks_of_a_chat_completion(model):
    """Role first, then text, the reason, and usage; nothing of llama.cpp's own."""
    chunks = await chunks_of(ask("Say hello.", max_tokens=12))
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert text_of(chunks).strip()
    assert chunks[-2]["choices"][0]["finish_reason"] in ("stop", "length")
    assert chunks[-1]["usage"]["completion_tokens"] <= 12
    assert {c["object"] for c in chunks} == {"chat.completion.chunk"}
    assert {c["model"] for c in chunks} == {"smollm2"}
    assert not any({"timings", "prompt_progress"} & c.keys() for c in chunks)


@pytest.mark.local
async def test_an_answer_that_begins_with_an_emoji_begins_with_its_role(model):
    """llama.cpp leaves the role out where the first token is only a part of a character."""
    chunks = await chunks_of(ask("Say hello.", grammar='root ::= "\U0001f31f Hello"', n=2))
    roles = {0: [], 1: []}
    for choice in (choice for chunk in chunks for choice in chunk["choices"]):
        roles[choice["index"]].append(choice["delta"].get("role"))
    assert [seen[:2] for seen in roles.values()] == [["assistant", None]] * 2
    assert text_of(chunks).count("\U0001f31f") == 2


@pytest.mark.local
async def test_answers_plainly_with_one_completion(model):
    """The same text as one dict."""
    (completion,) = await chunks_of(ask("Say hello.", max_tokens=8, seed=1), stream=False)
    streamed = text_of(await chunks_of(ask("Say hello.", max_tokens=8, seed=1)))
    assert completion["object"] == "chat.completion"
    assert completion["choices"][0]["message"]["content"] == streamed
    assert completion["usage"]["completion_tokens"] > 0


@pytest.mark.local
async def test_a_seed_repeats_an_answer(model):
    """And another seed does not."""
    one, same, other = [
        text_of(await chunks_of(ask("Tell a story.", seed=s, max_tokens=24, temperature=1)))
        for s in (5, 5, 6)
    ]
    assert one == same != other


@pytest.mark.local
async def test_stops_before_a_stop_word(model):
    """The word itself is not in the answer."""
    text = text_of(await chunks_of(ask("Why is the sky blue?", stop=["the"], seed=1)))
    assert text
    assert "the" not in text


@pytest.mark.local
@pytest.mark.parametrize("stream", [True, False])
async def test_a_schema_is_kept(model, stream):
    """By grammar, not by asking nicely."""
    schema = {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "blue"]}, "size": {"type": "integer"}},
        "required": ["colour", "size"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "thing", "schema": schema}}
    chunks = await chunks_of(ask("Describe a ball.", response_format=form), stream=stream)
    text = text_of(chunks) if stream else chunks[0]["choices"][0]["message"]["content"]
    found = json.loads(text)
    assert found["colour"] in ("red", "blue")
    assert isinstance(found["size"], int)


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"The {thing} in a city",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "maxLength": 30}},
                "required": ["city"],
            },
        },
    }
    for name, thing in (("get_weather", "weather"), ("get_time", "time"))
]


@pytest.mark.local
@pytest.mark.parametrize("tools", [TOOLS[:1], TOOLS])
async def test_a_forced_tool_is_called(model, tools):
    """With arguments that keep its schema."""
    request = ask("What is the weather in Paris?", tools=tools, tool_choice="required")
    (completion,) = await chunks_of(request, stream=False)
    choice = completion["choices"][0]
    (call,) = choice["message"]["tool_calls"]
    assert call["function"]["name"] in {t["function"]["name"] for t in tools}
    assert list(json.loads(call["function"]["arguments"])) == ["city"]
    assert choice["finish_reason"] == "tool_calls"


@pytest.mark.local
async def test_what_is_dropped_is_said_once(model):
    """One warning a target and parameter."""
    provider = LocalProvider(Target("local"))
    request = ask("Hi", tools=TOOLS, logit_bias={"5": 1}, reasoning_effort="low", max_tokens=1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            assert [c async for c in await provider.open(request, stream=True)]
    said = sorted(str(w.message) for w in caught)
    assert [s.split("'")[1] for s in said] == ["logit_bias", "reasoning_effort", "tools"]


@pytest.mark.local
async def test_two_choices_come_side_by_side(model):
    """`n` is served up to the number of slots."""
    (completion,) = await chunks_of(ask("Hi", n=2, max_tokens=4), stream=False)
    assert [c["index"] for c in completion["choices"]] == [0, 1]


# -- refusals -----------------------------------------------------------------------------------


async def fault_of(request, target=None):
    with pytest.raises(LocalModelError) as caught:
        await chunks_of(request, target=target)
    return classify(caught.value)


@pytest.mark.local
async def test_a_prompt_that_is_too_long_is_told(model):
    """The classifier sees what it sees at an API, and so another target is asked."""
    fault = await fault_of(ask("cat " * 5000))
    assert (fault.kind, fault.status) == (FaultKind.CONTEXT_LENGTH, 400)


@pytest.mark.local
async def test_a_wrong_parameter_is_told(model):
    """As a bad request, with llama.cpp's reason."""
    fault = await fault_of(ask("Hi", temperature="hot"))
    assert fault.kind is FaultKind.BAD_REQUEST
    assert "temperature" in fault.message


@pytest.mark.local
async def test_a_schema_that_cannot_be_is_told(model):
    """llama.cpp raises there; it is a bad request all the same."""
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": "#/no"}}}
    assert (await fault_of(ask("Hi", response_format=form))).kind is FaultKind.BAD_REQUEST


async def test_a_missing_file_is_not_found(tmp_path):
    """The path is named."""
    path = tmp_path / "no.gguf"
    fault = await fault_of(ask("Hi"), Target(f"local:{path}"))
    assert (fault.kind, fault.status) == (FaultKind.NOT_FOUND, 404)
    assert str(path) in fault.message


async def test_a_broken_file_is_unavailable(tmp_path, capfd):
    """Without noise on stderr."""
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    fault = await fault_of(ask("Hi"), Target(f"local:{path}"))
    assert fault.status == 503
    assert "broken.gguf" in fault.message
    assert capfd.readouterr().err == ""


async def test_a_failed_load_is_not_repeated_at_once(tmp_path, monkeypatch):
    """It may have cost a download."""
    loads = []

    def fail():
        loads.append(1)
        raise WeightsError("no network")

    monkeypatch.setattr(local_model, "ensure_weights", fail)
    model = local_model.LocalModel(None)
    for _ in range(2):
        with pytest.raises(LocalModelError, match="no network") as caught:
            model.load()
        assert (caught.value.status_code, caught.value.code) == (503, "weights_unavailable")
    assert len(loads) == 1


@pytest.mark.parametrize("value", ["0", "two", "-1", "1.5"])
def test_a_wrong_number_of_threads_is_told(monkeypatch, value):
    """The variable is named."""
    monkeypatch.setenv("LANGCHAIN_RESILIENT_THREADS", value)
    with pytest.raises(LocalModelError, match=f"LANGCHAIN_RESILIENT_THREADS.*'{value}'"):
        local_server._number("LANGCHAIN_RESILIENT_THREADS", 1)


def test_a_missing_extra_is_told(monkeypatch):
    """Before any request, with the command that installs it."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(MissingExtraError, match=r'pip install "langchain-resilient\[local\]"'):
        LocalProvider(Target("local"))


def test_errors_survive_pickling():
    """They may cross processes."""
    import pickle

    error = pickle.loads(pickle.dumps(LocalModelError("no", 400, "bad")))  # noqa: S301  # our own
    assert (str(error), error.status_code, error.code) == ("no", 400, "bad")


# -- stopping -----------------------------------------------------------------------------------


@pytest.mark.local
async def test_closing_stops_the_generation(model):
    """Within a token or two, and the thread is free."""
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
    """A plain answer can be cancelled too."""
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
    """Between two batches: 2,400 tokens would take half a minute."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await chunks_of(ask("dog bird " * 1200))
    gc.collect()
    await idle(model, 5.0)


@pytest.mark.local
async def test_an_abandoned_answer_stops(model):
    """Whoever forgets to close must not burn a core."""
    answer = await LocalProvider(Target("local")).open(ask("Write a long story."), stream=True)
    await anext(answer)
    del answer
    gc.collect()
    await idle(model, 2.0)


@pytest.mark.local
def test_a_closed_loop_stops_the_generation(model):
    """No thread waits for a loop that is gone."""
    loop = asyncio.new_event_loop()
    provider = LocalProvider(Target("local"))
    answer = loop.run_until_complete(provider.open(ask("Write a long story."), stream=True))
    loop.close()
    asyncio.run(idle(model, 2.0))
    assert answer.generation.stopped


@pytest.mark.local
async def test_a_request_cancelled_in_the_queue_never_runs(model):
    """It waits for a slot, and is gone when one is free."""
    provider = LocalProvider(Target("local"))
    long = [
        await provider.open(ask(f"Write a long story {n}."), stream=True)
        for n in range(local_model.SLOTS)
    ]
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


class _Stopped:
    """A job that nobody waits for any more."""

    def __init__(self):
        self.body, self.stopped, self.ended = {}, True, threading.Event()

    def take(self, chunk):
        return True

    def end(self, error):
        self.ended.set()


def test_a_request_cancelled_before_the_load_loads_nothing(monkeypatch):
    """A download is no small thing."""
    model, job = local_model.LocalModel(None), _Stopped()
    monkeypatch.setattr(model, "load", lambda: pytest.fail("loaded"))
    model.submit(job)
    assert job.ended.wait(5)
    model.close()


@pytest.mark.local
async def test_an_idle_thread_holds_no_answer(model):
    """Nor, through it, an event loop."""
    answer = await LocalProvider(Target("local")).open(ask("Hi", max_tokens=2), stream=True)
    assert [chunk async for chunk in answer]
    await idle(model)
    generation = weakref.ref(answer.generation)
    del answer
    async with asyncio.timeout(2):
        while generation() is not None:  # noqa: ASYNC110  # a thread lets go of it, and tells nobody
            await asyncio.sleep(0.01)


# -- sharing ------------------------------------------------------------------------------------


@pytest.mark.local
async def test_more_requests_than_slots_wait_their_turn(model):
    """All are answered."""
    requests = [ask(f"Count from {n}.", max_tokens=6) for n in range(5)]
    answers = await asyncio.gather(*(chunks_of(r) for r in requests))
    assert all(text_of(chunks) for chunks in answers)


@pytest.mark.local
def test_one_model_serves_many_loops_and_threads(model):
    """Each thread runs loops of its own, one after another."""
    server = model.load()

    def work(n):
        return [text_of(asyncio.run(chunks_of(ask(f"Hi {n}", max_tokens=4)))) for _ in range(2)]

    with ThreadPoolExecutor(3) as pool:
        assert all(all(texts) for texts in pool.map(work, range(3)))
    assert model.load() is server


@pytest.mark.local
async def test_the_loop_goes_on_while_the_model_writes(model):
    """Generation releases the GIL."""
    task = asyncio.create_task(chunks_of(ask("Write a story.", max_tokens=60)))
    late = 0.0
    while not task.done():
        began = time.perf_counter()
        await asyncio.sleep(0.005)
        late = max(late, time.perf_counter() - began)
    assert text_of(await task)
    assert late < 0.5


@pytest.mark.local
async def test_any_file_can_be_a_model(model, tmp_path, monkeypatch):
    """By its path in the target, or in the environment; targets with one path share it."""
    monkeypatch.setenv("LANGCHAIN_RESILIENT_CONTEXT", "256")
    path = tmp_path / "mine.gguf"
    path.symlink_to(ensure_weights())
    target = Target(f"local:{path}")
    chunks = await chunks_of(ask("Hi", max_tokens=3), target=target)
    assert chunks[0]["model"] == ensure_weights().stem
    monkeypatch.setenv("LANGCHAIN_RESILIENT_MODEL", str(path))
    assert model_at("") is model_at(str(path)) is not model_at("smollm2")
    assert (await fault_of(ask("cat " * 300), target)).kind is FaultKind.CONTEXT_LENGTH
    model_at(str(path)).close()


# -- what it costs ------------------------------------------------------------------------------


@pytest.mark.local
def test_an_idle_model_takes_no_cpu(model):
    """No thread spins."""
    asyncio.run(chunks_of(ask("Hi", max_tokens=3)))
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.05


@pytest.mark.local
@pytest.mark.skipif(os.name != "posix", reason="elsewhere it is a loopback port with a random key")
def test_nobody_can_reach_the_server(model):
    """Its socket has no name any more."""
    scheme, _, path = model.load().listening_address.partition("://")
    assert scheme == "unix"
    assert not Path(path).parent.exists()


@pytest.mark.local
def test_unloading_frees_the_memory_and_the_threads(model):
    """And the next request loads the model again."""
    asyncio.run(chunks_of(ask("Hi", max_tokens=3)))
    loaded = _megabytes()
    unload()
    assert not [t for t in threading.enumerate() if t.name.startswith(model.name)]
    if sys.platform == "linux":
        assert _megabytes() < loaded - 150
    assert text_of(asyncio.run(chunks_of(ask("Hi", max_tokens=3))))


def _megabytes():
    """Memory of this process, where the system tells it."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else ()
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


@pytest.mark.local
async def test_unloading_ends_answers_with_an_error(model):
    """A half answer is not passed off as a whole one, nor waited for for ever."""
    provider = LocalProvider(Target("local"))
    answers = [
        await provider.open(ask(f"Write a long story {n}."), stream=False)
        for n in range(local_model.SLOTS)
    ]
    waiting = asyncio.create_task(provider.open(ask("Hi"), stream=True))
    await asyncio.sleep(0.1)
    await asyncio.to_thread(unload)
    for unfinished in (*(anext(a) for a in answers), waiting):
        with pytest.raises(LocalModelError, match="unloaded"):
            await unfinished


# -- processes ----------------------------------------------------------------------------------

_PRELUDE = """
import asyncio, os, signal, sys, threading, time
from langchain_resilient.providers import local_server
from langchain_resilient.providers.local import LocalProvider, preload
from langchain_resilient.exchange import ChatRequest
from langchain_resilient.options import Target

async def ask(text="Hi", **overrides):
    request = ChatRequest([{"role": "user", "content": text}], overrides=overrides)
    return await LocalProvider(Target("local")).open(request, stream=True)

async def count(**overrides):
    return len([c async for c in await ask(**overrides)])
"""


def run(script):
    """Run a script in a new Python; give back its output, its errors and its status."""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", _PRELUDE + textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout.strip(), done.stderr, done.returncode


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
        local_server.IDLE_SECONDS = 1
        asyncio.run(count(max_tokens=3))
        time.sleep(1.5)
        """,
}


@pytest.mark.local
@pytest.mark.parametrize("script", _ENDINGS.values(), ids=_ENDINGS)
def test_a_process_ends_quietly(model, script):
    """No crash, no noise, no wait for the end of an answer."""
    began = time.monotonic()
    assert run(script) == ("", "", 0)
    assert time.monotonic() - began < 20


@pytest.mark.local
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_loads_its_own(model):
    """The parent's threads are not in the child; both answer, and both end well."""
    said = run(
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
    assert said == ("True 0", "", 0)


@pytest.mark.local
@pytest.mark.skipif(os.name != "posix", reason="signals are a POSIX thing")
def test_ctrl_c_still_reaches_python(model):
    """llama.cpp's server has handlers of its own."""
    said = run(
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
    assert said == ("interrupted", "", 0)


def test_importing_the_provider_loads_no_model():
    """Nothing heavy before it is needed."""
    assert run("print('xllamacpp' in sys.modules)") == ("False", "", 0)


def test_the_public_names_are_there():
    """What `__all__` promises."""
    assert all(hasattr(local, name) for name in local.__all__)
