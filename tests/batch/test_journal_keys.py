"""Equal keys for equal questions, different ones for different questions."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from enum import Enum
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import (
    AIMessage,
    ChatMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.messages.content import create_text_block
from langchain_core.tools import tool
from pydantic import BaseModel, SecretStr

from langchain_resilient import ResilientChatModel, Target
from langchain_resilient.batch.journal_keys import item_key, model_key, request_key

HELLO = [HumanMessage("hello")]


def model(*specs: Any, **fields: Any) -> ResilientChatModel:
    return ResilientChatModel(targets=specs or ["openai:m"], api_key="sk-canary", **fields)


def key(messages: Any = HELLO, stop: Any = None, llm: Any = None, **kwargs: Any) -> str:
    return request_key(llm or model(), messages, stop, kwargs)


class Weather(BaseModel):
    """Tell the weather."""

    city: str


class Forecast(BaseModel):
    """Tell the weather."""

    city: str
    days: int


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@tool
def multiply(a: int, b: int) -> int:
    """Multiply two numbers."""
    return a * b


class Effort(Enum):
    """How hard to think."""

    LOW = 1
    HIGH = 2


@dataclass
class Choice:
    """A dataclass as an argument."""

    name: str


DIFFERENT = {
    "nothing special": key(),
    "text": key([HumanMessage("hello!")]),
    "role": key([SystemMessage("hello")]),
    "own role": key([ChatMessage("hello", role="critic")]),
    "another own role": key([ChatMessage("hello", role="poet")]),
    "name": key([HumanMessage("hello", name="ann")]),
    "two messages": key([HumanMessage("hel"), HumanMessage("lo")]),
    "blocks": key([HumanMessage([{"type": "text", "text": "hello"}])]),
    "tool call": key([AIMessage("", tool_calls=[{"name": "f", "args": {"a": 1}, "id": "1"}])]),
    "tool argument": key([AIMessage("", tool_calls=[{"name": "f", "args": {"a": 2}, "id": "1"}])]),
    "tool result": key([ToolMessage("3", tool_call_id="1")]),
    "other tool result": key([ToolMessage("3", tool_call_id="2")]),
    "failed tool": key([ToolMessage("3", tool_call_id="1", status="error")]),
    "additional": key([HumanMessage("hello", additional_kwargs={"x": 1})]),
    "stop": key(stop=["."]),
    "temperature": key(temperature=0.0),
    "other temperature": key(temperature=0.5),
    "model": key(model="gpt-4o"),
    "model as target": key(model=Target("openai:gpt-4o")),
    "model as LangChain model": key(model=FakeListChatModel(responses=["a"])),
    "response format": key(response_format={"type": "json_object"}),
    "tool": key(tools=[add]),
    "another tool": key(tools=[multiply]),
    "pydantic tool": key(tools=[Weather]),
    "another pydantic tool": key(tools=[Forecast]),
    "pydantic value": key(extra=Choice("a")),
    "another value": key(extra=Choice("b")),
    "enum": key(effort=Effort.LOW),
    "other enum": key(effort=Effort.HIGH),
    "set": key(words={"a", "b"}),
    "other set": key(words={"a", "c"}),
    "another chain": key(llm=model("openai:n")),
    "a target's own": key(llm=model(Target("openai:m", temperature=0.1))),
    "the model's own": key(llm=model(temperature=0.1)),
    "last resort": key(llm=model(last_resort="sorry")),
    "another server": key(llm=model(Target("openai:m", base_url="http://localhost", api_key="k"))),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_what_changes_the_answer_changes_the_key(what):
    """Each of them differs from all others."""
    assert [name for name, other in DIFFERENT.items() if other == DIFFERENT[what]] == [what]


@pytest.mark.parametrize(
    "other",
    [
        lambda: key(timeout=3, hedge=None, affinity="a", priority="batch", progress=True),
        lambda: key(stop=[]),
        lambda: key([HumanMessage("hello", id="7", response_metadata={"resilience": {}})]),
        lambda: key(llm=model(timeout=3, hedge=None, order="fastest")),
        lambda: key(llm=ResilientChatModel(targets=["openai:m"], api_key="another")),
    ],
)
def test_what_does_not_change_the_answer_does_not_change_the_key(other):
    """Time limits, who pays, ids."""
    assert other() == key()


def test_ids_that_langchain_drew_at_random_do_not_count():
    """Else the same script would ask everything again."""
    one, two = ([HumanMessage(content_blocks=[create_text_block("a")])] for _ in range(2))
    assert one[0].content != two[0].content
    assert key(one) == key(two)


def test_a_check_has_the_same_key_wherever_it_lies_in_memory():
    """Its repr holds an address."""

    def make():
        def check(message):
            return bool(message.text)

        return check

    one, two = make(), make()
    assert repr(one) != repr(two)
    assert key(llm=model(check=one)) == key(llm=model(check=two)) != key()


_SCRIPT = """
from tests.batch.test_journal_keys import key, add, Weather, model
print(key(tools=[add, Weather], words={"a", "b", "c"}, llm=model(check=print, seed=3)))
"""


def test_the_same_in_every_process():
    """Whatever the order of sets and the addresses of functions."""
    keys = {
        subprocess.run(
            [sys.executable, "-c", _SCRIPT],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True, text=True, check=True, timeout=60,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(keys) == 1


def test_the_order_of_arguments_does_not_count():
    """Nor that of the keys in a dict."""
    one = key(temperature=0, seed=1, logit_bias={"1": 1.0, "2": 2.0})
    assert one == key(seed=1, logit_bias={"2": 2.0, "1": 1.0}, temperature=0)


def test_secrets_do_not_count():
    """They change who pays."""
    assert key(token=SecretStr("one")) == key(token=SecretStr("two"))


@pytest.mark.parametrize("value", [object(), {1: "a", "b": 2}, {("a",): 1}, int])
def test_what_is_not_plain_data_is_refused_by_name(value):
    """With what to do."""
    with pytest.raises(ValueError, match=r"`special` cannot be part of a journal's key: .* plain"):
        key(special=value)


def test_the_parts_make_the_whole():
    """A batch works the first part out once."""
    prefix = model_key(model(), ["."], {"seed": 1})
    assert item_key(prefix, HELLO) == key(stop=["."], seed=1)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(), min_size=1), st.lists(st.text(), min_size=1))
def test_conversations_are_told_apart(one, two):
    """Any two texts, halves of surrogate pairs and quotes included."""
    keys = [key([HumanMessage(text) for text in texts]) for texts in (one, two)]
    assert (keys[0] == keys[1]) == (one == two)
