"""What a provider wants back of its own answers: reasoning, signatures of thoughts.

DeepSeek and Kimi refuse a history with tool calls whose reasoning is missing, Gemini one without
the signatures of its calls, and OpenRouter passes on what its providers sent as
`reasoning_details`. All of it goes back to the target that made it, and to nobody else: another
provider would refuse it, or read thoughts that are not its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from langchain_core.messages import AIMessage, BaseMessage

RECEIPT_KEY = "resilience"
"""The key of the receipt in `response_metadata`."""

CALLS_KEY = "tool_call_extra_content"
"""In `additional_kwargs`: by the id of a call, what its provider wants back with it."""

REASONING_FIELD_KEY = "reasoning_field"
"""In `response_metadata`: under which name the reasoning came, where it is not the usual one."""

_REASONING = "reasoning_content"
_THOUGHTS = frozenset({_REASONING, "reasoning"})

FIELDS = _THOUGHTS | {"reasoning_details", "extra_content"}
"""The names of the fields in a request."""

_KEPT = frozenset({_REASONING, "reasoning_details", "extra_content", CALLS_KEY})


class OwnedMessage(dict[str, Any]):
    """An assistant's message for anyone, which remembers what its maker wants back.

    Whoever copies it or writes it down gets the plain message.

    Attributes:
        maker: The name of the target that made it.
        state: Fields of the message, by name.
        call_state: Fields of its calls: `extra_content` by their id.
        source: The LangChain message, where that holds more than text and calls.
    """

    __slots__ = ("call_state", "maker", "source", "state")

    def __init__(
        self,
        message: Mapping[str, Any],
        maker: str,
        state: Mapping[str, Any],
        call_state: Mapping[str, Any],
        source: BaseMessage | None = None,
    ) -> None:
        super().__init__(message)
        self.source = source
        self.maker = maker
        self.state = state
        self.call_state = call_state

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as the plain message."""
        return dict, (dict(self),)

    def with_state(self, refused: Collection[str], *, all_thoughts: bool) -> dict[str, Any]:
        """Return the message for its maker; see `give_back`."""
        withheld = set(refused)
        if not all_thoughts and not self.get("tool_calls"):
            withheld |= _THOUGHTS
        message = {**self, **{k: v for k, v in self.state.items() if k not in withheld}}
        if self.call_state and "extra_content" not in refused:
            message["tool_calls"] = [
                {**call, "extra_content": self.call_state[call["id"]]}
                if call.get("id") in self.call_state
                else call
                for call in self.get("tool_calls") or ()
            ]
        return message


def owned(
    wire: dict[str, Any], message: AIMessage, safe_id: Callable[[str], str]
) -> dict[str, Any]:
    """Attach what the maker of an answer wants back; the same message if there is nothing.

    Args:
        wire: The answer as a chat-completions message.
        message: The answer; the receipt in its metadata tells who made it.
        safe_id: How the ids of its calls were shortened.
    """
    extras, receipt = message.additional_kwargs, message.response_metadata.get(RECEIPT_KEY)
    if not (extras.keys() & _KEPT and isinstance(receipt, dict) and receipt.get("winner")):
        return wire
    if receipt.get("breaks"):
        return wire  # several targets made it
    state = {
        name: extras[name] for name in ("reasoning_details", "extra_content") if name in extras
    }
    if extras.get(_REASONING) and "reasoning_details" not in state:  # which say the same
        field = message.response_metadata.get(REASONING_FIELD_KEY) or _REASONING
        state[field] = extras[_REASONING]
    calls = extras.get(CALLS_KEY)
    call_state = {safe_id(k): v for k, v in calls.items()} if isinstance(calls, dict) else {}
    return OwnedMessage(wire, receipt["winner"], state, call_state)


def give_back(
    messages: list[dict[str, Any]],
    target: str,
    refused: Collection[str] = (),
    *,
    all_thoughts: bool = False,
) -> list[dict[str, Any]]:
    """Put into a conversation what one target wants back of its own answers.

    Args:
        messages: The conversation for anyone; it is not changed.
        target: The target's name.
        refused: Fields that it turned out not to take.
        all_thoughts: Whether it wants the reasoning of answers without tool calls too, which some
            servers refuse.

    Returns:
        The same list if nothing of it is the target's.

    Example:
        ```python
        give_back(request.messages, "deepseek:deepseek-chat")
        ```
    """
    if not any(_is_of(message, target) for message in messages):
        return messages
    return [
        message.with_state(refused, all_thoughts=all_thoughts)
        if isinstance(message, OwnedMessage) and message.maker == target
        else message
        for message in messages
    ]


def _is_of(message: dict[str, Any], target: str) -> bool:
    return isinstance(message, OwnedMessage) and message.maker == target
