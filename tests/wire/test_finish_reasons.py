"""Why an answer ended, in LangChain's words."""

from __future__ import annotations

import pytest

from langchain_resilient.wire.finish_reasons import ENDINGS, normalized

WORDS = {
    "stop", "length", "tool_call", "content_filter", "refusal", "context_exceeded", "error",
    "other",
}  # fmt: skip
"""All that langchain-core knows, from 1.8.4 on."""


@pytest.mark.parametrize(
    ("reason", "word"),
    [
        ("stop", "stop"),
        ("eos", "stop"),
        ("end_turn", "stop"),
        ("tool_calls", "tool_call"),
        ("tool_use", "tool_call"),
        ("function_call", "tool_call"),
        ("length", "length"),
        ("max_output_tokens", "length"),
        ("MAX_TOKENS", "length"),
        ("FinishReason.STOP", "stop"),
        ("model_length", "length"),
        ("model_context_window_exceeded", "context_exceeded"),
        ("content_filter", "content_filter"),
        ("refusal", "refusal"),
        ("SAFETY", "refusal"),
        ("MALFORMED_FUNCTION_CALL", "error"),
        ("server_error", "error"),
        ("max_tool_calls", "other"),
        ("a word of tomorrow", "other"),
        (None, None),
    ],
)
def test_every_provider_s_word_has_one_of_langchains(reason, word):
    assert normalized(reason) == word


@pytest.mark.parametrize("reason", [r for reasons in ENDINGS.values() for r in sorted(reasons)])
def test_none_of_the_known_ones_is_left_out(reason):
    assert normalized(reason) in WORDS


def test_what_the_answer_holds_says_more_than_its_end():
    """Some servers end tool calls with `stop`; a refusal ends with that everywhere."""
    assert normalized("stop", calls=True) == normalized("eos", calls=True) == "tool_call"
    assert normalized("length", calls=True) == "length"
    assert normalized("stop", refused=True) == "refusal"
