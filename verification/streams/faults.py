"""The rows of the first table: what the first target does wrong, before its text or in it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from langchain_resilient import testing as t
from verification.kit.scripted_targets import ThenKeepAlives, Thinks

if TYPE_CHECKING:
    from collections.abc import Callable

    from verification.kit.scripted_targets import Limits, Wait

AFTER = 5
"""Pieces of text that come through before a stream breaks in its text."""

LATE = 60
"""The same, of a break that comes late: two thirds of the answer."""

ALL = 1000
"""More pieces than any answer has: it breaks between its last word and its `finish_reason`."""

PACED = t.Reply(chunk_gap=0.01)
"""An answer slow enough that what comes before a fault is shown before it."""


@dataclass(frozen=True)
class Fault:
    """One row.

    Attributes:
        name: As the table shows it.
        step: What the first target does with every request.
        waits: What must pass before the fault shows.
        says: The pieces of its answer that come before it; 0 for none.
        survives: Whether the target's own answer is complete all the same.
        retold: Whether the second target may tell the whole answer by itself: because the first
            one's text and its fault come together and nothing was shown, or because it begins anew.
        then: What the second target does: step after step, the last for ever.
    """

    name: str
    step: t.Step
    waits: Wait = "nothing"
    says: int = 0
    survives: bool = False
    retold: bool = False
    then: tuple[t.Step, ...] = (t.Reply(),)


def _both(name: str, make: Callable[..., t.Step], *, hangs: bool = False) -> tuple[Fault, Fault]:
    """Make a row for the fault before the first text, and one for it in the text."""
    return (
        Fault(f"{name}, before text", make(0), "hedge" if hangs else "nothing"),
        Fault(
            f"{name}, in text",
            make(AFTER, reply=PACED),
            "pause" if hangs else "nothing",
            says=AFTER,
        ),
    )


def _burst(name: str, step: t.Step) -> Fault:
    """Make a row for a fault that comes in one packet with the text before it."""
    return Fault(f"{name}, text in a burst", step, says=AFTER, retold=True)


def _late_cut(
    name: str, *then: t.Step, after: int = LATE, waits: Wait = "nothing", retold: bool = False
) -> Fault:
    """Make a row for a cut after much text, and a second target that is not quite well either."""
    step = t.Cut(after, reply=t.Reply(chunk_gap=0.002))
    says = min(after, LATE)
    return Fault(f"cut, {name}", step, waits, says=says, then=then, retold=retold)


def _eaten(name: str, make: Callable[..., t.Step]) -> Fault:
    """Make a row for something that stands in place of a piece of text, and takes it away."""
    step = make(AFTER, resume=True, replaces=True, reply=PACED)
    return Fault(f"{name} eats text, goes on", step, says=AFTER)


def _sound(name: str, step: t.Step) -> Fault:
    """Make a row for a blemish that a stream survives."""
    return Fault(name, step, survives=True)


_BLANKS = t.Whitespace(forever=True, after=AFTER)

HEALTHY = _sound("nothing wrong", t.Reply())
"""What the others' seconds are held against."""


def faults(limits: Limits) -> tuple[Fault, ...]:
    """List the rows.

    Args:
        limits: A drip is slow by them alone.
    """
    return (
        *_both("cut", t.Cut),
        _burst("cut", t.Cut(AFTER)),
        _late_cut("the next repeats some", t.Reply(overlap=200)),
        _late_cut("the next begins anew", t.Reply(overlap=10_000), retold=True),
        _late_cut(
            "the next is cut too", t.Cut(20, reply=PACED), t.Reply(), after=LATE // 2, waits="gap"
        ),
        _late_cut("after all the text", t.Reply(overlap=80), after=ALL),
        _late_cut("after all, the next adds nothing", t.Reply(), after=ALL),
        *_both("reset", t.Reset),
        *_both("stall (role chunk first)", t.Stall, hangs=True),
        Fault(
            "stall in text, goes on later",
            t.Stall(AFTER, 3 * limits.pause, reply=PACED),
            "pause",
            survives=True,
        ),
        *_both("clean end, no finish_reason", t.CleanEnd),
        *_both("SSE error", t.SseError),
        _burst("SSE error", t.SseError(AFTER)),
        *_both("SSE error, named event", partial(t.SseError, named=True)),
        *_both("SSE error, usage and [DONE]", partial(t.SseError, done=True)),
        *_both("malformed chunk, then the end", t.Malformed),
        Fault("malformed chunk first, goes on", t.Malformed(0, resume=True)),
        Fault(
            "malformed chunk in text, goes on",
            t.Malformed(AFTER, resume=True, reply=PACED),
            says=AFTER,
        ),
        _eaten("malformed chunk", t.Malformed),
        *_both("HTML inside", t.HtmlInside),
        _eaten("HTML", t.HtmlInside),
        Fault("white space for ever", t.Whitespace(forever=True), "hedge"),
        Fault("white space for ever, in text", _BLANKS, "gap", says=AFTER),
        _sound("no [DONE]", t.NoDone()),
        _sound("no [DONE], connection held open", t.NoDone(hold=True)),
        _sound("no [DONE], connection reset", t.NoDone(reset=True)),
        Fault("keep-alives only", t.KeepAlives(0.05), "hedge"),
        Fault("keep-alives only, in text", ThenKeepAlives(AFTER), "pause", says=AFTER),
        Fault("long reasoning, then dead", Thinks(60, gap=0.05), "hedge"),
        Fault("reasoning, then dead at once", Thinks(5)),
        Fault("slow drip", t.Reply(rate=limits.drip), "pace", says=1),
        _sound("refuses to stream", t.NoStreaming()),
        Fault("500", t.Status(500)),
        Fault("no answer", t.NoAnswer(), "hedge"),
    )
