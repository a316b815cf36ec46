"""Requests become what a small model can take, and its text becomes what was asked for."""

from __future__ import annotations

import json

import pytest

from langchain_resilient.providers.local.dialect import (
    DEFAULT_MAX_TOKENS,
    SLOTS,
    ForcedToolCall,
    flatten,
    to_completion,
    to_llama_request,
)

USER = [{"role": "user", "content": "Hi"}]


def body(**parameters):
    return to_llama_request({"messages": USER, **parameters}, embedded=True).body


def tool(name, parameters=None, description=""):
    function = {"name": name, "description": description}
    if parameters is not None:
        function["parameters"] = parameters
    return {"type": "function", "function": function}


CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = tool("get_weather", CITY, "The weather in a city")
NOW = tool("now")


# -- parameters ---------------------------------------------------------------------------------


def test_an_answer_always_ends():
    """A small model may never stop by itself."""
    assert body()["max_tokens"] == DEFAULT_MAX_TOKENS


def test_the_newer_name_of_the_limit_is_understood():
    """OpenAI renamed it."""
    adapted = body(max_completion_tokens=7)
    assert adapted["max_tokens"] == 7
    assert "max_completion_tokens" not in adapted


def test_the_callers_sampling_goes_before_ours():
    """Defaults fill gaps only; zero is not a gap."""
    adapted = body(temperature=0, top_p=0.5)
    assert (adapted["temperature"], adapted["top_p"]) == (0, 0.5)


def test_another_model_keeps_its_own_sampling():
    """The defaults are those of the embedded model's makers."""
    adapted = to_llama_request({"messages": USER}, embedded=False).body
    assert not {"temperature", "top_p", "dry_multiplier"} & adapted.keys()
    assert adapted["max_tokens"] == DEFAULT_MAX_TOKENS


def test_a_callers_penalty_replaces_the_guard_against_loops():
    """Two penalties would add up."""
    assert "dry_multiplier" in body()
    assert "dry_multiplier" not in body(repetition_penalty=1.1)
    assert body(repetition_penalty=1.1)["repeat_penalty"] == 1.1


def test_json_may_repeat_its_keys():
    """A grammar and a guard against repetition would fight."""
    assert "dry_multiplier" not in body(response_format={"type": "json_object"})


@pytest.mark.parametrize("seed", [0, 7, -1, 2**32 - 1, 2**70])
def test_any_seed_fits(seed):
    """llama.cpp takes 32 bits, and reads the largest number as "random"."""
    assert 0 <= body(seed=seed)["seed"] < 2**32 - 1


def test_a_seed_turns_the_prompt_cache_off():
    """A cached prompt is computed in other batches, and rounds otherwise."""
    assert body(seed=1)["cache_prompt"] is False
    assert "cache_prompt" not in body()


def test_unknown_parameters_are_named():
    """The provider warns of what would have changed the answer."""
    request = to_llama_request(
        {"messages": USER, "verbosity": "low", "reasoning_effort": "high"}, embedded=True
    )
    assert request.dropped == ("reasoning_effort", "verbosity")
    assert not {"verbosity", "reasoning_effort"} & request.body.keys()


def test_parameters_without_effect_go_silently():
    """Nobody needs a warning about a billing tier."""
    fields = {
        "parallel_tool_calls": True,
        "service_tier": "auto",
        "user": "u",
        "stream_options": {},
    }
    request = to_llama_request({"messages": USER, **fields}, embedded=True)
    assert request.dropped == ()
    assert not {"parallel_tool_calls", "service_tier", "user"} & request.body.keys()


def test_more_choices_than_slots_are_fewer():
    """llama.cpp would refuse the request."""
    request = to_llama_request({"messages": USER, "n": SLOTS + 1}, embedded=True)
    assert (request.body["n"], request.dropped) == (SLOTS, ("n",))


def test_none_means_not_given():
    """LangChain hands such parameters on."""
    assert body(stop=None, temperature=None)["temperature"] > 0


def test_nothing_shared_is_changed():
    """The request belongs to other attempts as well."""
    messages = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    parameters = {"tools": [WEATHER, NOW], "tool_choice": "required"}
    before = json.dumps([messages, parameters])
    to_llama_request({"messages": messages, **parameters}, embedded=True)
    assert json.dumps([messages, parameters]) == before


# -- messages -----------------------------------------------------------------------------------


def test_blocks_become_their_text():
    """What cannot be read is named."""
    blocks = [
        {"type": "text", "text": "What is"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "text", "text": "this?"},
    ]
    (message,) = flatten([{"role": "user", "content": blocks}])
    assert message["content"] == "What is\n(image left out: this model reads only text)\nthis?"


def test_tool_calls_and_results_become_text():
    """A template without tools would fail on them, or drop them."""
    call = {"id": "1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "rain"},
    ]
    assert flatten(messages) == [
        {"role": "system", "content": "Be brief."},
        {"role": "assistant", "content": "Calling get_weather({})"},
        {"role": "user", "content": "Result of get_weather: rain"},
    ]


def test_another_model_gets_tools_as_they_are():
    """Its template may know them."""
    call = {"id": "1", "type": "function", "function": {"name": "now", "arguments": "{}"}}
    messages = [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "noon"}]},
    ]
    request = to_llama_request({"messages": messages, "tools": [NOW]}, embedded=False)
    assert request.body["tools"] == [NOW]
    assert request.body["messages"][0]["tool_calls"] == [call]
    assert request.body["messages"][1]["content"] == "noon"
    assert request.dropped == ()


# -- tools --------------------------------------------------------------------------------------


def test_tools_of_free_choice_are_dropped_with_a_warning():
    """The embedded model cannot choose."""
    request = to_llama_request(
        {"messages": USER, "tools": [WEATHER], "tool_choice": "auto"}, embedded=True
    )
    assert request.dropped == ("tools",)
    assert not {"tools", "tool_choice"} & request.body.keys()


def test_tools_that_must_not_be_called_need_no_warning():
    """Nothing is lost."""
    request = to_llama_request(
        {"messages": USER, "tools": [WEATHER], "tool_choice": "none"}, embedded=True
    )
    assert (request.dropped, request.forced_tools) == ((), ())


@pytest.mark.parametrize(
    "choice",
    ["required", "any", {"type": "function", "function": {"name": "get_weather"}}, "get_weather"],
)
def test_a_forced_tool_becomes_the_schema_of_its_arguments(choice):
    """And the model is told what it is for."""
    tools = [WEATHER] if choice in ("required", "any") else [NOW, WEATHER]
    request = to_llama_request(
        {"messages": USER, "tools": tools, "tool_choice": choice}, embedded=True
    )
    assert request.forced_tools == ("get_weather",)
    assert request.body["response_format"]["json_schema"]["schema"] == CITY
    assert "The weather in a city" in request.body["messages"][0]["content"]


def test_a_choice_of_forced_tools_is_a_choice_of_schemas():
    """References in a tool's schema still lead into that schema."""
    nested = {"properties": {"p": {"$ref": "#/$defs/P"}}, "$defs": {"P": {"type": "integer"}}}
    tools = [tool("f", nested), NOW]
    request = to_llama_request(
        {"messages": USER, "tools": tools, "tool_choice": "required"}, embedded=True
    )
    schema = request.body["response_format"]["json_schema"]["schema"]
    assert [s["properties"]["name"]["const"] for s in schema["anyOf"]] == ["f", "now"]
    assert schema["$defs"]["0"]["properties"]["p"] == {"$ref": "#/$defs/0/$defs/P"}


def piece(content=None, finish_reason=None, index=0, **delta):
    delta |= {} if content is None else {"content": content}
    choice = {"index": index, "delta": delta, "finish_reason": finish_reason}
    return {"id": "x", "object": "chat.completion.chunk", "choices": [choice]}


def turned(names, pieces, finish_reason="stop"):
    call = ForcedToolCall(names)
    chunks = [call.convert(piece(p)) for p in pieces]
    return to_completion([*chunks, call.convert(piece(finish_reason=finish_reason))])["choices"][0]


def test_the_text_of_a_forced_call_is_its_arguments():
    """They stream as they are written."""
    choice = turned(("get_weather",), ['{"city":', ' "Paris"}'])
    (call,) = choice["message"]["tool_calls"]
    assert call["function"] == {"name": "get_weather", "arguments": '{"city": "Paris"}'}
    assert call["id"]
    assert choice["message"]["content"] is None
    assert choice["finish_reason"] == "tool_calls"


def test_the_text_of_a_choice_of_calls_names_the_tool():
    """It is handed on when it is whole."""
    choice = turned(
        ("now", "get_weather"), ['{"name": "get_weather", "argum', 'ents": {"city": "Rome"}}']
    )
    (call,) = choice["message"]["tool_calls"]
    assert call["function"] == {"name": "get_weather", "arguments": '{"city": "Rome"}'}


@pytest.mark.parametrize("names", [("now",), ("now", "get_weather")])
def test_a_call_that_was_cut_is_not_called_finished(names):
    """The limit of tokens stays the reason."""
    assert turned(names, ['{"name": "n'], "length")["finish_reason"] == "length"


# -- whole answers ------------------------------------------------------------------------------


def test_chunks_fold_into_a_completion():
    """Text, choices, reasons and usage are kept apart."""
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    completion = to_completion(
        [
            piece("He", role="assistant"),
            piece("Wo", index=1),
            piece("llo"),
            piece(finish_reason="stop"),
            piece(finish_reason="length", index=1),
            {"id": "x", "choices": [], "usage": usage},
        ]
    )
    assert completion["object"] == "chat.completion"
    assert [c["message"]["content"] for c in completion["choices"]] == ["Hello", "Wo"]
    assert [c["finish_reason"] for c in completion["choices"]] == ["stop", "length"]
    assert completion["usage"] == usage
