"""One stream as LangChain sees it, over all the targets that had a part in it.

A stream that breaks after some of its text was delivered goes on at another target: continued where
it stopped, or replaced by a new answer behind a marker. `StreamAssembler` joins the parts.
"""

from __future__ import annotations

from collections.abc import Iterable  # noqa: TC003  # in the hints of `sum_chunks`
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from langchain_core.language_models.chat_models import generate_from_stream
from langchain_core.messages import AIMessageChunk  # noqa: TC002  # in the hints of `sum_chunks`

from langchain_resilient.engine.stream_buffer import Segment
from langchain_resilient.receipt import Break
from langchain_resilient.wire.continuation import (
    ContinuationJoiner,
    continuation_request,
    join_texts,
    may_continue,
    token_limit,
)
from langchain_resilient.wire.output import ChunkConverter, replace_text
from langchain_resilient.wire.passthrough import REPLACED_KEY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from langchain_core.messages import BaseMessage, BaseMessageChunk
    from langchain_core.messages.ai import UsageMetadata
    from langchain_core.outputs import ChatGenerationChunk, ChatResult

    from langchain_resilient.engine.attempt import Attempt
    from langchain_resilient.engine.interfaces import BreakStrategy
    from langchain_resilient.engine.race import Race
    from langchain_resilient.exchange import ChatRequest, Chunk
    from langchain_resilient.options import Target
    from langchain_resilient.policies import OnBreak
    from langchain_resilient.wire.accumulator import ResponseAccumulator


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


class ChunkCollector:
    """The chunks of an `invoke` that streaming handlers see, and the message that they make.

    LangChain's own way (`BaseChatModel._generate_with_cache`) adds up all that was shown, also what
    was replaced. Else this is the same: what handlers are told, and how the answer is made.

    Args:
        run_id: The run that the chunks belong to.
        output_version: The model's field: `"v1"` makes blocks of all content.

    Example:
        ```python
        watched = ChunkCollector(run_manager.run_id, self.output_version)
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
        fields = {**message.response_metadata, "output_version": "v1"}
        return message.model_copy(update={"content": blocks, "response_metadata": fields})

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


class Continuation:
    """The next target goes on from the delivered text, by a prompt."""

    appends = True

    def __init__(self, request: ChatRequest) -> None:
        self._request = request

    def may_follow(self, response: ResponseAccumulator) -> bool:
        """Not after JSON or a tool call: half of one cannot be gone on from by a prompt."""
        return may_continue(self._request, response)

    def request(self, responses: Sequence[ResponseAccumulator]) -> ChatRequest:
        """Ask for the rest."""
        tokens = sum([response.given_tokens() for response in responses])
        return replace(
            continuation_request(self._request, delivered_text(responses), tokens), continues=True
        )

    def used_up(self, responses: Sequence[ResponseAccumulator]) -> bool:
        """Whether the limit of the answer's length is reached; the last one then says so."""
        limit = token_limit(self._request)
        if limit is None or sum([response.given_tokens() for response in responses]) < limit:
            return False
        if not may_continue(self._request, responses[-1]):
            return False
        responses[-1].cut_by_length()
        return True


class Replacement:
    """The next target answers anew."""

    appends = False

    def __init__(self, request: ChatRequest) -> None:
        self._request = request

    def may_follow(self, response: ResponseAccumulator) -> bool:  # noqa: ARG002
        """Always: nothing is added to what was delivered."""
        return True

    def request(self, responses: Sequence[ResponseAccumulator]) -> ChatRequest:  # noqa: ARG002
        """Ask the same."""
        return self._request

    def used_up(self, responses: Sequence[ResponseAccumulator]) -> bool:  # noqa: ARG002
        """Never: the next answer begins anew."""
        return False


class Completion:
    """The next target goes on where that can be done; where it cannot, it answers anew.

    For `invoke`: handlers see the parts, but what its caller waits for is a whole answer.
    """

    def __init__(self, request: ChatRequest) -> None:
        self.appends = True
        self._request = request
        self._continuation = Continuation(request)
        self._start = 0

    def may_follow(self, response: ResponseAccumulator) -> bool:  # noqa: ARG002
        """Always, in the one way or the other."""
        return True

    def request(self, responses: Sequence[ResponseAccumulator]) -> ChatRequest:
        """Ask for the rest of what came since the last answer that was begun anew, or anew."""
        current = responses[self._start :]
        self.appends = bool(current) and self._continuation.may_follow(current[-1])
        if self.appends:
            return self._continuation.request(current)
        self._start = len(responses)
        return self._request

    def used_up(self, responses: Sequence[ResponseAccumulator]) -> bool:
        """As of a continuation, since the last answer that was begun anew."""
        current = responses[self._start :]
        return bool(current) and self._continuation.used_up(current)


Audience = Literal["reader", "handlers", "events"]
"""Whom a stream is for: who reads its chunks; callback handlers, while its caller waits for the
message; or LangChain's events of `version="v3"`, which add it up and have no place for a marker."""


def break_strategy_for(
    on_break: OnBreak, request: ChatRequest, audience: Audience
) -> BreakStrategy | None:
    """Choose what follows a break."""
    if on_break == "raise":
        return None
    if on_break == "replace" and audience != "events":
        return Replacement(request)
    return Completion(request) if audience == "handlers" else Continuation(request)


def delivered_text(responses: Sequence[ResponseAccumulator]) -> str:
    """Put together what was delivered of several answers that each went on from the one before."""
    text = ""
    for number, response in enumerate(responses):
        visible = response.visible_text
        text = join_texts(text, visible, finished=False) if number else visible
    return text


class StreamAssembler:
    """Turns the items of `Race.chunks` into LangChain's chunks. Each stream needs its own.

    Args:
        break_strategy: What follows a break; it knows whether that is added or replaces.
        target_of: Which target an attempt went to.
    """

    __slots__ = (
        "_break_strategy",
        "_deltas",
        "_held",
        "_id",
        "_join",
        "_segments",
        "_starts",
        "_target_of",
    )  # fmt: skip

    def __init__(
        self, break_strategy: BreakStrategy | None, target_of: Callable[[Attempt], Target]
    ) -> None:
        self._break_strategy = break_strategy
        self._target_of = target_of
        self._segments: list[Segment] = []
        # For each segment, the number of that with which its answer began.
        self._starts: list[int] = []
        self._join: ContinuationJoiner | None = None
        self._held: list[ChatGenerationChunk] = []
        self._id: str | None = None
        self._deltas = ChunkConverter("")

    @property
    def add(self) -> Callable[[Chunk], ChatGenerationChunk | None]:
        """Converts one chunk; another after each `turn`."""
        return self._deltas.add if len(self._segments) <= 1 else self._add_more

    def turn(self, segment: Segment) -> ChatGenerationChunk | None:
        """Begin the next part.

        Returns:
            The marker that says that all before it is replaced, where it is.
        """
        self._segments.append(segment)
        if len(self._segments) == 1:
            self._starts.append(0)
            self._deltas = ChunkConverter(self._target_of(segment.attempt).provider)
            return None
        messages = self._segments[0].attempt.response.native
        self._id = messages[0].id if messages else None
        self._deltas.start_next_answer()
        self._join, self._held = None, []
        if self._break_strategy is not None and self._break_strategy.appends:
            self._starts.append(self._starts[-1])
            self._join = ContinuationJoiner(self._text_up_to(len(self._segments) - 2))
            return None
        self._starts.append(len(self._segments) - 1)
        return self._with_first_id(self._deltas.replacement_marker(self._replaced()))

    def _add_more(self, chunk: Chunk) -> ChatGenerationChunk | None:
        """Convert a chunk of a later part; of a continuation without what it only repeats."""
        piece = self._deltas.add(chunk)
        if piece is not None and self._join is not None:
            piece = self._trimmed(piece, self._join)
        return self._with_first_id(piece) if piece is not None else None

    def _trimmed(
        self, piece: ChatGenerationChunk, join: ContinuationJoiner
    ) -> ChatGenerationChunk | None:
        text = str(piece.message.text)
        if not text:
            return piece
        self._held.append(piece)
        shown = join.feed(text)
        return self._released(shown) if join.settled else None

    def _released(self, shown: str) -> ChatGenerationChunk | None:
        """Let go what was held back of a continuation, with so much of its text."""
        held, self._held, self._join = self._held, [], None
        if not held:
            return None
        piece = held[0] + held[1:] if len(held) > 1 else held[0]
        return piece if shown == piece.message.text else replace_text(piece, shown)

    def kept(self, attempt: Attempt | None) -> Iterator[ChatGenerationChunk]:
        """Convert a weak answer that was held back, if there is one, since none is better."""
        if attempt is None:
            return
        self.turn(Segment(attempt))
        for chunk in attempt.pending_chunks:
            if (piece := self.add(chunk)) is not None:
                yield piece

    def rest(self) -> ChatGenerationChunk | None:
        """What was held back at the end, because it might have been a repetition."""
        if self._join is None:
            return None
        rest = self._join.finish()
        # Of an answer that was complete, white space may be all that is left to say.
        piece = self._released(rest if rest.strip() else "")
        return self._with_first_id(piece) if piece is not None else None

    def last(self, winner: Attempt) -> ChatGenerationChunk:
        """Make the chunk that ends the stream."""
        piece = self._deltas.last_chunk(winner.response, self._target_of(winner).model)
        if len(self._segments) == 1:
            return piece
        self._add_delivered(piece)
        return self._with_first_id(piece)

    def _add_delivered(self, piece: ChatGenerationChunk) -> None:
        """Make the usage that of the whole answer: of each part what the reader was given."""
        message: Any = piece.message  # always an AIMessageChunk
        number = len(self._segments) - 1
        first = self._starts[number]
        usage: UsageMetadata | None = message.usage_metadata
        if usage is None or first == number:
            return
        responses = [segment.attempt.response for segment in self._segments[first:]]
        *before, last = responses
        shown = len(delivered_text(responses)) - len(delivered_text(before))
        reasoning = usage.get("output_token_details", {}).get("reasoning", 0)
        # What the last part only repeated was given once.
        new = round((usage["output_tokens"] - reasoning) * shown / max(1, len(last.visible_text)))
        given = sum([response.given_tokens() for response in before]) + reasoning + max(0, new)
        message.usage_metadata = {
            **usage,
            "output_tokens": given,
            "total_tokens": usage["input_tokens"] + given,
        }

    def _with_first_id(self, piece: ChatGenerationChunk) -> ChatGenerationChunk:
        """Give a chunk of a later part the id of the first ones; None is LangChain's to fill."""
        piece.message.id = self._id
        return piece

    @property
    def partial(self) -> str | None:
        """The text that was delivered; None if nothing was."""
        return self._text_up_to(len(self._segments) - 1) if self._segments else None

    def _text_up_to(self, number: int) -> str:
        """Put together what was delivered of the answer that one part belongs to, with it."""
        segments = self._segments[self._starts[number] : number + 1]
        return delivered_text([segment.attempt.response for segment in segments])

    def breaks(self, race: Race) -> tuple[Break, ...]:
        """Where the stream broke, and what was done about it."""
        over = race.winner is None and race.end is not None
        return tuple(
            [
                Break(
                    target=segment.attempt.candidate.state.name,
                    seconds=(segment.attempt.ended or race.started) - race.started,
                    characters=len(self._text_up_to(number)),
                    fault=segment.attempt.fault,
                    action=self._action(number),
                )
                for number, segment in enumerate(self._segments if over else self._segments[:-1])
            ]
        )

    def _action(self, number: int) -> Literal["continued", "replaced", "raised"]:
        after = self._starts[number + 1 : number + 2]
        if not after:
            return "raised"
        return "replaced" if after[0] == number + 1 else "continued"

    def _replaced(self) -> dict[str, Any]:
        """Tell what the newest part replaces."""
        number = len(self._segments) - 2
        broken = self._segments[number].attempt
        replaced = {
            "target": broken.candidate.state.name,
            "characters": len(self._text_up_to(number)),
        }
        return replaced if broken.fault is None else {**replaced, "fault": broken.fault.kind.value}
