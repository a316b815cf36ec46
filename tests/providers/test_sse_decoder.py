"""Server-sent events out of bytes."""

import re

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from langchain_resilient.providers.sse_decoder import (
    PAGE,
    EventTooLongError,
    NamedEvent,
    SSEDecoder,
)


def decode(*pieces):
    """All events of these pieces, with the last."""
    decoder = SSEDecoder()
    return [event for piece in pieces for event in decoder.feed(piece)] + decoder.flush()


def without_lead(data):
    """Without marks and blanks, which a response may begin with."""
    return re.sub(rb"\A(?:\xef\xbb\xbf|[ \r\n])+", b"", data)


def reference(data):
    """The specification, line by line, over the whole response; bare JSON counts as data."""
    data = without_lead(data)
    results, lines, name = [], [], b""
    for line in [*re.split(rb"\r\n|\n|\r", data), b""]:
        if line:
            field, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if field == b"data":
                lines.append(value)
            elif field == b"event":
                name = value
            elif line.startswith(b"{"):
                lines.append(line)
            continue
        payload = b"\n".join(lines)
        if lines and payload == b"[DONE]" and name in {b"", b"message"}:
            break
        if lines:
            plain = name in {b"", b"message"}
            results.append(payload if plain else NamedEvent(name.decode(), payload))
        lines, name = [], b""
    return results


PARTS = [
    *[b"data: ", b"data:", b"data", b"event: error", b"event: message", b": comment", b"id: 1"],
    *[b"{", b"x", b" ", b"[DONE]", b"\xef\xbb\xbf", b"\xc3\xbc"],
    *[b"\n", b"\n\n", b"\r\n", b"\r\n\r\n", b"\r", b"\r\r", b"data: {}\n\n", b"data: [DONE]\n\n"],
]


@given(st.lists(st.sampled_from(PARTS), max_size=30), st.data())
@settings(max_examples=400, deadline=None)
def test_any_response_cut_anywhere(parts, data):
    """The decoder does what the specification says, wherever the pieces are cut."""
    whole = b"".join(parts)
    assume(without_lead(whole)[:1] not in {b"{", b"["})  # that is JSON
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert decode(*pieces) == reference(whole)
    assert decode(*(bytes([b]) for b in whole)) == reference(whole)


JSON_PARTS = [b'{"a":1}', b"}]}", b"{", b"x", b"data: {}", b"[DONE]", b"\n", b"\n\n", b"\r\n"]


@given(st.lists(st.sampled_from(JSON_PARTS), max_size=12))
@example([b"}]}", b"\n\n"])
@settings(max_examples=200, deadline=None)
def test_any_json_to_a_line_cut_anywhere(parts):
    """The same comes out in one piece, cut anywhere in two, and byte by byte."""
    whole = b'{"a":0}\n' + b"".join(parts)
    for cut in range(1, len(whole)):
        assert decode(whole[:cut], whole[cut:]) == decode(whole)
    assert decode(*(bytes([b]) for b in whole)) == decode(whole)


@pytest.mark.parametrize("blank", range(6))
def test_a_page_after_empty_lines(blank):
    """It begins with its first character, wherever the pieces are cut."""
    whole = b"data: 1\n\n" + b"\n" * blank + b"<html>\n\ndata: 2\n\n"
    for first in range(1, len(whole)):
        for second in range(first + 1, len(whole)):
            pieces = (whole[:first], whole[first:second], whole[second:])
            assert decode(*pieces) == [b"1", NamedEvent(PAGE, b"<html>"), b"2"]


def test_plain_events():
    """Payloads come out as bytes, as soon as their events are complete."""
    decoder = SSEDecoder()
    assert decoder.feed(b'data: {"a": 1}\n\ndata: 2\n') == [b'{"a": 1}']
    assert decoder.feed(b"\n") == [b"2"]
    assert decoder.flush() == []


def test_several_lines():
    """The lines of one event are joined."""
    assert decode(b"data: a\ndata: b\n\n") == [b"a\nb"]


def test_comments_and_other_fields():
    """Keep-alives, ids and retry times are no events."""
    assert decode(b": OPENROUTER PROCESSING\n\nid: 1\nretry: 5\ndata: a\n: x\n\n") == [b"a"]


def test_named_events():
    """An error frame can be told from an answer."""
    assert decode(b'event: error\ndata: {"m": 1}\n\n') == [NamedEvent("error", b'{"m": 1}')]
    assert decode(b"event: message\ndata: a\n\n") == [b"a"]


def test_events_of_the_responses_api():
    """A name and one line of data, or several lines."""
    decoder = SSEDecoder()
    assert decoder.feed(b'event: response.created\ndata: {"a": 1}\n\n') == [
        NamedEvent("response.created", b'{"a": 1}')
    ]
    several = b"event: response.created\ndata: 1\ndata: 2\nid: 3\n\nevent: response.x\ndata: \n\n"
    assert decoder.feed(several) == [
        NamedEvent("response.created", b"1\n2"),
        NamedEvent("response.x", b""),
    ]


def test_done():
    """`[DONE]` is no payload; whatever follows it is ignored."""
    decoder = SSEDecoder()
    assert decoder.feed(b"data: a\n\ndata: [DONE]\n\ndata: b\n\n") == [b"a"]
    assert decoder.done
    assert decoder.feed(b"data: c\n\n") == []
    assert decoder.flush() == []


def test_done_by_itself():
    """The end is seen also where it comes alone, between pieces that are whole events."""
    decoder = SSEDecoder()
    assert [decoder.feed(b"data: %b\n\n" % word) for word in (b"a", b"b", b"[DONE]", b"c")] == [
        [b"a"],
        [b"b"],
        [],
        [],
    ]


def test_done_inside_a_payload():
    """The word inside an answer ends nothing."""
    decoder = SSEDecoder()
    assert decoder.feed(b'data: "[DONE]"\n\n') == [b'"[DONE]"']
    assert decoder.feed(b'data: "[DONE]"\n\n') == [b'"[DONE]"']
    assert not decoder.done


def test_the_last_event_without_its_empty_line():
    """What a server did not end properly is given by `flush`."""
    decoder = SSEDecoder()
    assert decoder.feed(b"data: a") == []
    assert decoder.flush() == [b"a"]
    assert decoder.flush() == []


def test_endless_events():
    """An event that does not end is refused at the limit, in pieces of any size."""
    decoder = SSEDecoder(max_event_bytes=100)
    decoder.feed(b"data: " + b"x" * 94)
    with pytest.raises(EventTooLongError, match="longer than 100 bytes"):
        decoder.feed(b"x")
    with pytest.raises(ValueError, match="longer than"):
        SSEDecoder(max_event_bytes=100).feed(b"\n" * 7 + b"x" * 200)


def test_many_events_under_the_limit():
    """The limit is one event's, not the response's."""
    decoder = SSEDecoder(max_event_bytes=100)
    decoder.feed(b"d")
    assert sum(len(decoder.feed(b"ata: " + b"x" * 50 + b"\n\nd")) for _ in range(99)) == 99
