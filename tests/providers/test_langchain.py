"""LangChain models, and anything else that can be run, as targets."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import (
    BaseChatModel,
    FakeListChatModel,
    GenericFakeChatModel,
)
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, SystemMessage
from langchain_core.messages.tool import invalid_tool_call, tool_call
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables import RunnableLambda
from langchain_openai import ChatOpenAI
from pydantic import Field, SecretStr

from langchain_resilient import DroppedParameterWarning, Target
from langchain_resilient import FaultKind as K
from langchain_resilient import testing as t
from langchain_resilient.exchange import ChatRequest
from langchain_resilient.providers import create_provider
from langchain_resilient.providers.errors import classify
from langchain_resilient.testing import answer_to
from tests.providers.asking import ask, fault_of, ids, request, until

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tell the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


class Recorder(BaseChatModel):
    """Answers with a word, and remembers how it was asked."""

    api_key: SecretStr = SecretStr("correct horse battery staple")
    refuses: dict[str, Any] = Field(default_factory=dict)
    words: tuple[str, ...] = ("yes",)
    asked: list[Any] = Field(default_factory=list)
    bound: list[Any] = Field(default_factory=list)
    closed: list[bool] = Field(default_factory=list)
    fails_after: int | None = None

    @property
    def _llm_type(self):
        return "recorder"

    def _take(self, messages, kwargs):
        self.asked.append((messages, kwargs))
        for name, error in self.refuses.items():
            if name in kwargs:
                raise error

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        self._take(messages, kwargs | ({"stop": stop} if stop else {}))
        return ChatResult(generations=[ChatGeneration(message=AIMessage("".join(self.words)))])

    async def _astream(self, messages, stop=None, run_manager=None, **kwargs):
        self._take(messages, kwargs | ({"stop": stop} if stop else {}))
        try:
            for position, word in enumerate(self.words):
                if position == self.fails_after:
                    raise TypeError("got an unexpected keyword argument 'seed'")
                yield ChatGenerationChunk(message=AIMessageChunk(word))
                await asyncio.sleep(0)
        finally:
            self.closed.append(True)

    def bind_tools(self, tools, **kwargs):
        self.bound.append((tools, kwargs))
        return self.bind()


def provider(runnable, **fields):
    return create_provider(Target(runnable, **fields))


@pytest.fixture
async def gpt(sim):
    """langchain-openai's model at the simulator, with a client that the test closes."""
    async with openai.DefaultAsyncHttpxClient() as client:
        yield ChatOpenAI(
            model="gpt", base_url=sim.base_url("openai"), api_key="correct horse battery staple",
            max_retries=0, http_async_client=client,
        )  # fmt: skip


# -- answers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("runnable", [
    FakeListChatModel(responses=["Hi you"]),
    RunnableLambda(lambda _: "Hi you"),
    RunnableLambda(lambda _: AIMessage("Hi you")),
    RunnableLambda(lambda _: HumanMessage("Hi you")),
    ChatPromptTemplate([MessagesPlaceholder("all")]) | FakeListChatModel(responses=["Hi you"]),
    Recorder(words=("Hi ", "you")),
    Recorder(words=("Hi ", "you")).bind(stop=["x"]),
    Recorder(words=("Hi ", "you")).with_retry(),
    Recorder(words=("Hi ", "you")).with_fallbacks([FakeListChatModel(responses=["no"])]),
], ids=lambda value: type(value).__name__)  # fmt: skip
async def test_whatever_answers_is_a_target(runnable, stream):
    """With a message, pieces of one, or text."""
    response = await ask(provider(runnable), stream=stream)
    assert (response.text, response.fault()) == ("Hi you", None)


async def test_a_stream_comes_in_pieces():
    """As the model makes them."""
    model = GenericFakeChatModel(messages=iter([AIMessage("one two three")]))
    answer = await provider(model).open(request(), stream=True)
    pieces = [chunk["message_chunk"].content async for chunk in answer]
    assert [piece for piece in pieces if piece] == ["one", " ", "two", " ", "three"]


async def test_nothing_runs_before_the_first_chunk_is_wanted():
    """To open is cheap, and what was opened may be closed unread."""
    model = Recorder()
    answer = await provider(model).open(request(), stream=True)
    await answer.aclose()
    assert model.asked == []


async def test_a_message_passes_through_as_it_is():
    """Tool calls, good and bad, counts and metadata."""
    message = AIMessage(
        "Hi", id="1", usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3},
        tool_calls=[tool_call(name="a", args={"x": 1}, id="2")],
        invalid_tool_calls=[invalid_tool_call(name="b", args="{bad", id="3", error="e")],
        response_metadata={"stop_reason": "end_turn"}, additional_kwargs={"own": "thing"},
    )  # fmt: skip
    answer = await provider(RunnableLambda(lambda _: message)).open(request(), stream=True)
    assert [chunk["message_chunk"] async for chunk in answer] == [message]


@pytest.mark.parametrize("value", [None, 7, {"text": "Hi"}, ["Hi"]], ids=repr)
async def test_what_is_no_answer_is_an_error_that_says_so(value):
    """A target that returns a dict is a mistake of whoever wrote it."""
    with pytest.raises(TypeError, match="must answer with a message or a str, not "):
        await ask(provider(RunnableLambda(lambda _: value)))


# -- the request ------------------------------------------------------------------------------


async def test_the_messages_are_langchains_own():
    """Nothing of another vendor's format is lost on a way through OpenAI's."""
    source = [SystemMessage("Be brief."), HumanMessage([{"type": "x-own", "data": "kept"}])]
    model = Recorder()
    await ask(provider(model), ChatRequest([], source=source))
    assert model.asked[0][0] == source


@pytest.mark.parametrize("stream", [True, False])
async def test_the_targets_and_the_calls_parameters_are_handed_over(stream):
    """The call's go first; what only some APIs know stays out, and so do the model's defaults."""
    model = Recorder()
    asked = ChatRequest(
        [], {"temperature": 0.1, "max_tokens": 9}, {"stop": ["x"], "top_k": 4, "top_p": 0.5}, []
    )
    await ask(provider(model, seed=1, top_p=0.9, min_p=0.5), asked, stream=stream)
    assert model.asked[0][1] == {"stop": ["x"], "top_p": 0.5, "seed": 1}


@pytest.mark.parametrize(("choice", "expected"), [
    (None, {}),
    ("auto", {"tool_choice": "auto"}),
    ("required", {"tool_choice": "any"}),
    ({"type": "function", "function": {"name": "weather"}}, {"tool_choice": "weather"}),
    ({"type": "x-own"}, {"tool_choice": {"type": "x-own"}}),
], ids=ids)  # fmt: skip
async def test_tools_are_bound_in_langchains_words(choice, expected):
    """Which every integration turns into its own."""
    model = Recorder()
    overrides = {"tools": [TOOL]} | ({} if choice is None else {"tool_choice": choice})
    await ask(provider(model), request(**overrides))
    assert model.bound == [([TOOL], expected)]


async def test_a_model_that_knows_no_tools_refuses_the_request_only():
    """For other requests it is as good as ever."""
    model = FakeListChatModel(responses=["Hi"])
    made = provider(model)
    with pytest.raises(NotImplementedError) as caught:
        await ask(made, request(tools=[TOOL]))
    assert classify(caught.value).kind is K.BAD_REQUEST
    assert (await ask(made)).text == "Hi"


class RefusedError(Exception):
    """An API's, as anthropic's SDK raises it."""

    status_code = 400
    body = {"error": {"message": "seed: Extra inputs are not permitted"}}  # noqa: RUF012


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("refusal", [
    TypeError("AsyncMessages.create() got an unexpected keyword argument 'seed'"),
    RefusedError(),
], ids=ids)  # fmt: skip
async def test_a_parameter_that_a_model_does_not_take_is_left_out(refusal, stream):
    """A parameter of the primary never breaks the fallback; one warning says so."""
    model = Recorder(refuses={"seed": refusal})
    made, asked = provider(model), request(seed=1, top_p=0.5)
    with pytest.warns(DroppedParameterWarning, match="'seed'") as caught:
        responses = [await ask(made, asked, stream=stream) for _ in range(3)]
    assert [response.text for response in responses] == ["yes"] * 3
    assert len(caught) == 1
    assert [sorted(kwargs) for _, kwargs in model.asked] == [["seed", "top_p"], *[["top_p"]] * 3]


async def test_an_answer_that_has_begun_is_not_begun_again():
    """Its pieces are out."""
    model = Recorder(words=("a", "b", "c"), fails_after=2)
    with pytest.raises(TypeError, match="seed"):
        await ask(provider(model), request(seed=1))
    assert len(model.asked) == 1


# -- stopping, and what others hear -----------------------------------------------------------


async def test_the_model_stops_when_its_stream_is_closed():
    """Its generator ends there and then, not when somebody collects it."""
    model = Recorder(words=("a",) * 100)
    answer = await provider(model).open(request(), stream=True)
    await anext(answer)
    await answer.aclose()
    assert model.closed == [True]


async def test_the_model_stops_when_the_attempt_is_cancelled():
    """In the middle of waiting."""
    started, stopped = asyncio.Event(), asyncio.Event()

    async def slow(_):
        started.set()
        try:
            await asyncio.sleep(60)
        finally:
            stopped.set()

    task = asyncio.create_task(ask(provider(RunnableLambda(slow))))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert stopped.is_set()


class Listener(BaseCallbackHandler):
    """Hears of chat models and their tokens."""

    def __init__(self):
        self.heard = []

    def on_chat_model_start(self, *args, **kwargs):
        self.heard.append("start")

    def on_llm_new_token(self, token, **kwargs):
        self.heard.append(token)


@pytest.mark.parametrize("stream", [True, False])
async def test_the_models_own_run_is_silent(stream):
    """Who listens to the call would hear each token twice, and those of the losers."""
    listener = Listener()

    async def call(_):
        return (await ask(provider(Recorder()), stream=stream)).text

    assert await RunnableLambda(call).ainvoke("x", {"callbacks": [listener]}) == "yes"
    assert listener.heard == []


async def test_the_models_own_callbacks_are_heard():
    """They were given to it for good."""
    listener = Listener()
    await ask(provider(Recorder(callbacks=[listener])))
    assert listener.heard[:2] == ["start", "yes"]


# -- langchain-openai over real sockets -------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
async def test_chat_openai_answers(gpt, stream):
    """With its counts."""
    response = await ask(provider(gpt), stream=stream)
    assert (response.text, response.fault()) == (answer_to("hello"), None)
    assert response.output_tokens()


@pytest.mark.parametrize("stream", [True, False])
async def test_chat_openai_calls_tools(sim, gpt, stream):
    """Bound in its own way."""
    sim.script("*", then=t.Reply(tool_calls=[{"name": "weather", "args": {"city": "Rome"}}]))
    choice = {"type": "function", "function": {"name": "weather"}}
    asked = request(tools=[TOOL], tool_choice=choice, parallel_tool_calls=False)
    response = await ask(provider(gpt), asked, stream=stream)
    assert response.has_tool_calls
    body = sim.requests[0].body
    assert (body["tools"], body["tool_choice"]) == ([TOOL], choice)


@pytest.mark.parametrize(("step", "kind"), [
    (t.Status(500), K.SERVER),
    (t.RateLimited(3), K.RATE_LIMIT),
    (t.Quota(), K.QUOTA),
    (t.InvalidKey(), K.AUTH),
    (t.Status(403), K.AUTH),
    (t.ModelNotFound(), K.NOT_FOUND),
    (t.ContextTooLong(), K.CONTEXT_LENGTH),
    (t.Status(400, message="Input tokens exceed the configured limit"), K.CONTEXT_LENGTH),
    (t.ContentFilter(), K.CONTENT_FILTER),
    (t.BadRequest(), K.BAD_REQUEST),
    (t.RequestTooLarge(), K.TOO_LARGE),
    (t.Reset(), K.CONNECTION),
    (t.Cut(after=2), K.CONNECTION),
    (t.SseError(), K.SERVER),
    (t.Malformed(after=1), K.BROKEN),
], ids=ids)  # fmt: skip
async def test_chat_openais_errors_are_classified(sim, gpt, step, kind):
    """They are OpenAI's, in LangChain's families."""
    sim.script("*", then=step)
    fault = await fault_of(provider(gpt))
    assert fault.kind is kind
    assert fault.retry_after == (3.0 if kind is K.RATE_LIMIT else None)


async def test_chat_openais_key_survives_nowhere(sim, gpt):
    """It is found among the model's own fields, bound to arguments or not."""
    key = gpt.openai_api_key.get_secret_value()
    sim.script("*", then=t.Status(401, message=f"who gave you {key}?"))
    for model in (gpt, gpt.bind(stop=["x"])):
        with pytest.raises(openai.AuthenticationError) as caught:
            await ask(provider(model))
        text = f"{caught.value} {caught.value!r} {caught.value.body}"
        assert key not in text + classify(caught.value).message
        assert "who gave you [key]?" in text


async def test_to_close_chat_openais_stream_stops_the_provider(sim, gpt):
    """Within half a second."""
    sim.script("*", then=t.Reply(words=1000, chunk_gap=0.01))
    answer = await provider(gpt).open(request(), stream=True)
    await anext(answer)
    await anext(answer)
    await answer.aclose()
    await sim.await_idle(0.5)
    assert sim.aborted == 1


async def test_to_cancel_chat_openai_stops_the_provider(sim, gpt):
    """Before its first byte."""
    sim.script("*", then=t.NoAnswer())
    task = asyncio.create_task(ask(provider(gpt)))
    await until(lambda: sim.in_flight)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await sim.await_idle(0.5)
    assert sim.aborted == 1


@pytest.mark.filterwarnings("ignore:a prompt holds half:UnicodeWarning")
async def test_half_of_a_surrogate_pair_is_replaced_for_a_model_that_cannot_send_it(sim):
    """ChatOpenAI cannot; the second time it can."""
    model = ChatOpenAI(model="m", base_url=sim.base_url("openai"), api_key="k", max_retries=0)
    assert (await ask(create_provider(Target(model)), request("cut \ud83d"))).text
    (sent,) = sim.requests
    assert sent.body["messages"][-1]["content"] == "cut \ufffd"
