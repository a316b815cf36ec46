"""Answers in the forms of LangChain's integrations and of other servers, by both APIs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest

pytest.importorskip("starlette", reason="needs the extra `serve`")
pytest.importorskip("httptools", reason="needs the extra `serve`")
pytest.importorskip("prometheus_client", reason="needs the extra `serve`")

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessageChunk, message_chunk_to_message
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from pydantic import Field

from langchain_resilient import ResilientChatModel
from langchain_resilient.testing import NoAnswer, ProviderSimulator, Raw
from tests.service.serving import model, served

if TYPE_CHECKING:
    from collections.abc import Iterator

PARAMETERS = {"type": "object", "properties": {"a": {"type": "integer"}}}
ADD = {"name": "add", "parameters": PARAMETERS}
USAGE = {"input_tokens": 3, "output_tokens": 5, "total_tokens": 8}


class Integration(BaseChatModel):
    """A LangChain model that answers in these pieces, or with their sum."""

    pieces: list[AIMessageChunk]
    asked: list[Any] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "integration"

    def bind_tools(self, tools: Any, **_: Any) -> Any:
        return self

    def _generate(self, messages: Any, *_: Any, **__: Any) -> ChatResult:
        self.asked.append(messages)
        message = message_chunk_to_message(self.pieces[0] + self.pieces[1:])
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(self, messages: Any, *_: Any, **__: Any) -> Iterator[ChatGenerationChunk]:
        self.asked.append(messages)
        for piece in self.pieces:
            yield ChatGenerationChunk(message=piece.model_copy(deep=True))


class WithoutStream(Integration):
    """One that can only answer as a whole."""

    _stream = BaseChatModel._stream


def piece(content: Any = "", *calls: tuple[Any, ...], **metadata: Any) -> AIMessageChunk:
    """One of a stream; calls as index, id, name and arguments."""
    names = ("index", "id", "name", "args")
    return AIMessageChunk(
        content=content,
        tool_call_chunks=[dict(zip(names, call, strict=True)) for call in calls],
        response_metadata=metadata,
        usage_metadata=USAGE if metadata else None,
    )


def over(*pieces: AIMessageChunk, streams: bool = True) -> ResilientChatModel:
    kind = Integration if streams else WithoutStream
    return ResilientChatModel(targets=[kind(pieces=list(pieces))], share_learning=False)


def post(url: str, json: dict[str, Any]) -> httpx.Response:
    return httpx.post(url, json=json, timeout=60)


def events(response: httpx.Response) -> list[dict[str, Any]]:
    lines = response.text.splitlines()
    return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


def by_chat(url: str, *, stream: bool) -> tuple[dict[str, Any], str]:
    """The message, put together as clients do, and why it ended."""
    tools = [{"type": "function", "function": ADD}]
    messages = [{"role": "user", "content": "Hi"}]
    body = {"model": "resilient", "messages": messages, "tools": tools, "stream": stream}
    response = post(f"{url}/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    if not stream:
        (choice,) = response.json()["choices"]
        return choice["message"], choice["finish_reason"]
    message: dict[str, Any] = {}
    reason = ""
    for event in events(response):
        (choice,) = event["choices"]
        reason = choice["finish_reason"] or reason
        for name, value in choice["delta"].items():
            if name == "tool_calls":
                for part in value:
                    calls = message.setdefault(name, [])
                    if part["index"] == len(calls):
                        calls.append({"function": {"arguments": ""}})
                    call, told = calls[part["index"]], part["function"]
                    call |= {k: v for k, v in part.items() if k not in ("index", "function")}
                    call["function"]["arguments"] += told["arguments"]
                    call["function"] |= {k: v for k, v in told.items() if k != "arguments"}
            elif isinstance(value, str):
                message[name] = message.get(name, "") + value
            else:
                message[name] = value
    return message, reason


def by_responses(url: str, *, stream: bool) -> dict[str, Any]:
    body = {"model": "resilient", "input": "Hi", "stream": stream}
    body["tools"] = [{"type": "function", **ADD}]
    response = post(f"{url}/v1/responses", json=body)
    assert response.status_code == 200, response.text
    return events(response)[-1]["response"] if stream else response.json()


def calls_of(message: dict[str, Any]) -> list[tuple[str, Any]]:
    calls = message.get("tool_calls") or ()
    return [(call["id"], json.loads(call["function"]["arguments"])) for call in calls]


def items_of(response: dict[str, Any]) -> list[Any]:
    """What a response holds, in short."""
    found: list[Any] = []
    for item in response["output"]:
        if item["type"] == "function_call":
            assert item["name"] == "add"
            found.append((item["call_id"], json.loads(item["arguments"])))
        else:
            (part,) = item["content"]
            found.append(part["text"])
    return found


THOUGHTS_OF_ANTHROPIC = [
    piece([{"type": "thinking", "thinking": "Hmm.", "index": 0}]),
    piece([{"type": "text", "text": "Let me look.", "index": 1}]),
    piece([{"type": "tool_use", "id": "a", "name": "add", "input": {}, "index": 2}],
          (2, "a", "add", "")),
    piece([{"type": "input_json_delta", "partial_json": '{"a": 1}', "index": 2}],
          (2, None, None, '{"a": 1}')),
    piece([], stop_reason="tool_use"),
]  # fmt: skip

CASES = {
    "blocks of Anthropic": (
        THOUGHTS_OF_ANTHROPIC, "Hmm.", "Let me look.", [("a", {"a": 1})], "tool_calls",
    ),
    "thoughts of Bedrock": (
        [piece([{"type": "reasoning_content", "reasoning_content": {"text": "Hmm."}}]),
         piece([{"type": "text", "text": "Yes."}]), piece([], stopReason="end_turn")],
        "Hmm.", "Yes.", [], "stop",
    ),
    "texts among blocks": (
        [piece(["Let ", {"type": "text", "text": "me look."}]), piece("", finish_reason="stop")],
        "", "Let me look.", [], "stop",
    ),
    "calls without an index": (
        [piece("", (None, "a", "add", '{"a": 1}'), (None, "b", "add", '{"a": ')),
         piece("", (None, None, None, "2}")),
         piece("", (None, "c", "add", '{"a": 3}')), piece("", done_reason="stop")],
        "", "", [("a", {"a": 1}), ("b", {"a": 2}), ("c", {"a": 3})], None,
    ),
    "cut short, says Anthropic": (
        [piece("Half an"), piece("", stop_reason="max_tokens")], "", "Half an", [], "length",
    ),
    "cut short, says Bedrock": (
        [piece("Half an"), piece("", stopReason="max_tokens")], "", "Half an", [], "length",
    ),
    "cut short, says Ollama": (
        [piece("Half an"), piece("", done_reason="length")], "", "Half an", [], "length",
    ),
}  # fmt: skip


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("name", CASES)
def test_an_answer_of_a_langchain_model(name, stream):
    pieces, thoughts, text, calls, reason = CASES[name]
    if name == "calls without an index" and not stream:
        pieces = [piece("", *[(n, c, "add", json.dumps(a)) for n, (c, a) in enumerate(calls)])]
    with served(over(*pieces)) as url:
        message, why = by_chat(url, stream=stream)
        response = by_responses(url, stream=stream)
    assert message.get("reasoning_content", "") == thoughts
    assert (message["content"] or "") == text
    assert calls_of(message) == calls
    assert reason is None or why == reason
    assert items_of(response) == [*[each for each in (thoughts, text) if each], *calls]
    assert response["status"] == ("incomplete" if reason == "length" else "completed")


def test_two_calls_of_a_model_that_cannot_stream():
    calls = [("a", {"a": 1}), ("b", {"a": 2})]
    pieces = [piece("", *[(n, c, "add", json.dumps(a)) for n, (c, a) in enumerate(calls)])]
    with served(over(*pieces, streams=False)) as url:
        assert calls_of(by_chat(url, stream=True)[0]) == calls
        assert items_of(by_responses(url, stream=True)) == calls


def test_a_langchain_model_gets_no_blocks_of_the_responses_api():
    """Those who do not know them send them on, and their API refuses them."""
    anthropic = Integration(pieces=THOUGHTS_OF_ANTHROPIC)
    with served(ResilientChatModel(targets=[anthropic], share_learning=False)) as url:
        items = by_responses(url, stream=False)["output"]
        result = {"type": "function_call_output", "call_id": "a", "output": "2"}
        history = [{"role": "user", "content": "Hi"}, *items, result]
        body = {"model": "resilient", "input": history}
        assert post(f"{url}/v1/responses", json=body).status_code == 200
    answer = anthropic.asked[-1][1]
    assert answer.content == "Let me look."
    assert [(call["id"], call["args"]) for call in answer.tool_calls] == [("a", {"a": 1})]


# -- other servers ---------------------------------------------------------------------------------


def streamed(*deltas: dict[str, Any], reason: str = "stop") -> Raw:
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    chunks = [(delta, None) for delta in deltas] + [({}, reason)]
    body = b""
    for delta, end in chunks:
        logprobs = delta.pop("logprobs", None)
        choice = {"index": 0, "delta": delta, "finish_reason": end, "logprobs": logprobs}
        body += b"data: " + json.dumps({**head, "choices": [choice]}).encode() + b"\n\n"
    head_lines = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
    return Raw(head_lines + body + b"data: [DONE]\n\n")


def call_piece(args: str, **first: Any) -> dict[str, Any]:
    function = {"arguments": args, **({"name": "add"} if first else {})}
    return {"tool_calls": [{"index": 0, "function": function, **first}]}


@pytest.fixture(scope="module")
def simulator() -> Iterator[ProviderSimulator]:
    with ProviderSimulator() as sim:
        yield sim


@pytest.fixture(scope="module")
def served_simulator(simulator) -> Iterator[str]:
    with served(model(simulator, "openai:m", api="chat", timeout=30, max_retries=0)) as url:
        yield url


@pytest.fixture
def sim(simulator) -> ProviderSimulator:
    simulator.reset()
    return simulator


@pytest.fixture
def url(served_simulator, sim) -> str:  # the simulator is as new too
    return served_simulator


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    "deltas",
    [
        [call_piece('{"a":', id="x", type="function"), {"content": "Calling."}, call_piece("1}")],
        [call_piece('{"a":1}', id="x", type="function"), {"content": "Calling."}],
        [call_piece("{}", id="x", type="function"), {"content": "Calling."}],
    ],
    ids=["between its arguments", "after it", "after one without arguments"],
)
def test_a_text_beside_a_call_makes_no_second_call(sim, url, deltas, stream):
    args = json.loads("".join(d["tool_calls"][0]["function"]["arguments"] for d in deltas
                              if "tool_calls" in d))  # fmt: skip
    sim.script("*", then=streamed(*deltas, reason="tool_calls"))
    message, why = by_chat(url, stream=stream)
    assert (message["content"], calls_of(message), why) == ("Calling.", [("x", args)], "tool_calls")
    response = by_responses(url, stream=stream)
    assert sorted(items_of(response), key=str) == [("x", args), "Calling."]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_what_has_no_place_in_a_text(sim, url, stream):
    note = {"url": "http://x", "title": "t", "start_index": 0, "end_index": 3}
    cited = {"type": "url_citation", "url_citation": note}
    sim.script("*", then=streamed({"content": "See."}, {"annotations": [cited]}))
    assert by_chat(url, stream=stream)[0]["annotations"] == [cited]
    (item,) = by_responses(url, stream=stream)["output"]
    assert item["content"][0]["annotations"] == [{"type": "url_citation", **note}]
    called = {"name": "add", "arguments": '{"a":1}'}
    sim.script("*", then=streamed({"function_call": called}, reason="function_call"))
    message, why = by_chat(url, stream=stream)
    assert (message["function_call"], why) == (called, "function_call")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_an_answer_that_is_cut_in_a_call_is_not_one_that_calls(sim, url, stream):
    cut = call_piece('{"a":1', id="x", type="function")
    sim.script("*", then=streamed(cut, reason="max_tokens"))
    assert by_chat(url, stream=stream)[1] == "length"
    assert by_responses(url, stream=stream)["status"] == "incomplete"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_no_number_is_no_json(sim, url, stream):
    logprobs = {"content": [{"token": "Hi", "logprob": float("-inf"), "top_logprobs": []}]}
    sim.script("*", then=streamed({"content": "Hi", "logprobs": logprobs}))
    body = {"model": "resilient", "messages": [{"role": "user", "content": "Hi"}]}
    body |= {"stream": stream, "logprobs": True}
    text = post(f"{url}/v1/chat/completions", json=body).text
    assert '"logprob":null' in text
    assert "Infinity" not in text


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("api", ["chat", "responses"])
def test_what_a_provider_wants_back_goes_back_to_it_alone(sim, api, stream):
    """Gemini refuses calls without the signature of their thought; others know no such field."""
    signature = {"google": {"thought_signature": "SIG"}}
    thought = [{"type": "reasoning.encrypted", "data": "ENC", "index": 0}]
    call = call_piece('{"a":1}', id="x", type="function", extra_content=signature)
    sim.script("openai:m", then=streamed({**call, "reasoning_details": thought}))
    llm = model(sim, "openai:m", "together:n", api="chat", timeout=30, max_retries=0)
    with served(llm) as url:
        tools = [{"type": "function", "function": ADD}]
        if api == "chat":
            message, _ = by_chat(url, stream=stream)
            result = {"role": "tool", "tool_call_id": "x", "content": "2"}
            history = {"messages": [{"role": "user", "content": "Hi"}, message, result]}
        else:
            result = {"type": "function_call_output", "call_id": "x", "output": "2"}
            items = by_responses(url, stream=stream)["output"]
            history = {"input": [{"role": "user", "content": "Hi"}, *items, result]}
            tools = [{"type": "function", **ADD}]
        path = "chat/completions" if api == "chat" else "responses"
        for name in ("openai:m", "together:n"):
            body = {"model": name, **history, "tools": tools}
            assert post(f"{url}/v1/{path}", json=body).status_code == 200
    own, foreign = (request.body["messages"][1] for request in sim.requests[-2:])
    assert own["tool_calls"][0]["extra_content"] == signature
    assert "extra_content" not in foreign["tool_calls"][0]
    if api == "chat":
        assert own["reasoning_details"] == thought
    assert "reasoning_details" not in foreign


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("api", ["chat", "responses"])
def test_each_signature_stays_with_its_call(sim, url, api, stream):
    """Of calls without ids, too: they get theirs here, when the answer is whole."""
    signatures = [{"google": {"thought_signature": name}} for name in ("A", "B")]
    pieces = [call_piece('{"a":1}', type="function", extra_content=each) for each in signatures]
    pieces[1]["tool_calls"][0]["index"] = 1
    sim.script("*", then=streamed(*pieces, reason="tool_calls"))
    if api == "chat":
        calls = by_chat(url, stream=stream)[0]["tool_calls"]
    else:
        calls = by_responses(url, stream=stream)["output"]
    assert [call.get("extra_content") for call in calls] == signatures


def test_a_stranger_cannot_say_more_than_who_made_it(sim, url):
    made = {"winner": ["openai:m"], "breaks": 1}
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes."}]
    messages[1]["resilience"] = made
    body = {"model": "resilient", "messages": [*messages, {"role": "user", "content": "And?"}]}
    assert post(f"{url}/v1/chat/completions", json=body).status_code == 200
    assert sim.requests[-1].body["messages"][1] == {"role": "assistant", "content": "Yes."}


@pytest.mark.parametrize("path", ["chat/completions", "responses"])
def test_a_failure_after_a_comment_is_an_event(sim, path):
    """However many answers were wanted; a response that failed has begun."""
    sim.script("*", then=NoAnswer())
    llm = model(sim, "openai:m", timeout=0.4, max_retries=0)
    said = {"messages": [{"role": "user", "content": "Hi"}], "n": 2}
    with served(llm, comment_interval=0.1) as url:
        body = {"model": "resilient", "stream": True}
        body |= {"input": "Hi"} if path == "responses" else said
        response = post(f"{url}/v1/{path}", json=body)
    assert response.status_code == 200
    assert response.text.startswith(": still working")
    told = events(response)
    if path == "responses":
        kinds = ["response.created", "response.in_progress", "response.failed"]
        assert [event["type"] for event in told] == kinds
    else:
        assert [event["error"]["code"] for event in told] == ["deadline_exceeded"]
