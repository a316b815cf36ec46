"""What all models of the process share: the random generator, and the rate limits of keys."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from weakref import WeakSet

import pytest
from langchain_core.messages import HumanMessage

from langchain_resilient import Health, Hedge, ResilientChatModel, Retry, Target
from langchain_resilient.engine.rate_limiter import RateLimiter
from langchain_resilient.providers import model_lists
from langchain_resilient.runtime import shared_state
from langchain_resilient.runtime.call import CallOptions
from langchain_resilient.runtime.shared_state import SharedState, reset, shared_rng
from langchain_resilient.runtime.token_estimate import estimate_text_tokens
from langchain_resilient.testing import ProviderSimulator, Reply

FORKS = """
import os
from langchain_resilient.runtime.shared_state import shared_rng
shared_rng()
read, write = os.pipe()
if os.fork() == 0:
    os.write(write, repr(shared_rng().random()).encode())
    os._exit(0)
print(os.read(read, 100).decode() == repr(shared_rng().random()))
"""


def test_a_seed_makes_chance_replayable():
    """What the engine draws after it is the same every time."""
    reset(seed=7)
    first = [shared_rng().random() for _ in range(3)]
    reset(seed=7)
    assert [shared_rng().random() for _ in range(3)] == first


def test_without_a_seed_chance_is_fresh():
    """Also right after one was given."""
    reset(seed=7)
    first = shared_rng().random()
    reset(seed=7)
    reset()
    assert shared_rng().random() != first


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nobody forks here")
def test_a_forked_worker_draws_for_itself():
    """Else all workers of a server would come back to a provider at the same moment."""
    outcome = subprocess.run(
        [sys.executable, "-c", FORKS], capture_output=True, text=True, check=True, timeout=60
    )
    assert outcome.stdout.strip() == "False"


def pacer(memory: SharedState, **fields):
    target = Target("openai:m", api_key="k", **fields)
    return memory.state_of(target).keys[0].rate_limiter


def test_targets_of_one_key_and_model_share_one_pace():
    """Whatever else is set on them; the lowest limit counts."""
    memory = SharedState()
    first = pacer(memory, requests_per_minute=600)
    second = pacer(memory, requests_per_minute=120, max_concurrency=3)
    assert first is second
    assert first.requests.rate == pytest.approx(2.0)


def test_another_model_has_a_pace_of_its_own():
    """As it has a limit of its own."""
    memory = SharedState()
    other = memory.state_of(Target("openai:other", api_key="k")).keys[0].rate_limiter
    assert other is not pacer(memory)


@pytest.mark.parametrize("wrong", [0, -1, float("inf"), "many"])
@pytest.mark.parametrize("field", ["requests_per_minute", "tokens_per_minute"])
def test_a_limit_is_a_positive_number(field, wrong):
    """The error names the field."""
    with pytest.raises(ValueError, match=field):
        Target("openai:m", **{field: wrong})


def test_a_call_says_how_urgent_it_is():
    """Interactive unless it says otherwise; the word goes to no provider."""
    kwargs = {"priority": "batch"}
    call = CallOptions({}, [HumanMessage("Hello")], None, kwargs, stream=False)
    assert call.batch
    assert "priority" not in call.request.overrides
    assert not CallOptions({}, [HumanMessage("Hello")], None, {}, stream=False).batch


def test_a_call_knows_its_size():
    """By the one estimator, with what is around each message and with its tools; measured once."""
    call = CallOptions({}, [HumanMessage("the " * 100)], None, {}, stream=False)
    assert call.prompt_tokens() == estimate_text_tokens("the " * 100) + 7
    call.request.messages.clear()
    assert call.prompt_tokens() > 100
    tools = [{"type": "function", "function": {"name": "add", "parameters": {}}}]
    more = CallOptions({}, [HumanMessage("the " * 100)], None, {"tools": tools}, stream=False)
    assert more.prompt_tokens() > call.prompt_tokens()


@pytest.mark.parametrize(
    ("model", "target", "call", "expected"),
    [
        (None, None, None, (0, 0)),
        (None, 50, None, (50, 0)),
        (20, 50, None, (50, 20)),
        (20, 50, 30, (30, 30)),
        (20, None, None, (20, 20)),
    ],
)
async def test_the_limit_of_a_targets_answers_counts_for_its_pace(
    model, target, call, expected, monkeypatch
):
    """The call's goes before the target's, and that before the model's; each target has its own."""
    reserved, reserve = [], RateLimiter.reserve

    def noted(self, request, now):
        reserved.append(request.tokens(256.0))
        return reserve(self, request, now)

    monkeypatch.setattr(RateLimiter, "reserve", noted)
    kwargs = {} if call is None else {"max_tokens": call}
    async with ProviderSimulator(seed=0) as sim:
        places = {"base_url": sim.base_url("openai"), "api_key": "k", "tokens_per_minute": 90_000}
        targets = [Target("openai:a", max_tokens=target, **places), Target("openai:b", **places)]
        llm = ResilientChatModel(
            targets=targets, max_tokens=model, share_learning=False, hedge=None
        )
        for name in ("openai:a", "openai:b"):
            await llm.ainvoke("hi", model=name, **kwargs)
    assert reserved == [most or 8 + 256 for most in expected]


def test_an_unknown_priority_is_refused():
    """Before anything is sent."""
    with pytest.raises(ValueError, match="interactive"):
        CallOptions({}, [HumanMessage("Hello")], None, {"priority": "soon"}, stream=False)


async def test_limits_are_learned_from_the_first_answer():
    """Over real HTTP, from OpenAI's headers."""
    async with ProviderSimulator(seed=0) as sim:
        sim.script("openai:m", then=Reply())
        sim.limit("openai:m", requests_per_minute=300, tokens_per_minute=90_000)
        target = Target("openai:m", base_url=sim.base_url("openai"), api_key="k")
        llm = ResilientChatModel(targets=[target], share_learning=False)
        await llm.ainvoke("Hello")
        (route,) = llm._ready().chain
        rate_limiter = route.state.keys[0].rate_limiter
        assert (rate_limiter.requests.rate, rate_limiter.tokens.rate) == (
            pytest.approx(5),
            pytest.approx(1500),
        )


@pytest.mark.parametrize(
    ("target", "one"),
    [
        (Target("openai:m", api_key="k", base_url="http://localhost:8000/v1"), True),
        (Target("openai:m", api_key="k", base_url="https://llm.example.com/v1"), True),
        (Target("ollama:m"), True),
        (Target("ollama:m", replicated=True), False),
        (Target("openai:m", api_key="k"), False),
        (Target("groq:m", api_key="k"), False),
        (Target("text:hello"), False),
    ],
    ids=["local", "own", "named", "said", "openai", "vendor", "text"],
)
def test_a_server_of_ones_own_is_taken_for_one_machine(target, one):
    """A vendor's service is many; what runs in this process is no server."""
    assert SharedState().state_of(target).one_machine is one


def kept_by(memory: SharedState) -> int:
    kept = (memory._states, memory._accounts, memory._rate_limiters, memory._budgets)
    return max(len(each._kept) for each in kept)


def budgets_of(memory: SharedState, target: Target):
    return memory.budgets_of([target], Hedge(), Health(), Retry())


def test_the_state_of_keys_that_come_and_go_is_not_kept_for_ever(monkeypatch):
    """Users of a service may bring their own."""
    monkeypatch.setattr(shared_state, "MAX_KEPT", 3)
    memory = SharedState()
    used = Target("openai:m", api_key="in-use-all-the-time")
    state, budgets = memory.state_of(used), budgets_of(memory, used)
    states = WeakSet()
    for number in range(10):
        target = Target("openai:m", api_key=f"of-user-{number}")
        states.add(memory.state_of(target))
        budgets_of(memory, target)
    gc.collect()
    assert kept_by(memory) == 3
    assert len(states) == 3
    assert memory.state_of(used) is state
    assert budgets_of(memory, used) is budgets


def test_what_was_learned_outlives_a_model():
    """A model for each call is nothing unusual."""
    memory = SharedState()
    target = Target("openai:m", api_key="a-key")
    learned = id(memory.state_of(target)), id(budgets_of(memory, target))
    gc.collect()
    assert (id(memory.state_of(target)), id(budgets_of(memory, target))) == learned


def test_the_models_of_accounts_that_come_and_go_are_not_kept_for_ever(monkeypatch, tmp_path):
    """What an account that is let go of has not written down yet is written then."""
    monkeypatch.setattr(model_lists, "MAX_KEPT", 3)
    monkeypatch.setattr(model_lists, "_directories", {})
    monkeypatch.setattr(model_lists, "_path", lambda _, key: tmp_path / f"{key}.json")
    first = model_lists.directory_for("https://one", "0")
    first.unsaved = True
    for number in range(1, 5):
        model_lists.directory_for("https://one", str(number))
    assert len(model_lists._directories) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["0.json"]
    assert model_lists.directory_for("https://one", "4") is not first
