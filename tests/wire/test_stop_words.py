"""Stop words on our side: across pieces, and nothing behind one."""

import pytest

from langchain_resilient.wire.stop_words import StopFilter, cut_blocks


def shown(text, words, size):
    stop = StopFilter(words)
    pieces = [stop.feed(text[i : i + size]) for i in range(0, len(text), size)]
    return "".join(pieces) + stop.rest(), stop.stopped


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
@pytest.mark.parametrize(
    ("text", "words", "expected"),
    [
        ("one END two", ["END"], "one "),
        ("one EN two", ["END"], "one EN two"),
        ("one EEND two", ["END"], "one E"),
        ("aab aaab", ["aaab"], "aab "),
        ("first 9 then 10", ["10", "9"], "first "),
        ("one", [""], "one"),
        ("one EN", ["END"], "one EN"),
    ],
)
def test_nothing_behind_a_stop_word_is_shown(text, words, expected, size):
    assert shown(text, words, size) == (expected, expected != text)


def test_what_cannot_begin_a_word_is_shown_at_once():
    stop = StopFilter(["\n\nHuman:"])
    assert stop.feed("Hello.\n") == "Hello."
    assert stop.feed("\nHi") == "\n\nHi"


def test_whole_blocks_are_cut_and_what_follows_is_left_out():
    text, more = {"type": "text", "text": "one"}, {"type": "text", "text": "two END three"}
    call = {"type": "function_call"}
    assert cut_blocks([text, more, call], ["END"]) == [
        text,
        {"type": "text", "text": "two ", "annotations": []},
    ]
    assert cut_blocks([text, call], ["END"]) is None
