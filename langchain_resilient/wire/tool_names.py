"""Names of tools that APIs refuse: sent under others, and given back under their own."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from langchain_core.messages import BaseMessage

    from langchain_resilient.exchange import Chunk, ChunkStream

_LEGAL = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_OTHER = re.compile(r"[^a-zA-Z0-9_-]")
_KEPT = 55
"""Characters of a name that stay; the rest tells names apart that would become the same."""


def function_name(name: str) -> str:
    """Fit a tool's name into what OpenAI takes, `[a-zA-Z0-9_-]{1,64}`; most stay as they are.

    Different names stay different, and the same is the same in every turn of a conversation.

    Example:
        ```python
        function_name("files/read")  # 'files_read_8d0c7c1e', say
        ```
    """
    if _LEGAL.fullmatch(name):
        return name
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{_OTHER.sub('_', name)[:_KEPT]}_{digest}"


def rename_tools(body: dict[str, Any]) -> dict[str, str] | None:
    """Give the tools of a request names that every API takes; only the outermost dict is changed.

    Returns:
        The original names by the new ones; None if nothing was renamed.
    """
    renamed: dict[str, str] = {}
    for tool in body["tools"]:
        function = tool.get("function")
        name = function.get("name") if isinstance(function, dict) else None
        if isinstance(name, str) and not _LEGAL.fullmatch(name):
            renamed[function_name(name)] = name
    if not renamed:
        return None
    body["tools"] = [_renamed(tool) for tool in body["tools"]]
    choice = body.get("tool_choice")
    if isinstance(choice, dict):
        body["tool_choice"] = _renamed(choice)
    return renamed


def _renamed(holder: dict[str, Any]) -> dict[str, Any]:
    function = holder.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        return holder
    return {**holder, "function": {**function, "name": function_name(function["name"])}}


def renamed_tools(tools: Sequence[Any]) -> dict[str, str]:
    """Return the names of tools that not every API takes, by those under which they are sent."""
    named = [tool.get("function") for tool in tools if isinstance(tool, dict)]
    names = [function.get("name") for function in named if isinstance(function, dict)]
    return {function_name(n): n for n in names if isinstance(n, str) and not _LEGAL.fullmatch(n)}


def has_odd_names(messages: Iterable[BaseMessage]) -> bool:
    """Whether a conversation of LangChain's holds calls of tools with such names."""
    return any(
        not _LEGAL.fullmatch(call["name"] or "x")
        for message in messages
        if isinstance(message, AIMessage)
        for call in (*message.tool_calls, *message.invalid_tool_calls)
    )


class RenamedCalls:
    """An answer whose tool calls get their own names back."""

    __slots__ = ("_names", "_stream")

    def __init__(self, stream: ChunkStream, names: dict[str, str]) -> None:
        self._stream = stream
        self._names = names

    def __aiter__(self) -> RenamedCalls:
        return self

    async def __anext__(self) -> Chunk:
        chunk = await self._stream.__anext__()
        choices = chunk.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict):
                self._give_back(choice.get("delta") or choice.get("message"))
        if (finished := chunk.get("response")) is not None:
            self._give_back_blocks(finished.content)
        return chunk

    def _give_back_blocks(self, blocks: Any) -> None:
        """Name the calls in the blocks of the Responses API."""
        for block in blocks if isinstance(blocks, list) else ():
            if isinstance(block, dict) and block.get("name") in self._names:
                block["name"] = self._names[block["name"]]

    def _give_back(self, part: Any) -> None:
        if not isinstance(part, dict):
            return
        self._give_back_blocks(part.get("blocks"))
        calls = part.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            function = call.get("function") if isinstance(call, dict) else None
            if isinstance(function, dict) and function.get("name") in self._names:
                function["name"] = self._names[function["name"]]

    async def aclose(self) -> Any:
        """Close the stream."""
        return await self._stream.aclose()

    def rate_limit_status(self) -> Any:
        """The provider's rate limits, as the answer's head told them."""
        status = getattr(self._stream, "rate_limit_status", None)
        return status() if status is not None else None
