"""Whether a recording is made of the live providers, and the bound on what that may cost."""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING

from langchain_resilient.providers.sdk import SDKProvider

if TYPE_CHECKING:
    from langchain_resilient.exchange import ChatRequest, ChunkStream

KEYS = {"openai": "OPENAI_API_KEY", "together": "TOGETHER_API_KEY"}
LIVE = "RESILIENT_RECORD_LIVE"
"""Names the dialects, with commas, that are recorded from the live providers (`make record`)."""

MOST_LIVE_CALLS = 150
"""Requests to one live provider in one recording. The suite needs about 90."""

_calls: Counter[str] = Counter()


def from_live(dialect: str) -> bool:
    """Whether this dialect is being recorded from the provider itself."""
    return dialect in os.environ.get(LIVE, "").split(",")


class TooManyCallsError(RuntimeError):
    """A recording wanted more requests than it may send to a live provider."""


async def counted(provider: SDKProvider, request: ChatRequest, *, stream: bool) -> ChunkStream:
    """Stand in for `SDKProvider.open`: the request too many is not sent."""
    name = provider.target.provider
    _calls[name] += 1
    if _calls[name] > MOST_LIVE_CALLS:
        raise TooManyCallsError(f"{MOST_LIVE_CALLS} requests went to {name}: that must do")
    return await _open(provider, request, stream=stream)


_open = SDKProvider.open
