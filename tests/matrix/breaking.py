"""Rows: connections and streams that break, stall or lie."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from langchain_resilient import testing as t
from langchain_resilient.faults import FaultKind
from tests.matrix.row import BRISK, FIRST, PACED, Row, fault, sound, variants
from tests.streams.limits import small
from tests.streams.steps import ThenKeepAlives, Thinks

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_resilient.testing.steps.base import Step

K = FaultKind
BROKEN = (K.BROKEN, K.CONNECTION, K.SERVER)
"""A connection that ends: whether it was cut or the answer was, the SDKs do not always tell."""

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n"
_WHOLE = b"HTTP/1.1 500 Oh\r\ncontent-length: 2\r\ncontent-type: application/json\r\n\r\n{}"


def _both(name: str, make: Callable[..., Step], *kinds: FaultKind) -> tuple[Row, Row]:
    """Make a row for the fault before the first text, and one for it in the text."""
    return (
        fault(f"{name}, before text", make(0), *kinds),
        fault(f"{name}, in text", make(FIRST, reply=PACED), *kinds, says=FIRST),
    )


def _hang(name: str, step: Step) -> Row:
    """Make a row for what never says a word."""
    return fault(name, step, K.TIMEOUT, waits="hedge")


RESETS = (
    fault("reset, before headers", t.Reset(), *BROKEN),
    *_both("reset", t.Reset, *BROKEN),
    *_both("cut", t.Cut, *BROKEN),
    fault("cut, text in a burst", t.Cut(FIRST), *BROKEN, says=FIRST),
    fault("cut, after all the text", t.Cut(1000, reply=BRISK), *BROKEN, says=FIRST, asks=2),
    fault("taken, then closed", t.NoAnswer(0.05), *BROKEN),
    fault("bytes that are no HTTP", t.Raw(b"\x15\x03\x01\x00\x02\x02\x28"), *BROKEN),
    *variants(
        fault("half a head, then closed", t.Raw(_HEAD), *BROKEN),
        fault("half a head, then reset", t.Raw(_HEAD, then="reset"), *BROKEN),
        fault("500 by hand, kept open", t.Raw(_WHOLE, then="keep"), K.SERVER),
    ),
)
HANGS = (
    _hang("no answer", t.NoAnswer()),
    _hang("half a head, then silence", t.Raw(_HEAD, then="hang")),
    _hang("head trickles (tarpit)", t.SlowHeaders(30.0, parts=100)),
    _hang("headers late", t.Reply(latency=30.0)),
    _hang("role chunk, then silence", t.Stall(0)),
    _hang("first text late", t.Reply(first_text=30.0)),
    _hang("keep-alives only", t.KeepAlives(0.05, comment=": PROCESSING")),
    fault("reasoning, then dead", Thinks(60, gap=0.05), K.TIMEOUT, *BROKEN, waits="hedge"),
    fault("white space for ever", t.Whitespace(forever=True, interval=0.02), K.TIMEOUT, K.STALL,
          waits="hedge"),
    fault("stall in text", t.Stall(FIRST, reply=PACED), K.STALL, waits="pause", says=FIRST),
    fault("stall in text, goes on later", t.Stall(FIRST, 30.0, reply=PACED), K.STALL,
          waits="pause", says=FIRST),
    fault("keep-alives only, in text", ThenKeepAlives(FIRST), K.STALL, waits="pause", says=1),
    fault("white space for ever, in text", t.Whitespace(forever=True, after=FIRST), K.STALL,
          waits="gap", says=1),
    fault("slow drip", t.Reply(rate=small().drip), K.TIMEOUT, K.STALL, waits="pace", says=1),
)  # fmt: skip
STREAMS = (
    *_both("clean end, no finish_reason", t.CleanEnd, K.BROKEN),
    *_both("SSE error", t.SseError, K.SERVER),
    *variants(
        *_both("SSE error, named event", partial(t.SseError, named=True), K.SERVER),
        *_both("SSE error, usage and [DONE]", partial(t.SseError, done=True), K.SERVER),
        fault("SSE error, rate limit",
              t.SseError(message="Slow down.", type="rate_limit_error", code="rate_limit_exceeded"),
              K.RATE_LIMIT),
    ),
    *_both("malformed chunk, then the end", t.Malformed, K.BROKEN),
    fault("malformed chunk eats text, goes on",
          t.Malformed(FIRST, resume=True, replaces=True, reply=PACED), K.BROKEN, says=FIRST),
    *variants(
        fault("binary line, then the end", t.Malformed(0, garbage="data: \x00\x01\n\n"), K.BROKEN)
    ),
    *_both("HTML inside", t.HtmlInside, K.BROKEN),
    fault("HTML eats text, goes on", t.HtmlInside(FIRST, resume=True, replaces=True, reply=PACED),
          K.BROKEN, says=FIRST),
    fault("reasoning, then dead at once", Thinks(5), *BROKEN),
    sound("malformed chunk first, goes on", t.Malformed(0, resume=True)),
    fault("HTML line first, goes on", t.HtmlInside(0, resume=True, garbage="<p>wait</p>\n\n"),
          K.BROKEN),
    sound("keep-alives, then the answer", t.KeepAlives(0.01, count=3, reply=t.Reply(close=True))),
    sound("head trickles a little", t.SlowHeaders(0.02, parts=3, reply=BRISK)),
    sound("no [DONE]", t.NoDone(reply=BRISK)),
    sound("no [DONE], in the middle of it", t.NoDone(FIRST)),
    sound("no [DONE], held open", t.NoDone(hold=True)),
    sound("no [DONE], reset", t.NoDone(reset=True)),
)  # fmt: skip

BREAKING: tuple[Row, ...] = (*RESETS, *HANGS, *STREAMS)
