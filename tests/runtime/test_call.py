"""The options of one call, and the validation of its answers."""

from __future__ import annotations

import asyncio
import contextvars
from types import SimpleNamespace
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from langchain_resilient import Target
from langchain_resilient.runtime.call import RECEIPTS, AnswerValidator, CallOptions
from langchain_resilient.threads import Threads


def _call() -> CallOptions:
    return CallOptions({}, [HumanMessage("hello")], None, {}, stream=False)


def test_a_receipt_goes_to_the_outermost_call_alone():
    """A model that a `check` or a wrapped model calls inside it has one of its own."""

    def nested() -> None:
        RECEIPTS.set(receipts := [])
        assert _call().receipts is receipts
        assert _call().receipts is None

    contextvars.copy_context().run(nested)
    assert _call().receipts is None


async def test_a_call_that_is_cancelled_during_its_check_is_cancelled():
    """Only what was cancelled inside the check is an answer of it."""
    begun = asyncio.Event()

    async def check(_: AIMessage) -> None:
        begun.set()
        await asyncio.sleep(30)

    options: Any = SimpleNamespace(structure=None, request=None)
    validator = AnswerValidator(options, check, Threads("checks"), lambda _: Target("openai:a"))
    judging = asyncio.ensure_future(validator._run_check(AIMessage("Hi")))
    await begun.wait()
    judging.cancel()
    with pytest.raises(asyncio.CancelledError):
        await judging
