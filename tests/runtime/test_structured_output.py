"""Structured output over several targets: what does not fit is no answer."""

from __future__ import annotations

import asyncio
import pickle
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.exceptions import OutputParserException
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tracers._streaming import _StreamingCallbackHandler
from pydantic import BaseModel, RootModel, field_validator

from langchain_resilient import (
    AllTargetsFailedError,
    FaultKind,
    InvalidAnswersError,
    ResilientChatModel,
)
from langchain_resilient.testing import Lacks, ProviderSimulator, Reply, Reset, Status, ToolCall
from verification.kit.scripted_targets import chain, target

if TYPE_CHECKING:
    from collections.abc import Iterator

METHODS = ["json_schema", "function_calling", "json_mode"]
GOOD = '{"setup": "Why?", "rating": 7}'
BAD = '{"setup": "Why?", "rating": "seven"}'


class Joke(BaseModel):
    """A joke."""

    setup: str
    rating: int


class Clean(Joke):
    """A joke that is fit to print."""

    @field_validator("setup")
    @classmethod
    def _clean(cls, setup: str) -> str:
        if "rude" in setup:
            raise ValueError("must not be rude")
        return setup


class Other(BaseModel):
    """Something else."""

    word: str


class DictJoke(TypedDict):
    """A joke."""

    setup: Annotated[str, ..., "How it begins"]
    rating: int


JSON_JOKE = {
    "title": "Joke",
    "description": "A joke.",
    "type": "object",
    "properties": {"setup": {"type": "string"}, "rating": {"type": "integer"}},
    "required": ["setup", "rating"],
}
SCHEMAS = [Joke, DictJoke, JSON_JOKE]


@pytest.fixture
def sim() -> Iterator[ProviderSimulator]:
    with ProviderSimulator() as simulator:
        yield simulator


def reply(text: str, method: str, name: str = "Joke") -> Reply:
    """An answer by the method."""
    if method == "function_calling":
        return Reply(tool_calls=[ToolCall(name, text)])
    return Reply(text)


def setup(result: Any) -> Any:
    """The joke's beginning, of whatever kind the joke is."""
    return result["setup"] if isinstance(result, dict) else result.setup


def used(body: dict[str, Any]) -> str:
    """How a request asks for JSON: by which of the features, or by the prompt alone."""
    shape = (body.get("response_format") or {}).get("type")
    return shape or ("tools" if body.get("tools") else "prompt")


def asked(sim: ProviderSimulator, spec: str) -> list[str]:
    """How a target was asked, in order."""
    return [used(seen.body) for seen in sim.requests if seen.target == spec]


# -- validation -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("schema", SCHEMAS, ids=["pydantic", "TypedDict", "JSON schema"])
@pytest.mark.parametrize("how", ["invoke", "ainvoke", "batch"])
async def test_an_answer_that_does_not_fit_is_no_answer(sim, method, schema, how):
    """The next target is asked, by every method, for every kind of schema."""
    name = getattr(schema, "__name__", "Joke")
    sim.script("openai:a", then=reply(BAD, method, name))
    sim.script("together:b", then=reply(GOOD, method, name))
    llm = chain(sim, "openai:a", "together:b").with_structured_output(schema, method=method)
    if how == "ainvoke":
        message = await llm.ainvoke("a joke, as JSON")
    else:
        run = llm.invoke if how == "invoke" else lambda x: llm.batch([x])[0]
        message = await asyncio.to_thread(run, "a joke, as JSON")
    assert setup(message) == "Why?"


def test_validators_count(sim):
    """What only the class knows is asked of the class."""
    sim.script("openai:a", then=Reply('{"setup": "rude", "rating": 1}'))
    sim.script("openai:b", then=Reply('{"setup": "nice", "rating": 1}'))
    message = chain(sim, "openai:a", "openai:b").with_structured_output(Clean).invoke("a joke")
    assert message.setup == "nice"


def test_a_validator_in_which_something_was_cancelled_says_no(sim):
    """It is no cancellation of the call, which is only ever cancelled where it waits."""

    class Waiting(Joke):
        @field_validator("setup")
        @classmethod
        def _wait(cls, setup: str) -> str:
            if setup == "slow":
                raise asyncio.CancelledError
            return setup

    sim.script("openai:a", then=Reply('{"setup": "slow", "rating": 1}'))
    sim.script("openai:b", then=Reply('{"setup": "quick", "rating": 1}'))
    llm = chain(sim, "openai:a", "openai:b")
    assert llm.with_structured_output(Waiting).invoke("a joke").setup == "quick"
    assert llm.stats().targets[0].faults == {"invalid": 1}


def test_the_accepted_message_is_the_raw_one(sim):
    """`include_raw` gives what was accepted, and its receipt tells of what was not."""
    sim.script("openai:a", then=Reply(BAD))
    sim.script("openai:b", then=Reply(GOOD))
    llm = chain(sim, "openai:a", "openai:b").with_structured_output(Joke, include_raw=True)
    message = llm.invoke("a joke")
    assert (message["raw"].text, message["parsed"].rating, message["parsing_error"]) == (
        GOOD,
        7,
        None,
    )
    first = message["raw"].response_metadata["resilience"]["attempts"][0]
    assert "openai:a" in str(first)
    assert "invalid" in str(first)


def test_a_target_gets_one_more_draw(sim):
    """A model draws its answers: the only target is asked twice, and the second may fit."""
    sim.script("openai:a", Reply(BAD), then=Reply(GOOD))
    assert chain(sim, "openai:a").with_structured_output(Joke).invoke("a joke").rating == 7


def test_nobody_fits(sim):
    """The error is LangChain's own as well, says where it does not fit, and shows no value."""
    sim.script("openai:a", then=Reply(BAD))
    llm = chain(sim, "openai:a").with_structured_output(Joke)
    with pytest.raises(InvalidAnswersError, match="rating: Input should be a valid int") as caught:
        llm.invoke("a joke")
    assert isinstance(caught.value, OutputParserException | AllTargetsFailedError)
    assert isinstance(caught.value, OutputParserException)
    assert "seven" not in str(caught.value)
    assert len(sim.requests) == 2


@pytest.mark.parametrize("method", METHODS)
def test_raw_answers_are_better_than_an_error(sim, method):
    """With `include_raw` the last bad answer comes with its error, as LangChain has it."""
    sim.script("openai:a", then=reply(BAD, method))
    llm = chain(sim, "openai:a").with_structured_output(Joke, method=method, include_raw=True)
    message = llm.invoke("a joke, as JSON")
    assert isinstance(message["raw"], AIMessage)
    assert message["parsed"] is None
    assert "rating" in str(message["parsing_error"])


def test_without_any_answer_raw_raises_too(sim):
    """There is nothing to give where nobody answered."""
    sim.script("openai:a", then=Status(401))
    llm = chain(sim, "openai:a").with_structured_output(Joke, include_raw=True)
    with pytest.raises(AllTargetsFailedError):
        llm.invoke("a joke")


def test_a_refusal_is_no_answer(sim):
    """Another model may be willing."""
    sim.script("openai:a", then=Reply(refusal="I will not."))
    sim.script("openai:b", then=Reply(GOOD))
    llm = chain(sim, "openai:a", "openai:b").with_structured_output(Joke)
    assert llm.invoke("a joke").rating == 7
    assert len(sim.requests) == 2


def test_an_answer_that_was_cut_off_is_none(sim):
    """LangChain's parser closes open brackets: half a list would pass for the whole."""
    numbers = {"type": "array", "items": {"type": "integer"}}
    schema = {"title": "L", "type": "object", "properties": {"of": numbers}}
    sim.script("openai:a", then=Reply('{"of": [1, 2', finish_reason="length"))
    sim.script("openai:b", then=Reply('{"of": [1, 2, 3]}'))
    llm = chain(sim, "openai:a", "openai:b").with_structured_output(schema)
    assert llm.invoke("a list") == {"of": [1, 2, 3]}
    assert [seen.target for seen in sim.requests] == ["openai:a", "openai:b"]


def test_the_models_own_validate_is_asked_as_well(sim):
    """Both must agree."""
    sim.script("openai:a", then=Reply(GOOD))
    sim.script("openai:b", then=Reply(GOOD.replace("7", "9")))
    llm = chain(sim, "openai:a", "openai:b", check=lambda message: "9" in message.text)
    assert llm.with_structured_output(Joke).invoke("a joke").rating == 9


# -- repair ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
@pytest.mark.parametrize("specs", [["openai:a"], ["openai:a", "together:b"]], ids=len)
def test_repair_tells_what_was_wrong(sim, method, specs):
    """The next request shows the bad answer and the problem, at the same target or the next."""
    sim.script("openai:a", reply(BAD, method), then=reply(GOOD, method))
    sim.script("together:b", then=reply(GOOD, method))
    llm = chain(sim, *specs).with_structured_output(Joke, method=method, repair=True)
    assert llm.invoke("a joke").rating == 7
    first, second = (seen.body["messages"] for seen in sim.requests)
    assert second[: len(first)] == first
    bad, asking = second[len(first) :]
    assert (bad["role"], "seven" in bad["content"]) == ("assistant", True)
    assert "rating: Input should be a valid integer" in asking["content"]


def test_without_repair_the_same_is_asked(sim):
    """A fresh draw, uninfluenced by the bad one."""
    sim.script("openai:a", Reply(BAD), then=Reply(GOOD))
    chain(sim, "openai:a").with_structured_output(Joke).invoke("a joke")
    first, second = (seen.body["messages"] for seen in sim.requests)
    assert first == second


def test_langchain_models_are_told_too():
    """Their messages are LangChain's."""
    results = []

    def answer(messages: Any) -> AIMessage:
        results.append(messages)
        return AIMessage(BAD if len(results) == 1 else GOOD)

    llm = ResilientChatModel(targets=[RunnableLambda(answer)])
    assert llm.with_structured_output(Joke, repair=True).invoke("a joke").rating == 7
    assert results[1][1].content == BAD
    assert "rating" in results[1][2].content


# -- streams --------------------------------------------------------------------------------------


async def test_streams_show_their_parts(sim):
    """A dict grows while it comes: the schema does not hold it back."""
    sim.script("openai:a", then=Reply(GOOD, chunk_gap=0.0))
    llm = chain(sim, "openai:a").with_structured_output(JSON_JOKE)
    parts = [part async for part in llm.astream("a joke")]
    assert len(parts) > 2
    assert parts[-1] == {"setup": "Why?", "rating": 7}


@pytest.mark.parametrize("method", METHODS)
async def test_a_stream_that_does_not_fit_ends_in_an_error(sim, method):
    """Its parts were delivered; the end says what is wrong."""
    sim.script("openai:a", then=reply(BAD, method))
    llm = chain(sim, "openai:a").with_structured_output(JSON_JOKE, method=method)
    with pytest.raises(OutputParserException, match="does not fit Joke: rating: not of type int"):
        _ = [part async for part in llm.astream("a joke, as JSON")]
    with pytest.raises(OutputParserException, match="does not fit Joke: rating: not of type int"):
        list(await asyncio.to_thread(lambda: list(llm.stream("a joke, as JSON"))))


async def test_a_streaming_handler_does_not_undo_the_judging(sim):
    """LangGraph's handlers make streams of what is invoked; here that would let anything pass."""

    class Streams(BaseCallbackHandler, _StreamingCallbackHandler):
        def tap_output_aiter(self, run_id, output):
            return output

        def tap_output_iter(self, run_id, output):
            return output

    sim.script("openai:a", then=Reply(BAD))
    sim.script("openai:b", then=Reply(GOOD))
    llm = chain(sim, "openai:a", "openai:b", streaming=True).with_structured_output(Joke)
    assert (await llm.ainvoke("a joke", {"callbacks": [Streams()]})).rating == 7


# -- other ways -----------------------------------------------------------------------------------


LADDER = {
    (): "asked",
    ("json_schema",): "tools",
    ("json_schema", "tools"): "json_object",
    ("json_schema", "tools", "json_object"): "prompt",
}


@pytest.mark.parametrize("dialect", ["openai", "together"])
@pytest.mark.parametrize("lacks", LADDER, ids=lambda lacks: "+".join(lacks) or "nothing")
@pytest.mark.parametrize("how", ["ainvoke", "astream", "plain"])
async def test_a_target_without_schemas_is_asked_in_another_way(sim, dialect, lacks, how):
    """By a tool, JSON mode, or the prompt: at once; the answer reads as if it had been asked."""
    way = LADDER[lacks]
    text = f"Sure!\n```json\n{GOOD}\n``` Anything else?" if way == "prompt" else GOOD
    answer = Reply(tool_calls=[ToolCall("Joke", GOOD)]) if way == "tools" else Reply(text)
    sim.script(f"{dialect}:a", then=Lacks(lacks, answer))
    hedge = {"hedge": {"on": "response"}} if how == "plain" else {}
    llm = chain(sim, f"{dialect}:a", **hedge).with_structured_output(Joke)
    if how == "astream":
        value = [part async for part in llm.astream("a joke")][-1]
    else:
        value = await llm.ainvoke("a joke")
    assert (value.setup, value.rating) == ("Why?", 7)
    assert asked(sim, f"{dialect}:a") == [*lacks, "json_schema" if way == "asked" else way]


@pytest.mark.parametrize(
    "lacks", [("tools",), ("tools", "json_schema"), ("tools", "json_schema", "json_object")]
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_target_without_tools_is_asked_in_another_way(sim, lacks, stream):
    """What comes as text reads as the call of the tool."""
    sim.script("openai:a", then=Lacks(lacks, Reply(GOOD)))
    llm = chain(sim, "openai:a").with_structured_output(
        Joke, method="function_calling", include_raw=True
    )
    if stream:
        parts = [part async for part in llm.astream("a joke")]
        fields = {key: value for part in parts for key, value in part.items()}
    else:
        fields = await llm.ainvoke("a joke")
        (call,) = fields["raw"].tool_calls
        assert (call["name"], bool(call["id"])) == ("Joke", True)
    assert fields["parsed"].rating == 7


async def test_the_tool_has_the_schema(sim):
    """A simulated model that is not told what to say fills in the tool's arguments."""
    sim.script("openai:a", then=Lacks("json_schema"))
    message = await chain(sim, "openai:a").with_structured_output(Joke).ainvoke("rating 3")
    assert message.rating == 3


def test_a_refusal_of_a_way_is_remembered(sim):
    """By another model of the process too: it costs one request, once."""
    sim.script("openai:a", then=Lacks("json_schema"))
    for _ in range(2):
        chain(sim, "openai:a").with_structured_output(Joke).invoke("a joke")
    assert asked(sim, "openai:a") == ["json_schema", "tools", "tools"]


def test_a_schema_that_is_refused_is_asked_for_otherwise(sim):
    """Strict schemas allow little; only that schema is remembered."""
    text = "Invalid schema for response_format 'Joke': In context=(), 'oneOf' is not permitted."
    sim.script("openai:a", Status(400, message=text), then=Reply())
    llm = chain(sim, "openai:a")
    assert isinstance(llm.with_structured_output(Joke).invoke("a joke"), Joke)
    llm.with_structured_output(Joke).invoke("a joke")
    llm.with_structured_output(Other).invoke("anything")
    assert asked(sim, "openai:a") == ["json_schema", "tools", "tools", "json_schema"]


def test_two_targets_that_refuse_a_way_do_not_make_the_request_wrong(sim):
    """Two refusals of one request mean that it is wrong everywhere; these are none."""
    sim.script("openai:a", then=Lacks("json_schema", Status(500)))
    sim.script("together:b", then=Lacks("json_schema"))
    llm = chain(sim, "openai:a", "together:b").with_structured_output(Joke)
    assert isinstance(llm.invoke("a joke"), Joke)


def test_a_wrong_request_stays_wrong(sim):
    """What is refused for another reason is not asked in every way there is."""
    sim.script("openai:a", then=Status(400, message="temperature must be below 2"))
    with pytest.raises(AllTargetsFailedError):
        chain(sim, "openai:a").with_structured_output(Joke).invoke("a joke")
    assert asked(sim, "openai:a") == ["json_schema"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("how", ["ainvoke", "astream"])
async def test_langchain_models_without_tools_are_asked_in_words(method, how):
    """They know neither tools nor formats, and their prose is read for the JSON in it."""
    model = FakeListChatModel(responses=[f"Here it is: {GOOD} Enjoy."])
    llm = ResilientChatModel(targets=[model]).with_structured_output(Joke, method=method)
    if how == "astream":
        value = [part async for part in llm.astream("a joke")][-1]
    else:
        value = await llm.ainvoke("a joke")
    assert value.rating == 7


async def test_langchain_models_see_the_schema():
    """In the last message."""
    seen = []
    model = RunnableLambda(lambda messages: seen.append(messages) or AIMessage(GOOD))
    await ResilientChatModel(targets=[model]).with_structured_output(Joke).ainvoke("a joke")
    assert '"rating"' in seen[0][-1].content
    assert seen[0][-1].content.startswith("a joke")


# -- at home in LangChain -------------------------------------------------------------------------


def test_the_chain_travels(sim):
    """By pickle, with its judge."""
    sim.script("openai:a", then=Reply(BAD))
    sim.script("openai:b", then=Reply(GOOD))
    llm = chain(sim, "openai:a", "openai:b").with_structured_output(Joke)
    assert pickle.loads(pickle.dumps(llm)).invoke("a joke").rating == 7  # noqa: S301


def test_the_cache_tells_schemas_apart_and_equal_ones_not(sim):
    """A second chain for the same class is served from LangChain's cache; another class is not."""
    sim.script("openai:a", then=Reply(GOOD))
    llm = chain(sim, "openai:a", cache=InMemoryCache())
    for schema in (Joke, Joke, Clean):
        assert llm.with_structured_output(schema).invoke("a joke").rating == 7
    assert len(sim.requests) == 2


def test_a_last_resort_is_not_judged_but_told(sim):
    """A fixed text fits no schema: the parser says so, rather than giving nothing."""
    sim.script("openai:a", then=Reset())
    llm = chain(sim, "openai:a", last_resort="Sorry.", max_retries=0)
    with pytest.raises(OutputParserException, match="no JSON"):
        llm.with_structured_output(Joke).invoke("a joke")


def test_the_fault_is_of_its_own_kind(sim):
    """The receipt tells a misfit from a failure."""
    sim.script("openai:a", then=Reply("no JSON at all"))
    with pytest.raises(InvalidAnswersError) as caught:
        chain(sim, "openai:a").with_structured_output(Joke).invoke("a joke")
    assert {fault.kind for _, fault in caught.value.receipt.faults} == {FaultKind.INVALID}


def test_targets_at_other_addresses_are_told_apart(sim):
    """The same model name elsewhere is another model."""
    sim.script("openai:a", then=Lacks("json_schema"))
    chain(sim, "openai:a").with_structured_output(Joke).invoke("a joke")
    with ProviderSimulator() as other:
        llm = ResilientChatModel(targets=[target(other, "openai:a")])
        llm.with_structured_output(Joke).invoke("a joke")
        assert asked(other, "openai:a") == ["json_schema"]


# -- a class as `response_format`, as ChatOpenAI takes it -----------------------------------------


class Ratings(RootModel[list[int]]):
    """A list, which models give as the property of an object."""


def _streamed(llm: Any) -> AIMessage:
    first, *others = llm.stream("tell")
    return first + others if others else first


_WAYS_TO_SAY_IT = {
    "call": lambda llm: llm.invoke("tell", response_format=Joke),
    "bind": lambda llm: llm.bind(response_format=Joke).invoke("tell"),
    "stream": lambda llm: _streamed(llm.bind(response_format=Joke)),
    "asynchronous": lambda llm: asyncio.run(llm.ainvoke("tell", response_format=Joke)),
}


@pytest.mark.parametrize("way", _WAYS_TO_SAY_IT)
@pytest.mark.parametrize("dialect", ["openai", "together"])
def test_a_class_as_response_format_is_parsed(sim: ProviderSimulator, dialect: str, way: str):
    """The object goes with the message, and what is sent is a schema."""
    sim.script("*", then=Reply(GOOD))
    message = _WAYS_TO_SAY_IT[way](chain(sim, f"{dialect}:m"))
    assert message.additional_kwargs["parsed"] == Joke(setup="Why?", rating=7)
    assert message.text == GOOD
    assert sim.requests[0].body["response_format"]["type"] == "json_schema"


def test_a_class_in_model_kwargs_is_parsed_too(sim: ProviderSimulator):
    """A call may say another."""
    sim.script("*", then=Reply(GOOD))
    llm = chain(sim, "openai:m", model_kwargs={"response_format": Joke})
    assert llm.invoke("tell").additional_kwargs["parsed"] == Joke(setup="Why?", rating=7)
    plain = llm.invoke("tell", response_format={"type": "json_object"})
    assert "parsed" not in plain.additional_kwargs


def test_what_an_object_wraps_is_parsed_as_itself(sim: ProviderSimulator):
    """Models give objects only."""
    sim.script("*", then=Reply('{"value": [1, 2]}'))
    message = chain(sim, "openai:m").invoke("tell", response_format=Ratings)
    assert message.additional_kwargs["parsed"] == Ratings([1, 2])


def test_an_answer_that_does_not_fit_a_class_is_none(sim: ProviderSimulator):
    """The next target is asked; a stream, which nobody can take back, says so at its end."""
    sim.script("openai:*", then=Reply(BAD))
    sim.script("together:*", then=Reply(GOOD))
    message = chain(sim, "openai:m", "together:m").invoke("tell", response_format=Joke)
    assert message.additional_kwargs["parsed"].rating == 7
    assert message.response_metadata["resilience"]["winner"] == "together:m"
    with pytest.raises(InvalidAnswersError, match="rating"):
        chain(sim, "openai:m", max_retries=0).invoke("tell", response_format=Joke)
    with pytest.raises(OutputParserException, match="does not fit Joke: rating"):
        _streamed(chain(sim, "openai:m").bind(response_format=Joke))


def test_beside_a_class_a_call_of_a_tool_is_an_answer(sim: ProviderSimulator):
    """It holds no object."""
    sim.script("*", then=Reply(tool_calls=[ToolCall("Other", {"word": "x"})]))
    message = chain(sim, "openai:m").bind_tools([Other]).invoke("tell", response_format=Joke)
    assert [call["name"] for call in message.tool_calls] == ["Other"]
    assert "parsed" not in message.additional_kwargs


def test_of_several_answers_each_is_parsed_that_fits(sim: ProviderSimulator):
    """The others are shown as they are."""
    llm = chain(sim, "openai:m")
    made = llm.generate([[HumanMessage("tell")]], response_format=Joke, n=2).generations[0]
    assert all(isinstance(one.message.additional_kwargs["parsed"], Joke) for one in made)


def test_a_class_is_judged_where_handlers_stream(sim: ProviderSimulator):
    """Else LangGraph's handlers would make a stream of it, and nobody could judge that."""
    sim.script("openai:*", then=Reply(BAD))
    sim.script("together:*", then=Reply(GOOD))

    class Watching(BaseCallbackHandler, _StreamingCallbackHandler):
        def tap_output_aiter(self, run_id: Any, output: Any) -> Any:
            return output

        def tap_output_iter(self, run_id: Any, output: Any) -> Any:
            return output

    llm = chain(sim, "openai:m", "together:m").bind(response_format=Joke)
    message = llm.invoke("tell", {"callbacks": [Watching()]})
    assert message.additional_kwargs["parsed"].rating == 7


def test_a_prompt_without_the_word_json_is_not_held_against_the_next(sim: ProviderSimulator):
    """OpenAI refuses it, and the call is asked otherwise; a prompt that has the word is not."""
    sim.script("*", then=Reply('{"a": 1}'))
    llm = chain(sim, "openai:m")
    for prompt in ("Say hi in JSON", "Say hi", "Say hi in JSON"):
        assert llm.invoke(prompt, response_format={"type": "json_object"}).text == '{"a": 1}'
    assert [seen.status for seen in sim.requests] == [200, 400, 200, 200]
    formats = ["response_format" in seen.body for seen in sim.requests]
    assert formats == [True, True, False, True]
