"""Content that chat completions have no form for: a video, a file by its URL, a provider's own.

Some targets read it all the same: servers that take `video_url`, LangChain models of other vendors.
So it stays in the conversation, and each target says for itself that it cannot take it.
"""

from __future__ import annotations

import copy
from typing import Any

Message = dict[str, Any]


class ForeignBlock(dict[str, Any]):
    """A content block as it was given."""


CACHE_MARK = "cache_control"
"""Up to here a prompt is to be cached: Anthropic's mark, which gateways to its models pass on."""


class MarkedBlock(ForeignBlock):
    """A part of a message in the chat-completions dialect, but for its cache mark."""


class ForeignMessages(list[Message]):
    """A conversation that holds such blocks."""


class UnsupportedContentError(ValueError):
    """A target cannot take what a message holds."""


def express_foreign_blocks(
    messages: list[Message],
    *,
    takes_urls: bool,
    takes_files: bool = False,
    takes_marks: bool = False,
) -> list[Message]:
    """Write a conversation's foreign blocks as an API takes them.

    Args:
        messages: In the chat-completions dialect; they stay as they are.
        takes_urls: Whether the API may know `video_url`, `audio_url` and the like, which Together
            and many compatible servers do, and OpenAI does not.
        takes_files: Whether it takes files by their URLs, which the Responses API does.
        takes_marks: Whether it wants cache marks.

    Raises:
        UnsupportedContentError: If one cannot be written; says which, by its place and type.

    Example:
        ```python
        block = ForeignBlock(type="video", url="https://example.com/a.mp4")
        messages = [{"role": "user", "content": [block]}]
        express_foreign_blocks(messages, takes_urls=True)[0]["content"][0]["type"]  # 'video_url'
        ```
    """
    expressed = []
    for index, message in enumerate(messages):
        content = message.get("content")
        if isinstance(content, list) and any(isinstance(b, ForeignBlock) for b in content):
            blocks = [
                _file(b) if takes_files and _is_file(b) else _expressed(b, index, takes_urls)
                for b in content
            ]
            message = copy.copy(message)  # noqa: PLW2901  # which may know where it is from
            message["content"] = blocks
        expressed.append(message)
    return expressed if takes_marks else without_marks(expressed)


def without_marks(messages: list[Message]) -> list[Message]:
    """Take the cache marks out of a conversation; what is then all text becomes one.

    Args:
        messages: In the chat-completions dialect; they stay as they are.
    """
    plain = []
    for message in messages:
        content = message.get("content")
        if isinstance(content, list) and any(map(_is_marked, content)):
            parts = [_without_mark(part) for part in content]
            message = copy.copy(message)  # noqa: PLW2901  # which may know where it is from
            texts = all(part.keys() == {"type", "text"} for part in parts)
            joint = "" if message["role"] == "assistant" else "\n"
            message["content"] = joint.join([p["text"] for p in parts]) if texts else parts
        plain.append(message)
    return plain


def tools_without_marks(tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Take the cache marks out of tools; the same list if there are none."""
    return list(map(_without_mark, tools)) if any(map(_is_marked, tools)) else tools


def _is_marked(part: Any) -> bool:
    return isinstance(part, dict) and CACHE_MARK in part


def _without_mark(part: Any) -> Any:
    return {k: v for k, v in part.items() if k != CACHE_MARK} if _is_marked(part) else part


def _is_file(block: Any) -> bool:
    return isinstance(block, ForeignBlock) and bool(_file_url(block))


def _file_url(block: ForeignBlock) -> Any:
    if block.get("type") == "file":
        return block.get("url")
    source = block.get("source")
    is_document = block.get("type") == "document" and isinstance(source, dict)
    return source.get("url") if is_document and isinstance(source, dict) else None


def _file(block: ForeignBlock) -> dict[str, Any]:
    return {"type": "file", "file": {"file_url": _file_url(block)}}


def _expressed(block: Any, index: int, takes_urls: bool) -> Any:  # one of two forms
    if not isinstance(block, ForeignBlock):
        return block
    if isinstance(block, MarkedBlock):
        return dict(block)
    kind = str(block.get("type"))
    if takes_urls and kind.endswith("_url"):
        return dict(block)
    media = str(block.get("mime_type") or "")
    is_video = kind == "video" or (kind == "media" and media.startswith("video/"))
    if takes_urls and is_video and (url := _url(block, media or "video/mp4")):
        return {"type": "video_url", "video_url": {"url": url}}
    if kind == "media" and media.startswith("image/") and (url := _url(block, media)):
        return {"type": "image_url", "image_url": {"url": url}}
    by_url = " by its URL" if kind in ("file", "document") else ""
    what = f"a {kind!r} block{by_url}" if block.get("type") else "a block without a `type`"
    msg = f"messages[{index}] holds {what}, which this target cannot take"
    raise UnsupportedContentError(msg)


def _url(block: ForeignBlock, media: str) -> str | None:
    if url := block.get("url") or block.get("file_uri"):
        return str(url)
    data = block.get("base64") or block.get("data")
    return f"data:{media};base64,{data}" if isinstance(data, str) and data else None
