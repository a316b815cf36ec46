"""`llm.profile`: what all targets of a chain can do, and what LangChain's agents make of it."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import SummarizationMiddleware
from langchain.agents.structured_output import ProviderStrategy
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableLambda
from pydantic import BaseModel

from langchain_resilient import ResilientChatModel, Target
from langchain_resilient.profiles import ChainProfile, target_profile
from langchain_resilient.testing import ProviderSimulator, Reply

KEYS = {"openai": "k", "together": "k"}


def profile_of(*targets, **fields):
    return ResilientChatModel(targets=list(targets), api_key=KEYS, **fields).profile


def test_the_default_chain_has_the_smallest_window_and_the_abilities_of_all():
    """gpt-oss-120b takes least; nothing is said of Together's models and images."""
    profile = ResilientChatModel(api_key=KEYS).profile
    assert profile["max_input_tokens"] == 131_072
    assert profile["tool_calling"] is True
    assert profile["structured_output"] is True
    assert "image_inputs" not in profile
    assert isinstance(profile, dict)


def test_one_target_has_its_whole_profile():
    """As LangChain's own integration gives it."""
    profile = profile_of("openai:gpt-6-luna")
    assert profile["max_input_tokens"] == 1_050_000
    assert profile["name"] == "GPT-6 Luna"
    assert profile["image_inputs"] is True


def test_an_ability_is_there_if_all_have_it():
    """One that lacks it is enough; lists are cut to what is common."""
    luna, old = target_profile(Target("openai:gpt-6-luna")), target_profile(Target("openai:gpt-4"))
    both = profile_of("openai:gpt-6-luna", "openai:gpt-4")
    assert (luna["image_inputs"], old["image_inputs"]) == (True, False)
    assert both["image_inputs"] is False
    assert both["max_input_tokens"] == min(luna["max_input_tokens"], old["max_input_tokens"])
    assert both["max_output_tokens"] == min(luna["max_output_tokens"], old["max_output_tokens"])
    two = profile_of("openai:gpt-6-luna", "openai:gpt-6-sol")
    levels = [target_profile(Target(f"openai:{m}"))["reasoning_effort_levels"]
              for m in ("gpt-6-luna", "gpt-6-sol")]  # fmt: skip
    assert two["reasoning_effort_levels"] == [x for x in levels[0] if x in levels[1]]


def test_a_targets_own_window_counts():
    """Before what the library knows."""
    own = Target("openai:gpt-6-luna", context_window=5000)
    assert profile_of(own, "together:openai/gpt-oss-120b")["max_input_tokens"] == 5000


def test_a_given_profile_goes_before_all():
    """As for any model of LangChain's; copies keep it."""
    given = {"max_input_tokens": 7}
    llm = ResilientChatModel(targets=["openai:m"], api_key=KEYS, profile=given)
    assert llm.profile == given
    assert llm.model_copy().profile == given
    llm.temperature = 0.5
    assert llm.profile == given


def test_a_wrapped_model_brings_its_own():
    """And one that has none is taken for a chat model."""
    model = FakeListChatModel(
        responses=["x"], profile={"max_input_tokens": 9, "tool_calling": False}
    )
    assert dict(profile_of(model)) == {"max_input_tokens": 9, "tool_calling": False}
    both = profile_of(model, "openai:gpt-6-luna")
    assert (both["max_input_tokens"], both["tool_calling"]) == (9, False)
    assert profile_of(RunnableLambda(lambda _: "x")).get("max_input_tokens") is None


def test_a_fixed_text_takes_anything():
    """It is no model."""
    assert profile_of("openai:gpt-6-luna", "text:Sorry.")["max_input_tokens"] == 1_050_000
    assert dict(profile_of("text:Sorry.")) == {}


def test_other_targets_have_another_profile():
    """Set later, or in a copy."""
    llm = ResilientChatModel(targets=["openai:gpt-6-luna"], api_key=KEYS)
    assert llm.profile["max_input_tokens"] == 1_050_000
    llm.targets = ["together:openai/gpt-oss-120b"]
    assert llm.profile["max_input_tokens"] == 131_072
    other = llm.model_copy(update={"targets": (Target("openai:gpt-6-luna"),)})
    assert other.profile["max_input_tokens"] == 1_050_000


def test_it_travels_with_the_model():
    """Copied and pickled, read before or not."""
    for read in (False, True):
        llm = ResilientChatModel(targets=["openai:gpt-6-luna"], api_key=KEYS)
        if read:
            assert llm.profile
        pickled = pickle.loads(pickle.dumps(llm))  # noqa: S301  # our own
        for other in (copy.copy(llm), copy.deepcopy(llm), pickled):
            assert other.profile["max_input_tokens"] == 1_050_000
            assert other == llm


def test_it_is_a_dict_in_every_way():
    """However it is read."""

    def fresh():
        return ChainProfile((Target("openai:gpt-6-luna", context_window=5),))

    assert fresh().get("max_input_tokens") == fresh()["max_input_tokens"] == 5
    assert "max_input_tokens" in fresh()
    assert bool(fresh())
    assert len(fresh()) == len(list(fresh())) == len(fresh().keys()) == len(fresh().values())
    assert {**fresh()} == dict(fresh()) == fresh().copy() == fresh()
    assert json.loads(json.dumps(dict(fresh())))["max_input_tokens"] == 5
    assert repr(fresh()) == "..."


def test_to_make_or_show_a_model_reads_no_profile():
    """Nor any library that has them: LangChain shows a model before its first call."""
    code = (
        "import sys; from langchain_resilient import ResilientChatModel; "
        "llm = ResilientChatModel(targets=['openai:gpt-6-luna'], api_key='k'); "
        "shown = repr(llm); "
        "before = {'genai_prices', 'openai'} & sys.modules.keys(); "
        "llm.profile['max_input_tokens']; "
        "print(before, 'openai' in sys.modules, 'profile' in shown)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "set() False False"


# -- what LangChain's agents make of it ------------------------------------------------------------


@pytest.fixture
def sim():
    with ProviderSimulator() as simulator:
        yield simulator


def chain(sim, *specs, **fields):
    targets = [
        Target(spec, base_url=sim.base_url(spec.partition(":")[0]), api_key="k", **fields)
        for spec in specs
    ]
    return ResilientChatModel(targets=targets)


def test_a_summary_is_made_at_a_fraction_of_the_window(sim):
    """LangChain's middleware asks the profile for the window."""
    sim.script("*", then=Reply("A summary."))
    llm = chain(sim, "openai:gpt-6-luna", "together:openai/gpt-oss-120b", context_window=1000)
    middleware = SummarizationMiddleware(llm, trigger=("fraction", 0.5), keep=("messages", 1))
    agent = create_agent(llm, middleware=[middleware])
    history = [m for n in range(20) for m in (HumanMessage("word " * 40), AIMessage(f"{n}"))]
    messages = agent.invoke({"messages": [*history, HumanMessage("hello")]})["messages"]
    assert len(messages) < len(history)
    assert "summary" in str(messages[0].content).lower()


class City(BaseModel):
    """A city."""

    name: str


def test_an_agents_answer_has_the_providers_structure(sim):
    """The strategy is chosen by the profile: a response format, not a tool."""
    sim.script("*", then=Reply('{"name": "Rome"}'))
    llm = chain(sim, "openai:gpt-6-luna", "together:openai/gpt-oss-120b")
    for wanted in (City, ProviderStrategy(City)):
        answer = create_agent(llm, response_format=wanted).invoke(
            {"messages": [("user", "Where?")]}
        )
        assert answer["structured_response"] == City(name="Rome")
    assert all("response_format" in r.body and "tools" not in r.body for r in sim.requests)
