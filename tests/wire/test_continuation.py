"""Asking another target to go on, and joining what it says."""

from itertools import accumulate

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage

from langchain_resilient.exchange import ChatRequest
from langchain_resilient.testing import answer_to
from langchain_resilient.testing.answer_generator import generate_answer
from langchain_resilient.testing.answers import ReplyOptions, tokens
from langchain_resilient.wire.accumulator import ResponseAccumulator
from langchain_resilient.wire.continuation import (
    ContinuationJoiner,
    continuation_request,
    join_texts,
    may_continue,
)
from tests.wire.streams import call, chunk

TOOL = {"type": "function", "function": {"name": "add", "parameters": {}}}
Q = "How do bees find home?"


def ask(defaults=None, **overrides):
    """A request with one question."""
    source = [HumanMessage(Q)]
    return ChatRequest([{"role": "user", "content": Q}], defaults or {}, overrides, source=source)


def draft_of(*chunks):
    """A draft of these chunks."""
    response = ResponseAccumulator()
    for one in chunks:
        response.add(one if "choices" in one else {"message_chunk": one["message"]})
    return response


HI = draft_of(chunk("Hi"))


@pytest.mark.parametrize(
    "wanted",
    [
        {},
        {"tools": [TOOL]},
        {"tools": [TOOL], "tool_choice": "auto"},
        {"logprobs": True, "top_logprobs": 2},
        {"response_format": {"type": "text"}},
        {"n": 1, "modalities": ["text"]},
    ],
)
def test_plain_text_may_be_continued(wanted):
    """Also where tools are merely offered."""
    assert may_continue(ask(wanted), HI)
    assert may_continue(ask(**wanted), HI)


@pytest.mark.parametrize(
    "wanted",
    [
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}},
        {"response_format": {"type": "regex", "pattern": "(yes|no)"}},
        {"grammar": 'root ::= "yes"'},
        {"extra_body": {"guided_json": {"type": "object"}}},
        {"tools": [TOOL], "tool_choice": "required"},
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "add"}}},
        {"modalities": ["text", "audio"]},
        {"n": 2},
    ],
)
def test_what_must_have_a_form_is_never_glued(wanted):
    """JSON, grammars, forced tools, speech and several answers, by the model or by the call."""
    assert not may_continue(ask(wanted), HI)
    assert not may_continue(ask(**wanted), HI)


def test_a_call_goes_before_its_model():
    """The call wants text where the model is set to JSON."""
    request = ask({"response_format": {"type": "json_object"}}, response_format={"type": "text"})
    assert may_continue(request, HI)


@pytest.mark.parametrize(
    "more",
    [
        chunk(tool_calls=[call("", index=0, id="1", name="add")]),
        chunk(function_call={"name": "add", "arguments": ""}),
        chunk(refusal="I am sorry"),
        chunk(audio={"id": "a", "transcript": "Hi"}),
        chunk("Ho", index=1),
    ],
)
def test_an_answer_of_more_than_text_is_never_glued(more):
    """A tool call, a refusal, speech, a second choice."""
    assert not may_continue(ask(), draft_of(chunk("Hi"), more))


CALL = {"name": "add", "args": "", "id": "1", "index": 0}


@pytest.mark.parametrize(
    ("message", "may"),
    [
        (AIMessageChunk(" there"), True),
        (AIMessageChunk([{"type": "text", "text": " there", "index": 0}]), True),
        (AIMessageChunk([{"type": "thinking", "thinking": "hm"}]), True),
        (AIMessageChunk("", tool_call_chunks=[CALL]), False),
        (AIMessageChunk([{"type": "image", "url": "u"}]), False),
        (AIMessageChunk("", additional_kwargs={"refusal": "No"}), False),
        (AIMessageChunk(" there", additional_kwargs={"audio": {"id": "a"}}), False),
    ],
)
def test_answers_of_langchain_models(message, may):
    """The same, in LangChain's words."""
    response = draft_of({"message": AIMessageChunk("Hi")}, {"message": message})
    assert may_continue(ask(), response) is may


def test_the_next_target_is_asked_by_a_message():
    """The question, the partial answer, and the user who asks to go on: no prefill."""
    request = continuation_request(ask(), "The sun is a st", None)
    assert [m["role"] for m in request.messages] == ["user", "assistant", "user"]
    assert request.messages[1]["content"] == "The sun is a st"
    assert '"The sun is a st"' in request.messages[2]["content"]


def test_langchain_models_are_asked_the_same():
    """They read `source`."""
    request = continuation_request(ask(), "The sun", None)
    assert request.source == (
        HumanMessage(Q),
        AIMessage("The sun"),
        HumanMessage(request.messages[2]["content"]),
    )


def test_the_rest_of_the_request_stays():
    """Parameters and native arguments are those of the call."""
    request = ChatRequest([], {"temperature": 0.5}, {"stop": ["x"], "tools": [TOOL]}, (), {"a": 1})
    more = continuation_request(request, "Hi", 3)
    assert (more.defaults, more.overrides) == (request.defaults, request.overrides)
    assert more.native == {"a": 1}


def test_nothing_of_the_request_is_changed_or_copied():
    """Other attempts read it at the same time."""
    request = ask({"max_tokens": 100})
    more = continuation_request(request, "Hi", 30)
    assert request.messages == [{"role": "user", "content": Q}]
    assert (request.defaults, request.source) == ({"max_tokens": 100}, [HumanMessage(Q)])
    assert more.messages[0] is request.messages[0]


@pytest.mark.parametrize(
    ("limit", "tokens", "left"), [(100, 30, 70), (100, 95, 5), (100, 200, 1), (100, None, 100)]
)
@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_what_is_left_of_the_limit(name, limit, tokens, left):
    """Under either name, of the model, the target or the call."""
    assert continuation_request(ask({name: limit}), "Hi", tokens).body({})[name] == left
    assert continuation_request(ask(), "Hi", tokens).body({name: limit})[name] == left
    assert continuation_request(ask(**{name: limit}), "Hi", tokens).body({})[name] == left


@pytest.mark.parametrize(("limit", "repeats"), [(None, True), (400, True), (60, False), (8, False)])
def test_a_short_rest_repeats_nothing(limit, repeats):
    """A repetition would use up the tokens that are left."""
    request = ask({"max_tokens": limit} if limit else {})
    prompt = continuation_request(request, "Once upon a time", 4).messages[-1]["content"]
    assert '"Once upon a time"' in prompt
    assert ("repeating these last words" in prompt) is repeats


def test_without_a_limit_none_is_set():
    """The provider's own stays in force."""
    assert "max_tokens" not in continuation_request(ask(), "Hi", 30).body({})


def test_blank_text_is_nothing_to_go_on_from():
    """The question is simply asked again."""
    request = ask()
    assert continuation_request(request, " \n", 3) is request


def rest_from_model(request, overlap):
    """What the simulated model answers."""
    body = {"messages": request.messages}
    return generate_answer(body, ReplyOptions(overlap=overlap)).choices[0].text


@pytest.mark.parametrize("overlap", [0, 9, 40, 80, 400])
def test_the_simulated_model_understands(overlap):
    """After whichever token the answer broke off, it goes on there, and the join is exact."""
    whole = answer_to(Q)
    for cut in accumulate(map(len, tokens(whole))):
        request = continuation_request(ask(), whole[:cut], None)
        more = rest_from_model(request, overlap)
        assert join_texts(whole[:cut], more, finished=True) == whole


def test_it_can_be_continued_more_than_once():
    """Always from the first request, with all that was delivered."""
    whole, text = answer_to(Q), ""
    for end in (50, 90, len(whole)):
        request = continuation_request(ask(), text, None)
        more = rest_from_model(request, overlap=20) if text else whole
        text = join_texts(text, more[: end - len(text)], finished=False)
    assert whole.startswith(text)
    assert len(text) > 200


# Joining.

SOUND = [
    # delivered, continuation, both together
    ("Mis", "sissippi", "Mississippi"),
    ("The quick bro", "brown fox", "The quick brown fox"),
    ("upon a", "a time", "upon a time"),
    ("The quick bro", "wn fox", "The quick brown fox"),
    ("Hello", " world", "Hello world"),
    ("(", "(x)", "((x)"),
    ("f(x", ")", "f(x)"),
    ("The quick brown fox", "quick brown fox jumps", "The quick brown fox jumps"),
    ("The quick brown fox", "ick brown fox jumps", "The quick brown fox jumps"),
    ("The quick brown fox", " fox jumps", "The quick brown fox jumps"),
    # what may stand before an echo
    ("The quick brown fox", "…quick brown fox jumps", "The quick brown fox jumps"),
    ("The quick brown fox", "... brown fox jumps", "The quick brown fox jumps"),
    ("The quick brown fox", '"quick brown fox" jumps', "The quick brown fox jumps"),
    ("The quick brown fox", "“brown fox jumps”", "The quick brown fox jumps”"),
    ("The quick brown fox", "... and so on", "The quick brown fox... and so on"),
    ("He said", ' "no"', 'He said "no"'),
    ('He said "I am', '"I am" and left', 'He said "I am" and left'),
    # the longest echo counts
    ("had had had", "had had had been", "had had had been"),
    ("she had had", "had it", "she had had it"),
    ("a b a b", "a b a b c", "a b a b c"),
    # white space
    ("a fox ", "fox jumps", "a fox jumps"),
    ("a fox  ", "a fox jumps", "a fox  jumps"),
    ("a fox ", " jumps", "a fox jumps"),
    ("one\ntwo three", "one two three four", "one\ntwo three four"),
    ("one\n", "one\n\ntwo", "one\n\ntwo"),
    ("one ", "one\ntwo", "one \ntwo"),
    ("one", "\n\ntwo", "one\n\ntwo"),
    # numbers are not changed
    ("costs 1.1", "5 dollars", "costs 1.15 dollars"),
    ("costs 1.1", "1 dollars", "costs 1.11 dollars"),
    ("1000", "000", "1000000"),
    ("at 12:3", "3:30", "at 12:33:30"),
    ("12 24 36", "24 36 48", "12 24 36 48"),
    # contractions
    ("I don't", "think", "I don'tthink"),
    # without spaces between words
    ("我们今天", "今天天气很好", "我们今天天气很好"),
    ("我们今天", "天气很好", "我们今天天气很好"),
    ("今日は", "良い天気です", "今日は良い天気です"),
    ("今日は良い天", "良い天気です", "今日は良い天気です"),
    ("สวัสดีครับ", "ครับผม", "สวัสดีครับผม"),
    # combining characters and emoji
    ("caf", "cafe\u0301 noir", "cafe\u0301 noir"),
    ("cafe", "\u0301 noir", "cafe\u0301 noir"),
    ("हिन्दी में", "में लिखो", "हिन्दी में लिखो"),
    ("Yes 👍🏽 fin", "👍🏽 fine", "Yes 👍🏽 fine"),
    ("👩‍", "👩 and", "👩‍👩 and"),
    # code, lists, tables
    ("def f():\n    ", "    return 1", "def f():\n    return 1"),
    ("def f():\n", "    return 1", "def f():\n    return 1"),
    ("if a:\n    b()\n    c", "    b()\n    c()\n", "if a:\n    b()\n    c()\n"),
    ("x}\n}\n", "}\n", "x}\n}\n}\n"),
    ("- one\n- tw", "- two\n- three", "- one\n- two\n- three"),
    ("- one\n", "- two", "- one\n- two"),
    ("1. one\n2.", " two\n3. three", "1. one\n2. two\n3. three"),
    ("| a | b |\n|---|---|\n| c ", "| c | d |", "| a | b |\n|---|---|\n| c | d |"),
    ("| a |\n|---|\n", "|---|\n| b |", "| a |\n|---|\n| b |"),
    # nothing more to say
    ("All is said.", "is said.", "All is said."),
    ("All is said.", "", "All is said."),
    # the beginning of an echo that never came is no echo
    ("The quick brown fox", "quick cats", "The quick brown foxquick cats"),
    ("Hi there", "Hi", "Hi thereHi"),
]


@pytest.mark.parametrize(("delivered", "more", "whole"), SOUND)
def test_a_join(delivered, more, whole):
    """No word is lost, none is doubled."""
    assert join_texts(delivered, more, finished=True) == whole


@pytest.mark.parametrize(
    ("delivered", "more", "got", "lost"),
    [
        ("she had", " had enough", "she had enough", "a word that is doubled by right"),
        ("a\n", "\nb", "a\nb", "an empty line that broke off in its middle"),
        ("12 1", "1 13", "12 1 13", "a digit, where a number broke off between equal ones"),
        ("7 mo", "mo 8", "7 mo 8", "a syllable, where a word of equal ones broke off between them"),
        ("done\n- ", "- next", "done\n- - next", "a list mark is too short to be an echo"),
        ("Missis", "sissippi", "Missississippi", "an echo within one word looks like chance"),
        ("今天天", "天气", "今天天天气", "one character without spaces: `天天` is a word"),
    ],
)
def test_where_nobody_can_tell(delivered, more, got, lost):
    """Both readings are possible, so this only says which one is taken."""
    assert join_texts(delivered, more, finished=True) == got, lost


def test_a_model_that_starts_over():
    """All of a long text is cut out, not only its last words."""
    whole = answer_to(Q, words=300)
    assert len(whole) > 2 * 400
    assert join_texts(whole[:1500], whole, finished=True) == whole


def test_a_model_that_starts_over_and_breaks_again():
    """It said nothing new."""
    whole = answer_to(Q, words=300)
    assert join_texts(whole[:1500], whole[:900], finished=False) == whole[:1500]


def test_text_is_shown_as_soon_as_it_is_no_echo():
    """Nothing longer can match, so nothing is held back."""
    join = ContinuationJoiner("The quick brown fox")
    assert [join.feed(text) for text in ("brown", " fox", " jumps")] == ["", "", " jumps"]


def test_a_join_settles_with_the_first_text_that_it_shows():
    """From then on text passes unchanged."""
    join = ContinuationJoiner("The quick brown fox")
    assert not join.settled
    assert join.feed("cats") == "cats"
    assert join.settled
    assert join.feed("quick brown fox") == "quick brown fox"
    assert join.finish() == ""


def test_after_nothing_all_is_shown():
    """There is nothing to repeat."""
    assert ContinuationJoiner("").settled


def test_what_is_undecided_at_a_break_is_not_shown():
    """The next continuation begins where this one did."""
    assert join_texts("The quick brown fox", "quick bro", finished=False) == "The quick brown fox"


@pytest.mark.parametrize("blank", ["", "word", "日本語 ", "a" * 500])
def test_the_quoted_words_are_the_last(blank):
    """Forty to eighty characters, where there are so many."""
    text = f"{blank} {answer_to(Q)}"
    content = continuation_request(ask(), text, None).messages[-1]["content"]
    quoted = content.split('"\n')[0].split('\n"')[1]
    assert text.endswith(quoted)
    assert 40 <= len(quoted) <= 80
    assert text[-len(quoted) - 1] == " "


def test_a_text_without_words_is_quoted_by_length():
    """Such as a key in base64."""
    content = continuation_request(ask(), "QUJD" * 50, None).messages[-1]["content"]
    assert f'\n"{"QUJD" * 10}"\n' in content
