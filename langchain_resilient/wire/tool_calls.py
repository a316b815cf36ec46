"""Tools and the choice among them, as request parameters.

Names that APIs refuse are sent under others, and given back under their own.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage
from langchain_core.utils.function_calling import convert_to_openai_tool

from langchain_resilient.wire.foreign_blocks import CACHE_MARK
from langchain_resilient.wire.schemas import completed, to_function

if TYPE_CHECKING:
    from collections.abc import Iterable

    from langchain_core.messages import BaseMessage

    from langchain_resilient.exchange import Chunk, ChunkStream


_SHORT = re.compile(r"[a-zA-Z0-9]{9}")

SHORT_ID_MODELS = re.compile(r"tool call ids?\b.*\blength (?:of )?9\b", re.IGNORECASE | re.DOTALL)
"""What a server says that wants them: Mistral's API, and the template of its models in vLLM."""


def shorten_call_ids(messages: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give each tool call an id of nine letters and digits, and its result the same.

    Equal ids stay equal, in every turn, so that prompt caches hold. Ids that fit stay.

    Args:
        messages: In the chat-completions dialect; they stay as they are.

    Example:
        ```python
        shorten_call_ids([{"role": "tool", "tool_call_id": "call_1", "content": "3"}])
        ```
    """
    return [_short(message) for message in messages]


def _short(message: dict[str, Any]) -> dict[str, Any]:
    if "tool_call_id" in message:
        return {**message, "tool_call_id": shorten_id(message["tool_call_id"])}
    if calls := message.get("tool_calls"):
        return {**message, "tool_calls": [{**c, "id": shorten_id(c["id"])} for c in calls]}
    return message


def shorten_id(id_: str) -> str:
    """Make an id of nine letters and digits; one that is that already stays."""
    if _SHORT.fullmatch(id_):
        return id_
    return hashlib.sha256(id_.encode(errors="surrogatepass")).hexdigest()[:9]


if TYPE_CHECKING:
    from langchain_core.tools import BaseTool

    Tool = Mapping[str, Any] | type | Callable[..., Any] | BaseTool


_FUNCTIONS = frozenset(
    {"function", "object", "array", "string", "number", "integer", "boolean", "null"}
)
"""The `type` of a dict that describes a function: OpenAI's form, or a JSON schema."""

_MODES = {"auto": "auto", "none": "none", "any": "required", "required": "required"}


def to_tools(tools: Sequence[Tool], strict: bool | None = None) -> list[dict[str, Any]]:
    """Convert what `bind_tools` takes to chat-completions tools.

    Args:
        tools: LangChain tools, functions, pydantic or TypedDict classes, or dicts (OpenAI's form,
            Anthropic's, Bedrock's, a JSON schema with a title).
        strict: Whether the model must keep to the schema exactly; None leaves it to the provider.

    Raises:
        ValueError: If one of them is no tool; the message says which.

    Example:
        ```python
        def add(a: int, b: int) -> int:
            '''Add two numbers.'''


        to_tools([add])[0]["function"]["name"]  # 'add'
        ```
    """
    return [_to_tool(tool, index, strict) for index, tool in enumerate(tools)]


def _to_tool(tool: Tool, index: int, strict: bool | None) -> dict[str, Any]:
    if isinstance(tool, Mapping) and (own := _provider_tool(tool)) is not None:
        return own
    try:
        if isinstance(tool, dict) and isinstance(tool.get("function"), dict):
            return _completed(tool)  # says itself whether it is strict
        if _is_custom(tool):
            return convert_to_openai_tool(tool)
        return {"type": "function", "function": to_function(tool, strict), **_cache_mark(tool)}
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"tools[{index}] ({getattr(tool, '__name__', type(tool).__name__)}) is no tool: {error}"
        ) from error


def _cache_mark(tool: Any) -> dict[str, Any]:
    """The mark that a prompt is to be cached up to a tool, if it has one."""
    said = tool if isinstance(tool, Mapping) else getattr(tool, "extras", None)
    return (
        {CACHE_MARK: said[CACHE_MARK]} if isinstance(said, Mapping) and CACHE_MARK in said else {}
    )


def _provider_tool(tool: Mapping[str, Any]) -> dict[str, Any] | None:
    """Keep a custom or built-in tool as what it is; None for a function, in any provider's form."""
    kind = tool.get("type")
    if not isinstance(kind, str) or kind in _FUNCTIONS or "input_schema" in tool:
        return None
    if kind == "custom" and "custom" not in tool:  # as the Responses API has it
        return {"type": kind, "custom": {k: v for k, v in tool.items() if k != "type"}}
    return dict(tool)


def _completed(tool: dict[str, Any]) -> dict[str, Any]:
    parameters = tool["function"].get("parameters")
    whole = completed(parameters) if isinstance(parameters, dict) else parameters
    if whole is parameters:
        return tool
    return {**tool, "function": {**tool["function"], "parameters": whole}}


def _is_custom(tool: Any) -> bool:
    """Whether a LangChain tool stands for one of OpenAI's custom kind."""
    return (getattr(tool, "metadata", None) or {}).get("type") == "custom_tool"


def tool_name(tool: Mapping[str, Any]) -> str | None:
    """Name of a converted tool; None for a provider's built-in one."""
    named = tool.get("function") or tool.get("custom") or tool
    return named.get("name")


def to_tool_choice(
    choice: str | bool | Mapping[str, Any] | None, tools: Sequence[Mapping[str, Any]]
) -> str | dict[str, Any] | None:
    """Convert what `bind_tools(tool_choice=...)` takes.

    Args:
        choice: `"auto"`, `"none"`, `"any"` or `"required"` or True (some tool must be called), the
            name of a tool, a dict in any provider's form (`{"type": "any"}`, `{"type": "tool",
            "name": ...}`), None or False (nothing is said).
        tools: The tools, as `to_tools` made them.

    Returns:
        The request's `tool_choice`; None where there should be none.

    Raises:
        ValueError: If it names no tool, or is none of these.

    Example:
        ```python
        to_tool_choice("any", tools)  # 'required'
        ```
    """
    names = [name for name in map(tool_name, tools) if name]
    if choice is None or choice is False:
        return None
    if choice is True:
        return "required"
    if isinstance(choice, Mapping):
        return _translated(dict(choice), names)
    if isinstance(choice, str):
        # A tool may be called "auto"; then that is what is meant.
        if choice in names:
            return {"type": "function", "function": {"name": choice}}
        if choice in _MODES:
            return _MODES[choice]
        if any(tool.get("type") == choice for tool in tools):
            return {"type": choice}
    raise ValueError(
        f"tool_choice={choice!r} is not possible; it may be 'auto', 'none', 'any', 'required', "
        f"True, False, None, a dict like {{'type': 'function', 'function': {{'name': ...}}}}, "
        f"or the name of a bound tool: {', '.join(map(repr, names)) or 'none is bound'}"
    )


def _translated(choice: dict[str, Any], names: list[str]) -> str | dict[str, Any]:
    """Translate a dict in any provider's form: OpenAI's two, Anthropic's, Amazon's, Google's."""
    google = choice.get("function_calling_config")
    if isinstance(google, Mapping):
        choice = {"type": str(google.get("mode") or "auto").lower()}
    kind = choice.get("type")
    if kind is None and (key := next(iter(choice), "")) in ("any", "auto", "tool"):
        kind = key  # Amazon's: {"any": {}}, {"tool": {"name": ...}}
        choice = choice[key] if isinstance(choice[key], Mapping) else {}
    if kind in _MODES:
        return _MODES[kind]
    if kind not in ("tool", "function", None):
        return choice  # a built-in or custom tool, or `allowed_tools`
    function = choice.get("function")
    name = (function if isinstance(function, Mapping) else choice).get("name")
    if name not in names:
        raise ValueError(
            f"tool_choice names the tool {name!r}, which is not bound; "
            f"bound are: {', '.join(map(repr, names)) or 'none'}"
        )
    return {"type": "function", "function": {"name": name}}


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
