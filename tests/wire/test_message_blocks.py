"""Content blocks in the forms of LangChain, OpenAI, Anthropic and others."""

import warnings
from functools import partial

import pytest
from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage

from langchain_resilient.wire.foreign_blocks import ForeignBlock, ForeignMessages
from langchain_resilient.wire.messages import to_chat_messages

PNG = {"type": "image_url", "image_url": {"url": "data:image/png;base64,eA=="}}
LINK = {"type": "image_url", "image_url": {"url": "https://x.test/a.png"}}
PDF = {
    "type": "file",
    "file": {"filename": "attachment.pdf", "file_data": "data:application/pdf;base64,eA=="},
}
WAV = {"type": "input_audio", "input_audio": {"data": "eA==", "format": "wav"}}


def part(block):
    """What a block becomes in a user message, beside another that keeps it in a list."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (result,) = to_chat_messages([HumanMessage([block, PNG])])
    assert result["content"][1:] == [PNG]
    return result["content"][0]


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (PNG, PNG),
        ({"type": "image_url", "image_url": "https://x.test/a.png"}, LINK),
        ({"type": "image", "base64": "eA==", "mime_type": "image/png"}, PNG),
        ({"type": "image", "url": "https://x.test/a.png"}, LINK),
        ({"type": "image", "source_type": "base64", "data": "eA==", "mime_type": "image/png"}, PNG),
        ({"type": "image", "source_type": "url", "url": "https://x.test/a.png"}, LINK),
        (
            {
                "type": "image",
                "source": {"type": "base64", "media_type": "image/png", "data": "eA=="},
            },
            PNG,
        ),
        ({"type": "image", "source": {"type": "url", "url": "https://x.test/a.png"}}, LINK),
        ({"image": {"format": "png", "source": {"bytes": b"x"}}}, PNG),
        ({"type": "media", "mime_type": "image/png", "data": b"x"}, PNG),
    ],
)
def test_images(block, expected):
    """An image in any of the known forms becomes an `image_url`."""
    assert part(block) == expected


@pytest.mark.parametrize("where", [{"detail": "low"}, {"extras": {"detail": "low"}}])
def test_the_detail_of_an_image(where):
    """How closely to look at an image is not lost."""
    block = {"type": "image", "base64": "eA==", "mime_type": "image/png", **where}
    assert part(block)["image_url"] == {**PNG["image_url"], "detail": "low"}
    assert part({"type": "image", "url": "u", **where})["image_url"] == {
        "url": "u",
        "detail": "low",
    }


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ({"type": "file", "base64": "eA==", "mime_type": "application/pdf"}, PDF),
        (
            {
                "type": "file",
                "source_type": "base64",
                "data": "eA==",
                "mime_type": "application/pdf",
            },
            PDF,
        ),
        ({"type": "file", "file": {"file_data": "data:application/pdf;base64,eA=="}}, PDF),
        (
            {
                "type": "document",
                "source": {"type": "base64", "media_type": "application/pdf", "data": "eA=="},
            },
            PDF,
        ),
        ({"type": "file", "file": {"file_id": "f"}}, {"type": "file", "file": {"file_id": "f"}}),
        ({"type": "file", "file_id": "f"}, {"type": "file", "file": {"file_id": "f"}}),
    ],
)
def test_files(block, expected):
    """A file in any of the known forms becomes OpenAI's, named, without a warning."""
    assert part(block) == expected


def test_files_keep_their_names():
    """A name that was given is the name that is sent."""
    block = {"type": "file", "base64": "eA==", "mime_type": "application/pdf"}
    assert part({**block, "filename": "a.pdf"})["file"]["filename"] == "a.pdf"
    assert part({**block, "extras": {"filename": "a.pdf"}})["file"]["filename"] == "a.pdf"
    source = {"type": "base64", "media_type": "application/pdf", "data": "eA=="}
    assert part({"type": "document", "title": "T", "source": source})["file"]["filename"] == "T"


@pytest.mark.parametrize("mime", ["audio/wav", "audio/x-wav", "audio/wave"])
def test_audio(mime):
    """Audio is named as OpenAI names it."""
    assert part({"type": "audio", "base64": "eA==", "mime_type": mime}) == WAV
    assert part(WAV) == WAV
    mp3 = part({"type": "audio", "base64": "eA==", "mime_type": "audio/mpeg"})
    assert mp3["input_audio"]["format"] == "mp3"


@pytest.mark.parametrize(
    "block",
    [
        {"type": "text", "text": "a", "citations": None},
        {"type": "text-plain", "text": "a", "mime_type": "text/plain"},
        {"type": "text-plain", "base64": "YQ==", "mime_type": "text/plain"},
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "a"}},
        {"type": "guard_content", "guard_content": {"text": "a"}},
        {"guard_content": {"text": "a"}},
        {"text": "a"},
        {"type": None, "text": "a"},
    ],
)
def test_text(block):
    """Text is text, without the marks of one provider."""
    assert part(block) == {"type": "text", "text": "a"}


@pytest.mark.parametrize("kind", ["thinking", "reasoning", "tool_call", "non_standard"])
def test_foreign_blocks_are_dropped(kind):
    """Blocks that only their own provider understands are left out."""
    assert to_chat_messages([HumanMessage([{"type": kind}, "a"])]) == [
        {"role": "user", "content": "a"}
    ]


@pytest.mark.parametrize(
    "block",
    [
        {"type": "file", "url": "https://x.test/a.pdf"},
        {"type": "document", "source": {"type": "url", "url": "https://x.test/a.pdf"}},
        {"type": "video", "base64": "eA==", "mime_type": "video/mp4"},
        {"type": "image", "base64": "eA=="},
        {"type": "image", "base64": "eA==", "detail": "low"},
        {"type": "image", "file_id": "f", "detail": "low"},
        {"type": "media", "mime_type": "video/mp4", "file_uri": "gs://x/a.mp4"},
        {"cachePoint": {"type": "default"}},
        {},
    ],
)
def test_what_cannot_be_said_is_left_to_the_targets(block):
    """A block without a form in chat completions stays, and is told from the others."""
    made = to_chat_messages([HumanMessage("Hi"), HumanMessage([block, "and", PNG])])
    assert isinstance(made, ForeignMessages)
    first, text, image = made[1]["content"]
    assert (first, type(first)) == (block, ForeignBlock)
    assert (text, image) == ({"type": "text", "text": "and"}, PNG)


@pytest.mark.parametrize(
    ("block", "said"),
    [
        (
            {"type": "text-plain", "base64": "/w==", "mime_type": "text/plain"},
            "a `text-plain` block holds no UTF-8 text",
        ),
        ({"type": "text"}, "a text block holds no text"),
        ({"type": "text", "text": None}, "a text block holds no text"),
        ({"type": "text", "text": 5}, "a text block holds no text"),
    ],
)
@pytest.mark.parametrize(
    "kind",
    [HumanMessage, SystemMessage, partial(ToolMessage, tool_call_id="1")],
    ids=["user", "system", "tool"],
)
def test_a_text_that_is_none_is_said(kind, block, said):
    """No target could read it; by its place in the conversation."""
    with pytest.raises(ValueError, match=rf"^messages\[1\]\.content\[2\]: {said}$"):
        to_chat_messages([HumanMessage("Hi"), kind(["and", PNG, block])])
    result = {"type": "tool_result", "tool_use_id": "1", "content": [block]}
    place = r"messages\[0\]\.content\[0\]: content\[0\]"
    with pytest.raises(ValueError, match=rf"^{place}: {said}$"):
        to_chat_messages([HumanMessage([result])])


def test_a_text_without_a_type_keeps_its_mark():
    """As one with a type does."""
    mark = {"cache_control": {"type": "ephemeral"}}
    made = [
        to_chat_messages([HumanMessage([{**t, "text": "a", **mark}])])
        for t in ({}, {"type": "text"})
    ]
    assert made[0] == made[1]
    assert made[0][0]["content"] == [{"type": "text", "text": "a", **mark}]
