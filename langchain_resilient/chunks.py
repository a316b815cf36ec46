"""Adding up the chunks of a stream, where a break may have replaced what came before it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from langchain_core.language_models.chat_models import generate_from_stream

from langchain_resilient.wire.native import REPLACED_KEY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from langchain_core.messages import AIMessageChunk, BaseMessage, BaseMessageChunk
    from langchain_core.outputs import ChatGenerationChunk, ChatResult

T = TypeVar("T")


def sum_chunks(chunks: Iterable[AIMessageChunk]) -> AIMessageChunk:
    """Add up the chunks of a stream, without those that were replaced after a break.

    With `on_break="replace"` a chunk whose `response_metadata` holds `resilience_replaced` says
    that all before it is void. LangChain's `+` does not know that; for all other streams, and those
    of other models, this is the same as `+`.

    Args:
        chunks: What `stream` or `astream` gave, in order. A sum of the first ones may stand first.

    Returns:
        The message so far; with the end of the stream, the whole answer.

    Raises:
        ValueError: If there are none.

    Example:
        ```python
        from langchain_resilient import sum_chunks

        chunks = [chunk async for chunk in llm.astream("Hello", on_break="replace")]
        sum_chunks(chunks).text  # the answer, of one target
        ```
    """
    current = _since_replaced(chunks, lambda chunk: chunk)
    if not current:
        msg = "there are no chunks to add up"
        raise ValueError(msg)
    first, *others = current
    return first + others if others else first


class Watched:
    """The chunks of an `invoke` that streaming handlers see, and the message that they make.

    LangChain's own way (`BaseChatModel._generate_with_cache`) adds up all that was shown, also what
    was replaced. Else this is the same: what handlers are told, and how the answer is made.

    Args:
        run_id: The run that the chunks belong to.
        output_version: The model's field: `"v1"` makes blocks of all content.

    Example:
        ```python
        watched = Watched(run_manager.run_id, self.output_version)
        for chunk in chunks:
            watched.add(chunk)
            run_manager.on_llm_new_token(chunk.message.content, chunk=chunk)
        return watched.result()
        ```
    """

    def __init__(self, run_id: Any, output_version: str | None) -> None:
        self._id = f"lc_run--{run_id}"
        self._in_blocks = output_version == "v1"
        self._kind = ""
        self._place = -1
        self._chunks: list[ChatGenerationChunk] = []

    def add(self, chunk: ChatGenerationChunk) -> None:
        """Take a chunk in, and make it ready to be shown."""
        message = chunk.message
        message.id = message.id or self._id
        info = chunk.generation_info or {}
        message.response_metadata = {**info, **message.response_metadata}
        if self._in_blocks:
            chunk.message = self._as_blocks(message)
        self._chunks.append(chunk)

    def _as_blocks(self, message: BaseMessageChunk) -> BaseMessageChunk:
        """Write all content as blocks; those of one kind that follow each other are one."""
        blocks: list[dict[str, Any]] = [{**block} for block in message.content_blocks]
        for block in blocks:
            if block["type"] != self._kind:
                self._kind = block["type"]
                self._place += 1
            block.setdefault("index", self._place)
        told = {**message.response_metadata, "output_version": "v1"}
        return message.model_copy(update={"content": blocks, "response_metadata": told})

    def result(self) -> ChatResult:
        """Make what `_generate` returns."""
        return generate_from_stream(iter(_since_replaced(self._chunks, lambda c: c.message)))


def _since_replaced(chunks: Iterable[T], message: Callable[[T], BaseMessage]) -> list[T]:
    """Drop what was replaced."""
    current: list[T] = []
    for chunk in chunks:
        if REPLACED_KEY in message(chunk).response_metadata:
            current.clear()
        current.append(chunk)
    return current
