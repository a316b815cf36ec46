"""`max_tokens` and usage over a break: what the reader was given, never more than was asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from langchain_resilient.testing.answers import tokens
from tests.streaming.stories import ORDERS, PROMPT, WHOLE, Speaker, added, cut, model, read
from verification.kit.scripted_targets import target

if TYPE_CHECKING:
    from langchain_resilient.testing import ProviderSimulator

pytestmark = pytest.mark.usefixtures("loop_is_left_empty")

LENGTH = len(tokens(WHOLE))
NAMES = {"max_tokens", "max_completion_tokens"}


def limits_sent(sim: ProviderSimulator) -> list[Any]:
    """The limit of each request, under whichever name."""
    return [next(iter([r.body[name] for name in NAMES & r.body.keys()])) for r in sim.requests]


@pytest.mark.parametrize(("first", "second"), ORDERS)
@pytest.mark.parametrize("way", ["astream", "stream"])
@pytest.mark.parametrize("limit", [6, 8, 12])
async def test_the_rest_gets_what_is_left(
    sim: ProviderSimulator, first: str, second: str, way: Any, limit: int
):
    """Five of so many tokens came; text and usage stay within the limit."""
    sim.script(f"{first}:one", then=cut(5))
    llm = model(sim, f"{first}:one", f"{second}:two", max_tokens=limit)
    answer = added(await read(llm, way))
    assert limits_sent(sim) == [limit, limit - 5]
    assert 5 < len(tokens(answer.text)) <= limit
    assert answer.usage_metadata["output_tokens"] <= limit
    assert answer.response_metadata["finish_reason"] == "length"


async def test_a_limit_of_the_target_holds_for_the_rest_too(sim: ProviderSimulator):
    """Each target has its own."""
    sim.script("openai:one", then=cut(5))
    one = target(sim, "openai:one", max_tokens=9)
    llm = model(sim, one, target(sim, "together:two", max_tokens=20))
    await read(llm)
    assert limits_sent(sim) == [9, 15]


async def test_a_limit_of_the_call_goes_before(sim: ProviderSimulator):
    """And holds over the break."""
    sim.script("openai:one", then=cut(5))
    llm = model(sim, "openai:one", target(sim, "together:two", max_tokens=20))
    await read(llm, max_tokens=11)
    assert limits_sent(sim) == [11, 6]


async def test_a_langchain_model_goes_on_within_its_own_limit(sim: ProviderSimulator):
    """What it was made with counts for the whole answer, too."""
    given: list[Any] = []

    class Limited(Speaker):
        max_tokens: int = 30

        async def _astream(self, messages: Any, *rest: Any, **kwargs: Any) -> Any:
            given.append(kwargs.get("max_tokens"))
            async for chunk in super()._astream(messages, *rest, **kwargs):
                yield chunk

    sim.script("openai:one", then=cut(5))
    await read(model(sim, "openai:one", Limited()))
    await read(model(sim, Limited()))
    assert given == [25, None]


async def test_what_is_as_long_as_was_asked_for_is_whole(sim: ProviderSimulator):
    """The end broke off, not the text: nobody is asked for more."""
    sim.script("openai:one", then=cut(8))
    llm = model(sim, "openai:one", "together:two", max_tokens=8)
    answer = added(await read(llm))
    assert sim.count() == 1
    assert len(tokens(answer.text)) == 8
    assert answer.response_metadata["finish_reason"] == "length"
    assert not answer.response_metadata["resilience"].get("breaks")


async def test_a_replacement_gets_the_whole_limit(sim: ProviderSimulator):
    """What came before is void, in the usage too."""
    sim.script("openai:one", then=cut(5))
    llm = model(sim, "openai:one", "together:two", max_tokens=8, on_break="replace")
    chunks = await read(llm)
    assert limits_sent(sim) == [8, 8]
    assert chunks[-1].usage_metadata["output_tokens"] == 8


@pytest.mark.parametrize(("first", "second"), ORDERS)
@pytest.mark.parametrize("breaks", [1, 2])
async def test_usage_is_the_sum_of_what_was_given(
    sim: ProviderSimulator, first: str, second: str, breaks: int
):
    """Of all parts, what they repeated counted once."""
    sim.script(f"{first}:one", then=cut(6))
    if breaks > 1:
        sim.script(f"{second}:two", then=cut(12))
    targets = [f"{first}:one", f"{second}:two", f"{first}:three"][: breaks + 1]
    answer = added(await read(model(sim, *targets), prompt=PROMPT))
    assert answer.text == WHOLE
    usage = answer.usage_metadata
    assert abs(usage["output_tokens"] - LENGTH) <= 1
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
