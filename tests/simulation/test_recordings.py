"""Recorded latencies from CSV files: both shapes, and errors that say where."""

from __future__ import annotations

from math import inf

import pytest

from langchain_resilient.simulation.recordings import RecordingError, fit, read_recordings


@pytest.fixture
def read(tmp_path):
    """Write a file and read it."""

    def function(text: str | bytes):
        path = tmp_path / "latencies.csv"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return read_recordings(path)

    return function


def seconds(recorded):
    """Without the sizes."""
    return {name: [request.seconds for request in requests] for name, requests in recorded.items()}


def test_sizes_beside_the_seconds(read):
    """Tokens of the prompt and the reasoning effort; either may be missing, or unknown."""
    text = "target,Tokens,seconds,effort\na,300,0.5,\na,,1,High\nb,60000,4,low\n"
    recorded = read(text)
    assert recorded["a"] == [(0.5, (300, None, 0)), (1.0, (0, "high", 0))]
    assert recorded["b"] == [(4.0, (60_000, "low", 0))]


def test_what_is_no_number_of_tokens(read):
    """The place is named."""
    with pytest.raises(RecordingError, match=r'csv, line 2, column "tokens": \'many\''):
        read("target,seconds,tokens\na,1,many\n")


def test_a_fit_finds_what_the_prompt_costs(read):
    """A second, and one more for every 10,000 tokens; what was never answered does not count."""
    rows = [f"a,{1 + tokens / 10_000},{tokens}" for tokens in range(0, 60_000, 50)]
    model = fit(read("target,seconds,tokens\n" + "\n".join([*rows, "a,,70000"]))["a"])
    assert model.doubling_tokens == pytest.approx(10_000, rel=0.1)


def test_one_latency_a_line(read):
    """Columns in any order, others ignored, targets in the order of the file."""
    text = "when,Seconds,target\n1,0.5,b\n2,1.5,a\n3,2,b\n"
    assert seconds(read(text)) == {"b": [0.5, 2.0], "a": [1.5]}


def test_one_column_a_target(read):
    """Names may hold colons and slashes; spaces around do not count."""
    assert seconds(read("openai:a, together:b/c\n0.5, 1\n2,3\n")) == {
        "openai:a": [0.5, 2.0],
        "together:b/c": [1.0, 3.0],
    }


@pytest.mark.parametrize("cell", ["", " ", "inf", "Infinity", "timeout", "TIMEOUT"])
def test_no_answer_is_infinite(read, cell):
    """However it is said."""
    assert seconds(read(f"target,seconds\na,1\na,{cell}\n")) == {"a": [1.0, inf]}


def test_blank_lines_and_a_byte_order_mark_are_passed_over(read):
    """As spreadsheets write them."""
    assert seconds(read("\ufefftarget,seconds\r\n\r\na,1\r\n,\r\n")) == {"a": [1.0]}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("target,seconds\na,1\na,fast\n", r'csv, line 3, column "seconds": \'fast\''),
        ("a,b\n1,2\n1,-2\n", r'csv, line 3, column "b": \'-2\''),
        ("a,b\n1,nan\n", r'csv, line 2, column "b": \'nan\''),
        ("a,b\n1,2,3\n", "csv, line 2: 3 cells, but the header has 2"),
        ("target,seconds\n,1\n", 'csv, line 2, column "target": it is empty'),
        ("target,when\na,1\n", 'csv, line 1: the column "seconds" is missing beside "target"'),
        ("a,a\n1,2\n", "csv, line 1: two columns are named a"),
        ("a,\n1,2\n", "csv, line 1: every column needs a name"),
        ("", "csv, line 1: every column needs a name"),
        ("target,seconds\n", "csv: there is no latency in it"),
        (b"\xff\xfe\x00a", "csv: not a text file in UTF-8"),
    ],
)
def test_an_error_says_where_it_is(read, text, words):
    """The file, and the line and column where there is one."""
    with pytest.raises(RecordingError, match=words):
        read(text)
