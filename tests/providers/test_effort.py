"""`reasoning_effort`: one field, in each provider's own words, never lost without a word."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from langchain_resilient import DroppedParameterWarning, ResilientChatModel, Target
from langchain_resilient.providers import create_provider
from langchain_resilient.testing import ProviderSimulator, Status, UnsupportedParameter
from tests.providers.asking import ask, provider_at, request


@pytest.mark.parametrize(
    ("spec", "effort", "sent"),
    [
        ("openai:gpt-6-luna", "high", {"reasoning_effort": "high"}),
        ("openai:gpt-6-luna", "none", {"reasoning_effort": "none"}),
        ("together:m", "low", {"reasoning_effort": "low"}),
        ("together:m", "xhigh", {"reasoning_effort": "high"}),
        ("together:m", "none", {"reasoning": {"enabled": False}}),
        ("groq:m", "low", {"reasoning_effort": "low"}),
        ("google:m", "none", {"reasoning_effort": "none"}),
        ("deepseek:m", "none", {"thinking": {"type": "disabled"}}),
        ("deepseek:m", "high", {"thinking": {"type": "enabled"}, "reasoning_effort": "high"}),
        ("zai:m", "minimal", {"thinking": {"type": "disabled"}}),
        ("vllm:m", "low", {"reasoning_effort": "low"}),
    ],
)
def test_each_provider_is_asked_in_its_own_words(spec, effort, sent):
    """As their documentation says."""
    provider = create_provider(Target(spec, api_key="k"))
    body = provider.adapt_body({"reasoning_effort": effort, "messages": []}, stream=False)
    assert {k: v for k, v in body.items() if k not in ("messages", "model")} == sent


@pytest.mark.parametrize("spec", ["together:m", "deepseek:m"])
def test_what_the_caller_says_in_the_providers_words_stays(spec):
    """Whoever writes it knows better."""
    provider = create_provider(Target(spec, api_key="k"))
    own = {"reasoning": {"enabled": True}, "thinking": {"type": "enabled", "x": 1}}
    body = provider.adapt_body({"reasoning_effort": "none", **own, "messages": []}, stream=False)
    assert own.items() <= body.items()


async def test_it_may_be_set_on_the_model_a_target_and_a_call():
    """The call's goes before the target's, and that before the model's; bound ones too."""
    async with ProviderSimulator() as sim:
        base_url = sim.base_url("openai")
        own = Target("openai:a", base_url=base_url, api_key="k", reasoning_effort="low")
        none = Target("openai:b", base_url=base_url, api_key="k")
        llm = ResilientChatModel(targets=[none, own], reasoning_effort="high")
        await llm.ainvoke("hi")
        await llm.ainvoke("hi", model="openai:a")
        await llm.ainvoke("hi", reasoning_effort="medium")
        await llm.bind(reasoning_effort="none").ainvoke("hi")
        efforts = [record.body["reasoning_effort"] for record in sim.requests]
    assert efforts == ["high", "low", "medium", "none"]


async def test_a_model_that_does_not_know_it_is_asked_without_and_a_warning_says_so(sim):
    """Never silently."""
    sim.script("openai:m", then=UnsupportedParameter("reasoning_effort"))
    provider = provider_at(sim, "openai:m")
    with pytest.warns(DroppedParameterWarning, match="reasoning_effort"):
        await ask(provider, request(reasoning_effort="low"))


UNKNOWN = (
    "Unsupported value: 'xhigh' is not supported with the 'm' model. "
    "Supported values are: 'low', 'medium', and 'high'."
)
NO_ARGUMENTS = {"type": "object", "properties": {}}
UNSUPPORTED = "Unsupported parameter: 'reasoning.effort' is not supported with this model."


@pytest.mark.parametrize(
    ("api", "param", "message", "then"),
    [
        ("chat", "reasoning_effort", UNKNOWN, "low"),
        ("responses", "reasoning.effort", UNKNOWN, "low"),
        ("responses", "reasoning.effort", UNSUPPORTED, None),
    ],
    ids=["chat", "responses", "responses, any"],
)
async def test_an_effort_that_a_model_does_not_know_is_left_out(sim, api, param, message, then):
    """With a warning, once; the tools stay, and so does what was said of summaries."""

    def effort(record):
        return record.body.get("reasoning_effort") or record.body.get("reasoning", {}).get("effort")

    code = "unsupported_value" if message is UNKNOWN else "unsupported_parameter"
    refusal = Status(400, message=message, error_code=code, param=param)
    provider = provider_at(sim, "openai:m", api=api)
    tools = [{"type": "function", "function": {"name": "f", "parameters": NO_ARGUMENTS}}]
    more = {"reasoning": {"summary": "auto"}} if api == "responses" else {}
    sim.script("openai:m", refusal)
    with pytest.warns(DroppedParameterWarning, match="reasoning_effort"):
        await ask(provider, request(reasoning_effort="xhigh", tools=tools, **more))
    await ask(provider, request(reasoning_effort="xhigh", tools=tools, **more))
    await ask(provider, request(reasoning_effort="low", **more))
    assert [effort(record) for record in sim.requests] == ["xhigh", None, None, then]
    assert all("tools" in record.body for record in sim.requests[:3])
    kept = [record.body.get("reasoning", {}).get("summary") for record in sim.requests]
    assert kept == ["auto" if more else None] * 4


def test_it_changes_the_answer_and_so_the_identity():
    """Caches tell it apart; whether a model thinks is taken from it."""
    assert Target("openai:m", reasoning_effort="low").identity()["reasoning_effort"] == "low"
    assert Target("openai:m", reasoning_effort="high").reasons()
    assert not Target("openai:gpt-6-luna", reasoning_effort="none").reasons()
    with pytest.raises(ValidationError):
        Target("openai:m", reasoning_effort="")
