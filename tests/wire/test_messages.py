"""LangChain messages to request messages."""

import json

import pytest
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    HumanMessageChunk,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)

from langchain_resilient.wire.messages import safe_id, safe_name, to_chat_messages

CALL = {"name": "add", "args": {"a": 1, "b": "ü"}, "id": "call_1", "type": "tool_call"}
WIRE_CALL = {
    "type": "function",
    "id": "call_1",
    "function": {"name": "add", "arguments": '{"a": 1, "b": "ü"}'},
}


def one(message):
    """The only wire message of a message."""
    (result,) = to_chat_messages([message])
    return result


def test_plain_messages():
    """Strings keep their roles and their order."""
    assert to_chat_messages(
        [SystemMessage("s"), HumanMessage("h"), AIMessage("a"), HumanMessage("")]
    ) == [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "h"},
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": ""},
    ]


def test_no_messages():
    """An empty conversation is refused in words."""
    with pytest.raises(ValueError, match="`messages` is empty"):
        to_chat_messages([])


@pytest.mark.parametrize("strange", [RemoveMessage(id="1"), "hello", {"role": "user"}, None])
def test_strange_messages(strange):
    """What is no message for a model is refused by its place and type."""
    with pytest.raises(TypeError, match=rf"messages\[1\] is a {type(strange).__name__}"):
        to_chat_messages([HumanMessage("h"), strange])


def test_the_messages_are_not_changed():
    """Converting leaves the conversation as it was."""
    messages = [
        HumanMessage([{"type": "file", "base64": "eA==", "mime_type": "application/pdf"}]),
        AIMessage([{"type": "thinking", "thinking": "t"}, {"type": "text", "text": "a"}]),
    ]
    before = [m.model_dump() for m in messages]
    to_chat_messages(messages)
    assert [m.model_dump() for m in messages] == before


def test_tool_calls():
    """Calls become OpenAI's, with JSON arguments that keep their letters."""
    answer = one(AIMessage("", tool_calls=[CALL]))
    assert answer == {"role": "assistant", "content": None, "tool_calls": [WIRE_CALL]}


def test_text_beside_tool_calls():
    """Text that came with a call stays beside it."""
    assert one(AIMessage("Let me see", tool_calls=[CALL]))["content"] == "Let me see"


def test_invalid_tool_calls_are_kept():
    """A call with broken arguments goes back too: else its tool message would be an orphan."""
    bad = {"name": "add", "args": '{"a": ', "id": "call_2", "error": "no JSON"}
    message = AIMessage("", tool_calls=[CALL], invalid_tool_calls=[bad])
    assert one(message)["tool_calls"] == [
        WIRE_CALL,
        {"type": "function", "id": "call_2", "function": {"name": "add", "arguments": '{"a": '}},
    ]


def test_raw_tool_calls():
    """Calls in `additional_kwargs`, as LangChain's few-shot examples have them, are found."""
    message = AIMessage("", additional_kwargs={"tool_calls": [WIRE_CALL]})
    assert one(message)["tool_calls"] == [WIRE_CALL]


def test_calls_in_content():
    """Anthropic's and the Responses API's calls in content count, but not twice."""
    content = [
        {"type": "text", "text": "Hm"},
        {"type": "tool_use", "id": "call_1", "name": "add", "input": CALL["args"]},
        {"type": "tool_use", "id": "call_3", "name": "sub", "input": {}},
        {"type": "function_call", "call_id": "call_4", "name": "mul", "arguments": '{"a":2}'},
    ]
    answer = one(AIMessage(content, tool_calls=[CALL]))
    assert answer["content"] == "Hm"
    assert [c["id"] for c in answer["tool_calls"]] == ["call_1", "call_3", "call_4"]
    assert [c["function"]["arguments"] for c in answer["tool_calls"]][1:] == ["{}", '{"a":2}']


def test_v1_content_of_another_provider():
    """Reasoning, calls and server tools of a v1 answer do not reach the next provider's content."""
    blocks = [
        {"type": "reasoning", "reasoning": "hm"},
        {"type": "text", "text": "It is ", "annotations": [{"type": "citation"}]},
        {"type": "server_tool_call", "name": "web", "args": {}, "id": "s"},
        {"type": "text", "text": "3."},
        {"type": "tool_call", "name": "add", "args": CALL["args"], "id": "call_1"},
    ]
    message = AIMessage(content_blocks=blocks, response_metadata={"output_version": "v1"})
    assert one(message) == {"role": "assistant", "content": "It is 3.", "tool_calls": [WIRE_CALL]}


@pytest.mark.parametrize("kind", ["thinking", "redacted_thinking", "reasoning_content", "image"])
def test_only_text_stays_of_an_answer(kind):
    """Chat completions take nothing but text from an assistant."""
    message = AIMessage([{"type": kind, "data": "x"}, {"type": "text", "text": "a"}])
    assert one(message) == {"role": "assistant", "content": "a"}


def test_reasoning_is_not_sent_back():
    """OpenAI refuses messages with fields that it does not know."""
    message = AIMessage("a", additional_kwargs={"reasoning_content": "hm"})
    assert one(message) == {"role": "assistant", "content": "a"}


def test_refusals_go_as_text():
    """Only OpenAI has a place for a refusal; everybody takes text."""
    from_extras = AIMessage("", additional_kwargs={"refusal": "No."})
    from_blocks = AIMessage([{"type": "refusal", "refusal": "No."}])
    assert one(from_extras) == one(from_blocks) == {"role": "assistant", "content": "No."}


def test_spoken_answers():
    """What was said aloud goes back as its transcript, else by its id."""
    audio = {"id": "audio_1", "data": "eA==", "transcript": "Hi"}
    message = AIMessage("", additional_kwargs={"audio": audio})
    assert one(message) == {"role": "assistant", "content": "Hi"}
    message = AIMessage("", additional_kwargs={"audio": {**audio, "transcript": ""}})
    assert one(message) == {"role": "assistant", "content": None, "audio": {"id": "audio_1"}}


def test_function_calls_of_old():
    """The dialect before tools is passed on."""
    old = {"name": "add", "arguments": "{}"}
    assert one(AIMessage("", additional_kwargs={"function_call": old}))["function_call"] == old
    answer = one(FunctionMessage("3", name="add"))
    assert answer == {"role": "function", "name": "add", "content": "3"}


@pytest.mark.parametrize("status", ["success", "error"])
def test_tool_messages(status):
    """A result carries the id of its call; its status has no place on the wire."""
    message = ToolMessage("3", tool_call_id="call_1", name="add", status=status)
    expected = {"role": "tool", "content": "3", "tool_call_id": "call_1", "name": "add"}
    assert one(message) == expected


def test_tool_messages_with_blocks():
    """Blocks of text become one text, and images stay."""
    blocks = [{"type": "text", "text": "a"}, "b"]
    assert one(ToolMessage(blocks, tool_call_id="1"))["content"] == "a\nb"
    image = {"type": "image", "base64": "eA==", "mime_type": "image/png"}
    url = {"type": "image_url", "image_url": {"url": "data:image/png;base64,eA=="}}
    assert one(ToolMessage([image], tool_call_id="1"))["content"] == [url]


def test_tool_results_come_before_what_the_user_adds():
    """Anthropic's results in a user message become tool messages, right after the call."""
    results = [
        {"type": "text", "text": "and now?"},
        {
            "type": "tool_result",
            "tool_use_id": "call_1",
            "content": [{"type": "text", "text": "3"}],
        },
        {"type": "tool_result", "tool_use_id": "call_2", "is_error": True},
    ]
    assert to_chat_messages([HumanMessage(results)]) == [
        {"role": "tool", "tool_call_id": "call_1", "content": "3"},
        {"role": "tool", "tool_call_id": "call_2", "content": ""},
        {"role": "user", "content": "and now?"},
    ]


def test_roles():
    """Developers, and any role of a `ChatMessage`, keep their names."""
    developer = SystemMessage("s", additional_kwargs={"__openai_role__": "developer"})
    assert one(developer)["role"] == "developer"
    assert one(ChatMessage("x", role="critic")) == {"role": "critic", "content": "x"}


def test_chunks_are_messages():
    """What came out of a stream can be sent as it is."""
    assert one(HumanMessageChunk("h")) == {"role": "user", "content": "h"}
    pieces = [{"name": "add", "args": '{"a": 1, "b": "ü"}', "id": "call_1", "index": 0}]
    assert one(AIMessageChunk("", tool_call_chunks=pieces))["tool_calls"] == [WIRE_CALL]


def test_names():
    """Names are sent, and made to fit only where OpenAI would refuse them."""
    assert one(HumanMessage("h", name="example_user"))["name"] == "example_user"
    assert one(AIMessage("a", name="Ann Lee"))["name"] == "Ann_Lee"
    assert safe_name("functions.add:0") == "functions_add_0"
    assert len(safe_name("x" * 99)) == 64


def test_long_ids():
    """An id over OpenAI's 40 characters is shortened alike in the call and in its answer."""
    long = "fc_" + "0" * 60
    call, answer = to_chat_messages(
        [
            AIMessage("", tool_calls=[{**CALL, "id": long}]),
            ToolMessage("3", tool_call_id=long),
        ]
    )
    assert call["tool_calls"][0]["id"] == answer["tool_call_id"] == safe_id(long)
    assert len(safe_id(long)) <= 40
    assert safe_id("a" * 40) == "a" * 40


def test_everything_is_json():
    """The result can be encoded as it is."""
    message = AIMessage("", tool_calls=[CALL])
    assert json.loads(json.dumps(to_chat_messages([message]))) == to_chat_messages([message])
