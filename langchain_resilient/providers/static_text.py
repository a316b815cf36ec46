"""A fixed text as a target: the simplest last resort."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from langchain_resilient.exchange import ChatRequest, Chunk
    from langchain_resilient.options import Target


class StaticTextProvider:
    """Answers every prompt with the target's model name, which is the text."""

    def __init__(self, target: Target) -> None:
        self._text = target.model

    async def open(self, request: ChatRequest, *, stream: bool) -> AsyncGenerator[Chunk, None]:  # noqa: ARG002
        """Answer at once; after an answer that broke off, in a paragraph of its own."""
        return self._answer("\n\n" + self._text if request.continues else self._text)

    async def _answer(self, text: str) -> AsyncGenerator[Chunk, None]:
        delta = {"role": "assistant", "content": text}
        yield {"choices": [{"index": 0, "delta": delta, "finish_reason": "stop"}]}
