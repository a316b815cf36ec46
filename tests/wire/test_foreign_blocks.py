"""Videos, files by URL and the like: to the targets that take them, and past those that do not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool

from langchain_resilient import AllTargetsFailedError, FaultKind, ResilientChatModel, Target
from langchain_resilient.providers.openai import OpenAIProvider
from langchain_resilient.testing import (
    BadRequest,
    ContextTooLong,
    ProviderSimulator,
    Reply,
    Status,
)
from langchain_resilient.wire.foreign_blocks import (
    ForeignBlock,
    UnsupportedContentError,
    express_foreign_blocks,
)
from verification.kit.scripted_targets import target

if TYPE_CHECKING:
    from collections.abc import Iterator

VIDEO = {"type": "video", "url": "https://x.test/a.mp4"}
WEBM = {"type": "video", "base64": "eA==", "mime_type": "video/webm"}
AUDIO = {"type": "media", "mime_type": "audio/x", "data": "a"}
DOCUMENT = {"type": "document", "source": {"type": "url", "url": "https://x.test/a.pdf"}}
FILE = {"type": "file", "url": "https://x.test/a.pdf"}


@pytest.fixture
def sim(monkeypatch) -> Iterator[ProviderSimulator]:
    """A simulator that also stands in for api.openai.com."""
    with ProviderSimulator() as simulator:
        url = f"{simulator.base_url('openai')}/chat/completions"
        monkeypatch.setattr(OpenAIProvider, "public_url", url)
        monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
        yield simulator


class Reads(GenericFakeChatModel):
    """A LangChain model that reads whatever it is sent."""

    seen: list = []  # noqa: RUF012  # pydantic copies it

    def _generate(self, messages, *args, **kwargs):
        self.seen.append(messages[-1].content)
        return super()._generate(messages, *args, **kwargs)


OPENAI = Target("openai:m", api_key="sk-0123456789", api="chat")


def asked(block):
    """A question about a block."""
    return [HumanMessage([{"type": "text", "text": "What is this?"}, block])]


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (VIDEO, "https://x.test/a.mp4"),
        (WEBM, "data:video/webm;base64,eA=="),
        ({"type": "media", "mime_type": "video/mp4", "data": "eA=="}, "data:video/mp4;base64,eA=="),
        ({"type": "media", "mime_type": "video/mp4", "file_uri": "gs://a"}, "gs://a"),
        ({"type": "video_url", "video_url": {"url": "https://a"}}, "https://a"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_a_video_goes_to_the_target_that_takes_it(sim, block, expected, stream):
    """OpenAI is not asked, Together is, in its own form."""
    llm = ResilientChatModel(targets=[OPENAI, target(sim, "together:m")])
    if stream:
        assert list(llm.stream(asked(block)))
    else:
        attempts = llm.invoke(asked(block)).response_metadata["resilience"]["attempts"]
        assert attempts[0]["fault"] == "unsupported"
    assert [seen.target for seen in sim.requests] == ["together:m"]
    sent = sim.requests[0].body["messages"][0]["content"][1]
    assert sent == {"type": "video_url", "video_url": {"url": expected}}


@pytest.mark.parametrize("block", [FILE, VIDEO, AUDIO, DOCUMENT])
def test_a_langchain_model_reads_the_block_as_it_is(sim, block):
    """Two providers that cannot take it do not make the request wrong."""
    reads = Reads(messages=iter([AIMessage("a bear")]))
    together = [] if block is VIDEO else [target(sim, "together:m")]
    llm = ResilientChatModel(targets=[OPENAI, *together, Target(reads)])
    assert llm.invoke(asked(block)).text == "a bear"
    assert reads.seen[-1][1] == block
    assert sim.count() == 0


@pytest.mark.parametrize("block", [FILE, DOCUMENT])
@pytest.mark.parametrize("api", ["auto", "responses"])
def test_a_file_by_its_url_goes_to_the_responses_api(sim, block, api):
    """Which takes it where chat completions do not."""
    key = f"sk-0123456789-{api}-{block['type']}"
    llm = ResilientChatModel(targets=[Target("openai:m", api_key=key, api=api)])
    assert llm.invoke(asked(block)).text
    assert sim.count() == 1
    sent = sim.requests[0].body["input"][0]["content"][1]
    assert sent == {"type": "input_file", "file_url": "https://x.test/a.pdf"}


def test_where_nobody_takes_it_the_error_says_what(sim):
    """Per target, and nothing was sent or held against a target."""
    llm = ResilientChatModel(targets=[OPENAI, target(sim, "together:m")], max_retries=0)
    said = r"messages\[0\] holds a 'file' block by its URL"
    with pytest.raises(AllTargetsFailedError, match=said) as e:
        llm.invoke(asked(FILE))
    assert {a.fault.kind for a in e.value.receipt.attempts} == {FaultKind.UNSUPPORTED}
    assert sim.count() == 0
    assert llm.invoke("hi").text


def test_a_mended_conversation_keeps_its_blocks(sim):
    """A result without its call is beside it."""
    llm = ResilientChatModel(targets=[OPENAI, target(sim, "together:m")])
    llm.invoke([*asked(VIDEO), ToolMessage("3", tool_call_id="gone"), HumanMessage("So?")])
    assert sim.requests[0].body["messages"][0]["content"][1]["type"] == "video_url"


def test_an_image_in_googles_form_is_an_image():
    """Everywhere."""
    block = ForeignBlock(type="media", mime_type="image/png", data="eA==")
    (message,) = express_foreign_blocks([{"role": "user", "content": [block]}], takes_urls=False)
    assert message["content"] == [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,eA=="}}
    ]


def test_the_place_is_named():
    """Not the content, which belongs in no log."""
    block = ForeignBlock(VIDEO)
    messages = [{"role": "user", "content": "hi"}, {"role": "user", "content": [block]}]
    said = r"^messages\[1\] holds a 'video' block, which"
    with pytest.raises(UnsupportedContentError, match=said):
        express_foreign_blocks(messages, takes_urls=False)
    assert express_foreign_blocks(messages[:1], takes_urls=False) == messages[:1]
    messages[1] = {"role": "user", "content": [ForeignBlock(typ="text")]}
    said = r"^messages\[1\] holds a block without a `type`, which"
    with pytest.raises(UnsupportedContentError, match=said):
        express_foreign_blocks(messages, takes_urls=True)


# -- cache marks: for gateways to models whose prompt cache wants them -----------------------------

MARK = {"type": "ephemeral"}


def marked(text: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": text, "cache_control": MARK, **more}


MARKED = [
    SystemMessage([{"type": "text", "text": "Be brief."}, marked("These are the rules.")]),
    HumanMessage([{"type": "image", "url": "https://x.test/a", "extras": {"cache_control": MARK}}]),
    AIMessage([marked("I see")], tool_calls=[]),
    HumanMessage("Add."),
    AIMessage("", tool_calls=[{"name": "add", "args": {}, "id": "1"}]),
    ToolMessage([marked("3")], tool_call_id="1"),
]  # fmt: skip
TOOL = {"name": "add", "description": "Add.", "input_schema": {"type": "object", "properties": {}}}


def marks_of(body: dict[str, Any]) -> list[str]:
    """Where a request holds marks: the roles of its messages, and `tools`."""
    roles = [m["role"] for m in body["messages"] if '"cache_control"' in json.dumps(m)]
    return roles + (["tools"] if '"cache_control"' in json.dumps(body.get("tools")) else [])


ALL = ["system", "user", "assistant", "tool", "tools"]


@pytest.mark.parametrize("name", ["openai", "openrouter", "vercel"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_gateway_gets_the_marks(sim, name, stream):
    """One with a row, and any server that may be one."""
    llm = ResilientChatModel(
        targets=[Target(f"{name}:m", base_url=sim.base_url("openai"), api_key="k")]
    )
    bound = llm.bind_tools([{**TOOL, "cache_control": MARK}])
    assert list(bound.stream(MARKED)) if stream else bound.invoke(MARKED)
    (seen,) = sim.requests
    assert marks_of(seen.body) == ALL
    assert seen.body["messages"][0]["content"][1] == marked("These are the rules.")


@pytest.mark.parametrize("kind", ["openai", "together", "groq", "responses"])
def test_others_get_none(sim, kind):
    """Nor does a text become a list of parts by it."""
    base = sim.base_url("together" if kind == "together" else "openai")
    one = {
        "openai": lambda: Target("openai:m", api_key="sk-0123456789-marks", api="chat"),
        "together": lambda: Target("together:m", base_url=base, api_key="k"),
        "groq": lambda: Target("groq:m", base_url=base, api_key="k"),
        "responses": lambda: Target("openai:m", base_url=base, api_key="k", api="responses"),
    }[kind]()
    llm = ResilientChatModel(targets=[one]).bind_tools([{**TOOL, "cache_control": MARK}])
    llm.invoke(MARKED)
    (seen,) = sim.requests
    assert "cache_control" not in json.dumps(seen.body)
    if kind != "responses":
        contents = [m["content"] for m in seen.body["messages"]]
        assert contents[0] == "Be brief.\nThese are the rules."
        assert contents[2] == "I see"


@pytest.mark.parametrize("words", ["property 'cache_control' is unsupported", "Bad Request"])
def test_a_server_that_refuses_marks_gets_none_from_then_on(sim, words):
    """Whether or not it says why."""
    refusal = Status(400, body=json.dumps({"error": {"message": words}}))
    sim.script("openai:m", refusal, then=Reply("yes"))
    llm = ResilientChatModel(targets=[target(sim, "openai:m")], max_retries=0)
    assert [llm.invoke(MARKED).text for _ in range(2)] == ["yes", "yes"]
    assert [marks_of(seen.body) for seen in sim.requests] == [ALL[:-1], [], []]


def test_another_refusal_does_not_cost_the_marks(sim):
    """What is too long is too long without them."""
    sim.script("openai:m", ContextTooLong(limit=1), BadRequest(), BadRequest(), then=Reply("yes"))
    llm = ResilientChatModel(targets=[target(sim, "openai:m")], max_retries=0)
    for _ in range(2):
        with pytest.raises(AllTargetsFailedError):
            llm.invoke(MARKED)
    assert llm.invoke(MARKED).text == "yes"
    assert [bool(marks_of(seen.body)) for seen in sim.requests] == [True, True, False, True]


def test_a_langchain_model_gets_the_marks_as_they_are(sim):
    """It knows what its API wants."""
    reads = Reads(messages=iter([AIMessage("a")]))
    ResilientChatModel(targets=[Target(reads)]).invoke([HumanMessage([marked("hi")])])
    assert reads.seen[-1] == [marked("hi")]


def test_a_tools_extras_are_marks_too(sim):
    """As LangChain's tools have them."""

    @tool(extras={"cache_control": MARK})
    def add(a: int) -> int:
        """Add."""
        return a

    llm = ResilientChatModel(targets=[target(sim, "openai:m")])
    llm.bind_tools([add]).invoke("hi")
    assert sim.requests[0].body["tools"][0]["cache_control"] == MARK
