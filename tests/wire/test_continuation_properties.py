"""What must hold for every text, every cut, every echo and every way in which it comes."""

from hypothesis import given, settings
from hypothesis import strategies as st

from langchain_resilient.wire.continuation import (
    MAX_ECHO,
    ContinuationJoiner,
    begins_word,
    join_texts,
)
from tests.wire.streams import pieces_of

MORE = settings(max_examples=120, deadline=None)

_WORDS = [a + b for a in "bdfgklmnprst" for b in ("a", "ei", "or", "ull")]
_GAPS = st.sampled_from([" ", " ", " ", ", ", ". ", "\n\n", "\n    ", "\n- ", " | "])


@st.composite
def texts(draw):
    """Words of which none comes twice, so that there is one right answer."""
    count = draw(st.integers(3, 120))
    numbers = draw(st.permutations(range(1000, 1000 + count)))
    text = ""
    for number in numbers:
        word = draw(st.sampled_from(_WORDS))
        text += f"{word}{number}{word}{draw(_GAPS)}"
    return text.rstrip()


@st.composite
def breaks(draw):
    """A whole text, what of it was delivered, and a continuation that repeats some of it."""
    whole = draw(texts())
    cut = draw(st.integers(1, len(whole)))
    echo = draw(st.integers(0, min(cut, MAX_ECHO)))
    return whole, whole[:cut], whole[cut - echo :]


def is_telling(whole, delivered, more):
    """Whether the echo is none, or holds more than white space and a bit of one word."""
    start = len(whole) - len(more)
    echo = delivered[start:]
    edge = delivered[-1:].isspace() and whole[len(delivered) : len(delivered) + 1].isspace()
    if not echo:
        return not edge
    if not echo.strip():
        return False
    lead = len(echo) - len(echo.lstrip())
    begins = begins_word(delivered, start + lead) and delivered[start + lead].isalnum()
    return begins or len(echo.strip()) >= 16


@given(breaks())
@MORE
def test_the_whole_text_comes_out(case):
    """Whatever was cut where, and however much is repeated."""
    whole, delivered, more = case
    if is_telling(whole, delivered, more):
        assert join_texts(delivered, more, finished=True) == whole


@given(breaks(), st.sampled_from(["", " ", "\n", "...", "… ", '"', " ...“"]))
@MORE
def test_what_stands_before_an_echo_does_not_matter(case, lead):
    """White space, an ellipsis, a quotation mark."""
    whole, delivered, more = case
    echo = delivered[len(whole) - len(more) :]
    if len(echo.strip()) >= 16 and not more[0].isspace():
        assert join_texts(delivered, lead + more, finished=True) == whole


@given(texts(), st.data())
@MORE
def test_a_text_that_is_said_again_from_the_start(whole, data):
    """Of any length."""
    cut = data.draw(st.integers(8, len(whole)))
    assert join_texts(whole[:cut], whole, finished=True) == whole


_SIMILAR = st.text(alphabet="aab  \n.…\"'“(1天é\u0301", max_size=24)


@st.composite
def anything(draw):
    """Two texts that have much in common by chance, the second in pieces."""
    delivered = draw(_SIMILAR)
    more = draw(st.just(delivered[draw(st.integers(0, len(delivered))) :])) + draw(_SIMILAR)
    more = draw(st.sampled_from(["", " ", "...", "… ", '"', "“"])) + more
    return delivered, draw(pieces_of(more))


@given(anything() | breaks().flatmap(lambda b: st.tuples(st.just(b[1]), pieces_of(b[2]))))
@settings(max_examples=300, deadline=None)
def test_it_does_not_matter_in_which_pieces_it_comes(case):
    """A stream shows the same as the whole at once, finished or broken."""
    delivered, pieces = case
    join = ContinuationJoiner(delivered)
    shown = "".join(map(join.feed, pieces))
    more = "".join(pieces)
    assert delivered + shown == join_texts(delivered, more, finished=False)
    assert delivered + shown + join.finish() == join_texts(delivered, more, finished=True)


@given(anything())
@MORE
def test_it_only_ever_leaves_out(case):
    """What is shown is the end of what came, and what was held is known already."""
    delivered, pieces = case
    more = "".join(pieces)
    shown = join_texts(delivered, more, finished=True)[len(delivered) :]
    assert more.endswith(shown)
    left_out = more[: len(more) - len(shown)].strip(" \n.…\"'“")
    assert "".join(left_out.split()) in "".join(delivered.split())


@given(st.text(max_size=40), st.lists(st.text(max_size=6), max_size=6))
@MORE
def test_no_text_brings_it_down(delivered, pieces):
    """Whatever the script."""
    join = ContinuationJoiner(delivered)
    shown = "".join(map(join.feed, pieces)) + join.finish()
    assert "".join(pieces).endswith(shown)
