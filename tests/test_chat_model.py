"""The LangChain face, over real sockets against the simulator."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import copy
import json
import logging
import multiprocessing
import os
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler, UsageMetadataCallbackHandler
from langchain_core.exceptions import (
    ContextOverflowError,
    ModelAPIError,
    ModelAuthenticationError,
    ModelConnectionError,
    ModelError,
    ModelInvalidRequestError,
    ModelPermissionDeniedError,
    ModelRateLimitError,
    ModelRefusalError,
    ModelTimeoutError,
    OutputParserException,
)
from langchain_core.language_models import BaseChatModel, FakeListChatModel, GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.rate_limiters import InMemoryRateLimiter
from langchain_core.runnables import ConfigurableField, RunnableLambda
from langchain_core.tools import tool
from pydantic import BaseModel, ValidationError

from langchain_resilient import (
    AllTargetsFailedError,
    DeadlineExceededError,
    FaultKind,
    Hedge,
    InvalidAnswersError,
    NoTargetsError,
    ResilientChatModel,
    ResilientError,
    SkippedTargetWarning,
    Target,
    sum_chunks,
)
from langchain_resilient.testing import (
    BadRequest,
    ContentFilter,
    ContextTooLong,
    InvalidKey,
    ModelNotFound,
    NoAnswer,
    ProviderSimulator,
    RateLimited,
    Reply,
    Reset,
    Status,
    ToolCall,
)
from verification.kit.scripted_targets import CANARY, chain, target

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def sim() -> Iterator[ProviderSimulator]:
    with ProviderSimulator() as simulator:
        yield simulator


class Joke(BaseModel):
    """A joke."""

    setup: str
    punchline: str


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


# -- keys and the chain ---------------------------------------------------------------------------


def test_without_a_key_the_error_says_which_variables_to_set(monkeypatch):
    """And how to do without one."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("TOGETHER_API_KEY", raising=False)
    with pytest.raises(NoTargetsError, match=r"OPENAI_API_KEY or TOGETHER_API_KEY") as caught:
        ResilientChatModel()
    assert isinstance(caught.value, ValueError)
    with pytest.raises(NoTargetsError):
        ResilientChatModel(targets=["openai:m"], last_resort="together:m")


@pytest.mark.parametrize("installed", [True, False])
def test_without_a_key_the_error_says_how_the_embedded_model_answers(monkeypatch, installed):
    """And how to install it, unless it is."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    spec = object() if installed else None
    monkeypatch.setattr("importlib.util.find_spec", lambda _: spec)
    with pytest.raises(NoTargetsError, match='last_resort="local"') as caught:
        ResilientChatModel(targets=["openai:m"])
    assert ("pip install" in str(caught.value)) != installed


@pytest.mark.filterwarnings("ignore::langchain_resilient.SkippedTargetWarning")
def test_without_a_key_the_last_resort_answers(monkeypatch):
    """In each way to ask; and the receipt says who it was."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("TOGETHER_API_KEY", raising=False)
    llm = ResilientChatModel(last_resort="Sorry.")
    answer = llm.invoke("hi")
    assert answer.text == asyncio.run(llm.ainvoke("hi")).text == "Sorry."
    assert sum_chunks(llm.stream("hi")).text == "Sorry."
    assert [r.text for r in llm.batch(["a", "b"])] == ["Sorry."] * 2
    assert answer.response_metadata["resilience"]["attempts"][0]["kind"] == "last_resort"
    assert llm.stats().as_dict()
    assert ResilientChatModel(last_resort="local").targets


# -- fields that are set later --------------------------------------------------------------------


def test_a_field_that_is_set_later_holds(sim):
    """In the next request, as in the cache's key and the trace."""
    llm = chain(sim, "openai:a")
    llm.invoke("hi")
    llm.temperature, llm.seed, llm.stop = 0.9, 7, "END"
    llm.invoke("hi")
    body = sim.requests[-1].body
    assert (body["temperature"], body["seed"], body["stop"]) == (0.9, 7, ["END"])
    assert llm._identifying_params["temperature"] == 0.9
    llm.temperature = None
    llm.invoke("hi")
    assert "temperature" not in sim.requests[-1].body
    llm.n = 3
    assert len(llm.generate([[HumanMessage("hi")]]).generations[0]) == 3
    assert llm.stats().targets[0].requests == 4


def test_targets_checks_and_timeouts_can_be_set_later(sim):
    """What is bound to the model sees them too; what was bound to it before stays."""
    llm = chain(sim, "openai:a")
    bound = llm.bind(seed=1)
    llm.targets = ["text:no", "text:yes"]
    assert [t.name for t in llm.targets] == ["text:no", "text:yes"]
    assert bound.invoke("hi").text == "no"
    llm.check = lambda message: message.text == "yes"
    assert bound.invoke("hi").text == "yes"
    sim.script("openai:a", then=NoAnswer())
    llm.targets, llm.timeout = chain(sim, "openai:a").targets, 0.2
    with pytest.raises(DeadlineExceededError, match=r"deadline of 0\.2 s"):
        bound.invoke("hi")


def test_what_cannot_be_is_refused_when_it_is_set_later(monkeypatch):
    """In the words of the constructor; nothing has changed then."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    llm = ResilientChatModel(targets=["text:yes"], temperature=0.1)
    with pytest.raises(ValidationError, match="temperature"):
        llm.temperature = 9
    with pytest.raises(NoTargetsError):
        llm.targets = ["openai:m"]
    with pytest.raises(ValueError, match="no field"):
        llm.temprature = 0.1
    assert (llm.temperature, llm.targets[0].name, llm.invoke("hi").text) == (0.1, "text:yes", "yes")


HELD = {
    "model_kwargs": {"a": {"b": [1]}},
    "extra_body": {"top_a": 0.5},
    "logit_bias": {"9": 1.0},
    "stop": ["END"],
    "prediction": {"type": "content", "content": "x"},
    "extra_headers": {"x-a": "1"},
    "api_key": {"openai": "k"},
}


@pytest.mark.parametrize("change", [
    lambda llm: llm.model_kwargs.update(x=1),
    lambda llm: llm.model_kwargs.__setitem__("x", 1),
    lambda llm: llm.model_kwargs["a"]["b"].append(2),
    lambda llm: llm.model_kwargs["a"].pop("b"),
    lambda llm: llm.extra_body.clear(),
    lambda llm: llm.logit_bias.setdefault("8", 1.0),
    lambda llm: llm.stop.append("STOP"),
    lambda llm: llm.stop.extend(["STOP"]),
    lambda llm: llm.prediction.__delitem__("type"),
    lambda llm: llm.extra_headers.popitem(),
    lambda llm: llm.api_key.update(openai="other"),
    lambda llm: llm.targets[0].model_kwargs.update(x=1),
    lambda llm: llm.targets[0].stop.remove("END"),
    lambda llm: copy.deepcopy(llm).model_kwargs.update(x=1),
    lambda llm: pickle.loads(pickle.dumps(llm)).model_kwargs.update(x=1),  # noqa: S301  # our own
])  # fmt: skip
def test_what_a_field_holds_is_not_changed_in_place(change):
    """Nobody would hear of it; the error says what to do instead."""
    target = Target("text:yes", **{k: v for k, v in HELD.items() if k != "api_key"})
    llm = ResilientChatModel(targets=[target], **HELD)
    with pytest.raises(TypeError, match="set the field to a new one"):
        change(llm)
    assert (llm.model_kwargs, llm.stop) == (HELD["model_kwargs"], HELD["stop"])


def test_the_targets_of_a_model_are_a_tuple():
    """So they are not appended to, and a target's fields are not set."""
    llm = ResilientChatModel(targets=["text:yes"])
    with pytest.raises(AttributeError, match="append"):
        llm.targets.append("text:no")
    with pytest.raises(ValidationError, match="frozen"):
        llm.targets[0].temperature = 1


def test_a_field_that_holds_a_dict_is_set_to_a_new_one(sim):
    """Which is in force at once, and may be made of the old."""
    llm = chain(sim, "openai:a", model_kwargs={"store": True})
    llm.model_kwargs = {**llm.model_kwargs, "user": "me"}
    llm.stop = [*(llm.stop or []), "END"]
    llm.invoke("hi")
    body = sim.requests[-1].body
    assert (body["store"], body["user"], body["stop"]) == (True, "me", ["END"])


def test_copies_do_not_share_what_is_set_later():
    """Nor does a model share it with the one that it was copied from."""
    llm = ResilientChatModel(targets=["text:yes"])
    other = llm.model_copy()
    other.targets = ["text:no"]
    assert (llm.invoke("hi").text, other.invoke("hi").text) == ("yes", "no")


def test_a_target_without_its_key_is_skipped_with_one_warning(monkeypatch):
    """The others answer."""
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    monkeypatch.delenv("TOGETHER_API_KEY", raising=False)
    monkeypatch.setattr("langchain_resilient.runtime.shared_state._warned", set())
    with pytest.warns(SkippedTargetWarning) as caught:
        first, _ = ResilientChatModel(), ResilientChatModel()
    assert len(caught) == 2  # two Together targets, one warning each, though two models were made
    assert [t.name for t in first._ready().targets] == ["openai:gpt-6.1-sol", "openai:gpt-6-luna"]


def test_the_default_chain_is_two_providers_interleaved():
    """So that one provider's outage costs one hop."""
    llm = ResilientChatModel(api_key={"openai": "k", "together": "k"})
    assert [t.name for t in llm.targets] == [
        "openai:gpt-6.1-sol",
        "together:deepseek-ai/DeepSeek-V4.1-Flash",
        "openai:gpt-6-luna",
        "together:openai/gpt-oss-120b",
    ]


def test_one_key_is_never_given_to_two_providers():
    """OpenAI's key is none of Together's business."""
    with pytest.raises(ValidationError, match=r'api_key=\{"openai": ..., "together": ...\}'):
        ResilientChatModel(targets=["openai:a", "together:b"], api_key="k")


def test_keys_may_be_given_by_provider(sim):
    """Each target gets its own provider's."""
    sim.keys = {"key-a"}
    good = {"api_key": {"openai": "key-a"}}
    llm = ResilientChatModel(targets=[target(sim, "openai:m", api_key=None)], **good)
    assert llm.invoke("hi").content


def test_a_retired_model_is_a_warning_and_a_skipped_target(sim):
    """404 is not a failure of the call, and later calls do not ask for it again."""
    sim.retire("openai:gone")
    llm = chain(sim, "openai:gone", "together:here")
    with pytest.warns(UserWarning, match=r"openai:gone is skipped: its model was not found"):
        llm.invoke("hi")
    assert llm.invoke("hi").response_metadata["model_provider"] == "together"
    assert sim.count("openai:gone") == 1


# -- calling --------------------------------------------------------------------------------------


def test_every_way_of_calling_gives_the_same_text(sim):
    """invoke, ainvoke, stream, astream, batch, abatch."""
    llm = chain(sim, "openai:m")
    expected = llm.invoke("hi").text

    async def asynchronous() -> list[str]:
        streamed = "".join([c.text async for c in llm.astream("hi")])
        return [
            (await llm.ainvoke("hi")).text,
            streamed,
            *[m.text for m in await llm.abatch(["hi"])],
        ]

    results = [
        *asyncio.run(asynchronous()),
        "".join(c.text for c in llm.stream("hi")),
        *[m.text for m in llm.batch(["hi", "hi"])],
    ]
    assert results == [expected] * 6


def test_in_an_lcel_pipeline(sim):
    """Prompt | llm | parser."""
    sim.script("openai:m", then=Reply("yes"))
    pipeline = (
        ChatPromptTemplate.from_template("Is {x}?") | chain(sim, "openai:m") | StrOutputParser()
    )
    assert pipeline.invoke({"x": "it"}) == "yes"
    assert "".join(pipeline.stream({"x": "it"})) == "yes"


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
@pytest.mark.parametrize("dialect", ["openai", "together"])
def test_structured_output_by_every_method(sim, method, dialect):
    """A pydantic object comes back; json_mode cannot know the schema, so its raw text does."""
    llm = chain(sim, f"{dialect}:m")
    if method == "json_mode":
        raw = llm.with_structured_output(None, method=method, include_raw=True).invoke("json")
        assert isinstance(raw["parsed"], dict)
    else:
        assert isinstance(llm.with_structured_output(Joke, method=method).invoke("joke"), Joke)


def test_structured_output_with_raw_and_strict(sim):
    """The raw message comes along, and strict reaches the provider."""
    llm = chain(sim, "openai:m").with_structured_output(Joke, strict=True, include_raw=True)
    answer = llm.invoke("joke")
    assert isinstance(answer["raw"], AIMessage)
    assert isinstance(answer["parsed"], Joke)
    assert sim.requests[-1].body["response_format"]["json_schema"]["strict"] is True


@pytest.mark.parametrize("method", ["json_schema", "json_mode"])
@pytest.mark.parametrize("stream", [False, True])
def test_beside_structured_output_a_call_of_a_tool_is_an_answer(sim, method, stream):
    """It parses to None, and the tools are converted, strictly where that is asked for."""
    called = Reply(tool_calls=[ToolCall("add", {"a": 1, "b": 2})])
    sim.script("openai:m", called, then=Reply('{"setup": "Why?", "punchline": "So."}'))
    llm = chain(sim, "openai:m").with_structured_output(
        Joke, method=method, tools=[add], strict=True
    )
    answers = [list(llm.stream("json"))[-1] if stream else llm.invoke("json") for _ in range(2)]
    assert answers[0] is None
    assert isinstance(answers[1], Joke)
    assert sim.count() == 2
    function = sim.requests[0].body["tools"][0]["function"]
    assert (function["name"], function["strict"]) == ("add", True)


def test_a_call_that_nobody_offered_is_no_answer(sim):
    """Without tools there is nothing to call."""
    called = Reply(tool_calls=[ToolCall("add", {"a": 1, "b": 2})])
    sim.script("openai:m", then=called)
    llm = chain(sim, "openai:m", max_retries=0).with_structured_output(Joke, include_raw=True)
    answer = llm.invoke("joke")
    assert (answer["parsed"], type(answer["parsing_error"])) == (None, OutputParserException)


@pytest.mark.parametrize("ask", [
    lambda llm: llm.invoke("add 1 and 2", tools=[add], tool_choice={"type": "any"}),
    lambda llm: llm.bind(tools=[add], tool_choice={"name": "add"}).invoke("add 1 and 2"),
    lambda llm: llm.bind_tools([add], tool_choice={"any": {}}).invoke("add 1 and 2"),
    lambda llm: asyncio.run(llm.ainvoke("add 1 and 2", tools=[tool(add)], tool_choice="any")),
])  # fmt: skip
@pytest.mark.parametrize("dialect", ["openai", "together"])
def test_python_objects_in_a_call_are_converted(sim, ask, dialect):
    """As `bind_tools` does."""
    answer = ask(chain(sim, f"{dialect}:m"))
    assert [(c["name"], c["args"]) for c in answer.tool_calls] == [("add", {"a": 1, "b": 2})]
    assert (sim.count(), sim.count(status=400)) == (1, 0)


def test_a_callers_mistake_touches_no_target(sim):
    """One ValueError, and no statistics."""
    llm = chain(sim, "openai:m", "together:m")
    with pytest.raises(ValueError, match="is no tool"):
        llm.invoke("hi", tools=[3])
    with pytest.raises(ResilientError, match=r"(?i)serializ"):
        llm.invoke("hi", extra={"a": object()})
    assert sim.count() == 0
    assert llm.invoke("hi").text


def test_tools_are_called_whichever_target_answers(sim):
    """The bound tools reach the fallback as well."""
    sim.script("openai:m", then=Status(500))
    llm = chain(sim, "openai:m", "together:m").bind_tools([add], tool_choice="any")
    assert llm.invoke("add 1 and 2").tool_calls[0]["name"] == "add"


@pytest.mark.parametrize("wanted", ["together:second", "second", Target("text:fixed")])
def test_model_overrides_the_chain_for_one_call(sim, wanted):
    """By a target's name, its model id, or any other target."""
    llm = chain(sim, "openai:first", "together:second")
    winner = llm.invoke("hi", model=wanted).response_metadata["resilience"]["winner"]
    assert winner in ("together:second", "text:fixed")
    assert llm.bind(model=wanted).invoke("hi").text


def test_a_wrong_model_override_says_what_it_may_be(sim):
    """The chain's names are listed."""
    with pytest.raises(ValueError, match=r"openai:first.*provider:model"):
        chain(sim, "openai:first").invoke("hi", model="nonsense")


def test_with_config_and_configurable_fields(sim):
    """A field may be set per call through LangChain's config."""
    llm = chain(sim, "openai:m").configurable_fields(temperature=ConfigurableField(id="t"))
    llm.with_config(configurable={"t": 0.5}).invoke("hi")
    assert sim.requests[-1].body["temperature"] == 0.5


def test_sampling_goes_call_before_target_before_model(sim):
    """The nearest to the call wins."""
    llm = ResilientChatModel(
        targets=[target(sim, "openai:m", temperature=0.2, max_tokens=20)],
        temperature=0.1,
        max_tokens=10,
        seed=7,
    )
    llm.invoke("hi", temperature=0.3)
    body = sim.requests[-1].body
    assert (body["temperature"], body["max_tokens"], body["seed"]) == (0.3, 20, 7)


def test_sampling_of_one_call_is_validated():
    """The error names the field before anything is sent."""
    llm = ResilientChatModel(targets=["text:x"])
    with pytest.raises(ValidationError, match="temperature"):
        llm.invoke("hi", temperature=9)


@pytest.mark.parametrize(
    ("dialect", "params"),
    [("openai", {"top_k": 5}), ("together", {"model_kwargs": {"service_tier": "auto"}})],
)
def test_what_an_api_does_not_take_is_dropped_with_one_warning(sim, dialect, params):
    """A parameter of one target never breaks another."""
    llm = chain(sim, f"{dialect}:m", **params)
    with pytest.warns(UserWarning, match=r"does not take '(top_k|service_tier)'") as caught:
        texts = [llm.invoke("hi").text for _ in range(2)]
    assert all(texts)
    assert len(caught) == 1


def test_n_gives_several_generations(sim):
    """Through `generate`, as in LangChain's other models."""
    result = chain(sim, "openai:m", n=3).generate([[HumanMessage("hi")]])
    assert len(result.generations[0]) == 3


def test_n_cannot_be_streamed(sim):
    """And says so."""
    with pytest.raises(ValueError, match="n must be 1"):
        list(chain(sim, "openai:m", n=2).stream("hi"))


def test_logprobs_are_on_the_message(sim):
    """As OpenAI gives them."""
    answer = chain(sim, "openai:m", logprobs=True, top_logprobs=2).invoke("hi")
    assert answer.response_metadata["logprobs"]["content"][0]["top_logprobs"]


def test_usage_is_the_winners_and_counted_once(sim):
    """Whether invoked or streamed."""
    sim.script("openai:bad", then=Status(500))
    llm = chain(sim, "openai:bad", "openai:good")
    counter = UsageMetadataCallbackHandler()
    answer = llm.invoke("hi", config={"callbacks": [counter]})
    assert counter.usage_metadata == {"good": answer.usage_metadata}
    chunks = [c for c in llm.stream("hi") if c.usage_metadata]
    assert len(chunks) == 1


@pytest.mark.parametrize("messages", [[], ""])
def test_empty_input_is_refused_clearly(messages):
    """Nothing is sent."""
    llm = ResilientChatModel(targets=["text:x"])
    if messages == []:
        with pytest.raises(ValueError, match="messages"):
            llm.invoke(messages)
    else:
        assert llm.invoke(messages).text == "x"


def test_langchains_cache(sim):
    """The second call is not sent; another temperature is another answer."""
    cache = InMemoryCache()
    llm = chain(sim, "openai:m", cache=cache)
    assert llm.invoke("hi").text == llm.invoke("hi").text
    assert len(sim.requests) == 1
    chain(sim, "openai:m", cache=cache, temperature=0.5).invoke("hi")
    assert len(sim.requests) == 2


@pytest.mark.parametrize("asynchronous", [False, True], ids=["invoke", "ainvoke"])
def test_an_answer_out_of_the_cache_says_so(sim, asynchronous):
    """In its receipt, and in the statistics, whose times it does not shorten."""
    llm = chain(sim, "openai:m", cache=InMemoryCache())

    def ask() -> dict[str, Any]:
        answer = asyncio.run(llm.ainvoke("hi")) if asynchronous else llm.invoke("hi")
        return answer.response_metadata["resilience"]

    first, second, third = ask(), ask(), ask()
    assert "cached" not in first
    assert len(first["attempts"]) == 1
    assert second == third
    assert second == {
        "winner": "openai:m", "seconds": 0.0, "lost_tokens": 0, "attempts": [], "cached": True,
    }  # fmt: skip
    stats = llm.stats()
    assert (stats.calls, stats.answered, stats.cached, stats.failed) == (3, 3, 2, 0)
    assert stats.extra_sends == 0
    assert stats.seconds.p50 == pytest.approx(first["seconds"], rel=0.02, abs=0.002)
    assert "2 from the cache" in str(stats)
    assert stats.as_dict()["cached"] == 2


def test_an_answer_in_the_cache_without_a_receipt_gets_one(sim):
    """Another model may have put it there."""
    cache = InMemoryCache()
    llm = chain(sim, "openai:m", cache=cache)
    llm.invoke("hi")
    for generations in cache._cache.values():
        generations[0].message.response_metadata.clear()
    receipt = llm.invoke("hi").response_metadata["resilience"]
    assert (receipt["winner"], receipt["cached"]) == (None, True)


def test_langchains_rate_limiter_is_asked(sim):
    """Once a call."""
    asked = []

    class Limiter(InMemoryRateLimiter):
        def acquire(self, *, blocking: bool = True) -> bool:
            asked.append(blocking)
            return True

    chain(sim, "openai:m", rate_limiter=Limiter()).invoke("hi")
    assert asked == [True]


def test_tokens_are_counted_without_a_network():
    """Roughly, for a text and for messages."""
    llm = ResilientChatModel(targets=["text:x"])
    assert 8 <= llm.get_num_tokens("The quick brown fox jumps over the lazy dog.") <= 14
    assert llm.get_num_tokens_from_messages([HumanMessage("hi there")]) > 1


def test_on_retry_reaches_langchains_callbacks(sim):
    """With tenacity's own state."""
    seen: list[Any] = []

    class Handler(BaseCallbackHandler):
        def on_retry(self, retry_state: Any, **_: Any) -> None:
            seen.append(retry_state.attempt_number)

    sim.script("openai:m", Status(500, retry_after=0))
    target_ = target(sim, "openai:m", retry_first=True)
    ResilientChatModel(targets=[target_]).invoke("hi", config={"callbacks": [Handler()]})
    assert seen == [1]


def test_several_prompts_have_their_sum_in_llm_output(sim):
    """Callbacks of `generate` read tokens and model there, as of ChatOpenAI."""
    llm = chain(sim, "openai:a")
    made = llm.generate([[HumanMessage("hi")], [HumanMessage("hello there")]])
    usages = [rows[0].message.usage_metadata for rows in made.generations]
    assert made.llm_output["token_usage"]["total_tokens"] == sum(u["total_tokens"] for u in usages)
    assert made.llm_output["model_name"] == "a" == llm.model_name
    assert made.llm_output["system_fingerprint"]


@pytest.mark.parametrize("api", ["chat", "responses"])
def test_tokens_of_a_paid_tier_have_its_name(sim, api):
    """In a stream too; LangChain's price lists go by that."""
    llm = ResilientChatModel(targets=[target(sim, "openai:a", api=api)], service_tier="flex")
    first, *others = llm.stream("hi")
    for usage in (llm.invoke("hi").usage_metadata, (first + others).usage_metadata):
        assert usage["input_token_details"]["flex"] == usage["input_tokens"]
        assert usage["output_token_details"]["flex"] == usage["output_tokens"]


def test_callbacks_get_plain_data(sim):
    """Tracers write the parameters of a call down as JSON."""
    seen: list[Any] = []

    class Handler(BaseCallbackHandler):
        def on_chat_model_start(self, serialized, messages, **kwargs: Any) -> None:
            seen.append(kwargs["invocation_params"])

    llm = chain(sim, "openai:a", check=lambda _: True)
    config = {"callbacks": [Handler()]}
    with contextlib.suppress(Exception):
        llm.with_structured_output(Joke, repair=True).invoke("hi", config)
    llm.bind_tools([add]).invoke("hi", config)
    llm.invoke("hi", config, model=target(sim, "openai:b"), hedge=Hedge(delay=9))
    structured, tools, model = [json.loads(json.dumps(params)) for params in seen]
    assert structured["structure"]["schema"] == "Joke"
    assert structured["structure"]["repair"] is True
    assert tools["tools"][0]["function"]["name"] == "add"
    assert model["model"]["model"] == "b"
    assert model["hedge"]["delay"] == 9
    assert CANARY not in str(seen)


# -- failing --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "family"),
    [
        (InvalidKey(), ModelAuthenticationError),
        (RateLimited(retry_after=500), ModelRateLimitError),
        (ContextTooLong(1), ContextOverflowError),
        (BadRequest(), ModelInvalidRequestError),
        (Status(503), ModelAPIError),
        (Status(403), ModelPermissionDeniedError),
        (Reset(), ModelConnectionError),
        (ContentFilter(), ModelRefusalError),
    ],
)
@pytest.mark.parametrize("targets", [("openai:a",), ("openai:a", "together:b")], ids=len)
def test_errors_are_of_langchains_family(sim, step, family, targets):
    """So that `except` clauses and middleware written for any model work; never retryable."""
    sim.script("*", then=step)
    with pytest.raises(family) as caught:
        chain(sim, *targets, timeout=10, max_retries=0).invoke("hi " * 50)
    assert isinstance(caught.value, ModelError)
    assert caught.value.is_retryable is False


def test_the_error_tells_every_attempt_and_carries_every_cause(sim):
    """Each line names the target, the kind and the fault."""
    sim.script("openai:a", then=InvalidKey())
    sim.script("together:b", then=ModelNotFound())
    with pytest.warns(SkippedTargetWarning), pytest.raises(AllTargetsFailedError) as caught:
        chain(sim, "openai:a", "together:b").invoke("hi")
    error = caught.value
    assert "openai:a (primary)" in str(error)
    assert "together:b (fallback)" in str(error)
    assert [type(c).__name__ for c in error.causes] == ["AuthenticationError", "NotFoundError"]
    assert error.receipt is not None
    assert [a.fault.kind for a in error.receipt.attempts if a.fault] == [
        FaultKind.AUTH,
        FaultKind.NOT_FOUND,
    ]


def test_the_deadline_is_kept(sim):
    """With every target silent, the call ends at `timeout` with LangChain's timeout error."""
    sim.script("*", then=NoAnswer())
    with pytest.raises(ModelTimeoutError, match=r"within the deadline of 0\.3 s"):
        chain(sim, "openai:a", "together:b", timeout=0.3, hedge=0.1).invoke("hi")


def test_errors_can_be_pickled(sim):
    """As process pools need."""
    sim.script("*", then=InvalidKey())
    with pytest.raises(AllTargetsFailedError) as caught:
        chain(sim, "openai:a").invoke("hi")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # noqa: S301


@pytest.mark.parametrize("last", ["Sorry, come back later.", RunnableLambda(lambda _: "Sorry")])
def test_the_last_resort_answers_and_says_so(sim, last, caplog):
    """A text or any Runnable; never silent: the receipt tells, and the log warns."""
    sim.script("*", then=InvalidKey())
    answer = chain(sim, "openai:a", last_resort=last).invoke("hi")
    assert answer.text.startswith("Sorry")
    assert answer.response_metadata["resilience"]["attempts"][-1]["kind"] == "last_resort"
    assert "answered by the last resort" in caplog.text
    streamed = list(chain(sim, "openai:a", last_resort=last).stream("hi"))
    assert "".join(c.text for c in streamed).startswith("Sorry")


@pytest.mark.parametrize("judge", ["sync", "async", "raising"])
def test_check_moves_on_to_the_next_target(sim, judge):
    """False or an exception means the next; streams are held back until approved."""
    sim.script("openai:a", then=Reply("bad"))
    sim.script("together:b", then=Reply("good"))

    def sync(message: AIMessage) -> bool:
        return message.text == "good"

    async def asynchronous(message: AIMessage) -> bool:
        return message.text == "good"

    def raising(message: AIMessage) -> None:
        if message.text != "good":
            msg = "not good"
            raise ValueError(msg)

    check = {"sync": sync, "async": asynchronous, "raising": raising}[judge]
    llm = chain(sim, "openai:a", "together:b", check=check)
    assert llm.invoke("hi").text == "good"
    assert "".join(c.text for c in llm.stream("hi")) == "good"


def test_a_check_that_fails_itself_is_told_from_one_that_refuses(sim):
    """With the line to mend; advice on the schema would lead nowhere."""

    def broken(message: AIMessage) -> bool:
        return message.txt == "good"  # type: ignore[attr-defined]

    def strict(_: AIMessage) -> bool:
        return False

    def failing(_: AIMessage) -> bool:
        msg = "too short"
        raise ValueError(msg)

    first = broken.__code__.co_firstlineno
    for check, says, advice in (
        (broken, f"test_chat_model.py:{first + 1}", "mend the `check`, which seems to fail itself"),
        (strict, "check said False", "loosen the `check`"),
        (failing, "check raised ValueError('too short')\n", "loosen the `check`"),
    ):
        llm = chain(sim, "openai:a", check=check, max_retries=0)
        with pytest.raises(InvalidAnswersError) as caught:
            llm.invoke("hi")
        assert says in str(caught.value)
        assert f"What to do: {advice}" in str(caught.value)
        assert "schema" not in str(caught.value)


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_a_check_in_which_something_is_cancelled_fails_itself(sim, kind):
    """That is no fault of the target's connection: it is not asked until the deadline."""

    async def acheck(_: AIMessage) -> None:
        given_up = asyncio.ensure_future(asyncio.sleep(5))
        given_up.cancel()
        await given_up

    def check(_: AIMessage) -> None:
        raise asyncio.CancelledError

    llm = chain(sim, "openai:a", check=acheck if kind == "async" else check, max_retries=0)
    with pytest.raises(InvalidAnswersError, match=r"test_chat_model\.py(.|\n)*mend the `check`"):
        await llm.ainvoke("hi")
    assert sim.count() == 1
    assert llm.stats().targets[0].faults == {"invalid": 1}


def test_langchain_models_are_targets(sim):
    """Before or behind the SDKs' targets; their messages pass unchanged."""
    sim.script("openai:a", then=Status(500))
    llm = ResilientChatModel(
        targets=[target(sim, "openai:a"), FakeListChatModel(responses=["from the fake"])]
    )
    assert llm.invoke("hi").text == "from the fake"
    fake = GenericFakeChatModel(messages=iter([AIMessage("one two"), AIMessage("one two")]))
    assert [c.text for c in ResilientChatModel(targets=[fake]).stream("hi")][:3] == [
        "one",
        " ",
        "two",
    ]


# -- loops, threads, processes --------------------------------------------------------------------


def test_repeated_asyncio_run_works(sim):
    """One client per loop; nothing of the first loop is used on the second."""
    llm = chain(sim, "openai:m", "together:m")
    assert len({asyncio.run(llm.ainvoke("hi")).text for _ in range(4)}) == 1


def test_sync_calls_work_inside_a_running_loop(sim):
    """As in a notebook."""

    async def cell() -> str:
        return chain(sim, "openai:m").invoke("hi").text

    assert asyncio.run(cell())


def test_many_threads_share_the_background_loop(sim):
    """Sync calls from threads, and threads with a loop each."""
    llm = chain(sim, "openai:m", "together:m")
    with ThreadPoolExecutor(8) as pool:
        plain = list(pool.map(lambda _: llm.invoke("hi").text, range(16)))
        looped = list(pool.map(lambda _: asyncio.run(llm.ainvoke("hi")).text, range(16)))
    assert len(set(plain + looped)) == 1
    assert sum(t.name == "langchain-resilient" for t in threading.enumerate()) == 1


def test_a_check_that_blocks_holds_up_no_other_call(sim):
    """Synchronous calls of all threads share one loop."""
    gate, entered = threading.Event(), threading.Event()

    def slow(_: AIMessage) -> bool:
        entered.set()
        return gate.wait(30)

    blocked = chain(sim, "openai:a", check=slow)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(blocked.invoke, "hi")
        assert entered.wait(10)
        assert chain(sim, "openai:m", timeout=10).invoke("hi").text
        assert not waiting.done()
        gate.set()
        assert waiting.result(10).text


def test_a_check_that_blocks_is_given_up_at_the_deadline(sim):
    """The call does not wait for it."""
    gate = threading.Event()
    llm = chain(sim, "openai:a", check=lambda _: gate.wait(30), timeout=0.3)
    began = time.monotonic()
    with pytest.raises(DeadlineExceededError):
        llm.invoke("hi")
    assert time.monotonic() - began < 2
    gate.set()


def test_a_check_may_ask_a_model_in_either_way(sim):
    """Synchronously, where it is a function; it has its own receipt, and the caller's context."""
    llm, name = chain(sim, "openai:judge"), contextvars.ContextVar("name", default="")
    seen = []

    def check(message: AIMessage) -> bool:
        seen.append(name.get())
        return bool(llm.invoke(message.text).text)

    async def acheck(message: AIMessage) -> bool:
        seen.append(name.get())
        return bool((await llm.ainvoke(message.text)).text)

    name.set("mine")
    for judge in (check, acheck):
        picky = chain(sim, "openai:m", check=judge, timeout=10)
        for answer in (picky.invoke("hi"), asyncio.run(picky.ainvoke("hi"))):
            assert answer.response_metadata["resilience"]["winner"] == "openai:m"
    assert seen == ["mine"] * 4


def test_a_sync_call_from_a_callback_on_our_own_loop_does_not_hang(sim):
    """It gets a loop of its own."""
    llm = chain(sim, "openai:m")

    def check(message: AIMessage) -> bool:
        return bool(llm.invoke("is it good?").text)

    assert chain(sim, "openai:m", check=check, timeout=10).invoke("hi").text


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_after_fork_the_child_answers_and_the_parent_still_does(sim):
    """The child starts a background loop of its own."""
    llm = chain(sim, "openai:m", timeout=20)
    before = llm.invoke("hi").text
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=lambda: queue.put(llm.invoke("hi").text))
    child.start()
    assert queue.get(timeout=20) == before
    child.join(10)
    assert child.exitcode == 0
    assert llm.invoke("hi").text == before


@pytest.mark.parametrize("how", ["pickle", "deepcopy", "copy", "model_copy"])
def test_copies_travel_without_clients_and_work(sim, how):
    """After use, with a client open."""
    llm = chain(sim, "openai:m")
    expected = llm.invoke("hi").text
    twin = {
        "pickle": lambda: pickle.loads(pickle.dumps(llm)),  # noqa: S301
        "deepcopy": lambda: copy.deepcopy(llm),
        "copy": lambda: copy.copy(llm),
        "model_copy": lambda: llm.model_copy(update={"temperature": 0.5}),
    }[how]()
    assert twin._runtime is None if how != "model_copy" else twin._runtime is not llm._runtime
    assert twin.invoke("hi").text == expected
    assert llm._runtime is not None


# -- secrets --------------------------------------------------------------------------------------


def test_no_key_is_shown_anywhere(sim, caplog):
    """Not in repr, str, dumps, DEBUG logs, receipts, errors or the cache key."""
    from langchain_core.load import dumps

    caplog.set_level(logging.DEBUG)
    sim.keys = {"another"}
    cache = InMemoryCache()
    llm = chain(sim, "openai:a", "together:b", cache=cache, api_key=CANARY + "2")
    with pytest.raises(AllTargetsFailedError) as caught:
        llm.invoke("hi")
    error = caught.value
    assert error.receipt is not None
    shown = [
        repr(llm), str(llm), dumps(llm), llm._get_llm_string(), repr(llm.model_dump()),
        repr(llm._identifying_params), caplog.text, str(error), repr(error), repr(error.receipt),
        str(error.receipt.as_dict()), repr(error.causes), repr(llm._ready().__dict__),
    ]  # fmt: skip
    for text in shown:
        assert "canary" not in text


def test_a_misspelt_option_is_refused():
    """LangChain's own models ignore it, and the user never learns that it has no effect."""
    with pytest.raises(ValidationError, match="hegde"):
        ResilientChatModel(targets=["text:yes"], hegde=None)


def test_a_model_and_a_target_show_what_was_set():
    """Not what could be; a key is hidden."""
    target = Target("openai:gpt-4o", api_key="secret", max_tokens=5)
    assert repr(target) == (
        "Target(max_tokens=5, provider='openai', model='gpt-4o', api_key=SecretStr('**********'))"
    )
    assert "name='fast'" in repr(Target("openai:gpt-4o", name="fast"))
    text = repr(ResilientChatModel(targets=[target], timeout=9))
    assert text == f"ResilientChatModel(targets=({target!r},), timeout=9.0)"


def test_a_model_shows_nothing_but_what_users_use():
    """What the engine reads of it is no attribute: a field's name would be next to be shadowed."""
    fields = set(ResilientChatModel.model_fields)
    own = {name for name in dir(ResilientChatModel) if not name.startswith("_")}
    assert own - fields - set(dir(BaseChatModel)) == {
        "aclose", "amap", "awarm", "batch_report", "close", "from_fallbacks", "model_name", "stats",
        "warm",
    }  # fmt: skip
    own = {name for name in dir(Target) if not name.startswith("_")}
    assert own - set(Target.model_fields) - set(dir(BaseModel)) == {
        "identity", "reasons", "sampling_params",
    }  # fmt: skip


def test_two_models_that_are_set_up_alike_are_equal():
    """Whatever they have answered; another field, another model."""
    one, two = (ResilientChatModel(targets=["text:hi"], timeout=9) for _ in range(2))
    one.invoke("hello")
    assert one == two
    assert one != ResilientChatModel(targets=["text:hi"], timeout=8)
    assert one != ResilientChatModel(targets=["text:ho"], timeout=9)
    assert one != "text:hi"
