"""Rows: answers that are complete and yet are none, and odd ones that are fine."""

from __future__ import annotations

from typing import get_args

from langchain_resilient import testing as t
from langchain_resilient.errors import InvalidAnswersError
from langchain_resilient.faults import FaultKind
from langchain_resilient.testing.steps.faults import Garbage
from tests.matrix.row import WAYS, Row, fault, final, sound, variants

K = FaultKind
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
