"""LangChain models, and anything else that can be run, as targets."""

from __future__ import annotations

import asyncio
import json
import pickle
import threading
from typing import Any

import openai
import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import (
    BaseChatModel,
    FakeListChatModel,
    FakeListLLM,
    GenericFakeChatModel,
)
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, SystemMessage
from langchain_core.messages.tool import invalid_tool_call, tool_call
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from langchain_resilient import (
    AllTargetsFailedError,
    DeadlineExceededError,
    DroppedParameterWarning,
    ResilientChatModel,
    Target,
    sum_chunks,
)
from langchain_resilient import FaultKind as K
from langchain_resilient import testing as t
from langchain_resilient.exchange import ChatRequest
from langchain_resilient.providers import create_provider
from langchain_resilient.providers.errors import classify
from langchain_resilient.providers.langchain import blocks
from langchain_resilient.testing import answer_to
from langchain_resilient.threads import MAX_THREADS
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
    """Whatever they are called. The call's go first; the defaults of the model around stay out."""
    model = Recorder()
    own = {"reasoning": {"effort": "low"}, "previous_response_id": "resp_1", "user": "me"}
    asked = ChatRequest(
        [],
        {"temperature": 0.1, "max_tokens": 9},
        {"stop": ["x"], "top_k": 4, "top_p": 0.5, **own},
        [],
    )
    await ask(provider(model, seed=1, top_p=0.9, min_p=0.5), asked, stream=stream)
    expected = {"stop": ["x"], "top_k": 4, "top_p": 0.5, "seed": 1, "min_p": 0.5, **own}
    assert model.asked[0][1] == expected


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("wrap", [
    lambda model: model,
    lambda model: model.bind(min_p=0.5),
    lambda model: model.with_retry(),
    lambda model: model.with_config(tags=["a"]).with_retry().bind(min_p=0.5),
    lambda model: model.with_fallbacks([Recorder()]),
], ids=["plain", "bound", "retrying", "nested", "with_fallbacks"])  # fmt: skip
async def test_parameters_and_tools_reach_a_model_in_its_wrappings(wrap, stream):
    """And what was bound to it before stays bound."""
    model = Recorder()
    wrapped = wrap(model)
    await ask(provider(wrapped), request(tools=[TOOL], top_k=4), stream=stream)
    assert model.bound == [([TOOL], {})]
    assert model.asked[0][1] == {"top_k": 4} | ({"min_p": 0.5} if "min_p" in str(wrapped) else {})


async def test_what_takes_no_parameters_is_asked_without():
    """A chain has no place for them; one warning for each says so."""
    made = provider(RunnableLambda(lambda _: "Hi"))
    with pytest.warns(DroppedParameterWarning) as caught:
        texts = [(await ask(made, request(tools=[TOOL], top_k=4))).text for _ in range(2)]
    assert texts == ["Hi", "Hi"]
    assert ["'tools'" in str(caught[0].message), "'top_k'" in str(caught[1].message)] == [True] * 2
    assert len(caught) == 2


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


@tool(extras={"defer_loading": True})
def search(query: str) -> str:
    """Search."""
    return query


GIVEN = [
    search,
    {"type": "custom", "name": "shell"},
    {"type": "mcp", "server_label": "x", "server_url": "https://example.org"},
    {"type": "web_search_20250305", "name": "web_search", "max_uses": 3},
]


@pytest.mark.parametrize("stream", [True, False])
def test_tools_arrive_as_they_were_given(stream):
    """Extras, custom tools and built-in ones included; pickled, they are the parameters."""
    model = Recorder()
    llm = ResilientChatModel(targets=[model]).bind_tools(GIVEN)
    _ = list(llm.stream("hi")) if stream else llm.invoke("hi")
    ((tools, options),) = model.bound
    assert all(given is tool for given, tool in zip(tools, GIVEN, strict=True))
    assert options == {}
    (copy, *_) = pickle.loads(pickle.dumps(llm.kwargs["tools"]))  # noqa: S301
    assert type(copy) is dict
    assert json.loads(json.dumps(llm.kwargs["tools"]))[0] == copy


class NotStrict(Recorder):
    """Knows no `strict`."""

    def bind_tools(self, tools, *, tool_choice=None):
        return super().bind_tools(tools)


@pytest.mark.parametrize("kind", [Recorder, NotStrict])
def test_strict_is_said_with_the_tools(kind):
    """As an argument, or in the tools where the model takes no such argument."""
    model = kind()
    ResilientChatModel(targets=[model]).bind_tools([search], strict=True).invoke("hi")
    ((tools, options),) = model.bound
    if kind is Recorder:
        assert (tools, options) == ([search], {"strict": True})
    else:
        assert tools[0]["function"]["strict"] is True


class Speaking(Recorder):
    """A model of an integration: its messages say who made them."""

    ls_provider: str
    model_provider: str
    content: Any = None

    def _get_ls_params(self, stop=None, **kwargs):
        return {"ls_provider": self.ls_provider, "ls_model_type": "chat"}

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        self._take(messages, kwargs)
        thought = {"type": "thinking", "thinking": "hm", "signature": "s"}
        message = AIMessage(
            self.content or [thought, {"type": "text", "text": "Hi"}],
            response_metadata={"model_provider": self.model_provider, "finish_reason": "stop"},
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    async def _astream(self, messages, stop=None, run_manager=None, **kwargs):
        message = self._generate(messages, **kwargs).generations[0].message
        yield ChatGenerationChunk(message=AIMessageChunk(**message.model_dump(exclude={"type"})))


class Other(Speaking):
    """Another integration."""


@pytest.mark.parametrize("names", [
    ("azure", "openai"), ("amazon_bedrock", "bedrock_converse"), ("amazon_bedrock", "anthropic"),
    ("mistral", "mistralai"), ("openai-codex", "openai"), ("its own", "another"),
], ids="-".join)  # fmt: skip
@pytest.mark.parametrize("stream", [True, False])
def test_its_own_answers_come_back_whole(names, stream):
    """Reasoning blocks and all, whatever name the integration gives itself in them."""
    ls_provider, model_provider = names
    model = Speaking(ls_provider=ls_provider, model_provider=model_provider)
    other = Other(ls_provider="other", model_provider="vendor")
    for llm in (ResilientChatModel(targets=[model]), ResilientChatModel(targets=[model])):
        answer = sum_chunks(llm.stream("hi")) if stream else llm.invoke("hi")
        assert isinstance(answer.content, list)
        llm.invoke([HumanMessage("hi"), answer, HumanMessage("go on")])
        assert model.asked[-1][0][1].content == answer.content
    ResilientChatModel(targets=[other]).invoke([HumanMessage("hi"), answer, HumanMessage("and?")])
    assert other.asked[-1][0][1].content == "Hi"


@pytest.mark.parametrize("names", [("azure", "openai"), ("mistral", "mistralai")], ids="-".join)
def test_a_history_that_was_made_without_us_comes_back_whole_too(names):
    """There is no receipt in it."""
    model = Speaking(ls_provider=names[0], model_provider=names[1])
    answer = model.invoke("hi")
    ResilientChatModel(targets=[model]).invoke([HumanMessage("hi"), answer, HumanMessage("more")])
    assert model.asked[-1][0][1].content == answer.content


@pytest.mark.parametrize("message", [
    AIMessage("", additional_kwargs={"tool_outputs": [{"type": "web_search_call"}]}),
    AIMessage([{"type": "mcp_approval_request", "id": "a", "name": "x"}]),
    AIMessage([{"type": "image_generation_call", "result": "aGk="}]),
    AIMessage("", additional_kwargs={"images": [{"image_url": {"url": "data:image/png;base64,"}}]}),
], ids=["outputs", "approval", "image", "images"])  # fmt: skip
def test_an_answer_without_text_is_not_empty(message):
    """A built-in tool's output, a request for approval, an image are what was asked for."""
    llm = ResilientChatModel(targets=[RunnableLambda(lambda _: message), "text:no"])
    answer = llm.invoke("hi")
    assert answer.content == message.content
    assert answer.additional_kwargs == message.additional_kwargs


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


class Body(BaseModel):
    """A client's own model of a request, as some SDKs have one."""

    model_config = ConfigDict(extra="forbid")

    temperature: float = 1.0
    seed: int = 0


def refusal_of(**fields: Any) -> ValidationError:
    with pytest.raises(ValidationError) as caught:
        Body(**fields)
    return caught.value


async def test_a_parameter_that_the_client_itself_refuses_is_left_out():
    """In pydantic's words, and the value that was refused is not in them."""
    model = Recorder(refuses={"top_k": refusal_of(top_k="my secret")})
    made, asked = provider(model), request(top_k=1, top_p=0.5)
    with pytest.warns(DroppedParameterWarning, match="'top_k'"):
        assert (await ask(made, asked)).text == "yes"
    assert [sorted(kwargs) for _, kwargs in model.asked] == [["top_k", "top_p"], ["top_p"]]


async def test_a_request_that_the_client_refuses_is_asked_once():
    """Whatever JSON mode it is in; and the input that it repeats is not in the message."""
    refusal = refusal_of(temperature="my secret", response_format=1)
    model = Recorder(refuses={"temperature": refusal})
    schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
    with pytest.raises(ValidationError) as caught:
        await ask(provider(model), request(temperature=1, response_format=schema))
    assert len(model.asked) == 1
    fault = classify(caught.value)
    assert fault.kind is K.BAD_REQUEST
    assert fault.message.startswith("temperature: Input should be a valid number")
    assert "secret" not in fault.message


async def test_an_answer_that_has_begun_is_not_begun_again():
    """Its pieces are out."""
    model = Recorder(words=("a", "b", "c"), fails_after=2)
    with pytest.raises(TypeError, match="seed"):
        await ask(provider(model), request(seed=1))
    assert len(model.asked) == 1


# -- models without asynchronous methods ------------------------------------------------------


class Blocking(BaseChatModel):
    """Knows synchronous methods only, and waits in them."""

    gate: Any
    streams: bool = False
    threads: list[str] = Field(default_factory=list)

    @property
    def _llm_type(self):
        return "blocking"

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        self.threads.append(threading.current_thread().name)
        self.gate.wait(30)
        return ChatResult(generations=[ChatGeneration(message=AIMessage("late"))])


class BlockingStream(Blocking):
    """Streams too."""

    def _stream(self, messages, stop=None, run_manager=None, **kwargs):
        self.threads.append(threading.current_thread().name)
        yield ChatGenerationChunk(message=AIMessageChunk("a "))
        yield ChatGenerationChunk(message=AIMessageChunk("b"))


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("wrap", [
    lambda model: model,
    lambda model: model.bind(stop=["x"]),
    lambda model: ChatPromptTemplate([MessagesPlaceholder("all")]) | model,
    lambda model: model.with_fallbacks([FakeListChatModel(responses=["no"])]),
    lambda model: RunnableLambda(model.invoke),
], ids=["plain", "bound", "chain", "with_fallbacks", "function"])  # fmt: skip
async def test_a_model_that_blocks_has_threads_of_its_own(wrap, stream):
    """The event loop's executor stays free: names are looked up there."""
    gate = threading.Event()
    gate.set()
    for kind, text in ((Blocking, "late"), (BlockingStream, "a b" if stream else "late")):
        model = kind(gate=gate)
        answer = await ask(provider(wrap(model)), stream=stream)
        assert answer.text in {text, "late"}  # a chain and a function answer whole
        assert [name.partition("-")[0] for name in model.threads] == ["langchain"]


async def test_a_model_that_hangs_holds_nobody_up():
    """Not even when all its threads are used up: neither look-ups of names nor other models."""
    gate = threading.Event()
    hanging = Blocking(gate=gate)
    loop = asyncio.get_running_loop()
    calls = ResilientChatModel(targets=[hanging], timeout=0.05, hedge=None)
    lost = await asyncio.gather(
        *(calls.ainvoke("hi") for _ in range(MAX_THREADS + 20)), return_exceptions=True
    )
    assert all(isinstance(error, DeadlineExceededError) for error in lost)
    assert len(hanging.threads) <= MAX_THREADS
    assert await asyncio.wait_for(loop.getaddrinfo("localhost", 80), 5)
    other = Blocking(gate=threading.Event())
    other.gate.set()
    assert (await ResilientChatModel(targets=[other], timeout=5).ainvoke("hi")).text == "late"
    gate.set()


@pytest.mark.parametrize(("runnable", "expected"), [
    (FakeListChatModel(responses=["a"]), (True, False)),
    (GenericFakeChatModel(messages=iter([])), (True, True)),
    (Recorder(), (True, False)),
    (RunnableLambda(len), (True, True)),
    (RunnableLambda(len, afunc=until), (False, False)),
    (RunnableLambda(until) | GenericFakeChatModel(messages=iter([])), (False, False)),
    (ChatOpenAI(model="m", api_key="k"), (False, False)),
    (FakeListLLM(responses=["a"]), (False, False)),
], ids=lambda value: type(value).__name__)  # fmt: skip
def test_what_blocks(runnable, expected):
    """What has asynchronous methods of its own does not, nor what has no others."""
    assert (blocks(runnable, stream=False), blocks(runnable, stream=True)) == expected


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


# -- several answers --------------------------------------------------------------------------


def generations_of(runnable, n=3, **call):
    """What `generate` gives of a model that is wrapped."""
    llm = ResilientChatModel(targets=[Target(runnable)], max_retries=0)
    return llm.generate([[HumanMessage("hello")]], n=n, **call).generations[0]


class Counted(Recorder):
    """A model that says how often it was asked, and what that took."""

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        self._take(messages, kwargs)
        usage = {"input_tokens": 5, "output_tokens": 2, "total_tokens": 7}
        message = AIMessage(f"answer {len(self.asked)}", usage_metadata=usage)
        return ChatResult(generations=[ChatGeneration(message=message)])


class Several(Counted):
    """A model with a field for that, as most integrations have."""

    n: int | None = None
    gives: int = 9

    async def _agenerate(self, messages, stop=None, run_manager=None, **kwargs):
        one = self._generate(messages, stop, run_manager, **kwargs)
        count = min(kwargs.get("n") or 1, self.gives)
        return ChatResult(generations=one.generations * count)


@pytest.mark.parametrize(
    "wrap",
    [lambda m: m, lambda m: m.with_retry(), lambda m: m | (lambda answer: answer)],
    ids=["itself", "retried", "in a chain"],
)
def test_several_answers_of_a_model_that_gives_one(wrap, recwarn):
    """It is asked several times, beside each other; what that took stands on the first."""
    model = Counted()
    made = generations_of(wrap(model))
    assert sorted(one.text for one in made) == ["answer 1", "answer 2", "answer 3"]
    usages = [one.message.usage_metadata for one in made]
    assert usages[0]["total_tokens"] == 21
    assert usages[1:] == [None, None]
    assert not any("'n'" in str(warning.message) for warning in recwarn)


@pytest.mark.parametrize(("gives", "asked"), [(9, [3]), (1, [3, None, None]), (2, [3, None])])
def test_several_answers_of_a_model_that_gives_several(gives, asked):
    """One request does, if it gives them all; its usage is counted once."""
    model = Several(gives=gives)
    made = generations_of(model)
    assert len(made) == 3
    assert [kwargs.get("n") for _, kwargs in model.asked] == asked
    assert made[0].message.usage_metadata["total_tokens"] == 7 * len(asked)


def test_several_answers_where_n_is_refused():
    """They are had one by one, from then on."""
    model = Several(refuses={"n": TypeError("got an unexpected keyword argument 'n'")})
    assert len(generations_of(model)) == 3
    assert [kwargs.get("n") for _, kwargs in model.asked] == [3, None, None, None]


def test_several_answers_end_before_a_stop_word():
    """Each of them."""
    made = generations_of(Counted(), n=2, stop=[" 2"])
    assert {one.text for one in made} == {"answer 1", "answer"}


def test_one_that_fails_ends_the_others():
    """And the target has failed."""

    class Fails(Counted):
        def _generate(self, *args, **kwargs):
            if len(self.asked) == 1:
                raise ValueError("no more")
            return super()._generate(*args, **kwargs)

    with pytest.raises(AllTargetsFailedError, match="no more"):
        generations_of(Fails())


# -- langchain-openai over real sockets -------------------------------------------------------


@pytest.mark.parametrize("tools", [[], [TOOL]], ids=len)
async def test_chat_openai_gives_several(sim, gpt, tools):
    """In one request."""
    llm = ResilientChatModel(targets=[Target(gpt)])
    bound = {"tools": tools} if tools else {}
    made = (await llm.agenerate([[HumanMessage("hello")]], n=2, **bound)).generations[0]
    assert len(made) == 2
    assert [one.message.usage_metadata is None for one in made] == [False, True]
    assert [seen.body["n"] for seen in sim.requests] == [2]
    assert bool(sim.requests[0].body.get("tools")) == bool(tools)


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


@pytest.mark.parametrize("refuses", [False, True])
async def test_chat_openai_is_asked_for_the_usage_of_a_stream(sim, gpt, refuses):
    """At an address of its own it does not ask; a server that refuses that is asked without."""
    assert gpt.stream_usage is None
    if refuses:
        sim.script("openai:gpt", then=t.UnsupportedParameter("stream_options"))
    made = provider(gpt)
    answers = [await ask(made) for _ in range(2)]
    asked = ["stream_options" in recorded.body for recorded in sim.requests]
    assert asked == ([True, False, False] if refuses else [True, True])
    assert all(answer.text for answer in answers)
    assert [answer.input_tokens() is not None for answer in answers] == [not refuses] * 2


async def test_a_model_that_was_told_not_to_ask_for_usage_does_not(sim, gpt):
    """It was said with intent."""
    await ask(provider(gpt.model_copy(update={"stream_usage": False})))
    assert "stream_options" not in sim.requests[-1].body


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
