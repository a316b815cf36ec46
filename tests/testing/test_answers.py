"""The text of an answer, and its tokens."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_resilient.testing import answer_to
from langchain_resilient.testing.answers import tokens

Q = "How do bees find home?"


T = answer_to(Q)


def test_an_answer_echoes_its_prompt_and_counts_its_words() -> None:
    """Forty numbered words, all different, in sentences of eight."""
    assert T.count(".") == 5
    assert T.startswith("Answer ")
    assert f'to "{Q}": 1 ' in T
    assert [int(n) for n in re.findall(r"(\d+) [a-z]{4}", T)] == list(range(1, 41))
    assert len(set(re.findall(r"\d+ ([a-z]{4})", T))) == 40


def test_different_prompts_have_different_answers() -> None:
    """However alike they begin."""
    long = "x" * 100
    assert len({answer_to(f"{long}{i}") for i in range(50)}) == 50


def test_a_longer_answer_begins_with_the_shorter_one() -> None:
    """So targets with answers of other lengths still join."""
    assert answer_to(Q, words=500).startswith(answer_to(Q, words=13))


@given(st.text(max_size=200))
def test_tokens_joined_are_the_text(text: str) -> None:
    """Nothing is lost, whatever the script."""
    assert "".join(tokens(text)) == text


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("say exactly: one two", "one two"),
        ('Please say exactly "Ünï 🎉"', "Ünï 🎉"),
        ("Say exactly: 'a'\nb", "'a'\nb"),
    ],
)
def test_say_exactly(prompt: str, answer: str) -> None:
    """The rest of the prompt is the answer."""
    assert answer_to(prompt) == answer
