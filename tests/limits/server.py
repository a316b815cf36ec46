"""A provider without sockets: the simulator's own limits and true headers, in virtual time."""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING, Any

from langchain_resilient.faults import Fault, FaultKind
from langchain_resilient.providers.rate_limit_headers import rate_limit_status, retry_after
from langchain_resilient.testing.admission import RateLimit
from langchain_resilient.testing.dialects import DIALECTS
from langchain_resilient.testing.dialects.base import IncomingRequest
from tests.limits.rows import FASTEST, SLOWEST

if TYPE_CHECKING:
    from langchain_resilient.exchange import ChatRequest, RateLimitStatus
    from langchain_resilient.testing.admission import RateLimitStates
    from tests.limits.rows import Limits

_HEAD_SECONDS = 0.05
"""From sending a request to the head of its response, or to its refusal."""

_ANSWER_TOKENS = 30

_dialect = DIALECTS["openai"]


class RefusedError(Exception):
    """A 429, with its headers."""

    def __init__(self, headers: dict[str, str]) -> None:
        super().__init__("429")
        self.fault = Fault(
            FaultKind.RATE_LIMIT, "429", status=429, retry_after=retry_after(headers), cause=self
        )


class LimitedSource:
    """A `Source` of the engine behind a rate limit.

    Attributes:
        sends: How many came.
        refused: How many of them got a 429.
    """

    def __init__(self, limits: Limits, seed: int) -> None:
        self.sends = 0
        self.refused = 0
        self._limit = RateLimit(limits.requests, limits.tokens, limits.window, others=limits.others)
        self._random = Random(seed)

    async def open(self, request: ChatRequest, *, stream: bool) -> _Answer:
        """Let it in or refuse it; the time that its answer takes is left to chance."""
        self.sends += 1
        body = {**request.overrides, "messages": request.messages}
        now = asyncio.get_running_loop().time()
        denied, meters = self._limit.admit(IncomingRequest(_dialect, "m", body, stream), "key", now)
        await asyncio.sleep(_HEAD_SECONDS)
        if denied is not None:
            self.refused += 1
            raise RefusedError(_dialect.wait_headers(denied.wait or 0.0))
        seconds = self._random.uniform(FASTEST, SLOWEST) - _HEAD_SECONDS
        return _Answer(meters, seconds)


class _Answer:
    def __init__(self, meters: RateLimitStates, seconds: float) -> None:
        self._meters = meters
        self._seconds = seconds
        self._chunks = iter([{"text": "answer"}, {"finish": True}])

    def quota(self) -> RateLimitStatus | None:
        return rate_limit_status(dict(_dialect.ok_headers(*self._meters)))

    def __aiter__(self) -> _Answer:
        return self

    async def __anext__(self) -> dict[str, Any]:
        chunk = next(self._chunks, None)
        if chunk is None:
            raise StopAsyncIteration
        if "text" in chunk:
            await asyncio.sleep(self._seconds)
        return chunk

    async def aclose(self) -> None:
        self._chunks = iter(())


class Words:
    """As much of an answer as the engine looks at; its tokens are the fixed length of all."""

    def __init__(self) -> None:
        self.text = ""
        self._finished = False

    def add(self, chunk: dict[str, Any]) -> int:
        self.text += chunk.get("text", "")
        self._finished = "finish" in chunk
        return 2 if "text" in chunk else 1

    @property
    def ended(self) -> bool:
        return self._finished

    @property
    def counted(self) -> bool:
        return True

    def tokens(self) -> int:
        return _ANSWER_TOKENS

    def fault(self) -> Fault | None:
        return None if self._finished else Fault(FaultKind.BROKEN, "no end")

    def input_tokens(self) -> int | None:
        return None

    def cache_tokens(self) -> tuple[int | None, int | None]:
        return None, None

    def output_tokens(self) -> int | None:
        return _ANSWER_TOKENS
