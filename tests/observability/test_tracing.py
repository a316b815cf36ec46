"""Attempts as child runs, in LangChain's own tracers."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from unittest.mock import MagicMock

import pytest
from langchain_core.callbacks import (
    AsyncCallbackHandler,
    BaseCallbackHandler,
    UsageMetadataCallbackHandler,
)
from langchain_core.language_models import BaseChatModel, FakeListChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda
from langchain_core.tracers import LangChainTracer
from langchain_core.tracers.context import collect_runs
from langsmith import Client

from langchain_resilient import AllTargetsFailedError, Hedge, ResilientChatModel, Target
from langchain_resilient.testing import Cut, ProviderSimulator, Reply, Status
from tests.observability.watching import PROMPT, SLOW, WAYS, Tree, ask
from verification.kit.scripted_targets import CANARY, chain, target

HEDGED = {"hedge": Hedge(delay=0.1, budget=1.0)}
USAGE = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}


@pytest.fixture
def sim():
    with ProviderSimulator() as simulator:
        yield simulator


def traced(llm, way, **config):
    """The model's run."""
    tree = Tree()
    ask(llm, way, config={"callbacks": [tree], **config})
    (root,) = tree.roots
    return root


def metadata(run):
    return run.extra["metadata"]


def everything(run):
    return [run, *(below for child in run.child_runs for below in everything(child))]


@pytest.mark.parametrize("way", WAYS)
def test_each_attempt_is_a_child_run(sim, way):
    """Named by its target, and tagged by its kind and outcome."""
    sim.script("openai:m", Status(500))
    root = traced(chain(sim, "openai:m", "together:n"), way)
    results = [(run.name, run.run_type, run.tags) for run in root.child_runs]
    assert results == [
        ("openai:m", "chain", ["attempt", "primary", "failed"]),
        ("together:n", "chain", ["attempt", "fallback", "won"]),
    ]


@pytest.mark.parametrize("way", WAYS)
def test_a_loser_is_closed_before_the_models_run(sim, way):
    """It is no error."""
    sim.script("openai:m", then=SLOW)
    root = traced(chain(sim, "openai:m", "together:n", **HEDGED), way)
    loser, winner = root.child_runs
    assert (loser.tags[1:], winner.tags[1:]) == (["primary", "lost"], ["hedge", "won"])
    assert loser.error is None
    assert root.start_time <= loser.start_time < winner.start_time
    assert all(run.end_time and run.end_time <= root.end_time for run in root.child_runs)


def test_a_run_takes_as_long_as_its_attempt(sim):
    """The loser's ends when the winner has begun, not when the call is over."""
    sim.script("openai:m", then=SLOW)
    sim.script("together:n", Reply("one two three four", chunk_gap=0.1))
    root = traced(chain(sim, "openai:m", "together:n", **HEDGED), "ainvoke")
    loser, winner = root.child_runs
    assert winner.end_time - loser.end_time > timedelta(seconds=0.15)


@pytest.mark.parametrize("way", WAYS)
def test_a_failed_call_has_failed_children(sim, way):
    """Each says its fault."""
    tree = Tree()
    sim.script("openai:m", then=Status(500))
    llm = chain(sim, "openai:m", max_retries=0)
    with pytest.raises(AllTargetsFailedError):
        ask(llm, way, config={"callbacks": [tree]})
    (run,) = tree.roots[0].child_runs
    assert "server (500)" in run.error
    assert metadata(run)["resilience_fault"] == "server"
    assert metadata(run)["resilience_status"] == 500


def test_a_cancelled_caller_leaves_no_run_open(sim):
    """The attempt is closed with the model's run."""
    tree = Tree()
    sim.script("openai:m", then=SLOW)
    llm = chain(sim, "openai:m")

    async def go():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(llm.ainvoke("hi", {"callbacks": [tree]}), 0.3)

    asyncio.run(go())
    # LangChain itself leaves the model's run open when `ainvoke` is cancelled.
    (root,) = [run for run in tree.run_map.values() if run.run_type == "chat_model"]
    (run,) = root.child_runs
    assert run.tags[-1] == "cancelled"
    assert run.end_time is not None


def test_a_stream_that_is_closed_early_leaves_no_run_open(sim):
    """Nor a task."""
    tree = Tree()
    llm = chain(sim, "openai:m")

    async def go():
        stream = llm.astream("hi", {"callbacks": [tree]})
        await anext(stream)
        await stream.aclose()
        # LangChain leaves our stream to the event loop, which closes it in a task of its own, and
        # the tree's handlers run in threads: what is left ends soon, but not at the next tick.
        if left := {task for task in asyncio.all_tasks() if "_work" in repr(task)}:
            _, left = await asyncio.wait(left, timeout=10)
        return left

    assert not asyncio.run(go())
    assert not tree.run_map or all(
        run.end_time for run in tree.run_map.values() if run.run_type == "chain"
    )


def test_a_stream_that_broke_shows_who_went_on(sim):
    """Two children, and one answer."""
    sim.script("openai:m", Cut(3))
    root = traced(chain(sim, "openai:m", "together:n"), "astream")
    assert [run.tags[1:] for run in root.child_runs] == [
        ["primary", "failed"],
        ["fallback", "won"],
    ]


@pytest.mark.parametrize("way", WAYS)
def test_usage_stands_in_the_models_run_alone(sim, way):
    """The attempts have tokens under names of their own."""
    root = traced(chain(sim, "openai:m"), way)
    (run,) = root.child_runs
    usage = root.outputs["generations"][0][0]["message"]["kwargs"]["usage_metadata"]
    assert metadata(run)["resilience_output_tokens"] == usage["output_tokens"] > 0
    assert "usage" not in str([run.inputs, run.outputs, run.extra])


@pytest.mark.parametrize("way", WAYS)
def test_the_prompt_is_not_copied_and_no_key_is_told(sim, way):
    """An attempt says whom it asked, and what came of it."""
    (run,) = traced(chain(sim, "openai:m"), way).child_runs
    text = str([run.inputs, run.outputs, run.extra])
    assert PROMPT not in text
    assert CANARY not in text
    assert metadata(run)["resilience_key_index"] == 0


@pytest.mark.parametrize("way", WAYS)
def test_tags_and_metadata_are_inherited(sim, way):
    """But not what LangChain says of the first target's model."""
    root = traced(chain(sim, "openai:m"), way, tags=["mine"], metadata={"user": "u"})
    (run,) = root.child_runs
    assert run.tags[0] == "mine"
    assert metadata(run)["user"] == "u"
    assert not [name for name in metadata(run) if name.startswith("ls_")]


def test_the_runs_of_a_chain_stay_in_its_tree(sim):
    """Prompt, model, attempt."""
    llm = ChatPromptTemplate.from_template("{x}") | chain(sim, "openai:m")
    for way in WAYS:
        tree = Tree()
        ask(llm, way, {"x": "hi"}, {"callbacks": [tree]})
        (root,) = tree.roots
        model = root.child_runs[1]
        assert [run.name for run in model.child_runs] == ["openai:m"], way


def test_a_collector_in_the_context_sees_them(sim):
    """Without a word in the call."""
    llm = chain(sim, "openai:m")
    for call in (llm.invoke, lambda text: list(llm.stream(text))):
        with collect_runs() as runs:
            call("hi")
        assert [run.name for run in runs.traced_runs[0].child_runs] == ["openai:m"]


@pytest.mark.parametrize("way", WAYS)
def test_the_models_own_callbacks_see_them(sim, way):
    """Those of the constructor."""
    tree = Tree()
    ask(chain(sim, "openai:m", callbacks=[tree]), way)
    assert [run.name for run in tree.roots[0].child_runs] == ["openai:m"]


@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
def test_a_call_that_streams_inside_is_traced(sim, way):
    """`streaming=True`."""
    root = traced(chain(sim, "openai:m", streaming=True), way)
    assert [run.name for run in root.child_runs] == ["openai:m"]


def test_a_given_run_id_is_kept(sim):
    """Also for a stream."""
    tree, run_id = Tree(), "6f2d4c1e-0000-4000-8000-000000000001"
    list(chain(sim, "openai:m").stream("hi", {"callbacks": [tree], "run_id": run_id}))
    assert str(tree.roots[0].id) == run_id
    assert len(tree.roots[0].child_runs) == 1


class Steps(BaseCallbackHandler):
    """Writes down what it hears of chains."""

    def __init__(self):
        self.heard = []

    def on_chain_start(self, serialized, inputs, *, name=None, **kwargs):
        self.heard.append(name)

    def on_chain_end(self, outputs, **kwargs):
        self.heard.append(outputs["resilience_outcome"])


class AsyncSteps(AsyncCallbackHandler):
    """Writes down what it hears of chains, and takes its time."""

    def __init__(self):
        self.heard = []

    async def on_chain_start(self, serialized, inputs, *, name=None, **kwargs):
        await asyncio.sleep(0.01)
        self.heard.append(name)

    async def on_chain_end(self, outputs, **kwargs):
        self.heard.append(outputs["resilience_outcome"])


@pytest.mark.parametrize("handler", [Steps, AsyncSteps])
@pytest.mark.parametrize("way", WAYS)
def test_other_handlers_hear_of_attempts_in_order(sim, way, handler):
    """Before the call returns."""
    steps = handler()
    ask(chain(sim, "openai:m"), way, config={"callbacks": [steps]})
    assert steps.heard == ["openai:m", "won"]


class Bad(BaseCallbackHandler):
    """Raises whatever happens."""

    raise_error = True

    def on_chain_start(self, *args, **kwargs):
        raise RuntimeError("no space left")


@pytest.mark.parametrize("way", WAYS)
def test_a_handler_that_fails_breaks_no_attempt(sim, way):
    """Not even one that wants to."""
    llm = ResilientChatModel(targets=[target(sim, "openai:m"), FakeListChatModel(responses=["x"])])
    assert ask(llm, way, config={"callbacks": [Bad()]})
    assert sim.count("openai:m") == 1


async def test_streams_of_events_show_no_attempts(sim):
    """They are no steps of the user's program."""
    llm = chain(sim, "openai:m")
    events = [one["event"] async for one in llm.astream_events("hi", version="v2")]
    assert set(events) == {"on_chat_model_start", "on_chat_model_stream", "on_chat_model_end"}


# -- targets that are LangChain models --------------------------------------------------------


class Counting(BaseChatModel):
    """Says what its answers cost, whole or in a stream."""

    @property
    def _llm_type(self):
        return "counting"

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        about = {"token_usage": USAGE, "model_name": "counting"}
        message = AIMessage("yes", usage_metadata=USAGE, response_metadata=about)
        generations = [ChatGeneration(message=message)]
        return ChatResult(generations=generations, llm_output={"token_usage": USAGE})

    def _stream(self, messages, stop=None, run_manager=None, **kwargs):
        about = {"model_name": "counting"}
        yield ChatGenerationChunk(
            message=AIMessageChunk("yes", usage_metadata=USAGE, response_metadata=about)
        )


PLAIN = {"hedge": Hedge(on="response")}


@pytest.mark.parametrize("options", [{}, PLAIN], ids=["streamed", "plain"])
@pytest.mark.parametrize("way", WAYS)
def test_the_run_of_an_inner_model_stands_below_its_attempt(way, options):
    """It says what was asked and answered, but not what it cost: the model's run does."""
    root = traced(ResilientChatModel(targets=[Counting()], **options), way)
    (attempt,) = root.child_runs
    (run,) = attempt.child_runs
    assert run.name == "Counting"
    assert PROMPT in str(run.inputs)
    assert "yes" in str(run.outputs)
    assert "_tokens" not in str([run.outputs, run.extra])
    usage = root.outputs["generations"][0][0]["message"]["kwargs"]["usage_metadata"]
    assert usage == USAGE


@pytest.mark.parametrize("way", WAYS)
def test_the_usage_of_an_inner_model_is_counted_once(way):
    """By LangChain's own counter."""
    usage = UsageMetadataCallbackHandler()
    llm = ResilientChatModel(targets=[Counting()])
    ask(llm, way, config={"callbacks": [usage, Tree()]})
    assert [one["total_tokens"] for one in usage.usage_metadata.values()] == [7]


def test_the_tokens_of_an_inner_model_are_not_streamed_twice():
    """Handlers hear them from the model alone."""

    class Tokens(BaseCallbackHandler):
        def __init__(self):
            self.heard = []

        def on_llm_new_token(self, token, **kwargs):
            self.heard.append(token)

    tokens = Tokens()
    llm = ResilientChatModel(targets=[FakeListChatModel(responses=["yes"])])
    list(llm.stream("hi", {"callbacks": [tokens, Tree()]}))
    assert "".join(tokens.heard) == "yes"


def test_a_model_inside_a_model_inside_a_model(sim):
    """Each attempt stands below its own call."""
    llm = ResilientChatModel(targets=[ResilientChatModel(targets=[target(sim, "openai:m")])])
    for way in WAYS:
        names = [run.name for run in everything(traced(llm, way))]
        assert names[0] == names[2] == "ResilientChatModel", way
        assert (len(names), names[3]) == (4, "openai:m"), way


def test_what_a_target_runs_in_silence_belongs_to_no_run(sim):
    """Least of all to the stream that began around it."""
    quiet = chain(sim, "openai:m")

    async def answer(messages):
        chunks = [chunk async for chunk in quiet.astream(messages, {"callbacks": []})]
        return "".join(chunk.text for chunk in chunks)

    llm = ResilientChatModel(targets=[Target(RunnableLambda(answer), name="quiet")])
    for way in WAYS:
        assert [run.name for run in traced(llm, way).child_runs] == ["quiet"], way


# -- LangSmith --------------------------------------------------------------------------------


def smith():
    """LangSmith's own tracer, with a client that sends nothing."""
    client = MagicMock(spec=Client)
    return LangChainTracer(client=client), client


@pytest.mark.parametrize("way", WAYS)
def test_langsmith_gets_a_tree(sim, way):
    """Each child names its parent, and none of them usage."""
    tracer, client = smith()
    sim.script("openai:m", Status(500))
    ask(chain(sim, "openai:m", "together:n"), way, config={"callbacks": [tracer]})
    root, *children = [call.kwargs for call in client.create_run.call_args_list]
    assert [child["parent_run_id"] for child in children] == [root["id"]] * 2
    assert all(c["dotted_order"].startswith(root["dotted_order"]) for c in children)
    fields = {call.kwargs["run_id"]: call.kwargs for call in client.update_run.call_args_list}
    with_usage = [run for run, call in fields.items() if "usage_metadata" in str(call)]
    assert with_usage == [root["id"]]
    assert fields[children[1]["id"]]["tags"][-1] == "won"


@pytest.mark.parametrize("way", WAYS)
def test_langsmith_is_told_of_an_inner_model_without_usage(way):
    """Its copy of the tracer writes into the same tree."""
    tracer, client = smith()
    llm = ResilientChatModel(targets=[Counting()])
    ask(llm, way, config={"callbacks": [tracer]})
    runs = [call.kwargs for call in client.create_run.call_args_list]
    assert runs[2]["parent_run_id"] == runs[1]["id"]
    fields = {call.kwargs["run_id"]: call.kwargs for call in client.update_run.call_args_list}
    assert "usage_metadata" not in str(fields[runs[2]["id"]])
    assert "usage_metadata" in str(fields[runs[0]["id"]])
    assert "on_llm_end" not in vars(tracer)


# -- what it costs ----------------------------------------------------------------------------


def test_without_handlers_there_is_no_trace(sim, monkeypatch):
    """The module is not even asked."""
    monkeypatch.setattr(
        "langchain_resilient.observability.tracing.attempt_tracer",
        MagicMock(side_effect=AssertionError),
    )
    llm = chain(sim, "openai:m")
    for way in WAYS:
        assert ask(llm, way)
