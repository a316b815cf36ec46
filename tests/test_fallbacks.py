"""A chain of `with_fallbacks` becomes a model of ours: what is kept, and what is refused."""

from __future__ import annotations

import asyncio
import pickle

import openai
import pytest
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, SecretStr

from langchain_resilient import ResilientChatModel, Target, TimeLimits
from langchain_resilient.faults import Fault, FaultKind
from langchain_resilient.testing import ProviderSimulator, Reply, Status


def _openai(model: str = "gpt-6.1-sol", **fields) -> ChatOpenAI:
    return ChatOpenAI(model=model, api_key="secret", **fields)


def test_models_of_openai_become_targets_with_all_that_is_set():
    """Key, address, parameters, headers; a timeout of each attempt is limits of each attempt."""
    first = _openai(
        base_url="http://localhost:1/v1", temperature=0.2, max_tokens=7, organization="org",
        default_headers={"X-Team": "a"}, timeout=9, use_responses_api=True, seed=3,
        reasoning_effort="low", max_retries=5, model_kwargs={"user": "u"},
    )  # fmt: skip
    llm = ResilientChatModel.from_fallbacks(first.with_fallbacks([_openai("gpt-6-luna")]))
    assert llm.targets == (
        Target(
            "openai:gpt-6.1-sol", api_key="secret", base_url="http://localhost:1/v1",
            api="responses", temperature=0.2, max_tokens=7, organization="org", seed=3,
            reasoning_effort="low", default_headers={"X-Team": "a"}, model_kwargs={"user": "u"},
            time_limits=TimeLimits(connect=5, first_text=9, chunk_gap=9),
        ),
        Target("openai:gpt-6-luna", api_key="secret"),
    )  # fmt: skip


@pytest.mark.parametrize("fields", [{"include": ["x"]}, {"timeout": (1, 2)}, {"tags": ["t"]}])
def test_what_has_no_equivalent_stays_the_model_that_it_is(fields):
    """Nothing that was set is lost."""
    model = _openai(**fields)
    (target,) = ResilientChatModel.from_fallbacks(model).targets
    assert target.runnable is model


def test_other_models_are_targets_as_they_are_and_a_function_is_the_last_resort():
    """A last fallback that is no chat model answers when nobody can."""
    fake = FakeListChatModel(responses=["fake"])
    llm = ResilientChatModel.from_fallbacks(
        fake.with_fallbacks([RunnableLambda(lambda _: AIMessage("sorry"))]), timeout=9
    )
    assert [target.runnable for target in llm.targets] == [fake]
    assert llm.last_resort.provider == "runnable"
    assert llm.timeout == 9
    assert llm.invoke("hello").text == "fake"


def test_retries_bound_parameters_and_nested_chains_are_taken_along():
    """In the order in which LangChain would ask; the same model twice is one target."""
    one = _openai().with_retry(stop_after_attempt=3)
    two = _openai("gpt-6-luna").bind(temperature=0.5, stop=["END"])
    llm = ResilientChatModel.from_fallbacks(one.with_fallbacks([two.with_fallbacks([_openai()])]))
    assert [(t.model, t.temperature, t.stop) for t in llm.targets] == [
        ("gpt-6.1-sol", None, None),
        ("gpt-6-luna", 0.5, ["END"]),
    ]
    assert llm.max_retries == 2
    assert ResilientChatModel.from_fallbacks(one, max_retries=0).max_retries == 0


def test_exceptions_to_handle_say_after_which_faults_another_is_asked():
    """By the exception that the provider raised; lateness, which has none, always counts."""
    chain = _openai().with_fallbacks(
        [_openai("gpt-6-luna")], exceptions_to_handle=(openai.RateLimitError,)
    )
    llm = ResilientChatModel.from_fallbacks(chain)
    moves_on = pickle.loads(pickle.dumps(llm.fallback_on))  # noqa: S301  # our own
    assert moves_on(Fault(FaultKind.TIMEOUT, "late"))
    assert not moves_on(Fault(FaultKind.SERVER, "broken", cause=ValueError("broken")))
    limited = openai.RateLimitError.__new__(openai.RateLimitError)
    assert moves_on(Fault(FaultKind.RATE_LIMIT, "slow down", cause=limited))


async def test_exceptions_to_handle_hold_in_a_call():
    """A 429 moves on, a 500 does not, as in the chain before."""
    with ProviderSimulator() as sim:
        where = {"base_url": sim.base_url("openai"), "max_retries": 0}
        chain = _openai("a", **where).with_fallbacks(
            [_openai("b", **where)], exceptions_to_handle=(openai.RateLimitError,)
        )
        llm = ResilientChatModel.from_fallbacks(chain, hedge=None, max_retries=0, timeout=9)
        sim.script("openai:a", Status(500), then=Status(429))
        sim.script("openai:b", then=Reply("from b"))
        with pytest.raises(Exception, match="500"):
            await llm.ainvoke("hello")
        assert (await llm.ainvoke("hello")).text == "from b"
        assert sim.count("openai:b") == 1
        await llm.aclose()


class Joke(BaseModel):
    """A schema."""

    line: str


@tool
def add(a: int, b: int) -> int:
    """Add."""
    return a + b


@pytest.mark.parametrize(
    ("follows", "named"),
    [
        (lambda model: model.bind_tools([add]), "tools"),
        (
            lambda model: model.with_structured_output(
                {"title": "a", "type": "object", "properties": {}}
            ),
            "sequence",
        ),
        (lambda model: model.with_config(tags=["x"]), "config"),
        (lambda model: model.with_fallbacks([model], exception_key="error"), "exception_key"),
        (lambda _: "openai:gpt-6.1-sol", "str"),
    ],
    ids=["tools", "schema", "config", "exception_key", "text"],
)
def test_what_belongs_after_the_model_is_refused_with_what_to_write(follows, named):
    """Bound once, on what comes out, it holds for all targets."""
    with pytest.raises(ValueError, match=named):
        ResilientChatModel.from_fallbacks(follows(_openai()))


def test_no_key_is_shown():
    """It stays the secret that it was."""
    llm = ResilientChatModel.from_fallbacks(_openai().with_fallbacks([_openai("b")]))
    assert "secret" not in repr(llm)
    assert llm.targets[0].api_key == SecretStr("secret")


def test_a_key_of_the_moment_is_taken_along():
    """A function that gives it (Entra) is asked with each request."""

    def key() -> str:
        return "now"

    (target,) = ResilientChatModel.from_fallbacks(ChatOpenAI(model="m", api_key=key)).targets
    assert target.api_key is key or asyncio.iscoroutinefunction(target.api_key)
