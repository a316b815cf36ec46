"""How the tests ask the local model."""

from __future__ import annotations

import importlib.util

import pytest

from langchain_resilient import Target
from langchain_resilient.exchange import ChatRequest
from langchain_resilient.providers.errors import classify
from langchain_resilient.providers.local import LocalModelError, LocalProvider

needs_xllamacpp = pytest.mark.skipif(
    importlib.util.find_spec("xllamacpp") is None,
    reason='xllamacpp is not installed: pip install "langchain-resilient[local]"',
)


def ask(text, **overrides):
    return ChatRequest([{"role": "user", "content": text}], overrides=overrides)


async def chunks_of(request, *, stream=True, target=None):
    answer = await LocalProvider(target or Target("local")).open(request, stream=stream)
    return [chunk async for chunk in answer]


def text_of(chunks):
    deltas = [c["choices"][0]["delta"] for c in chunks if c["choices"]]
    return "".join(d.get("content") or "" for d in deltas)


async def fault_of(request, target=None):
    with pytest.raises(LocalModelError) as caught:
        await chunks_of(request, target=target)
    return classify(caught.value)
