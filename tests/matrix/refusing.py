"""Rows: targets that refuse, by every status, body and hint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_resilient import testing as t
from langchain_resilient.errors import (
    AuthenticationFailedError,
    ContextTooLongError,
    ModelsNotFoundError,
    RateLimitedError,
    RequestRejectedError,
)
from langchain_resilient.faults import FaultKind
from tests.matrix.row import Row, fault, final, variants

if TYPE_CHECKING:
    from langchain_resilient.testing.simulator import ProviderSimulator
    from langchain_resilient.testing.steps.base import Step

K = FaultKind


def _auth(name: str, step: Step) -> Row:
    return final(name, step, K.AUTH, error=AuthenticationFailedError, known=True)


def _limited(name: str, step: Step) -> Row:
    """Make a row for a limit that lasts longer than the call."""
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
    _limited("429, retry-after 30", t.Status(429, retry_after=30)),
    *variants(
        _limited("429, retry-after as a date", t.Status(429, retry_after=t.HttpDate(30))),
        _limited("429, retry-after-ms", t.Status(429, retry_after_ms=30_000)),
        _limited("429, reset 30 s", t.Status(429, reset=30.0)),
        _limited("429, hint in other headers", t.Status(429, headers={"retry-after": "30"})),
        fault("429, retry-after is garbage", t.Status(429, retry_after="soon"), K.RATE_LIMIT),
    ),
    fault("429, retry-after 0", t.Status(429, retry_after=0), K.RATE_LIMIT),
    final("503, retry-after 30", t.Status(503, retry_after=30), K.SERVER, known=True),
    final("500, should not be retried", t.Status(500, should_retry=False), K.SERVER),
    fault("500, should be retried", t.Status(500, should_retry=True), K.SERVER),
)
NAMED = (
    _limited("rate limit, requests", t.RateLimited(30.0)),
    _limited("rate limit, tokens", t.RateLimited(30.0, of="tokens")),
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
