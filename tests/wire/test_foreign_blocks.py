"""Videos, files by URL and the like: to the targets that take them, and past those that do not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from langchain_resilient import AllTargetsFailedError, FaultKind, ResilientChatModel, Target
from langchain_resilient.providers.openai import OpenAIProvider
from langchain_resilient.testing import ProviderSimulator
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
