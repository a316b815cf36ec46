"""The options of one call."""

from __future__ import annotations

import contextvars

from langchain_core.messages import HumanMessage

from langchain_resilient.runtime.call import RECEIPTS, CallOptions


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
