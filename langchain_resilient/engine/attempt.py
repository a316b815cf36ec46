"""A target and an attempt, as one request sees them."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any

from langchain_resilient.engine.time_model import UNKNOWN, RequestProfile
from langchain_resilient.receipt import AttemptKind, AttemptRecord, Outcome

if TYPE_CHECKING:
    from langchain_resilient.engine.rate_limiter import QueuedRequest, Reservation
    from langchain_resilient.engine.target_state import TargetState
    from langchain_resilient.faults import Fault
    from langchain_resilient.policies import TimeLimits


class Candidate:
    """One target, as one request sees it.

    Attributes:
        index: Its position in the chain.
        state: What all requests know of it.
        limits: Its own, or the chat model's.
        tries: How often it was asked. Not counted: a last resort that was stopped for an answer
            that had only begun (see `CallTime.restore_last_resort`).
        unusable_answers: How many of its whole answers were empty or invalid.
        active: How many of its attempts are still counted on.
        ready_at: When its backoff is over.
        excluded: Asking it again cannot help this request.
        retry_at_once: It gets one more try before the chain moves on.
        no_charge: That try costs no retry token: it uses another key, or does not stream.
        ignore_block: It may be asked although its account is blocked, for want of any other.
        queued_request: The request as its rate limiters see it; None where it is not paced.
        refused: Its last answer was a refusal (429): only its limit is in the way.
    """

    __slots__ = (
        "active",
        "excluded",
        "ignore_block",
        "index",
        "limits",
        "no_charge",
        "queued_request",
        "ready_at",
        "refused",
        "retry_at_once",
        "state",
        "tries",
        "unusable_answers",
    )  # fmt: skip

    def __init__(
        self,
        index: int,
        state: TargetState,
        limits: TimeLimits,
        queued_request: QueuedRequest | None = None,
    ) -> None:
        self.index = index
        self.state = state
        self.limits = limits
        self.tries = 0
        self.unusable_answers = 0
        self.active = 0
        self.ready_at = 0.0
        self.excluded = False
        self.retry_at_once = False
        self.no_charge = False
        self.ignore_block = False
        self.queued_request = queued_request
        self.refused = False

    def available_at(self) -> float:
        """The earliest time at which this request may ask it."""
        state = self.state
        at = max(state.available_at(ignore_block=self.ignore_block), self.ready_at)
        if state.paced and self.queued_request is not None:
            return max(at, state.turn_at(self.queued_request))
        return at

    def needs_token(self, now: float) -> bool:
        """Whether a send costs a retry token, as all but first tries do.

        A target that is down must be tried now and then, but not by every request at once.
        """
        return not self.no_charge and (self.tries > 0 or self.state.down(now))

    def saturated(self, now: float) -> bool:
        """Whether its rate limit, its hint or its concurrency is in the way, last of all.

        A backoff of its own that is over before does not count: whether it is over already when
        another target has refused as well is chance.
        """
        if self.excluded:
            return False
        at = self.available_at()
        if at <= now:
            return self.state.concurrency.full
        if self.ready_at >= at:
            return False
        return self.queued_request is not None and bool(self.state.queues(now))


class Attempt:
    """One send to one target. The planner owns all fields but the driver's three.

    Attributes:
        key: Which of the target's keys is used.
        plain: It counts when its answer is whole, not at its first text.
        started: When it was sent.
        first_text: When its first text came.
        last_chunk: When content last came; `inf` while our own reader holds it up.
        hedge_at: When another target is to be asked beside it; `inf` for never.
        late_at: When its silence counts against the target; `inf` once that was done.
        rescue_at: When it is rescued although there was no token for a hedge; `inf` for never.
        late: It was counted as late.
        timed_out: It is over a limit: others are asked, but it may still win.
        paused: It fell silent in the middle: another is asked beside it, and the first text wins.
        longest_pause: Its longest pause since the first text, in seconds.
        pause_limit: Seconds of silence after which it counts as paused; `inf` for never.
        window_ends_at: When its throughput is checked next; `inf` for never.
        window_start_tokens: Its tokens at the last check; None before its first.
        excused_seconds: Seconds that our own reader, or our own process, held it up.
        retry_state: tenacity's view of it, where it is a retry.
        reservation: What was reserved for it; None where it is not paced.
        response: The driver's: what was received.
        task: The driver's: the task that reads it.
        pending_chunks: The driver's: chunks that wait for the commit.
        profile: What is known of the request.
        text_limit: Seconds without text after which it is no longer waited for; `inf` for never.
        thinking_limit: The same while reasoning arrives.
        thinks: Reasoning has arrived.
    """

    __slots__ = (
        "candidate",
        "ended",
        "excused_seconds",
        "fault",
        "first_text",
        "hedge_at",
        "key",
        "kind",
        "last_chunk",
        "late",
        "late_at",
        "longest_pause",
        "number",
        "outcome",
        "pause_limit",
        "paused",
        "pending_chunks",
        "plain",
        "profile",
        "rescue_at",
        "reservation",
        "response",
        "retry_state",
        "started",
        "task",
        "text_limit",
        "thinking_limit",
        "thinks",
        "timed_out",
        "window_ends_at",
        "window_start_tokens",
    )  # fmt: skip

    def __init__(
        self,
        number: int,
        candidate: Candidate,
        kind: AttemptKind,
        now: float,
        *,
        key: int = 0,
        plain: bool = False,
        profile: RequestProfile = UNKNOWN,
    ) -> None:
        self.profile: RequestProfile = profile
        self.text_limit: float = inf
        self.thinking_limit: float = inf
        self.thinks: bool = False
        self.number: int = number
        self.candidate: Candidate = candidate
        self.kind: AttemptKind = kind
        self.key: int = key
        self.plain: bool = plain
        self.started: float = now
        self.first_text: float | None = None
        self.last_chunk: float = now
        self.ended: float | None = None
        self.hedge_at: float = inf
        self.late_at: float = inf
        self.rescue_at: float = inf
        self.late: bool = False
        self.timed_out: bool = False
        self.paused: bool = False
        self.longest_pause: float = 0.0
        self.pause_limit: float = inf
        self.window_ends_at: float = inf
        self.window_start_tokens: int | None = None
        self.excused_seconds: float = 0.0
        self.outcome: Outcome | None = None
        self.fault: Fault | None = None
        self.retry_state: Any = None
        self.response: Any = None
        self.task: Any = None
        self.pending_chunks: list[Any] = []
        self.reservation: Reservation | None = None


def attempt_record(a: Attempt, began: float, now: float) -> AttemptRecord:
    """The record of one attempt, for the receipt.

    Args:
        a: The attempt.
        began: When the call began.
        now: The engine's clock.
    """
    unknown = Outcome.OPEN if a.kind is AttemptKind.SHADOW else Outcome.CANCELLED
    response = a.response  # None if nothing has come
    cached, written = (None, None) if response is None else response.cache_tokens()
    return AttemptRecord(
        target=a.candidate.state.name,
        kind=a.kind,
        started=a.started - began,
        first_text=None if a.first_text is None else a.first_text - began,
        ended=(now if a.ended is None else a.ended) - began,
        outcome=a.outcome or unknown,
        fault=a.fault,
        input_tokens=None if response is None else response.input_tokens(),
        output_tokens=None if response is None else response.output_tokens(),
        cached_tokens=cached,
        written_tokens=written,
    )
