"""One request in the chat-completions dialect, made once and shared by every attempt."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Chunk = dict[str, Any]
"""A decoded `chat.completion.chunk`, or a whole `chat.completion` where the answer came plainly."""


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """Messages and parameters for any target. Nothing in it may be changed by whoever reads it.

    Attributes:
        messages: Chat-completions messages.
        defaults: Parameters for all targets; a target's own go before them.
        overrides: Parameters of this call; they go before a target's own.
        source: The messages as LangChain gave them, for targets that are LangChain models.
        native: The call's LangChain keyword arguments (tools, ...), for the same.
        continues: Whether it asks for the rest of an answer whose beginning was delivered.
    """

    messages: list[dict[str, Any]]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    overrides: Mapping[str, Any] = field(default_factory=dict)
    source: Sequence[Any] = ()
    native: Mapping[str, Any] = field(default_factory=dict)
    continues: bool = False

    def body(self, target_params: Mapping[str, Any]) -> dict[str, Any]:
        """Merge into one new request body: call before target before model.

        Only the outermost dict is new; the messages and schemas in it are shared.

        Args:
            target_params: What the target itself sets.

        Returns:
            The body without `model` and `stream`, which the provider adds.
        """
        return {
            **self.defaults,
            **target_params,
            **self.overrides,
            "messages": self.messages,
        }
