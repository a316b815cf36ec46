"""One stream as LangChain sees it, over all the targets that had a part in it.

A stream that breaks after some of its text was delivered goes on at another target: continued where
it stopped, or replaced by a new answer behind a marker. `Telling` joins the parts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from langchain_resilient.receipt import Break
from langchain_resilient.wire.continuation import Join, continued, joined, may_continue
from langchain_resilient.wire.deltas import Deltas

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from langchain_core.outputs import ChatGenerationChunk

    from langchain_resilient.engine.events import Attempt
    from langchain_resilient.engine.ports import Sequel
    from langchain_resilient.engine.race import Race
    from langchain_resilient.engine.show import Leg
    from langchain_resilient.policy import OnBreak
    from langchain_resilient.request import ChatRequest, Chunk
    from langchain_resilient.target import Target
    from langchain_resilient.wire.draft import Draft


class Continuation:
    """The next target goes on from the delivered text, by a prompt."""

    appends = True

    def __init__(self, request: ChatRequest) -> None:
        self._request = request

    def may_follow(self, draft: Draft) -> bool:
        """Not after JSON or a tool call: half of one cannot be gone on from by a prompt."""
        return may_continue(self._request, draft)

    def request(self, drafts: Sequence[Draft]) -> ChatRequest:
        """Ask for the rest."""
        tokens = sum([draft.tokens() for draft in drafts])
        return replace(continued(self._request, told(drafts), tokens), continues=True)


class Replacement:
    """The next target answers anew."""

    appends = False

    def __init__(self, request: ChatRequest) -> None:
        self._request = request

    def may_follow(self, _: Draft) -> bool:
        """Always: nothing is added to what was delivered."""
        return True

    def request(self, _: Sequence[Draft]) -> ChatRequest:
        """Ask the same."""
        return self._request


def sequel(on_break: OnBreak, request: ChatRequest) -> Sequel | None:
    """Choose what follows a break."""
    if on_break == "raise":
        return None
    return Continuation(request) if on_break == "continue" else Replacement(request)


def told(drafts: Sequence[Draft]) -> str:
    """Put together what was delivered of several answers that each went on from the one before."""
    text = ""
    for number, draft in enumerate(drafts):
        text = joined(text, draft.shown, finished=False) if number else draft.shown
    return text


class Telling:
    """Turns the items of `Race.chunks` into LangChain's chunks. Each stream needs its own.

    Args:
        on_break: What follows a break.
        target_of: Which target an attempt went to.

    Attributes:
        add: Converts one chunk; another after each `turn`.
    """

    __slots__ = ("_deltas", "_join", "_legs", "_on_break", "_target_of", "add")

    def __init__(self, on_break: OnBreak, target_of: Callable[[Attempt], Target]) -> None:
        self._on_break = on_break
        self._target_of = target_of
        self._legs: list[Leg] = []
        self._join: Join | None = None
        self._deltas = Deltas("")
        self.add: Callable[[Chunk], ChatGenerationChunk | None] = self._deltas.add

    def turn(self, leg: Leg) -> ChatGenerationChunk | None:
        """Begin the next part.

        Returns:
            The marker that says that all before it is replaced, where it is.
        """
        self._legs.append(leg)
        if len(self._legs) == 1:
            self._deltas = Deltas(self._target_of(leg.attempt).provider)
            self.add = self._deltas.add
            return None
        self._deltas.turn()
        if self._on_break == "replace":
            return self._deltas.marker(_replaced(self._broken()[-1]))
        self._join = Join(told([leg.attempt.draft for leg in self._legs[:-1]]))
        self.add = self._add_joined
        return None

    def _add_joined(self, chunk: Chunk) -> ChatGenerationChunk | None:
        """Convert a chunk of a continuation, without what it only repeats."""
        piece, join = self._deltas.add(chunk), self._join
        if piece is None or join is None:
            return piece
        content = piece.message.content
        if not isinstance(content, str):
            self._join = None
            return piece
        shown = join.feed(content)
        if join.settled:
            self._join = None
        if shown == content:
            return piece
        if shown:
            return self._deltas.text(shown)
        return piece if _says_more(piece) else None

    def rest(self) -> ChatGenerationChunk | None:
        """What was held back at the end, because it might have been a repetition."""
        shown = self._join.finish() if self._join is not None else ""
        return self._deltas.text(shown) if shown else None

    def last(self, winner: Attempt) -> ChatGenerationChunk:
        """Make the chunk that ends the stream."""
        return self._deltas.last(winner.draft, self._target_of(winner).model)

    @property
    def partial(self) -> str | None:
        """The text that was delivered; None if nothing was."""
        if not self._legs:
            return None
        legs = self._legs[-1:] if self._on_break == "replace" else self._legs
        return told([leg.attempt.draft for leg in legs])

    def breaks(self, race: Race) -> tuple[Break, ...]:
        """Where the stream broke, and what was done about it."""
        over = race.winner is None and race.end is not None
        return tuple(
            Break(
                target=leg.attempt.lane.state.name,
                seconds=(leg.attempt.ended or race.started) - race.started,
                characters=characters,
                fault=leg.attempt.fault,
                action="raised" if leg is self._legs[-1] else _DONE[self._on_break],
            )
            for leg, characters in self._broken(with_last=over)
        )

    def _broken(self, *, with_last: bool = False) -> list[tuple[Leg, int]]:
        """The parts that broke, each with the characters that had been delivered by its end."""
        legs = self._legs if with_last else self._legs[:-1]
        alone = self._on_break == "replace"
        drafts = [leg.attempt.draft for leg in legs]
        return [
            (leg, len(told(drafts[i : i + 1] if alone else drafts[: i + 1])))
            for i, leg in enumerate(legs)
        ]


_DONE: dict[OnBreak, Any] = {"continue": "continued", "replace": "replaced", "raise": "raised"}


def _replaced(broken: tuple[Leg, int]) -> dict[str, Any]:
    leg, characters = broken
    found = {"target": leg.attempt.lane.state.name, "characters": characters}
    fault = leg.attempt.fault
    return found if fault is None else {**found, "fault": fault.kind.value}


def _says_more(piece: Any) -> bool:
    message = piece.message
    return bool(message.additional_kwargs or message.tool_call_chunks or piece.generation_info)
