"""A conversation with tools that any provider takes: each call with its result, no result alone.

Agents are interrupted between a call and its result, memories are trimmed in the middle of a turn,
models write arguments that are no JSON. Providers refuse what is left with a 400, each in its own
words: https://docs.langchain.com/oss/python/langgraph/errors/INVALID_CHAT_HISTORY.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json

from langchain_resilient.wire.messages import SourcedMessage
from langchain_resilient.wire.provider_state import OwnedMessage

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    Message = dict[str, Any]


NOT_RUN = "This call was not run: there is no result."
"""What stands for the result of a call that has none."""


def repair_conversation(messages: list[Message]) -> list[Message]:
    """Mend what tool calls and their results lack.

    A call without a result gets one that says so. A result without its call becomes a user's text,
    and so does a call whose arguments are no JSON object, which some chat templates cannot print.
    A result is moved to its call. A missing or repeated id is replaced by one that is the same in
    every turn of the conversation, so that prompt caches hold.

    Args:
        messages: From `to_chat_messages`; they stay as they are.

    Returns:
        The same list if nothing is wrong with it.

    Example:
        ```python
        repaired([{"role": "tool", "tool_call_id": "gone", "name": "add", "content": "3"}])
        # [{'role': 'user', 'content': 'Result of the tool add: 3'}]
        ```
    """
    return messages if _sound(messages) else _Conversation(messages).told()


def _sound(messages: Iterable[Message]) -> bool:
    pending: set[str] = set()
    for message in messages:
        if message["role"] == "tool":
            if message.get("tool_call_id") not in pending:
                return False
            pending.remove(message["tool_call_id"])
            continue
        if pending:
            return False
        if calls := message.get("tool_calls"):
            pending = {call["id"] for call in calls}
            if len(pending) < len(calls) or "" in pending or not all(map(_readable, calls)):
                return False
    return not pending


def _readable(call: Mapping[str, Any]) -> bool:
    try:
        return isinstance(from_json(call["function"]["arguments"]), dict)
    except ValueError:
        return False


class _PendingCall:
    """One call on the way to its result."""

    __slots__ = ("id", "result", "turn", "wire")

    def __init__(self, wire: Message, turn: int, id_: str) -> None:
        self.wire = wire
        self.turn = turn
        self.id = id_
        self.result: Message | None = None

    def told(self) -> Message:
        """Its result, or a word that there is none."""
        result = self.result or {"role": "tool", "content": NOT_RUN}
        return {**result, "tool_call_id": self.id}


class _Conversation:
    """A conversation whose calls look for their results."""

    def __init__(self, messages: list[Message]) -> None:
        self._messages = messages
        self._calls: dict[int, list[_PendingCall]] = {}
        self._results: set[int] = set()
        open_calls: dict[str, list[_PendingCall]] = {}
        for index, message in enumerate(messages):
            if message["role"] == "tool":
                self._match(index, message, open_calls)
            elif message.get("tool_calls"):
                self._calls[index] = _readable_calls(message, index)
                for call in self._calls[index]:
                    open_calls.setdefault(call.wire["id"], []).append(call)

    def _match(
        self, index: int, result: Message, open_calls: dict[str, list[_PendingCall]]
    ) -> None:
        """Give a result to the first open call of that id, in the latest message that has one."""
        waiting = open_calls.get(result.get("tool_call_id") or "")
        if waiting:
            call = next(call_ for call_ in waiting if call_.turn == waiting[-1].turn)
            waiting.remove(call)
            call.result = result
            self._results.add(index)

    def told(self) -> list[Message]:
        """The conversation, mended."""
        result: list[Message] = []
        for index, message in enumerate(self._messages):
            if index in self._calls:
                calls = self._calls[index]
                result.append(_calling(message, calls))
                result.extend(call.told() for call in calls)
            elif message["role"] != "tool":
                result.append(message)
            elif index not in self._results:
                result.append(_orphan(message))
        return result


def _readable_calls(message: Message, index: int) -> list[_PendingCall]:
    pending: list[_PendingCall] = []
    for number, wire in enumerate(message["tool_calls"]):
        if _readable(wire):
            taken = not wire["id"] or any(call.id == wire["id"] for call in pending)
            pending.append(
                _PendingCall(wire, index, _made_id(wire, index, number) if taken else wire["id"])
            )
    return pending


def _made_id(wire: Message, index: int, number: int) -> str:
    text = json.dumps([index, number, wire], sort_keys=True)
    return f"call_{hashlib.sha256(text.encode()).hexdigest()[:24]}"


def _calling(message: Message, calls: list[_PendingCall]) -> Message:
    """Write the calls that can be read as calls, the others as text."""
    if isinstance(message, OwnedMessage) and len(calls) == len(message["tool_calls"]):
        mended = {**message, "tool_calls": [{**call.wire, "id": call.id} for call in calls]}
        return OwnedMessage(
            mended, message.maker, message.state, message.call_state, message.source
        )
    new: Message = {name: value for name, value in message.items() if name != "tool_calls"}
    if isinstance(message, SourcedMessage):
        new = SourcedMessage(new, message.source)
    if calls:
        new["tool_calls"] = [{**call.wire, "id": call.id} for call in calls]
    unreadable = [
        f"(Call of the tool {w['function']['name']} with unreadable arguments: "
        f"{w['function']['arguments']})"
        for w in message["tool_calls"]
        if not _readable(w)
    ]
    if unreadable:
        new["content"] = "\n".join([*filter(None, [message.get("content")]), *unreadable])
    return new


def _orphan(message: Message) -> Message:
    """A result whose call is gone, or could not be read: the model may still want to know it."""
    name, content = message.get("name"), message.get("content") or ""
    head = f"Result of the tool {name}:" if name else "Result of a tool:"
    if isinstance(content, list):
        return {"role": "user", "content": [{"type": "text", "text": head}, *content]}
    return {"role": "user", "content": f"{head} {content}"}
