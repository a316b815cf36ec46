"""What an API lacks, done on our side: an end before stop words, several answers to a request."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from langchain_resilient.wire.responses import FinishedResponse
from langchain_resilient.wire.stop_words import StopFilter, cut_blocks

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Coroutine, Iterable, Sequence

    from langchain_resilient.exchange import Chunk, ChunkStream


async def merged_answers(asking: Iterable[Coroutine[Any, Any, ChunkStream]]) -> MergedAnswers:
    """Open several answers at once and read them as one.

    Raises:
        Exception: The first failure; the other answers are closed.
    """
    tasks = [asyncio.ensure_future(one) for one in asking]
    try:
        return MergedAnswers(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        for stream in done:
            if not isinstance(stream, BaseException):
                await stream.aclose()
        raise


class MergedAnswers:
    """One answer whose choices come from several; its usage is the sum of theirs."""

    __slots__ = ("_chunks", "_streams")

    def __init__(self, streams: list[ChunkStream]) -> None:
        self._streams = streams
        self._chunks = self._read()

    def __aiter__(self) -> MergedAnswers:
        return self

    async def __anext__(self) -> Chunk:
        return await anext(self._chunks)

    async def aclose(self) -> None:
        """Close all of them."""
        await self._chunks.aclose()
        for stream in self._streams:
            with contextlib.suppress(Exception):
                await stream.aclose()

    async def _read(self) -> AsyncGenerator[Chunk, None]:
        usage: dict[str, Any] = {}
        for number, stream in enumerate(self._streams):
            async for chunk in stream:
                for choice in chunk.get("choices") or ():
                    choice["index"] = number
                given = chunk.pop("usage", None)
                if isinstance(given, dict):
                    usage = _sum(usage, given)
                yield chunk
        if usage:
            yield {"choices": [], "usage": usage}


def _sum(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    total = {**one}
    for name, value in other.items():
        known = total.get(name)
        if isinstance(value, dict):
            total[name] = _sum(known if isinstance(known, dict) else {}, value)
        elif isinstance(value, int) and isinstance(known, int):
            total[name] = known + value
        else:
            total[name] = value if known is None else known
    return total


MAX_WORDS = 4
"""So many stop words are sent: more are refused by OpenAI, and hold on our side alone."""

_NOTHING: Chunk = {"event": "", "choices": []}


def stopped(answer: ChunkStream, words: Any) -> ChunkStream:
    """End an answer before the first of some words, if there are any."""
    words = [words] if isinstance(words, str) else [word for word in words or () if word]
    return StoppedStream(answer, words) if words else answer


class StoppedStream:
    """An answer that ends before a stop word: where an API has none, refuses them or ignores them.

    What would follow is not waited for, so its usage remains unknown.

    Args:
        answer: The answer; this owns it now.
        words: The stop words.
    """

    __slots__ = (
        "_answer",
        "_block",
        "_ended",
        "_pending",
        "_reasoning",
        "_shown",
        "_stop",
        "_words",
        "rate_limit_status",
    )

    def __init__(self, answer: ChunkStream, words: Sequence[str]) -> None:
        self._answer = answer
        self._words = words
        self._stop = StopFilter(words)
        self._pending: list[Chunk] = []
        self._reasoning: list[dict[str, Any]] = []
        self._shown: list[str] = []
        self._block: int | None = None
        self._ended = False
        self.rate_limit_status = getattr(answer, "rate_limit_status", lambda: None)

    def __aiter__(self) -> StoppedStream:
        return self

    async def __anext__(self) -> Chunk:
        if self._pending:
            return self._pending.pop(0)
        if self._ended:
            raise StopAsyncIteration
        try:
            chunk = await self._answer.__anext__()
        except StopAsyncIteration:
            # Some servers end without a word about it.
            if rest := self._stop.rest():
                return self._piece(rest)
            raise
        choice = (chunk.get("choices") or [{}])[0]
        if "message" in choice:
            return self._cut(chunk)
        delta = choice.get("delta") or {}
        ends = "blocks" in delta or bool(choice.get("finish_reason"))
        if text := delta.get("content"):
            return self._text(chunk, choice, text, ends=ends)
        self._reasoning.extend(b for b in delta.get("blocks") or () if b.get("encrypted_content"))
        if ends and (rest := self._stop.rest()):
            self._pending.append(chunk)
            return self._piece(rest)
        return chunk

    def _text(self, chunk: Chunk, choice: dict[str, Any], text: str, *, ends: bool) -> Chunk:
        self._block = choice["delta"].get("block")
        shown = self._stop.feed(text)
        if self._stop.stopped:
            self._ended = True
            self._pending.append(self._end(shown))
        elif ends:
            shown += self._stop.rest()
        if shown == text:
            self._shown.append(shown)
            return chunk
        if ends and not self._stop.stopped:
            self._shown.append(shown)
            delta = {**choice["delta"], "content": shown}
            return {**chunk, "choices": [{**choice, "delta": delta}]}
        if shown:
            return self._piece(shown)
        return self._pending.pop() if self._pending else _NOTHING

    def _piece(self, text: str) -> Chunk:
        self._shown.append(text)
        delta: dict[str, Any] = {"content": text}
        if self._block is not None:
            delta["block"] = self._block
        return {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}

    def _end(self, shown: str) -> Chunk:
        """Make the end of an answer that a stop word ended, after a last piece of text."""
        chunk: Chunk = {
            "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}],
            "stopped": True,
        }
        if self._block is not None:
            said = "".join([*self._shown, shown])
            blocks = [{k: v for k, v in b.items() if k != "index"} for b in self._reasoning]
            blocks.append({"type": "text", "text": said, "annotations": []})
            chunk["response"] = FinishedResponse(blocks, {"status": "completed"})
        return chunk

    def _cut(self, chunk: Chunk) -> Chunk:
        """End a whole answer, or several."""
        finished = chunk.get("response")
        if finished is None:
            choices = [self._cut_choice(choice) for choice in chunk["choices"]]
            cut = {**chunk, "choices": choices}
            return chunk if choices == chunk["choices"] else {**cut, "stopped": True}
        blocks = cut_blocks(finished.content, self._words)
        if blocks is None:
            return chunk
        text = "".join(block["text"] for block in blocks if block.get("type") == "text")
        message = {"role": "assistant", "content": text, "blocks": blocks}
        (choice,) = chunk["choices"]
        ended = {**choice, "message": message, "finish_reason": "stop", "logprobs": None}
        finished = finished._replace(content=blocks)
        return {**chunk, "choices": [ended], "response": finished, "stopped": True}

    def _cut_choice(self, choice: dict[str, Any]) -> dict[str, Any]:
        message = choice.get("message") or {}
        text = message.get("content")
        if not isinstance(text, str):
            return choice
        stop = StopFilter(self._words)
        shown = stop.feed(text)
        if not stop.stopped:
            return choice
        cut = {**choice, "message": {**message, "content": shown}, "finish_reason": "stop"}
        if isinstance(tokens := (choice.get("logprobs") or {}).get("content"), list):
            cut["logprobs"] = {**choice["logprobs"], "content": _within(tokens, len(shown))}
        return cut

    async def aclose(self) -> object:
        """Free the connection."""
        return await self._answer.aclose()


def _within(tokens: list[dict[str, Any]], length: int) -> list[dict[str, Any]]:
    """The tokens that lie within so many characters."""
    kept, end = [], 0
    for token in tokens:
        end += len(token.get("token") or "")
        if end > length:
            break
        kept.append(token)
    return kept
