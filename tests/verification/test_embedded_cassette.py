"""A real model's wire format, replayed: the embedded model behind llama.cpp's own HTTP server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from pydantic import BaseModel

from langchain_resilient import (
    AllTargetsFailedError,
    FaultKind,
    InvalidAnswersError,
    ResilientChatModel,
    Target,
)
from verification.cassettes import recording
from verification.cassettes.store import EMBEDDED_URL

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.vcr
SPEC = f"openai:{recording.MODEL}"


class Person(BaseModel):
    """A schema that llama.cpp's grammar enforces."""

    name: str
    age: int


@pytest.fixture(scope="module")
def server(record_mode: str) -> Iterator[str]:
    """The server's address: nobody's, but while recording."""
    if record_mode == "none":
        yield EMBEDDED_URL
        return
    with recording.server() as url:
        yield url


@pytest.fixture
def llm(server: str) -> ResilientChatModel:
    """The model at its own server, as sure of itself as it can be."""
    target = Target(SPEC, base_url=server, api_key=recording.KEY)
    return ResilientChatModel(targets=[target], temperature=0, max_tokens=24, max_retries=0)


def test_an_answer_has_text_usage_and_an_end(llm):
    """Everything that the server tells arrives."""
    answer = llm.invoke("Say hello.")
    assert answer.text
    usage = answer.usage_metadata
    assert usage["input_tokens"] + usage["output_tokens"] == usage["total_tokens"]
    assert answer.response_metadata["model_name"] == recording.MODEL
    assert answer.response_metadata["finish_reason"] in {"stop", "length"}


async def test_a_stream_adds_up_to_its_usage(llm):
    """Its chunks come one by one, and each token is counted once."""
    chunks = [chunk async for chunk in llm.astream("Count to five.", logprobs=True)]
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    tokens = whole.response_metadata["logprobs"]["content"]
    assert "".join(token["token"] for token in tokens).startswith(whole.text)
    assert len([chunk for chunk in chunks if chunk.text]) > 2
    assert whole.usage_metadata["output_tokens"] >= len(tokens)


def test_a_conversation_is_taken(llm):
    """With the model's own turn in it."""
    answer = llm.invoke([HumanMessage("I am Ada."), AIMessage("Hello!"), HumanMessage("Who am I?")])
    assert answer.text


def test_a_limit_of_tokens_is_told(llm):
    """The reason of the end is the server's."""
    answer = llm.invoke("Tell a long story.", max_tokens=4)
    assert answer.response_metadata["finish_reason"] == "length"
    assert answer.usage_metadata["output_tokens"] == 4


def test_a_stop_word_ends_the_answer(llm):
    """The server cuts it off."""
    plain = llm.invoke("Say hello.").text
    word = plain.split()[1]
    assert llm.invoke("Say hello.", stop=[word]).text == plain[: plain.index(word)]


def test_an_answer_in_a_schema_is_whole_and_right(llm):
    """The server enforces the form, and the model has the room to say all of it."""
    roomy = llm.model_copy(update={"max_tokens": 64})
    answer = roomy.with_structured_output(Person).invoke("Ada is 36 years old.")
    assert answer == Person(name="Ada", age=36)


def test_an_answer_in_a_schema_that_the_limit_cuts_off_is_refused(llm):
    """The server enforces the form of what it says; 24 tokens are too few to say it to the end."""
    with pytest.raises(InvalidAnswersError, match="max_tokens was used up"):
        llm.with_structured_output(Person).invoke("Ada is 36 years old.")


def test_a_prompt_that_is_too_long_is_told_as_that(llm):
    """In llama.cpp's own words."""
    with pytest.raises(AllTargetsFailedError) as caught:
        llm.invoke("word " * 9000)
    assert caught.value.receipt.attempts[0].fault.kind is FaultKind.CONTEXT_LENGTH
