"""Conversations as input items of OpenAI's Responses API.

Reasoning, and the calls of tools that ran at the provider, go back to the target that made them;
for any other they are left out, for their signatures and ids are good for that one alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage, BaseMessage

from langchain_resilient.wire.json_values import json_text
from langchain_resilient.wire.messages import OWN_ITEMS, safe_id
from langchain_resilient.wire.responses import KEPT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    Item = dict[str, Any]


def input_items(
    messages: Sequence[dict[str, Any]], is_own: Callable[[AIMessage], bool], *, stored: bool
) -> list[Item]:
    """Convert a conversation.

    Args:
        messages: From `langchain_resilient.wire.messages.to_chat_messages`.
        is_own: Whether an answer was made by the target that is asked now.
        stored: Whether the provider keeps answers: then the ids of its items mean something.

    Example:
        ```python
        input_items([{"role": "user", "content": "Hi"}], lambda answer: False, stored=False)
        # [{'type': 'message', 'role': 'user', 'content': 'Hi'}]
        ```
    """
    items: list[Item] = []
    custom: set[str] = set()
    for message in messages:
        role, source = message["role"], getattr(message, "source", None)
        if role == "assistant":
            items.extend(_answer(message, source, is_own, custom, stored=stored))
        elif role == "tool":
            items.append(_output(message, source, custom))
        elif role == "function":
            said = f"Result of the tool {message.get('name')}: {message.get('content')}"
            items.append(_text_item("user", said))
        else:
            items.extend(_message(message, source))
    return items


# -- what others said ------------------------------------------------------------------------------


def _message(message: dict[str, Any], source: BaseMessage | None) -> list[Item]:
    content, role = message.get("content"), message["role"]
    own = _own_blocks(source)
    items = [block for block in own if block.get("type") in OWN_ITEMS]
    if isinstance(content, str):
        return [*items, _text_item(role, content)] if content or not items else items
    parts = [_part(block) for block in content or ()]
    parts += [b for b in own if b.get("type") == "input_image" and not b.get("image_url")]
    message_item = {"type": "message", "role": role, "content": parts}
    return [*items, message_item] if parts or not items else items


def _text_item(role: str, text: str) -> Item:
    return {"type": "message", "role": role, "content": text}


def _part(block: Any) -> Item:
    """Convert a block of a chat-completions message."""
    if isinstance(block, str):
        return {"type": "input_text", "text": block}
    kind = block.get("type")
    kept = {k: v for k, v in block.items() if k == "prompt_cache_breakpoint"}
    if kind == "text":
        return {"type": "input_text", "text": block.get("text") or "", **kept}
    if kind == "image_url":
        image = block["image_url"]
        detail = {"detail": image["detail"]} if image.get("detail") else {}
        return {"type": "input_image", "image_url": image.get("url"), **detail, **kept}
    if kind == "file":
        return {"type": "input_file", **block["file"], **kept}
    part: Item = block
    return part


def _own_blocks(source: BaseMessage | None) -> list[Item]:
    """The blocks that only this API knows, of a message as its author wrote it."""
    content = source.content if source is not None else ()
    blocks = [block for block in content if isinstance(block, dict)]
    return [b["value"] if b.get("type") == "non_standard" else b for b in blocks]


def _output(message: dict[str, Any], source: BaseMessage | None, custom: set[str]) -> Item:
    """Convert the result of a tool."""
    call_id, content = message.get("tool_call_id") or "", message.get("content") or ""
    if source is not None and (screenshot := _computer_output(source, call_id)):
        return screenshot
    output = [_part(block) for block in content] if isinstance(content, list) else content
    kind = "custom_tool_call_output" if call_id in custom else "function_call_output"
    return {"type": kind, "call_id": call_id, "output": output}


def _computer_output(source: BaseMessage, call_id: str) -> Item | None:
    """The screenshot that answers a `computer_call`."""
    extras = source.additional_kwargs
    for block in _own_blocks(source):
        if block.get("type") == "computer_call_output":
            return block
    if extras.get("type") != "computer_call_output":
        return None
    if isinstance(source.content, str):
        image: Any = {"type": "input_image", "image_url": source.content}
    else:
        images = [b for b in _own_blocks(source) if b.get("type") == "input_image"]
        if not images:
            return None
        image = images[0]
    output = {"type": "computer_call_output", "call_id": call_id, "output": image}
    checks = extras.get("acknowledged_safety_checks")
    return output if checks is None else {**output, "acknowledged_safety_checks": checks}


# -- answers ---------------------------------------------------------------------------------------


def _answer(
    message: dict[str, Any],
    source: BaseMessage | None,
    is_own: Callable[[AIMessage], bool],
    custom: set[str],
    *,
    stored: bool,
) -> list[Item]:
    calls = message.get("tool_calls") or []
    if isinstance(source, AIMessage) and isinstance(source.content, list) and is_own(source):
        items = _own_items(source, stored=stored)
        found = {item["call_id"] for item in items if item["type"] in _CALL_TYPES}
        # A mended conversation may lack calls that the answer had, or name them otherwise.
        if found <= {call["id"] for call in calls}:
            custom |= {i["call_id"] for i in items if i["type"] == "custom_tool_call"}
            missing = [call for call in calls if call["id"] not in found]
            return [*items, *map(_call_item, missing)]
    items = []
    if text := message.get("content"):
        part = {"type": "output_text", "text": text, "annotations": []}
        items.append({"type": "message", "role": "assistant", "content": [part]})
    return [*items, *map(_call_item, calls)]


_CALL_TYPES = frozenset({"function_call", "custom_tool_call"})


def _call_item(call: dict[str, Any]) -> Item:
    function = call["function"]
    return {
        "type": "function_call",
        "name": function["name"],
        "arguments": function["arguments"],
        "call_id": call["id"],
    }


def _own_items(answer: AIMessage, *, stored: bool) -> list[Item]:
    """Convert the content of an answer back to the items that it was made of."""
    calls = {call["id"]: call for call in answer.tool_calls}
    items: list[Item] = []
    lost_reasoning = False
    for block in _joined(answer.content, calls):
        kind = block.get("type")
        if kind in ("text", "output_text", "refusal"):
            _add_part(items, block, stored=stored)
        elif kind == "reasoning":
            if stored or block.get("encrypted_content"):
                items.append(block)
            else:
                lost_reasoning = True
        elif kind == "function_call" or kind in KEPT:
            items.append(_own_item(block, stored=stored))
    if lost_reasoning:
        # By its id a call would be missed the reasoning that led to it.
        for item in items:
            if item["type"] in _CALL_TYPES:
                item.pop("id", None)
    return items


def _own_item(block: Item, *, stored: bool) -> Item:
    if block["type"] == "image_generation_call" and stored:
        return {"type": block["type"], "id": block.get("id")}
    # The message with the result has the same.
    return {**block, "call_id": safe_id(block["call_id"])} if block.get("call_id") else block


def _add_part(items: list[Item], block: Item, *, stored: bool) -> None:
    """Add a piece of text to the message that it was in."""
    if block["type"] == "refusal":
        part: Item = {"type": "refusal", "refusal": block.get("refusal") or ""}
    elif isinstance(block.get("text"), str):
        annotations = [_annotation(a) for a in block.get("annotations") or ()]
        part = {"type": "output_text", "text": block["text"], "annotations": annotations}
    else:
        return
    id_, last = block.get("id"), items[-1] if items else {}
    phase = block.get("phase") or (block.get("extras") or {}).get("phase")
    if last.get("type") == "message" and id_ and last.get("id") == id_:
        last["content"].append(part)
        return
    item: Item = {"type": "message", "role": "assistant", "content": [part]}
    if id_ and stored and not id_.startswith("lc_"):
        item["id"] = id_
    if phase:
        item["phase"] = phase
    items.append(item)


def _annotation(annotation: Item) -> Item:
    """Convert a citation back, from LangChain's form or the API's own."""
    kind = annotation.get("type")
    if kind == "non_standard_annotation":
        value: Item = annotation["value"]
        return value
    if kind == "citation":
        extras = annotation.get("extras") or {}
        places: Item = {k: annotation[k] for k in ("start_index", "end_index") if k in annotation}
        title = annotation.get("title")
        if "url" in annotation:
            named = {} if title is None else {"title": title}
            return {"type": "url_citation", "url": annotation["url"], **places, **named, **extras}
        named = {} if title is None else {"filename": title}
        annotation = {"type": "file_citation", **places, **extras, **named}
    if annotation.get("type") == "file_citation" and "file_index" in annotation:
        renamed = dict(annotation)
        renamed["index"] = renamed.pop("file_index")
        return renamed
    return annotation


# -- LangChain's standard blocks, back to the API's ------------------------------------------------


def _joined(content: Iterable[Any], calls: dict[str | None, Any]) -> list[Item]:
    """Write all blocks in the API's own form; what LangChain took apart is one again."""
    joined: list[Item] = []
    for block in content:
        if isinstance(block, str):
            joined.append({"type": "text", "text": block})
            continue
        new = _without_index(block["value"] if block.get("type") == "non_standard" else block)
        kind, last = new.get("type"), joined[-1] if joined else {}
        if kind == "reasoning":
            new = _reasoning(new)
            if last.get("type") == "reasoning" and last.get("id") == new.get("id"):
                last.setdefault("summary", []).extend(new.pop("summary", []))
                joined[-1] = {**new, **last}
                continue
        elif kind == "tool_call":
            new = _function_call(new, calls)
        elif kind == "server_tool_call":
            new = _server_call(new)
        elif kind == "server_tool_result":
            if last.get("id") == new.get("tool_call_id"):
                _add_result(last, new)
                continue
            new = _search_output(new)
        elif kind == "image" and str(new.get("id")).startswith("ig_"):
            status = (new.get("extras") or {}).get("status")
            new = {"type": "image_generation_call", "id": new["id"], "result": new.get("base64")}
            new |= {"status": status} if status else {}
        joined.append(new)
    return joined


def _without_index(block: Item) -> Item:
    """Leave out the numbers by which LangChain adds up chunks."""
    new = {name: value for name, value in block.items() if name != "index"}
    if isinstance(new.get("summary"), list):
        new["summary"] = [{k: v for k, v in p.items() if k != "index"} for p in new["summary"]]
    return new


def _reasoning(block: Item) -> Item:
    if "summary" in block:
        text = block.pop("reasoning", None)
        if text and not block["summary"] and not block.get("content"):
            block["content"] = [{"type": "reasoning_text", "text": text}]
        return block
    text, extras = block.pop("reasoning", None), block.pop("extras", None) or {}
    summary = [] if text is None else [{"type": "summary_text", "text": text}]
    return {**block, **extras, "summary": [] if extras.get("content") else summary}


def _function_call(block: Item, calls: dict[str | None, Any]) -> Item:
    extras, call = block.get("extras") or {}, calls.get(block.get("id")) or block
    arguments = extras.get("arguments")
    if arguments is None:
        arguments = json_text(call.get("args") or {}, separators=(",", ":"))
    new = {
        "type": "function_call",
        "call_id": block.get("id") or "",
        "name": block.get("name") or call.get("name"),
        "arguments": arguments,
    }
    if "item_id" in extras:
        new["id"] = extras["item_id"]
    return new | {k: extras[k] for k in ("status", "namespace", "async") if k in extras}


_SERVER_TOOLS = {
    "web_search": "web_search_call",
    "file_search": "file_search_call",
    "code_interpreter": "code_interpreter_call",
    "remote_mcp": "mcp_call",
    "mcp_list_tools": "mcp_list_tools",
    "tool_search": "tool_search_call",
}
_RESULTS = {
    "file_search_call": "results",
    "code_interpreter_call": "outputs",
    "mcp_call": "output",
    "mcp_list_tools": "tools",
}
_STATUSES = {"success": "completed", "error": "failed"}


def _server_call(block: Item) -> Item:
    """Convert a call that ran at the provider; its result follows."""
    name, args = block.get("name"), block.get("args") or {}
    extras = {k: v for k, v in (block.get("extras") or {}).items() if k != "error"}
    new: Item = {"type": _SERVER_TOOLS.get(str(name), name), "id": block.get("id")}
    if name == "web_search":
        new["action"] = args
    elif name in ("file_search", "code_interpreter"):
        new |= {k: args[k] for k in ("queries", "code") if k in args}
        new |= {k: block[k] for k in ("container_id",) if k in block}
    elif name == "remote_mcp":
        new["arguments"] = extras.pop("arguments", None) or json_text(args, separators=(",", ":"))
        new["name"] = extras.pop("tool_name", None)
    elif name == "tool_search":
        new["arguments"] = args
    return new | extras


def _add_result(call: Item, result: Item) -> None:
    """Put the result of such a call back into it."""
    extras = result.get("extras") or {}
    place = _RESULTS.get(call["type"])
    if place and "output" in result:
        call[place] = result["output"]
    status = _STATUSES.get(str(result.get("status"))) or extras.get("status")
    if status and call["type"] not in ("mcp_call", "mcp_list_tools"):
        call["status"] = status
    if extras.get("error"):
        call["error"] = extras["error"]


def _search_output(result: Item) -> Item:
    """Convert the tools that a search for tools has found."""
    output = result.get("output")
    new = {"type": "tool_search_output", "id": result.get("tool_call_id"), "execution": "server"}
    status = _STATUSES.get(str(result.get("status")), result.get("status"))
    new |= {"status": status} if status else {}
    if isinstance(output, dict) and "tools" in output:
        new["tools"] = output["tools"]
    return new
