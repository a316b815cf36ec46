"""One stream as LangChain sees it, over all the targets that had a part in it.

A stream that breaks after some of its text was delivered goes on at another target: continued where
it stopped, or replaced by a new answer behind a marker. `Telling` joins the parts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from langchain_resilient.receipt import Break
from langchain_resilient.wire.continuation import Join, continued, joined, may_continue
from langchain_resilient.wire.deltas import Deltas, shortened

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

    def may_follow(self, draft: Draft) -> bool:  # noqa: ARG002
        """Always: nothing is added to what was delivered."""
        return True

    def request(self, drafts: Sequence[Draft]) -> ChatRequest:  # noqa: ARG002
        """Ask the same."""
        return self._request


class Completion:
    """The next target goes on where that can be done; where it cannot, it answers anew.

    For `invoke`: handlers see the parts, but what its caller waits for is a whole answer.
    """

    def __init__(self, request: ChatRequest) -> None:
        self.appends = True
        self._request = request
        self._continuation = Continuation(request)
        self._start = 0

    def may_follow(self, draft: Draft) -> bool:  # noqa: ARG002
        """Always, in the one way or the other."""
        return True

    def request(self, drafts: Sequence[Draft]) -> ChatRequest:
        """Ask for the rest of what came since the last answer that was begun anew, or anew."""
        current = drafts[self._start :]
        self.appends = bool(current) and self._continuation.may_follow(current[-1])
        if self.appends:
            return self._continuation.request(current)
        self._start = len(drafts)
        return self._request


Audience = Literal["reader", "handlers", "events"]
"""Whom a stream is for: who reads its chunks; callback handlers, while its caller waits for the
message; or LangChain's events of `version="v3"`, which add it up and have no place for a marker."""


def sequel(on_break: OnBreak, request: ChatRequest, audience: Audience) -> Sequel | None:
    """Choose what follows a break."""
    if on_break == "raise":
        return None
    if on_break == "replace" and audience != "events":
        return Replacement(request)
    return Completion(request) if audience == "handlers" else Continuation(request)


def told(drafts: Sequence[Draft]) -> str:
    """Put together what was delivered of several answers that each went on from the one before."""
    text = ""
    for number, draft in enumerate(drafts):
        text = joined(text, draft.shown, finished=False) if number else draft.shown
    return text


class Telling:
    """Turns the items of `Race.chunks` into LangChain's chunks. Each stream needs its own.

    Args:
        sequel: What follows a break; it knows whether that is added or replaces.
        target_of: Which target an attempt went to.

    Attributes:
        add: Converts one chunk; another after each `turn`.
    """

    __slots__ = ("_deltas", "_held", "_id", "_join", "_legs", "_sequel", "_starts", "_target_of",
                 "add")  # fmt: skip

    def __init__(self, sequel: Sequel | None, target_of: Callable[[Attempt], Target]) -> None:
        self._sequel = sequel
        self._target_of = target_of
        self._legs: list[Leg] = []
        # For each leg, the number of that with which its answer began.
        self._starts: list[int] = []
        self._join: Join | None = None
        self._held: list[ChatGenerationChunk] = []
        self._id: str | None = None
        self._deltas = Deltas("")
        self.add: Callable[[Chunk], ChatGenerationChunk | None] = self._deltas.add

    def turn(self, leg: Leg) -> ChatGenerationChunk | None:
        """Begin the next part.

        Returns:
            The marker that says that all before it is replaced, where it is.
        """
        self._legs.append(leg)
        if len(self._legs) == 1:
            self._starts.append(0)
            self._deltas = Deltas(self._target_of(leg.attempt).provider)
            self.add = self._deltas.add
            return None
        said = self._legs[0].attempt.draft.native
        self._id = said[0].id if said else None
        self._deltas.turn()
        self.add = self._add_more
        self._join, self._held = None, []
        if self._sequel is not None and self._sequel.appends:
            self._starts.append(self._starts[-1])
            self._join = Join(self._told(len(self._legs) - 2))
            return None
        self._starts.append(len(self._legs) - 1)
        return self._same(self._deltas.marker(self._replaced()))

    def _add_more(self, chunk: Chunk) -> ChatGenerationChunk | None:
        """Convert a chunk of a later part; of a continuation without what it only repeats."""
        piece = self._deltas.add(chunk)
        if piece is not None and self._join is not None:
            piece = self._trimmed(piece, self._join)
        return self._same(piece) if piece is not None else None

    def _trimmed(self, piece: ChatGenerationChunk, join: Join) -> ChatGenerationChunk | None:
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
        return piece if shown == piece.message.text else shortened(piece, shown)

    def rest(self) -> ChatGenerationChunk | None:
        """What was held back at the end, because it might have been a repetition."""
        if self._join is None:
            return None
        rest = self._join.finish()
        # Of an answer that was complete, white space may be all that is left to say.
        piece = self._released(rest if rest.strip() else "")
        return self._same(piece) if piece is not None else None

    def last(self, winner: Attempt) -> ChatGenerationChunk:
        """Make the chunk that ends the stream."""
        piece = self._deltas.last(winner.draft, self._target_of(winner).model)
        return piece if len(self._legs) == 1 else self._same(piece)

    def _same(self, piece: ChatGenerationChunk) -> ChatGenerationChunk:
        """Give a chunk of a later part the id of the first ones; None is LangChain's to fill."""
        piece.message.id = self._id
        return piece

    @property
    def partial(self) -> str | None:
        """The text that was delivered; None if nothing was."""
        return self._told(len(self._legs) - 1) if self._legs else None

    def _told(self, number: int) -> str:
        """Put together what was delivered of the answer that one part belongs to, with it."""
        legs = self._legs[self._starts[number] : number + 1]
        return told([leg.attempt.draft for leg in legs])

    def breaks(self, race: Race) -> tuple[Break, ...]:
        """Where the stream broke, and what was done about it."""
        over = race.winner is None and race.end is not None
        return tuple(
            [
                Break(
                    target=leg.attempt.lane.state.name,
                    seconds=(leg.attempt.ended or race.started) - race.started,
                    characters=len(self._told(number)),
                    fault=leg.attempt.fault,
                    action=self._action(number),
                )
                for number, leg in enumerate(self._legs if over else self._legs[:-1])
            ]
        )

    def _action(self, number: int) -> Literal["continued", "replaced", "raised"]:
        after = self._starts[number + 1 : number + 2]
        if not after:
            return "raised"
        return "replaced" if after[0] == number + 1 else "continued"

    def _replaced(self) -> dict[str, Any]:
        """Tell what the newest part replaces."""
        number = len(self._legs) - 2
        broken = self._legs[number].attempt
        found = {"target": broken.lane.state.name, "characters": len(self._told(number))}
        return found if broken.fault is None else {**found, "fault": broken.fault.kind.value}
