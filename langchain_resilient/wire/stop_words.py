"""Stop words that hold on our side, for APIs that have none: nothing behind one is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from langchain_core.messages import BaseMessage


class StopFilter:
    """Ends a text that comes in pieces before the first of some words.

    What may be the beginning of one is held back until it is clear.

    Args:
        words: The words; empty ones are ignored.

    Attributes:
        stopped: Whether one has come: nothing is shown any more.

    Example:
        ```python
        stop = StopFilter(["END"])
        stop.feed("one E")  # 'one '
        stop.feed("ND two")  # ''
        stop.stopped  # True
        ```
    """

    __slots__ = ("_held", "_longest", "_words", "stopped")

    def __init__(self, words: Iterable[str]) -> None:
        self._words = tuple(word for word in words if word)
        self._longest = max(map(len, self._words), default=0)
        self._held = ""
        self.stopped = False

    def feed(self, piece: str) -> str:
        """Take the next piece; return what may be shown now."""
        if self.stopped:
            return ""
        text = self._held + piece
        found = [place for word in self._words if (place := text.find(word)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        kept = self._beginning(text)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]

    def rest(self) -> str:
        """Return what was held back, once the text has ended without a stop word."""
        rest, self._held = self._held, ""
        return "" if self.stopped else rest

    def _beginning(self, text: str) -> int:
        """The length of the text's end that may be the beginning of a word."""
        for length in range(min(self._longest - 1, len(text)), 0, -1):
            end = text[-length:]
            if any(word.startswith(end) for word in self._words):
                return length
        return 0


def cut_blocks(blocks: list[dict[str, Any]], words: Iterable[str]) -> list[dict[str, Any]] | None:
    """End the text blocks of a whole answer before the first of some words.

    Returns:
        The blocks up to there, the last one shortened; None if there is no such word.
    """
    stop = StopFilter(words)
    kept: list[dict[str, Any]] = []
    for block in blocks:
        if block.get("type") != "text":
            kept.append(block)
            continue
        shown = stop.feed(block["text"]) + stop.rest()
        if stop.stopped:
            return [*kept, {**block, "text": shown, "annotations": []}]
        kept.append(block)
    return None


class MessageStop:
    """Ends the answer of a LangChain model before the first of some words, chunk by chunk.

    Args:
        words: The words, or one.

    Attributes:
        stopped: Whether one has come: what follows is not wanted.
    """

    __slots__ = ("_filter",)

    def __init__(self, words: Iterable[str] | str) -> None:
        self._filter = StopFilter([words] if isinstance(words, str) else words)

    @property
    def stopped(self) -> bool:
        """Whether a word has come."""
        return self._filter.stopped

    def rest(self) -> str:
        """Return what was held back, once the answer has ended without a stop word."""
        return self._filter.rest()

    def cut(self, value: Any) -> Any:
        """Take the next piece of an answer, or a whole one; return what may be shown of it."""
        whole = getattr(value, "type", "") != "AIMessageChunk"
        if isinstance(value, str):
            return self._shown(value, ends=True)
        if not isinstance(getattr(value, "content", None), str | list):
            return value
        metadata = value.response_metadata
        ends = whole or value.chunk_position == "last" or any(map(metadata.get, _ENDS))
        content = self._content(value, ends=ends)
        if content == value.content and not self.stopped:
            return value
        changes: dict[str, Any] = {"content": content}
        if self.stopped:
            changes["response_metadata"] = {**metadata, "finish_reason": "stop"}
        return value.model_copy(update=changes)

    def _content(self, message: BaseMessage, *, ends: bool) -> Any:
        if isinstance(message.content, str):
            return self._shown(message.content, ends=ends)
        kept: list[Any] = []
        last = len(message.content) - 1
        for place, block in enumerate(message.content):
            if self.stopped:
                break
            if isinstance(block, str):
                kept.append(self._shown(block, ends=ends and place == last))
            elif block.get("type") == "text" and isinstance(block.get("text"), str):
                text = self._shown(block["text"], ends=ends and place == last)
                kept.append({**block, "text": text})
            else:
                kept.append(block)
        if ends and (rest := self._filter.rest()):
            kept.append({"type": "text", "text": rest})
        return kept

    def _shown(self, text: str, *, ends: bool) -> str:
        shown = self._filter.feed(text)
        return shown + self._filter.rest() if ends else shown


_ENDS = ("finish_reason", "stop_reason", "done_reason")
"""Where LangChain's integrations say that an answer has ended."""
