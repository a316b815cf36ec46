"""The rows of the matrix: each fault, and what it must be taken for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, get_args

from langchain_resilient import (
    AllTargetsFailedError,
    AuthenticationFailedError,
    ContextTooLongError,
    DeadlineExceededError,
    FaultKind,
    InvalidAnswersError,
    ModelsNotFoundError,
    RateLimitedError,
    RequestRejectedError,
)
from langchain_resilient import testing as t
from langchain_resilient.testing import Garbage, ProviderSimulator, Reply
from verification.kit.scripted_targets import ThenKeepAlives, Thinks, small_limits

if TYPE_CHECKING:
    from langchain_resilient.testing import Step
    from verification.kit.scripted_targets import Wait


K = FaultKind

WAYS = ("ainvoke", "invoke", "astream", "stream", "abatch", "structured", "agent")
STREAMS = ("astream", "stream")

FIRST = 5
"""Pieces of text that come through before an answer breaks in its text."""

PACED = Reply(chunk_gap=0.01)
"""An answer slow enough that what comes before a fault is shown before it."""

BRISK = Reply(chunk_gap=0.0)
"""The same, for answers that come through to their end."""

Door = Callable[[ProviderSimulator, str], None]


@dataclass(frozen=True, eq=False)
class Row:
    """One fault.

    Attributes:
        name: As the table and the command line call it.
        step: What a target does with every request.
        kinds: What its failures are to be taken for; none where its own answer counts.
        fails: The ways of asking in which it is a failure; in the others its own answer counts.
        own: The text of its own answer, where that is not the usual one.
        error: What is raised where all targets do it.
        waits: What must pass before it shows.
        says: The pieces of text that come before it; 0 for none.
        asks: How often it may be asked in one call of the model while another target is well.
        draws: How often it is asked in one call where all targets do it, if it does not pass.
        known: Whether later calls leave it out.
        door: Sets a rule of the simulator for a target.
        variant: Whether another row does the same in other words: then some of its cells will do.
    """

    name: str
    step: Step
    kinds: frozenset[FaultKind] = frozenset()
    fails: tuple[str, ...] = WAYS
    own: str | None = None
    error: type[Exception] = DeadlineExceededError
    waits: Wait = "nothing"
    says: int = 0
    asks: int = 1
    draws: int = 1
    known: bool = False
    door: Door | None = None
    variant: bool = False

    def breaks(self, way: str) -> bool:
        """Whether the target's own answer does not count in this way of asking."""
        return bool(self.kinds) and way in self.fails

    @property
    def passes(self) -> bool:
        """Whether it may pass, so that the targets are asked again until the deadline."""
        return self.error is DeadlineExceededError

    def __str__(self) -> str:
        return self.name


def fault(name: str, step: Step, *kinds: FaultKind, **fields: Any) -> Row:
    """Make a row for what may pass."""
    return Row(name, step, frozenset(kinds), **fields)


def final(name: str, step: Step, *kinds: FaultKind, **fields: Any) -> Row:
    """Make a row for what does not pass within a call."""
    return Row(name, step, frozenset(kinds), **{"error": AllTargetsFailedError, **fields})


def sound(name: str, step: Step, **fields: Any) -> Row:
    """Make a row for a blemish that an answer survives."""
    return Row(name, step, **fields)


def variants(*rows: Row) -> tuple[Row, ...]:
    """Mark rows that differ from another one in bytes that only the classifier reads."""
    return tuple(replace(row, variant=True) for row in rows)


SHAPES = get_args(Garbage.__annotations__["shape"]) or (
    "object", "choices", "list", "null", "broken", "text", "nothing",
)  # fmt: skip
_TEXTS = tuple(way for way in WAYS if way not in {"structured", "agent"})


def _unfit(name: str, text: str) -> Row:
    """Make a row for an answer that is one, but not in the schema."""
    return final(name, t.Reply(text), K.INVALID, fails=("structured",), own=text, draws=2,
                 error=InvalidAnswersError)  # fmt: skip


EMPTY = (
    final("empty", t.Empty(), K.EMPTY, draws=2),
    final("empty, null", t.Empty(null=True), K.EMPTY, draws=2),
    final("white space", t.Whitespace(), K.EMPTY, draws=2),
    final("reasoning only", t.Reply("", reasoning="Let me see."), K.EMPTY, draws=2),
    final("max_tokens used up", t.Reply("", finish_reason="length"), K.EMPTY),
    fault("200 with garbage", t.Garbage(), K.BROKEN, K.EMPTY),
    *variants(
        *(
            fault(f"200 with garbage: {shape}", t.Garbage(shape), K.BROKEN, K.EMPTY)
            for shape in SHAPES
        )
    ),
    fault("HTML 200", t.Html(200), K.BROKEN),
    fault("HTML 502", t.Html(), K.SERVER),
    fault("HTML 503, delayed", t.Delayed(t.Html(503), 0.05), K.SERVER),
    fault("an outage since yesterday", t.Timeline((0.0, t.Status(500))), K.SERVER),
)
FILTERED = (
    final("content filter ends it", t.ContentFilter(after=3), K.CONTENT_FILTER, says=3),
    final("finish_reason content_filter", t.Reply("No.", finish_reason="content_filter"),
          K.CONTENT_FILTER),
)  # fmt: skip
UNFIT = (
    _unfit("plain text for JSON", "I would rather not."),
    _unfit("JSON of another schema", '{"topic": 7}'),
    _unfit("JSON cut off", '{"topic": "a'),
)
ODD = (
    sound("nothing wrong", t.Reply()),
    sound("refuses to stream", t.NoStreaming(), asks=2),
    sound("refuses to stream, slowly", t.NoStreaming(otherwise=t.Reply(latency=0.05)), asks=2),
    sound("refuses stream_options",
          t.UnsupportedParameter("stream_options", otherwise=t.Reply(close=True)), asks=2),
    sound("refuses prefill", t.RejectPrefill(otherwise=t.Reply(close=True))),
    sound("201", t.Reply(status=201, headers={"x-odd": "1"})),
    sound("quirks, no usage", t.Reply(quirks=True, usage=False)),
    sound("finish_reason eos", t.Reply(finish_reason="eos")),
    sound("finish_reason length", t.Reply(finish_reason="length")),
    sound("hangs up after it", t.Reply(close=True)),
)  # fmt: skip

REPLYING: tuple[Row, ...] = (*EMPTY, *FILTERED, *UNFIT, *ODD)


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
    fault("slow drip", t.Reply(rate=small_limits().drip), K.TIMEOUT, K.STALL, waits="pace", says=1),
)  # fmt: skip
BROKEN_STREAMS = (
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
    fault("malformed chunk first, goes on", t.Malformed(0, resume=True), K.BROKEN),
    fault("HTML line first, goes on", t.HtmlInside(0, resume=True, garbage="<p>wait</p>\n\n"),
          K.BROKEN),
    sound("keep-alives, then the answer", t.KeepAlives(0.01, count=3, reply=t.Reply(close=True))),
    sound("head trickles a little", t.SlowHeaders(0.02, parts=3, reply=BRISK)),
    sound("no [DONE]", t.NoDone(reply=BRISK)),
    sound("[DONE] without finish_reason", t.CleanEnd(None, done=True, reply=BRISK)),
    sound("no [DONE], in the middle of it", t.NoDone(FIRST)),
    sound("no [DONE], held open", t.NoDone(hold=True)),
    sound("no [DONE], reset", t.NoDone(reset=True)),
)  # fmt: skip

BREAKING: tuple[Row, ...] = (*RESETS, *HANGS, *BROKEN_STREAMS)


def _auth(name: str, step: Step) -> Row:
    return final(name, step, K.AUTH, error=AuthenticationFailedError, known=True)


def _limited(name: str, step: Step) -> Row:
    """Make a row for a limit that lasts longer than a call waits for, in a batch too."""
    return final(name, step, K.RATE_LIMIT, error=RateLimitedError, known=True)


def _quota(name: str, step: Step) -> Row:
    return final(name, step, K.QUOTA, error=RateLimitedError, known=True)


def _wrong(name: str, step: Step, **fields: int) -> Row:
    return final(name, step, K.BAD_REQUEST, error=RequestRejectedError, **fields)


def _too_long(name: str, step: Step) -> Row:
    return final(name, step, K.CONTEXT_LENGTH, error=ContextTooLongError, known=True)


def _missing(name: str, step: Step, **fields: object) -> Row:
    return final(name, step, K.NOT_FOUND, error=ModelsNotFoundError, known=True, **fields)


STATUSES = (
    _wrong("400", t.BadRequest()),
    _auth("401", t.Status(401)),
    _auth("wrong key", t.InvalidKey()),
    _quota("402", t.Status(402)),
    _auth("403", t.Status(403)),
    _missing("404", t.ModelNotFound()),
    *variants(
        fault("408", t.Status(408), K.SERVER),
        fault("409", t.Status(409), K.SERVER),
        fault("425", t.Status(425, message="Too early."), K.SERVER),
        fault("502", t.Status(502), K.SERVER),
        fault("504", t.Status(504), K.SERVER),
        fault("524", t.Status(524), K.SERVER),
        fault("529", t.Status(529), K.SERVER),
    ),
    final("413", t.Status(413), K.TOO_LARGE),
    _wrong("422", t.Status(422)),
    fault("429", t.Status(429), K.RATE_LIMIT),
    fault("500", t.Status(500), K.SERVER),
    fault("500, later", t.Status(500, latency=0.05), K.SERVER),
    fault("503", t.Status(503), K.SERVER),
)
HINTS = (
    _limited("429, retry-after 300", t.Status(429, retry_after=300)),
    *variants(
        _limited("429, retry-after as a date", t.Status(429, retry_after=t.HttpDate(300))),
        _limited("429, retry-after-ms", t.Status(429, retry_after_ms=300_000)),
        _limited("429, reset 300 s", t.Status(429, reset=300.0)),
        _limited("429, hint in other headers", t.Status(429, headers={"retry-after": "300"})),
        fault("429, retry-after is garbage", t.Status(429, retry_after="soon"), K.RATE_LIMIT),
    ),
    fault("429, retry-after 0", t.Status(429, retry_after=0), K.RATE_LIMIT),
    final("503, retry-after 30", t.Status(503, retry_after=30), K.SERVER, known=True),
    final("500, should not be retried", t.Status(500, should_retry=False), K.SERVER),
    fault("500, should be retried", t.Status(500, should_retry=True), K.SERVER),
)
NAMED = (
    _limited("rate limit, requests", t.RateLimited(300.0)),
    _limited("rate limit, tokens", t.RateLimited(300.0, of="tokens")),
    fault("rate limit for a moment", t.RateLimited(0.1), K.RATE_LIMIT),
    final("request too large", t.RequestTooLarge(limit=20_000), K.TOO_LARGE),
    _quota("quota exhausted", t.Quota()),
    fault("overloaded", t.Overloaded(), K.SERVER),
    fault("slow down", t.SlowDown(), K.RATE_LIMIT),
    _too_long("context too long", t.ContextTooLong(10)),
    *variants(_too_long("context too long, 422", t.ContextTooLong(10, code=422))),
    final("content filter", t.ContentFilter(), K.CONTENT_FILTER),
    _wrong("wrong parameter", t.UnsupportedParameter("messages")),
    *variants(
        _auth("invalid_api_key as 400",
              t.Status(400, message="Incorrect API key provided.", error_code="invalid_api_key")),
        _quota("billing_not_active as 403",
               t.Status(403, message="Not active.", type="billing_not_active")),
        _wrong("400 for one parameter",
               t.Status(400, message="Invalid value.", param="temperature", error_code="invalid")),
        fault("500 as plain text", t.Status(500, body="upstream request timeout"), K.SERVER),
    ),
)  # fmt: skip
COMPATIBLE = variants(
    *(fault(f"500, body as {shape}", t.Compatible(500, shape, "It failed."), K.SERVER)
      for shape in ("flat", "object", "message", "reason", "detail", "string", "code", "upstream",
                    "text"))
)  # fmt: skip


def _retired(sim: ProviderSimulator, spec: str) -> None:
    sim.retire(spec)


def _narrow(sim: ProviderSimulator, spec: str) -> None:
    sim.context_window(spec, 5)


def _thin(sim: ProviderSimulator, spec: str) -> None:
    sim.limit(spec, tokens_per_minute=1)


DOOR = (
    _missing("model retired", t.Reply(), door=_retired),
    final("window of 5 tokens", t.Reply(), K.CONTEXT_LENGTH, error=ContextTooLongError,
          known=True, door=_narrow),
    final("limit of 1 token a minute", t.Reply(), K.TOO_LARGE, door=_thin),
)  # fmt: skip

REFUSING: tuple[Row, ...] = (*STATUSES, *HINTS, *NAMED, *COMPATIBLE, *DOOR)


ROWS: dict[str, Row] = {row.name: row for row in (*REPLYING, *BREAKING, *REFUSING)}
