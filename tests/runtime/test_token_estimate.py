"""How large a request is, and what is learned of a target's window."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_resilient.runtime.token_estimate import (
    PART_CHARACTERS,
    ContextWindow,
    count_characters,
    tokens_by_length,
)


def said(content, **fields):
    return {"role": "user", "content": content, **fields}


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 1_000_000}}
AUDIO = {"type": "input_audio", "input_audio": {"data": "A" * 1_000_000, "format": "wav"}}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


@pytest.mark.parametrize(
    ("messages", "size"),
    [
        ([], 0),
        ([said("hello"), said("you")], 8),
        ([said(None)], 0),
        ([said([{"type": "text", "text": "hello"}, {"type": "text", "text": "you"}])], 8),
        ([said("größer")], 8),
        ([said("你好")], 6),
        ([said("\ud800")], 3),
        ([said([{"type": "text", "text": "hi"}, IMAGE])], 2 + PART_CHARACTERS),
        ([said([AUDIO])], PART_CHARACTERS),
        ([said(None, tool_calls=[CALL])], 71),
        ([said(["hello", 7])], 5),
    ],
)
def test_messages_are_measured(messages, size):
    """Text by its bytes in UTF-8, images and sound by a fixed guess, calls by their JSON."""
    assert count_characters(messages) == size


def test_schemas_count():
    """Tools are part of the prompt, in whatever order they are given; None is not."""
    assert count_characters([said("hi")], [TOOL], None) == 2 + 76
    assert count_characters([], object()) > 0


def test_four_characters_are_a_token():
    """Where nobody has counted."""
    assert tokens_by_length(4000) == 1000


def test_nothing_known_means_all_fits():
    """However large it is, and nothing need be measured."""
    memory = ContextWindow()
    assert not memory.bounded
    assert memory.fits(10**9)


def test_a_window_of_the_users_is_kept_to():
    """With the answer's tokens, and for as long as one asks."""
    memory = ContextWindow(1000)
    assert memory.fits(6000)
    assert not memory.fits(6001)
    assert not memory.fits(5000, max_tokens=500)
    assert not any(memory.fits(10_000) for _ in range(1000))


def test_a_limit_that_an_error_named_is_kept_to():
    """At the packing that its own count tells: four characters a token here."""
    memory = ContextWindow()
    memory.refused(40_000, limit=8192, given=10_000)
    assert memory.bounded
    assert not memory.fits(39_999)
    assert memory.fits(30_000)
    assert not memory.fits(30_000, max_tokens=5000)


def test_a_limit_without_a_count_is_judged_generously():
    """To skip a target wrongly is worse than a refusal, which is fast and free."""
    memory = ContextWindow()
    memory.refused(90_000, limit=8192)
    assert memory.fits(8192 * 6)
    assert not memory.fits(8192 * 6 + 1)


def test_a_refusal_without_a_number_teaches_its_size():
    """What is smaller is tried."""
    memory = ContextWindow()
    memory.refused(50_000)
    assert not memory.fits(50_000)
    assert memory.fits(49_999)


def test_the_smallest_refusal_counts():
    """Whichever came first."""
    memory = ContextWindow()
    memory.refused(50_000)
    memory.refused(80_000)
    assert not memory.fits(60_000)


def test_a_long_answer_that_was_wanted_is_part_of_what_was_refused():
    """The same prompt with a short answer is tried."""
    memory = ContextWindow()
    memory.refused(1000, max_tokens=100_000)
    assert not memory.fits(1000, max_tokens=100_000)
    assert memory.fits(1000, max_tokens=100)


def test_prompt_and_answer_are_weighed_together():
    """A token of the answer is worth four characters of the prompt."""
    memory = ContextWindow()
    memory.refused(1000, max_tokens=1000)
    assert memory.fits(4999)
    assert not memory.fits(5000)


def test_what_has_passed_fits_whatever_is_refused_above_it():
    """Also where the limit that was named says otherwise: texts differ."""
    memory = ContextWindow()
    memory.passed(40_000)
    memory.refused(50_000, limit=1000)
    assert memory.fits(40_000)
    assert not memory.fits(40_001)


def test_a_refusal_of_what_has_passed_is_believed():
    """The window has shrunk, or this text is packed less tightly."""
    memory = ContextWindow()
    memory.passed(60_000)
    memory.refused(50_000)
    assert not memory.fits(50_000)


def test_a_larger_request_that_passed_refutes_a_refusal():
    """Something else was wrong, or the window has grown."""
    memory = ContextWindow()
    memory.refused(50_000)
    memory.passed(60_000)
    assert memory.fits(50_000)
    assert not memory.bounded


def test_a_smaller_request_that_passed_refutes_nothing():
    """It says nothing about larger ones."""
    memory = ContextWindow()
    memory.refused(50_000)
    memory.passed(40_000)
    assert not memory.fits(50_000)


def test_an_answer_of_more_tokens_than_the_window_refutes_it():
    """What a price list says may be old."""
    memory = ContextWindow(guess=1000)
    assert not memory.fits(8000)
    memory.passed(8000, prompt_tokens=2000)
    assert memory.fits(8000)


def test_a_window_of_the_users_is_refuted_by_nothing():
    """Not by a target that says otherwise either."""
    memory = ContextWindow(1000)
    memory.passed(8000, prompt_tokens=2000)
    memory.refused(90_000, limit=50_000)
    assert memory.window == 1000


def test_counted_prompts_teach_how_tight_text_is_packed():
    """Two characters a token: half as many characters fit as in English."""
    memory = ContextWindow(guess=1000)
    for _ in range(10):
        memory.passed(2000, prompt_tokens=1000)
    assert memory.fits(2200)
    assert not memory.fits(2400)


def test_tighter_text_is_believed_at_once():
    """After Chinese comes English: it is not skipped for the other's sake."""
    memory = ContextWindow(guess=1000)
    for _ in range(10):
        memory.passed(1500, prompt_tokens=1000)
    memory.passed(4000, prompt_tokens=1000)
    assert memory.fits(4500)


def test_looser_text_is_believed_in_time():
    """A hundred requests at two characters a token, after one at four."""
    memory = ContextWindow(guess=1000)
    memory.passed(4000, prompt_tokens=1000)
    for _ in range(100):
        memory.passed(2000, prompt_tokens=1000)
    memory.refused(4000, limit=1000)
    assert memory.fits(2200)
    assert not memory.fits(2400)


def test_short_requests_teach_nothing_about_packing():
    """Eight tokens for "hi" are the frame around it."""
    memory = ContextWindow(guess=1000)
    for _ in range(100):
        memory.passed(2, prompt_tokens=8)
    assert memory.fits(5000)


def test_what_was_learned_is_tried_again_now_and_then():
    """Windows grow: one in 64 is asked all the same."""
    memory = ContextWindow()
    memory.refused(50_000, limit=8192, given=12_000)
    assert sum(memory.fits(60_000) for _ in range(640)) == 10


@pytest.mark.parametrize(
    "says",
    [
        {},
        {"limit": 128_000},
        {"limit": 128_000, "given": 900},
        {"limit": 10, "given": 900_000},
        {"given": 900},
    ],
)
def test_a_refusal_that_shows_nothing_is_doubted(says):
    """It bounds the size, and is put to the test soon; smaller requests go on at once."""
    memory = ContextWindow()
    memory.refused(4000, **says)
    assert memory.fits(3999)
    assert memory.window is None
    assert [memory.fits(5000) for _ in range(4)] == [False, True, False, True]
    memory.passed(5000)
    assert all(memory.fits(10**6) for _ in range(10))


def test_a_refusal_that_comes_again_and_again_is_believed_more_and_more():
    """Two, four, eight, ... requests are spared, up to 64."""
    memory = ContextWindow()
    spared = []
    for _ in range(8):
        memory.refused(50_000)
        spared.append(next(n for n in range(1, 100) if memory.fits(60_000)))
    assert spared == [2, 4, 8, 16, 32, 64, 64, 64]


def test_a_doubtful_refusal_does_not_hide_behind_a_known_window():
    """Nor does it change that."""
    memory = ContextWindow(guess=100_000)
    memory.refused(600_000, limit=100_000, given=150_000)
    memory.refused(500)
    assert [memory.fits(1000) for _ in range(2)] == [False, True]
    memory.passed(1000)
    assert memory.fits(1000)
    assert not memory.fits(700_000)


def test_a_refusal_whose_figures_show_it_is_believed_at_once():
    """As OpenAI's, which names the limit and what was given."""
    memory = ContextWindow()
    memory.refused(50_000, 1000, limit=8192, given=8000)
    assert memory.window == 8192
    assert sum(memory.fits(60_000) for _ in range(640)) == 10


@given(
    st.lists(
        st.tuples(
            st.booleans(),
            st.integers(0, 10**6),
            st.integers(0, 10**5),
            st.none() | st.integers(0, 10**6),
        ),
        max_size=30,
    ),
    st.integers(0, 10**6),
)
def test_a_request_that_just_passed_is_not_skipped(lessons, size):
    """Whatever was learned before it."""
    memory = ContextWindow()
    for good, length, answer, count in lessons:
        if good:
            memory.passed(length, answer, prompt_tokens=count)
        else:
            memory.refused(length, answer, limit=count, given=count)
    memory.passed(size, prompt_tokens=max(1, size // 4))
    assert memory.fits(size)
