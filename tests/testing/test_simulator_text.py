"""What the simulated model says, and how it goes on."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_resilient.testing.simulator import ProviderSimulator
from langchain_resilient.testing.steps.reply import Reply
from langchain_resilient.testing.text import answer_to, tokens
from tests.testing.wire_client import ask, chat

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
    ("prompt", "said"),
    [
        ("say exactly: one two", "one two"),
        ('Please say exactly "Ünï 🎉"', "Ünï 🎉"),
        ("Say exactly: 'a'\nb", "'a'\nb"),
    ],
)
def test_say_exactly(prompt: str, said: str) -> None:
    """The rest of the prompt is the answer."""
    assert answer_to(prompt) == said


def conversation(*turns: tuple[str, str]) -> dict[str, object]:
    """A request with these messages."""
    return {"model": "m", "messages": [{"role": role, "content": text} for role, text in turns]}


CONTINUE = "Continue exactly where you left off."


@pytest.mark.parametrize("cut", [1, 8, 20, 55, len(T) - 1])
async def test_a_partial_answer_is_continued(sim: ProviderSimulator, cut: int) -> None:
    """Question, partial answer, a message that asks to go on: the rest comes."""
    body = conversation(("user", Q), ("assistant", T[:cut]), ("user", CONTINUE))
    assert T[:cut] + (await ask(sim, body)).text == T


@pytest.mark.parametrize("dialect", ["openai", "together"])
async def test_a_quoted_partial_is_continued(sim: ProviderSimulator, dialect: str) -> None:
    """The partial may stand inside the message that asks."""
    message = f"Your answer was cut off. So far you said:\n---\n{T[:70]}\n---\nGo on from there."
    body = conversation(("user", Q), ("user", message))
    assert T[:70] + (await ask(sim, body, dialect=dialect)).text == T


async def test_a_quoted_tail_is_continued(sim: ProviderSimulator) -> None:
    """It is enough to quote the end of what was said."""
    body = conversation(("user", Q), ("user", f'Continue after "{T[60:120]}"'))
    assert T[:120] + (await ask(sim, body)).text == T


async def test_a_system_message_may_ask(sim: ProviderSimulator) -> None:
    """The question then stays the last user message."""
    asks = f"You were interrupted. Already said: <<{T[:90]}>> Continue seamlessly."
    body = conversation(("system", asks), ("user", Q))
    assert T[:90] + (await ask(sim, body)).text == T


async def test_prefill_is_continued(sim: ProviderSimulator) -> None:
    """The assistant's own last message, as some providers allow."""
    body = conversation(("user", Q), ("assistant", T[:33]))
    assert T[:33] + (await ask(sim, body)).text == T


async def test_a_beginning_is_enough_without_the_question(sim: ProviderSimulator) -> None:
    """All words follow from the digest at the beginning."""
    body = conversation(("user", f"Finish this, continuing it: {T[:80]}"))
    assert T[:80] + (await ask(sim, body)).text == T


async def test_several_rounds_are_continued(sim: ProviderSimulator) -> None:
    """What the assistant said since the question counts together."""
    turns = [("user", Q), ("assistant", T[:30]), ("user", CONTINUE)]
    turns += [("assistant", T[30:77]), ("user", CONTINUE)]
    assert T[:77] + (await ask(sim, conversation(*turns))).text == T


async def test_a_continuation_can_overlap(sim: ProviderSimulator) -> None:
    """Models like to repeat the last words."""
    sim.script("*", then=Reply(overlap=30))
    body = conversation(("user", Q), ("assistant", T[:100]), ("user", CONTINUE))
    assert T[:70] + (await ask(sim, body)).text == T


async def test_an_ordinary_second_question_is_not_continued(sim: ProviderSimulator) -> None:
    """Even after an answer that broke off."""
    body = conversation(("user", Q), ("assistant", T[:50]), ("user", "And ants?"))
    assert (await ask(sim, body)).text == answer_to("And ants?")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_whole_answer_has_no_rest(sim: ProviderSimulator, stream: bool) -> None:
    """Asked to go on, the model has nothing to add, and says so with `stop`."""
    body = conversation(("user", Q), ("assistant", T), ("user", CONTINUE))
    wire = await ask(sim, body | {"stream": stream})
    finish = wire.finish if stream else [wire.json["choices"][0]["finish_reason"]]
    assert (wire.text, finish) == ("", ["stop"])


async def test_the_end_of_a_whole_answer_may_be_repeated(sim: ProviderSimulator) -> None:
    """As a model does that is told to begin with the last words."""
    sim.script("*", then=Reply(overlap=30))
    body = conversation(("user", Q), ("assistant", T), ("user", CONTINUE))
    assert (await ask(sim, body)).text == T[-30:]


async def test_after_a_whole_answer_a_new_question_is_answered(sim: ProviderSimulator) -> None:
    """And its answer is continued, not the earlier one."""
    turns = [("user", Q), ("assistant", T), ("user", "And ants?")]
    assert (await ask(sim, conversation(*turns))).text == answer_to("And ants?")
    whole = answer_to("And ants?")
    body = conversation(*turns, ("assistant", whole[:70]), ("user", CONTINUE))
    assert whole[:70] + (await ask(sim, body)).text == whole


ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        },
    },
}
TOOL_TURNS = [
    {"role": "user", "content": "Add 3 and 4"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "c1",
                "type": "function",
                "function": {"name": "add", "arguments": '{"a":3,"b":4}'},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "c1", "content": "the sum of both is 7"},
]


async def test_what_was_said_of_a_tool_is_continued(sim: ProviderSimulator) -> None:
    """The tool is not called once more, though the asking message has numbers for it."""
    body = {"model": "gpt-4", "messages": TOOL_TURNS, "tools": [ADD]}
    whole = (await ask(sim, body)).text
    asking = {"role": "user", "content": f'Cut off: "1 of 2 {whole[:9]}". {CONTINUE}'}
    said = {"role": "assistant", "content": whole[:9]}
    rest = (await ask(sim, {**body, "messages": [*TOOL_TURNS, said, asking]})).text
    assert whole[:9] + rest == whole == "add says: the sum of both is 7"


async def test_what_was_remembered_is_continued(sim: ProviderSimulator) -> None:
    """Whatever the answer was made of."""
    turns = [("user", "The code word is zebra."), ("assistant", "Noted.")]
    turns += [("user", "What is the code word?"), ("assistant", "The code")]
    assert (await ask(sim, conversation(*turns, ("user", CONTINUE)))).text == " word is zebra."


@pytest.mark.parametrize(
    ("dialect", "field"),
    [("openai", "max_tokens"), ("openai", "max_completion_tokens"), ("together", "max_tokens")],
)
async def test_max_tokens_cuts_the_answer(sim: ProviderSimulator, dialect: str, field: str) -> None:
    """With `length`, and the usage to match."""
    wire = await ask(sim, chat(Q, **{field: 5}), dialect=dialect)
    assert wire.text == "".join(tokens(T)[:5])
    assert wire.json["choices"][0]["finish_reason"] == "length"
    assert wire.json["usage"]["completion_tokens"] == 5


async def test_together_ignores_max_completion_tokens(sim: ProviderSimulator) -> None:
    """It does not know the field, and says nothing about it."""
    wire = await ask(sim, chat(Q, max_completion_tokens=5), dialect="together")
    assert wire.text == T


async def test_reasoning_may_use_up_the_tokens(sim: ProviderSimulator) -> None:
    """The well-known empty answer with `length`."""
    wire = await ask(sim, chat(Q, model="o4-mini", max_completion_tokens=50))
    assert (wire.text, wire.json["choices"][0]["finish_reason"]) == ("", "length")


@pytest.mark.parametrize("stop", [" 3 ", [" 9 ", " 3 "]])
async def test_stop_sequences(sim: ProviderSimulator, stop: object) -> None:
    """The answer ends before the first of them."""
    assert (await ask(sim, chat(Q, stop=stop))).text == T.partition(" 3 ")[0]


async def test_a_code_word_is_remembered(sim: ProviderSimulator) -> None:
    """So a test can see whether the history was sent."""
    turns = [("user", "The code word is zebra."), ("assistant", "Noted.")]
    body = conversation(*turns, ("user", "What is the code word?"))
    assert (await ask(sim, body)).text == "The code word is zebra."


async def test_text_blocks_are_read(sim: ProviderSimulator) -> None:
    """Pictures cost tokens, and the text beside them is the prompt."""
    blocks = [
        {"type": "text", "text": Q},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
    ]
    wire = await ask(sim, chat(blocks))
    assert wire.text == T
    assert wire.json["usage"]["prompt_tokens"] > 85
