"""How many tokens a text has: estimated by its scripts, or counted by tiktoken with its data.

The counts are those of tiktoken 0.14 with its two vocabularies.
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage

from langchain_resilient import ResilientChatModel
from langchain_resilient.runtime import token_estimate
from langchain_resilient.runtime.call import CallOptions
from langchain_resilient.runtime.token_estimate import (
    PART_TOKENS,
    encoding_of,
    estimate_prompt_tokens,
    estimate_text_tokens,
    token_ids,
)

TEXTS = json.loads(Path(__file__).with_name("token_counts.json").read_text(encoding="utf-8"))
"""Everyday text, with its tokens in two vocabularies."""


@pytest.mark.parametrize("language", TEXTS)
@pytest.mark.parametrize("encoding", ["o200k_base", "cl100k_base"])
def test_the_estimate_is_within_a_quarter(language, encoding):
    """In every script, and for code."""
    count, text = TEXTS[language][encoding], TEXTS[language]["text"]
    assert estimate_text_tokens(text, encoding) == pytest.approx(count, rel=0.25)


@pytest.mark.parametrize("language", TEXTS)
def test_the_model_counts_like_its_first_target(language, monkeypatch):
    """`get_num_tokens` and `trim_messages` rest on that."""
    monkeypatch.setattr(token_estimate, "_tokenizer", lambda _: None)
    text = TEXTS[language]["text"]
    for model, encoding in (("gpt-4o", "o200k_base"), ("gpt-4", "cl100k_base")):
        count = TEXTS[language][encoding]
        llm = ResilientChatModel(targets=[f"openai:{model}"], api_key="k")
        assert llm.get_num_tokens(text) == pytest.approx(count, rel=0.25)
        assert len(llm.get_token_ids(text)) == llm.get_num_tokens(text)


@pytest.mark.parametrize("language", TEXTS)
def test_a_conversation_is_counted_and_paced_by_the_same_estimate(language, monkeypatch):
    """`trim_messages` and the limits of tokens a minute go by one number, in every language."""
    monkeypatch.setattr(token_estimate, "_tokenizer", lambda _: None)
    text, count = TEXTS[language]["text"], TEXTS[language]["o200k_base"]
    messages = [SystemMessage(text), HumanMessage([{"type": "text", "text": text}])]
    call = CallOptions({}, messages, None, {}, stream=False)
    assert call.prompt_tokens() == pytest.approx(2 * count + 11, rel=0.25)
    llm = ResilientChatModel(targets=["openai:gpt-6-luna"], api_key="k")
    assert llm.get_num_tokens_from_messages(messages) == call.prompt_tokens()


@pytest.mark.parametrize("language", TEXTS)
def test_a_long_text_is_estimated_by_samples(language):
    """As near as by all of it, though it changes from one end to the other."""
    text, english = TEXTS[language]["text"], TEXTS["english"]["text"]
    long = f"{text}\n" * 200 + f"{english}\n" * 200
    whole = estimate_text_tokens(long)
    assert estimate_prompt_tokens([{"content": long}]) == pytest.approx(whole, rel=0.1)


def test_images_calls_and_tools_of_a_conversation_count_too():
    """An image as one of usual size, however long its data is."""
    llm = ResilientChatModel(targets=["openai:gpt-6-luna"], api_key="k")
    image = {"type": "image", "base64": "A" * 100_000, "mime_type": "image/png"}
    assert llm.get_num_tokens_from_messages([HumanMessage([image])]) == PART_TOKENS + 7
    plain = llm.get_num_tokens_from_messages([HumanMessage("hi")])
    assert llm.get_num_tokens_from_messages([HumanMessage("hi")], tools=[schema_of]) > plain + 10
    call = AIMessage("", tool_calls=[{"name": "look", "args": {"at": "the sky"}, "id": "1"}])
    assert llm.get_num_tokens_from_messages([call]) > 15
    assert llm.get_num_tokens_from_messages([]) == 3


def schema_of(place: str, days: int) -> str:
    """Tell the weather of a place for some days."""
    return f"{place}{days}"


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("", 0), (" ", 0), ("a", 1), ("Hi!", 2), ("\ud800", 0), ("😀", 1), ("\u0531", 2)],
)
def test_short_and_strange_texts(text, tokens):
    """A text without any token is blank; nothing raises."""
    assert abs(estimate_text_tokens(text) - tokens) <= 1
    assert len(token_ids(text, "gpt-4o")) == estimate_text_tokens(text)


def test_what_is_no_prose_is_no_single_word():
    """Keys, hashes, base64: a letter or two a token."""
    data = base64.b64encode(bytes(range(256)) * 4).decode()
    assert estimate_text_tokens(data) > len(data) / 5


def test_equal_texts_have_equal_ids_and_a_longer_one_has_more():
    """As tokens have."""
    assert token_ids("the same", "gpt-4o") == token_ids("the same", "gpt-4o")
    assert len(token_ids("the same " * 10, "gpt-4o")) > 10


@pytest.mark.parametrize(
    ("model", "encoding"),
    [
        ("gpt-4o", "o200k_base"),
        ("gpt-4o-mini", "o200k_base"),
        ("gpt-4.1", "o200k_base"),
        ("gpt-6-sol", "o200k_base"),
        ("openai/gpt-oss-120b", "o200k_base"),
        ("o4-mini", "o200k_base"),
        ("Qwen/Qwen3-235B", "o200k_base"),
        ("gpt-4", "cl100k_base"),
        ("gpt-4-turbo", "cl100k_base"),
        ("gpt-4-0613", "cl100k_base"),
        ("gpt-3.5-turbo", "cl100k_base"),
    ],
)
def test_the_vocabulary_of_a_model(model, encoding):
    """GPT-4o brought a new one; other makers' are nearer to that."""
    assert encoding_of(model) == encoding


@pytest.fixture
def tiktoken(monkeypatch, tmp_path):
    """A tiktoken that is installed and counts letters; its data is not there yet."""
    fake = SimpleNamespace(
        get_encoding=lambda _: SimpleNamespace(encode=lambda text, **_: [ord(one) for one in text])
    )
    monkeypatch.setitem(sys.modules, "tiktoken", fake)
    monkeypatch.setattr(token_estimate, "find_spec", lambda _: fake)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    token_estimate._tokenizer.cache_clear()
    yield fake
    token_estimate._tokenizer.cache_clear()


def test_tiktoken_counts_where_its_data_is_there(tiktoken, tmp_path):
    """Under the name that it gives the file; without that nothing is fetched, but estimated."""
    assert len(token_ids("Why is the sky blue?", "gpt-4o")) < 10
    token_estimate._tokenizer.cache_clear()
    (tmp_path / "fb374d419588a4632f3f557e76b4b70aebbca790").touch()
    assert token_ids("abc", "gpt-4o") == [97, 98, 99]
    assert len(token_ids("Why is the sky blue?", "gpt-4")) < 10  # another vocabulary


def test_a_tiktoken_that_fails_is_not_asked_again(tiktoken, tmp_path):
    """A damaged file must not cost an answer."""
    (tmp_path / "fb374d419588a4632f3f557e76b4b70aebbca790").touch()
    tiktoken.get_encoding = lambda _: 1 / 0
    assert len(token_ids("Why is the sky blue?", "gpt-4o")) < 10


def test_ones_own_tokenizer_goes_before():
    """As in all LangChain models."""
    llm = ResilientChatModel(
        targets=["openai:gpt-4o"], api_key="k", custom_get_token_ids=lambda text: [1] * len(text)
    )
    assert llm.get_num_tokens("abc") == 3
