"""Content blocks: what LangChain's own conversion does not know, or gets wrong, is mended here."""

from __future__ import annotations

import base64
import binascii
import mimetypes
from typing import Any

_THOUGHTS = frozenset({"reasoning", "reasoning_content", "thinking", "redacted_thinking"})

_DROPPED = _THOUGHTS | {
    "tool_call",
    "tool_call_chunk",
    "invalid_tool_call",
    "server_tool_call",
    "server_tool_call_chunk",
    "server_tool_result",
    "server_tool_use",
    "non_standard",
}
"""Blocks that only their own provider could read. OpenAI and Together refuse them with a 400."""

_AUDIO_FORMATS = {"mpeg": "mp3", "x-wav": "wav", "wave": "wav", "vnd.wave": "wav"}


def said_blocks(content: Any) -> tuple[str, str, list[dict[str, Any]]]:
    """Read the content of an answer, in any provider's form.

    Returns:
        Its text, its refusal, and the tool calls that stand in it as `id`, `name`, `args`. Whatever
        else there is cannot be sent back: chat completions take nothing else from an assistant.
    """
    if isinstance(content, str):
        return content, "", []
    text, refusal = [], []
    calls: list[dict[str, Any]] = []
    for block in content:
        if isinstance(block, str):
            text.append(block)
            continue
        kind = block.get("type")
        if kind in {"text", None} and isinstance(block.get("text"), str):
            text.append(block["text"])
        elif kind == "refusal":
            refusal.append(str(block.get("refusal") or ""))
        elif kind == "tool_use":
            calls.append(
                {"id": block.get("id"), "name": block.get("name"), "args": block.get("input")}
            )
        elif kind == "function_call":
            args = block.get("arguments")
            calls.append({"id": block.get("call_id"), "name": block.get("name"), "args": args})
        elif kind == "tool_call":
            calls.append(block)
    return "".join(text), "".join(refusal), calls


def mend_blocks(content: list[str | dict[Any, Any]]) -> list[str | dict[Any, Any]]:
    """Prepare the blocks of a message for `convert_to_openai_messages`, without changing them.

    Raises:
        ValueError: If a block cannot be expressed in chat completions.
    """
    found = []
    for block in content:
        mended = block if isinstance(block, str) else _mend(block)
        if mended is not None:
            found.append(mended)
    return found


def _mend(block: dict[Any, Any]) -> dict[Any, Any] | None:
    kind = block.get("type")
    if kind in _DROPPED:
        return None
    mender = _MENDERS.get(kind) if isinstance(kind, str) else None
    return mender(block) if mender else block


def _image_url(block: dict[Any, Any]) -> dict[Any, Any]:
    url = block.get("image_url")
    # An early form of LangChain's: the address alone.
    return {**block, "image_url": {"url": url}} if isinstance(url, str) else block


def _image(block: dict[Any, Any]) -> dict[Any, Any]:
    source = block.get("source")
    if isinstance(source, dict) and source.get("type") == "url":  # Anthropic's
        return {"type": "image_url", "image_url": {"url": source.get("url")}}
    detail = block.get("detail") or _dict(block.get("extras")).get("detail")
    data, mime_type = block.get("base64") or block.get("data"), block.get("mime_type")
    url = block.get("url") or (data and mime_type and f"data:{mime_type};base64,{data}")
    if not detail or source or not url:
        return block
    return {"type": "image_url", "image_url": {"url": url, "detail": detail}}


def _file(block: dict[Any, Any]) -> dict[Any, Any]:
    """Name a file: OpenAI wants it, and LangChain would warn about the name that it gives."""
    if block.get("source_type") == "text":
        return _text(block.get("text") or block.get("url"))
    if isinstance(block.get("file"), dict):  # OpenAI's own form
        file = block["file"]
        if "file_data" not in file or file.get("filename"):
            return block
        media = str(file["file_data"]).partition(";")[0].removeprefix("data:")
        return {**block, "file": {**file, "filename": _filename(media)}}
    if id_ := block.get("file_id") or (block.get("source_type") == "id" and block.get("id")):
        return {"type": "file", "file": {"file_id": id_}}
    places = (block, _dict(block.get("extras")), _dict(block.get("metadata")))
    if any(place.get("filename") for place in places) or not (
        block.get("base64") or block.get("data")
    ):
        return block
    return {**block, "filename": _filename(block.get("mime_type"))}


def _audio(block: dict[Any, Any]) -> dict[Any, Any]:
    kind, _, form = str(block.get("mime_type") or "").partition("/")
    if form not in _AUDIO_FORMATS:
        return block
    return {**block, "mime_type": f"{kind}/{_AUDIO_FORMATS[form]}"}


def _document(block: dict[Any, Any]) -> dict[Any, Any]:
    """Anthropic's form of a file."""
    source = _dict(block.get("source"))
    kind, data = source.get("type"), source.get("data")
    if kind == "text":
        return _text(data)
    if kind != "base64":
        raise ValueError(
            f"a document by {kind!r} cannot be sent to chat completions; give its data"
        )
    media = source.get("media_type")
    name = block.get("title") or _filename(media)
    file = {"filename": name, "file_data": f"data:{media};base64,{data}"}
    return {"type": "file", "file": file}


def _plain_text(block: dict[Any, Any]) -> dict[Any, Any]:
    if block.get("text") is not None:
        return _text(block["text"])
    try:
        return _text(base64.b64decode(block.get("base64") or "", validate=True).decode())
    except (binascii.Error, UnicodeDecodeError):
        raise ValueError("a `text-plain` block holds no UTF-8 text") from None


def _tool_result(block: dict[Any, Any]) -> dict[Any, Any]:
    content = block.get("content") or ""
    return {**block, "content": mend_blocks(content) if isinstance(content, list) else content}


def _filename(mime_type: Any) -> str:
    return f"attachment{mimetypes.guess_extension(str(mime_type)) or ''}"


def _text(text: Any) -> dict[Any, Any]:
    return {"type": "text", "text": str(text or "")}


def _dict(value: Any) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}


_MENDERS = {
    "image_url": _image_url,
    "image": _image,
    "file": _file,
    "audio": _audio,
    "document": _document,
    "text-plain": _plain_text,
    "tool_result": _tool_result,
}
