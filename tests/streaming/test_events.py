"""What events, logs, callbacks and tracers hear of a stream: one run, from one begin to one end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.language_models import chat_model_stream
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler

from langchain_resilient import ResilientChatModel, StreamBrokenError, Target
from tests.streaming.stories import PROMPT, WHOLE, Way, added, cut, model, read, read_on, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_resilient.testing import ProviderSimulator

pytestmark = pytest.mark.usefixtures("loop_is_left_empty")

IN_BETA = pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")
NORMALIZES = hasattr(chat_model_stream, "_FINISH_REASON_KEYS")
TROUBLES = ["untroubled", "continued"]
WAYS: list[Way] = ["astream", "stream"]


@pytest.fixture(params=TROUBLES)
def llm(request: pytest.FixtureRequest, sim: ProviderSimulator) -> ResilientChatModel:
    """A model that answers, be it by two targets."""
    if request.param == "continued":
        sim.script("openai:one", then=cut())
    return model(sim, "openai:one", "together:two")


@pytest.fixture
def broken(sim: ProviderSimulator) -> ResilientChatModel:
    """A model whose streams break for good."""
    sim.script("openai:one", then=cut())
    return model(sim, "openai:one", "together:two", on_break="raise")


class Ear(BaseCallbackHandler):
    """Notes what it is told."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.tokens: list[Any] = []
        self.chunks: list[Any] = []
        self.end: Any = None
        self.error: BaseException | None = None

    def on_chat_model_start(self, *_: Any, **__: Any) -> None:
        self.heard.append("start")

    def on_llm_new_token(self, token: Any, *, chunk: Any = None, **_: Any) -> None:
        self.tokens.append(token)
        self.chunks.append(chunk.message)

    def on_llm_end(self, response: Any, **_: Any) -> None:
        self.heard.append("end")
        self.end = response.generations[0][0].message

    def on_llm_error(self, error: BaseException, **_: Any) -> None:
        self.heard.append("error")
        self.error = error


class AsyncEar(AsyncCallbackHandler):
    """The same, for coroutines."""

    def __init__(self) -> None:
        self.ear = Ear()

    async def on_chat_model_start(self, *_: Any, **__: Any) -> None:
        self.ear.on_chat_model_start()

    async def on_llm_new_token(self, token: Any, *, chunk: Any = None, **_: Any) -> None:
        self.ear.on_llm_new_token(token, chunk=chunk)

    async def on_llm_end(self, response: Any, **_: Any) -> None:
        self.ear.on_llm_end(response)

    async def on_llm_error(self, error: BaseException, **_: Any) -> None:
        self.ear.on_llm_error(error)


def sync_ear() -> tuple[BaseCallbackHandler, Ear]:
    ear = Ear()
    return ear, ear


def async_ear() -> tuple[AsyncCallbackHandler, Ear]:
    handler = AsyncEar()
    return handler, handler.ear


# -- callbacks ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("way", "make"), [("astream", sync_ear), ("astream", async_ear), ("stream", sync_ear)]
)
async def test_handlers_hear_each_chunk_once_and_the_whole_at_the_end(
    llm: ResilientChatModel, way: Way, make: Callable[[], tuple[Any, Ear]]
):
    """Be the handler a coroutine or not, and the stream told by one target or two."""
    handler, ear = make()
    chunks = await read(llm, way, config={"callbacks": [handler]})
    assert ear.chunks == chunks
    assert "".join(ear.tokens) == WHOLE
    assert ear.heard == ["start", "end"]
    assert (ear.end.content, ear.end.usage_metadata) == (WHOLE, added(chunks).usage_metadata)
    assert ear.end.response_metadata["resilience"]["winner"]


@pytest.mark.parametrize("way", WAYS)
async def test_a_broken_stream_ends_with_an_error_that_tells_where(
    broken: ResilientChatModel, way: Way
):
    """Handlers get the error that is raised, with the text so far and the receipt."""
    ear = Ear()
    with pytest.raises(StreamBrokenError) as caught:
        await read(broken, way, config={"callbacks": [ear]})
    assert ear.heard == ["start", "error"]
    assert ear.error is caught.value
    assert caught.value.partial == "".join(ear.tokens)
    assert caught.value.receipt is not None
    (broke,) = caught.value.receipt.breaks
    assert (broke.target, broke.characters) == ("openai:one", len(caught.value.partial))


async def test_a_tracer_sees_one_run_and_its_attempts(llm: ResilientChatModel):
    """A run of the model, whoever answered; below it a run for each target that was asked."""
    collector = RunCollectorCallbackHandler()
    chunks = await read(llm, config={"callbacks": [collector]})
    (run,) = collector.traced_runs
    assert run.error is None
    asked = added(chunks).response_metadata["resilience"]["attempts"]
    assert [(child.name, child.run_type) for child in run.child_runs] == [
        (attempt["target"], "chain") for attempt in asked
    ]
    assert run.outputs is not None
    assert run.outputs["generations"][0][0]["text"] == WHOLE


# -- events ---------------------------------------------------------------------------------------


async def test_events_of_version_2_are_those_of_one_run(llm: ResilientChatModel):
    """One start, a piece for each chunk, one end that holds their sum."""
    events: list[Any] = [event async for event in llm.astream_events(PROMPT, version="v2")]
    kinds = [event["event"].removeprefix("on_chat_model_") for event in events]
    assert kinds == ["start", *["stream"] * (len(kinds) - 2), "end"]
    assert len({event["run_id"] for event in events}) == 1
    pieces = [event["data"]["chunk"] for event in events[1:-1]]
    output = events[-1]["data"]["output"]
    assert added(pieces).content == output.content == WHOLE
    assert output.usage_metadata == added(pieces).usage_metadata
    assert output.response_metadata["resilience"] == pieces[-1].response_metadata["resilience"]


async def test_events_of_a_broken_stream_end_with_its_error(broken: ResilientChatModel):
    """After the pieces that were delivered there is no end."""
    events, error = await read_on(broken.astream_events(PROMPT, version="v2"))
    assert isinstance(error, StreamBrokenError)
    text = "".join(e["data"]["chunk"].text for e in events if e["event"] == "on_chat_model_stream")
    assert text == error.partial
    assert events[-1]["event"] != "on_chat_model_end"


@pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainDeprecationWarning")
async def test_the_log_of_a_stream_adds_up_to_its_answer(llm: ResilientChatModel):
    """`astream_log`: patches whose sum holds the output."""
    patches = [patch async for patch in llm.astream_log(PROMPT)]
    state: Any = patches[0]
    for patch in patches[1:]:
        state = state + patch
    assert added(state.state["streamed_output"]).content == WHOLE
    assert state.state["final_output"].content == WHOLE


@IN_BETA
async def test_events_of_version_3_hold_the_answer(llm: ResilientChatModel):
    """As a typed stream: its text as it comes, then the message."""
    ear = Ear()
    stream = await llm.astream_events(PROMPT, {"callbacks": [ear]}, version="v3")
    assert "".join([piece async for piece in stream.text]) == WHOLE
    message = await stream.output
    assert message.text == WHOLE
    assert message.usage_metadata
    assert message.usage_metadata["output_tokens"]
    assert message.response_metadata["resilience"]["winner"]
    assert message.response_metadata["normalized_finish_reason"] == "stop"
    await until(lambda: len(ear.heard) > 1)  # the task behind it has one more thing to do
    assert ear.heard == ["start", "end"]


@IN_BETA
def test_synchronous_events_of_version_3_hold_the_answer(llm: ResilientChatModel):
    """The same without a loop."""
    stream = llm.stream_events(PROMPT, version="v3")
    assert "".join(stream.text) == WHOLE
    assert stream.output.text == WHOLE


@IN_BETA
@pytest.mark.skipif(not NORMALIZES, reason="langchain-core before 1.8.4 does not normalize")
@pytest.mark.parametrize("api", ["chat", "responses"])
async def test_the_last_event_of_version_3_says_why_the_answer_ended(sim: ProviderSimulator, api):
    """In LangChain's own words, beside the provider's."""

    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    target = Target("openai:m", api=api, base_url=sim.base_url("openai"), api_key="k")
    llm = ResilientChatModel(targets=[target]).bind_tools([add])
    stream = await llm.astream_events("What is add(1, 2)?", version="v3")
    last = [event async for event in stream if event["event"] == "message-finish"][-1]
    assert (last["finish_reason"], last["normalized_finish_reason"]) == ("tool_calls", "tool_call")


@IN_BETA
async def test_events_of_version_3_continue_where_they_cannot_replace(sim: ProviderSimulator):
    """They add up what they hear, and know no marker: a new answer would double the text."""
    sim.script("openai:one", then=cut())
    llm = model(sim, "openai:one", "together:two", on_break="replace")
    stream = await llm.astream_events(PROMPT, version="v3")
    message = await stream.output
    assert message.text == WHOLE
    assert message.response_metadata["resilience"]["breaks"][0]["action"] == "continued"
