"""Frozen records of what happened to one answer: who was asked, when, and why who won."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from langchain_resilient.faults import Fault, FaultKind


class AttemptKind(StrEnum):
    """Why an attempt was sent."""

    PRIMARY = "primary"
    """The first one."""
    HEDGE = "hedge"
    """A second opinion: the first was late."""
    FALLBACK = "fallback"
    """Another target, because one failed."""
    RETRY = "retry"
    """A target that had failed before in this request, asked again."""
    RESCUE = "rescue"
    """Another target, because the one that was asked tripped meanwhile: others wait there too."""
    SHADOW = "shadow"
    """A copy, to see whether a target that tripped is well again. Nobody waits for it."""
    LAST_RESORT = "last_resort"
    """The answer of last resort, because no target could answer."""


class Outcome(StrEnum):
    """How an attempt ended."""

    WON = "won"
    """Its answer is the call's."""
    FAILED = "failed"
    """With a fault."""
    LOST = "lost"
    """Another attempt was faster; this one was closed."""
    CANCELLED = "cancelled"
    """The caller went away, or the deadline passed."""
    OPEN = "open"
    """A shadow that went on by itself when the call was over."""


REFUSED_BEFORE = {
    FaultKind.AUTH: "its account had refused the key",
    FaultKind.QUOTA: "its account is out of quota",
    FaultKind.NOT_FOUND: "its model was not found",
}
"""Why a target is not asked at all: for what an earlier request met, which is still so."""


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """One request to one target. Times are seconds since the call began.

    Attributes:
        target: The target's name, e.g. `"openai:gpt-6-luna"`.
        kind: Why it was sent.
        started: When it was sent.
        first_text: When its first visible text or tool call came; None if it never did.
        ended: When it ended or was given up.
        outcome: How it ended.
        fault: What went wrong, if anything did.
        input_tokens: Prompt tokens that the provider reported (None: it did not).
        output_tokens: Answer tokens that the provider reported or, for an attempt that was
            given up, that were received (None: none came).
        cached_tokens: How many of `input_tokens` came from the provider's cache (None: not said).
        written_tokens: How many of `input_tokens` were written to it (None: not said).
        lane: `"batch"` if it went by a batch of its provider; None for a request of its own.
        discount: The share of the usual price that it did not cost.
    """

    target: str
    kind: AttemptKind
    started: float
    first_text: float | None
    ended: float
    outcome: Outcome
    fault: Fault | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    written_tokens: int | None = None
    lane: Literal["batch"] | None = None
    discount: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON, without what is None."""
        fields: dict[str, Any] = {
            "target": self.target,
            "kind": self.kind.value,
            "started": round(self.started, 4),
            "ended": round(self.ended, 4),
            "outcome": self.outcome.value,
        }
        if self.first_text is not None:
            fields["first_text"] = round(self.first_text, 4)
        if self.fault is not None:
            fields["fault"] = self.fault.kind.value
            fields["message"] = self.fault.message
            if self.fault.status is not None:
                fields["status"] = self.fault.status
        for name in _TOKENS:
            tokens = getattr(self, name)
            if tokens is not None:
                fields[name] = tokens
        if self.lane is not None:
            fields["lane"] = self.lane
        return fields


_TOKENS = ("input_tokens", "output_tokens", "cached_tokens", "written_tokens")


@dataclass(frozen=True, slots=True)
class Break:
    """A stream that died after some of its text was delivered.

    Attributes:
        target: Whose stream it was.
        seconds: When it was given up, since the call began.
        characters: How much of the answer had been delivered by then.
        fault: What went wrong; None if only the deadline passed.
        action: `"continued"` or `"replaced"` by another target, or `"raised"`.
    """

    target: str
    seconds: float
    characters: int
    fault: Fault | None
    action: Literal["continued", "replaced", "raised"]

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        fields: dict[str, Any] = {
            "target": self.target,
            "seconds": round(self.seconds, 4),
            "characters": self.characters,
            "action": self.action,
        }
        if self.fault is not None:
            fields["fault"] = self.fault.kind.value
            fields["message"] = self.fault.message
        return fields


@dataclass(frozen=True, slots=True)
class Receipt:
    """What one call cost and who answered it.

    It stands in `message.response_metadata["resilience"]` as a dict, and whole on every
    exception as `error.receipt`.

    Attributes:
        attempts: Every request that was sent, in the order of sending.
        winner: The name of the target that answered; None where none did.
        seconds: From the call to its end.
        skipped: Targets that were never asked, each with the reason; filled where nobody answered.
        breaks: Where the stream broke after some of it was delivered, and what was done.
        cached: Whether the answer is out of LangChain's cache: nothing was sent for it, and the
            winner is who gave it at that time.
        lane: `"batch"` if the answer came by a batch of its provider.
        price: Dollars that such an answer cost; None where its price is not known.
        saved: Dollars that it would have cost more otherwise.
        elsewhere: Why another target answered than the first, such as `"rate limit"`, `"late"` or
            `"failed: server"`; None where the first did, or nobody.
    """

    attempts: tuple[AttemptRecord, ...]
    winner: str | None
    seconds: float
    skipped: tuple[tuple[str, str], ...] = ()
    breaks: tuple[Break, ...] = ()
    cached: bool = False
    lane: Literal["batch"] | None = None
    price: float | None = None
    saved: float | None = None
    elsewhere: str | None = None

    @property
    def faults(self) -> tuple[tuple[str, Fault], ...]:
        """Each fault with the name of the target it happened to, in order of sending."""
        return tuple((a.target, a.fault) for a in self.attempts if a.fault is not None)

    @property
    def last_resort(self) -> bool:
        """Whether the answer is the last resort's."""
        return any(
            a.kind is AttemptKind.LAST_RESORT and a.outcome is Outcome.WON for a in self.attempts
        )

    @property
    def lost_tokens(self) -> int:
        """Tokens spent on attempts that did not win, as far as they are known."""
        return sum(
            (a.input_tokens or 0) + (a.output_tokens or 0)
            for a in self.attempts
            if a.outcome is not Outcome.WON
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON, as it stands in `response_metadata["resilience"]`."""
        fields: dict[str, Any] = {
            "winner": self.winner,
            "seconds": round(self.seconds, 4),
            "lost_tokens": self.lost_tokens,
            "attempts": [a.as_dict() for a in self.attempts],
        }
        if self.elsewhere is not None:
            fields["elsewhere"] = self.elsewhere
        if self.breaks:
            fields["breaks"] = [b.as_dict() for b in self.breaks]
        if self.cached:
            fields["cached"] = True
        if self.lane is not None:
            fields["lane"] = self.lane
            if self.price is not None and self.saved is not None:
                fields |= {"price": round(self.price, 9), "saved": round(self.saved, 9)}
        return fields

    def __str__(self) -> str:
        """One line: `openai:gpt-6-luna answered in 1.21 s (2 attempts: ...)`."""
        if self.cached:
            return f"an answer of {self.winner or 'a model'}, out of the cache"
        won = any(a.outcome is Outcome.WON for a in self.attempts)
        how = "answered in" if won else "was answering, for"  # until its reader went away
        who = f"{self.winner} {how}" if self.winner else "no answer in"
        tries = ", ".join(_brief(a) for a in self.attempts)
        plural = "" if len(self.attempts) == 1 else "s"
        broke = "".join([f", {b.action} after {b.characters} characters" for b in self.breaks])
        why = "" if self.elsewhere is None else f"; not the first target: {self.elsewhere}"
        details = f"{len(self.attempts)} attempt{plural}: {tries}{broke}{why}"
        return f"{who} {self.seconds:.2f} s ({details})"


def _brief(a: AttemptRecord) -> str:
    how = f"{a.outcome.value}" if a.fault is None else f"{a.outcome.value}: {a.fault.kind.value}"
    first = f", first text {a.first_text - a.started:.2f} s" if a.first_text is not None else ""
    return f"{a.target} {a.kind.value} {how}{first}"
