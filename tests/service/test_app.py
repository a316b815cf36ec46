"""The service as clients see it: OpenAI's and Together's SDKs, and plain HTTP, over sockets."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest
import together
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import FakeListChatModel

from langchain_resilient import ResilientChatModel
from langchain_resilient.testing import (
    BadRequest,
    ContextTooLong,
    Cut,
    InvalidKey,
    ModelNotFound,
    NoAnswer,
    ProviderSimulator,
    RateLimited,
    Reply,
    Stall,
    Status,
    ToolCall,
    answer_to,
)

pytest.importorskip("starlette", reason="needs the extra `serve`")
pytest.importorskip("uvicorn", reason="needs the extra `serve`")
pytest.importorskip("prometheus_client", reason="needs the extra `serve`")

from langchain_resilient.service import answering
from langchain_resilient.service.app import create_app
from langchain_resilient.service.calls import as_document
from langchain_resilient.service.config import ServiceConfig
from tests.garbage import ours_left_by
from tests.service.serving import NAMES, model, served

if TYPE_CHECKING:
    from collections.abc import Iterator

HELLO = [{"role": "user", "content": "Hello"}]
ANSWER = answer_to("Hello")
CHAT = {"model": "resilient", "messages": HELLO}
ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Add.",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
    },
}


@pytest.fixture(scope="module")
def simulator() -> Iterator[ProviderSimulator]:
    """One for the module."""
    with ProviderSimulator() as sim:
        yield sim


@pytest.fixture
def sim(simulator) -> ProviderSimulator:
    """It, as new."""
    simulator.reset()
    return simulator


@pytest.fixture(scope="module")
def service(simulator) -> Iterator[str]:
    """One over two targets, for all tests that teach it nothing."""
    with served(model(simulator, timeout=10)) as url:
        yield url


@pytest.fixture
def url(service, sim) -> str:  # the simulator is as new too
    return service


def client(url: str, key: str = "none", **fields) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, **fields)


def post(url: str, body: object, **fields) -> httpx.Response:
    return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=20, **fields)


@contextmanager
def sent(
    url: str, body: object, *, whole: bool = True, read: int = 65536
) -> Iterator[socket.socket]:
    """A connection on which a request was sent, or the beginning of one."""
    content = json.dumps(body).encode()
    host, _, port = url.removeprefix("http://").partition(":")
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json"
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, read)
        sock.settimeout(20)
        sock.connect((host, int(port)))
        sock.sendall(f"{head}\r\ncontent-length: {len(content)}\r\n\r\n".encode())
        sock.sendall(content if whole else content[:1])
        yield sock


def until(true, seconds: float = 5.0) -> None:
    """Wait for what another thread does."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_an_answer(url):
    """Text, token counts, the model that answered, and who it was."""
    with client(url) as sdk:
        raw = sdk.chat.completions.with_raw_response.create(**CHAT)
    answer = raw.parse()
    assert answer.choices[0].message.content == ANSWER
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "gpt-6.1-sol"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert raw.headers["x-resilient-target"] == NAMES[0]


def test_a_stream(url):
    """The pieces are the answer; counts come if they were asked for; every chunk has one id."""
    with client(url) as sdk:
        chunks = list(
            sdk.chat.completions.create(**CHAT, stream=True, stream_options={"include_usage": True})
        )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == ANSWER
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks[-2:-1]] == ["stop"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens > 10
    assert len({c.id for c in chunks}) == 1


def test_the_sdks_own_helper_reads_a_stream(url):
    """`chat.completions.stream` accumulates it."""
    with client(url) as sdk, sdk.chat.completions.stream(**CHAT) as stream:
        assert stream.get_final_completion().choices[0].message.content == ANSWER


def test_togethers_sdk(url):
    """It speaks the same API."""
    with together.Together(base_url=url, api_key="none", max_retries=0) as sdk:
        answer = sdk.chat.completions.create(**CHAT)
        assert answer.choices[0].message.content == ANSWER
        chunks = list(sdk.chat.completions.create(**CHAT, stream=True))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == ANSWER


def test_tool_calls_plain_and_streamed(url, sim):
    """The same calls, and the answer to them goes on."""
    calls = [ToolCall("add", {"a": 1}), ToolCall("add", {"a": 2})]
    sim.script("*", then=Reply(tool_calls=calls))
    with client(url) as sdk:
        whole = sdk.chat.completions.create(**CHAT, tools=[ADD]).choices[0]
        with sdk.chat.completions.stream(**CHAT, tools=[ADD]) as stream:
            streamed = stream.get_final_completion().choices[0]
        for choice in (whole, streamed):
            assert choice.finish_reason == "tool_calls"
            assert choice.message.content is None or not choice.message.content
            given = [json.loads(c.function.arguments) for c in choice.message.tool_calls]
            assert given == [{"a": 1}, {"a": 2}]
        results = [
            {"role": "tool", "tool_call_id": call.id, "content": "3"}
            for call in whole.message.tool_calls
        ]
        sim.script("*", then=Reply("It is 3."))
        said = whole.message.model_dump(exclude_none=True)
        last = sdk.chat.completions.create(
            model="resilient", messages=[*HELLO, said, *results], tools=[ADD]
        )
    assert last.choices[0].message.content == "It is 3."


@pytest.mark.parametrize("text", ["Grüße, 你好 😀", "two\u2028lines\x85"])
def test_any_text_arrives_as_it_was_made(url, sim, text):
    """And an event is one line to any client."""
    sim.script("*", then=Reply(text))
    answer = json.loads(post(url, CHAT).content)
    assert answer["choices"][0]["message"]["content"] == text
    stream = post(url, {**CHAT, "stream": True})
    assert stream.content.isascii()
    lines = [line for line in stream.text.splitlines() if line]
    assert lines.pop() == "data: [DONE]"
    deltas = [json.loads(line.removeprefix("data: "))["choices"][0]["delta"] for line in lines]
    assert "".join(delta.get("content", "") for delta in deltas) == text


@pytest.mark.parametrize("value", ["Zürich", "cut in two \ud83d", None, 0.1, float("nan"), ...])
def test_any_value_of_a_document_is_json(value):
    """Also half of a surrogate pair, which no UTF-8 holds, and what is nothing in JSON."""
    read = json.loads(as_document({"value": value}), parse_constant=pytest.fail)["value"]
    assert read == {"nan": None, "Ellipsis": "Ellipsis"}.get(str(value), value)


def test_several_answers_plain_and_streamed(url):
    """`n` works either way."""
    with client(url) as sdk:
        answer = sdk.chat.completions.create(**CHAT, n=2)
        chunks = list(sdk.chat.completions.create(**CHAT, n=2, stream=True))
    assert [c.index for c in answer.choices] == [0, 1]
    for index in (0, 1):
        pieces = [c.choices[0] for c in chunks if c.choices and c.choices[0].index == index]
        text = "".join(p.delta.content or "" for p in pieces)
        assert text == answer.choices[index].message.content
        assert pieces[-1].finish_reason == "stop"


def test_parameters_reach_the_target(sim):
    """Those that are known, and those that are not."""
    body = {"temperature": 0.5, "max_tokens": 9, "metadata": {"a": "b"}, "user": "me", "stop": "x"}
    with served(model(sim, "openai:m")) as url:
        assert post(url, {**CHAT, **body}).status_code == 200
    sent = sim.requests[0].body
    assert (sent["temperature"], sent["metadata"], sent["user"]) == (0.5, {"a": "b"}, "me")
    assert sent["stop"] in ("x", ["x"])


@pytest.mark.parametrize(
    ("name", "target"),
    [("resilient", NAMES[0]), (NAMES[1], NAMES[1]), ("qwen", NAMES[1])],
)
def test_a_models_name_chooses_a_target_or_the_chain(url, name, target):
    """A target's name, or its model's id."""
    response = post(url, {**CHAT, "model": name})
    assert response.headers["x-resilient-target"] == target


def test_the_list_of_models(url):
    """It holds what may be asked for, and each can be looked up."""
    with client(url) as sdk:
        names = [each.id for each in sdk.models.list()]
        assert names == ["resilient", *NAMES, "gpt-6.1-sol", "qwen"]
        assert [sdk.models.retrieve(name).id for name in names] == names
        with pytest.raises(openai.NotFoundError):
            sdk.models.retrieve("other")


def test_unknown_models_may_get_the_chain(sim):
    """For clients whose model cannot be set."""
    with served(model(sim), unknown_models="chain") as url:
        assert post(url, {**CHAT, "model": "gpt-4"}).status_code == 200


def test_a_fault_of_the_first_target_is_nothing_the_client_sees(url, sim):
    """Plain and streamed."""
    sim.script(NAMES[0], then=Status(500))
    assert post(url, CHAT).headers["x-resilient-target"] == NAMES[1]
    sim.script(NAMES[0], then=Cut(after=3))
    with client(url) as sdk:
        chunks = list(sdk.chat.completions.create(**CHAT, stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == ANSWER
    assert chunks[-1].choices[0].finish_reason == "stop"


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize(
    ("step", "status", "code"),
    [
        (BadRequest(), 400, "request_rejected"),
        (ContextTooLong(), 400, "context_length_exceeded"),
        (ModelNotFound(), 404, "model_not_found"),
        (InvalidKey(), 502, "upstream_authentication"),
        (RateLimited(seconds=30), 429, "rate_limit_exceeded"),
        (NoAnswer(), 504, "deadline_exceeded"),
    ],
    ids=["bad", "long", "gone", "key", "limited", "silent"],
)
def test_what_fails_everywhere_has_a_status(sim, step, status, code, stream):
    """Before any text, a stream has one too; nobody is told to try again, nor a key."""
    sim.script("*", then=step)
    with served(model(sim, timeout=0.5, max_retries=0)) as url:
        response = post(url, {**CHAT, "stream": stream})
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (status, code)
    assert response.headers["x-should-retry"] == "false"
    assert "upstream-key" not in response.text
    if status == 429:
        assert response.headers["retry-after"] == "30"


def test_a_stream_that_nobody_can_go_on_with_ends_in_an_error(sim):
    """The SDK raises it, and the text before it is there."""
    sim.script("*", then=Cut(after=3))
    seen: list[str] = []
    with served(model(sim, on_break="raise")) as url, client(url) as sdk:
        stream = sdk.chat.completions.create(**CHAT, stream=True)
        pieces = (chunk.choices[0].delta.content or "" for chunk in stream)
        with pytest.raises(openai.APIError, match="the stream broke") as caught:
            seen.extend(pieces)
    text = "".join(seen)
    assert text
    assert ANSWER.startswith(text)
    assert caught.value.code == "stream_broken"


def test_a_replaced_answer_is_continued_here(sim):
    """OpenAI's streams have no word for "forget what I said"."""
    sim.script(NAMES[0], then=Cut(after=3))
    with served(model(sim, on_break="replace")) as url, client(url) as sdk:
        chunks = list(sdk.chat.completions.create(**CHAT, stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == ANSWER


def test_a_silent_stream_is_commented(sim):
    """Then its head has gone, and what fails is told by an event."""
    sim.script("*", then=NoAnswer())
    llm = model(sim, timeout=0.3, max_retries=0)
    with served(llm, comment_interval=0.05) as url:
        response = post(url, {**CHAT, "stream": True})
    assert response.status_code == 200
    assert response.text.count(": still working\n\n") >= 2
    last = json.loads(response.text.rstrip().rpartition("data: ")[2])
    assert last["error"]["code"] == "deadline_exceeded"


async def ask(app: Any, body: dict[str, Any]) -> tuple[list[Any], int]:
    """What an application sends a client that never leaves, and how often it looked for it."""
    bodies, sent, asked = [json.dumps(body).encode()], [], 0

    async def receive() -> dict[str, Any]:
        nonlocal asked
        asked += 1
        if not bodies:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": bodies.pop()}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": headers}
    await app(scope, receive, send)
    assert sent[0]["status"] == 200
    return sent, asked


async def test_nobody_watches_over_an_answer_that_comes_at_once():
    """It would cost as much as to write it."""
    app = create_app(ResilientChatModel(targets=[FakeListChatModel(responses=["ha"])]))
    _, asked = await ask(app, CHAT)
    assert asked == 1  # for its body


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_what_is_watched_leaves_nothing_for_the_collector(monkeypatch, stream):
    """Real answers take a while: their clients are watched, their streams commented."""
    monkeypatch.setattr(answering, "_UNWATCHED_SECONDS", 0)
    llm = ResilientChatModel(targets=[FakeListChatModel(responses=["ha"], sleep=0.02)])
    app = create_app(llm, ServiceConfig(comment_interval=0.005))

    async def once() -> None:
        sent, asked = await ask(app, {**CHAT, "stream": stream})
        assert asked > 1
        assert stream == any(b": still working" in each.get("body", b"") for each in sent)

    assert await ours_left_by(once) == {}


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_a_client_that_leaves_stops_its_upstream(sim, stream):
    """At once: nobody pays for what nobody reads."""
    sim.script("*", then=Stall(after=2))
    with served(model(sim)) as url:
        with sent(url, {**CHAT, "stream": stream}) as sock:
            until(lambda: sim.requests)
            if stream:
                assert sock.recv(10)
        until(lambda: sim.aborted == 1)
        until(lambda: 'status="499"} 1.0' in httpx.get(f"{url}/metrics").text)


@pytest.mark.parametrize("stay", [True, False], ids=["stays", "leaves"])
def test_a_client_may_take_its_time_to_send_a_body(sim, monkeypatch, stay):
    """And is missed from then on, should it leave."""
    late, begin = threading.Event(), answering._Watch._begin
    monkeypatch.setattr(answering._Watch, "_begin", lambda watch: (begin(watch), late.set()))
    sim.script("*", then=Reply("ok") if stay else Stall(after=2))
    with served(model(sim)) as url, sent(url, CHAT, whole=False) as sock:
        assert late.wait(5)
        sock.sendall(json.dumps(CHAT).encode()[1:])
        if stay:
            assert sock.recv(20).startswith(b"HTTP/1.1 200")
            return
        until(lambda: sim.requests)
        sock.close()
        until(lambda: sim.aborted == 1)


def test_a_last_resort_answers_here_too(sim):
    """Whatever the chain has is behind the service."""
    sim.script("*", then=InvalidKey())
    with served(model(sim, last_resort="Sorry.")) as url:
        answer = post(url, CHAT).json()
    assert answer["choices"][0]["message"]["content"] == "Sorry."


def test_a_client_that_does_not_read_holds_up_its_upstream_alone(sim):
    """Back-pressure goes all the way: little is read that nobody takes."""
    sim.script(NAMES[0], then=Reply("word " * 100_000))
    with served(model(sim, timeout=30)) as url, sent(url, {**CHAT, "stream": True}, read=4096):
        until(lambda: sim.requests)
        time.sleep(0.3)
        assert sim.requests[0].ended_at is None
        assert post(url, {**CHAT, "model": NAMES[1]}).status_code == 200


def test_too_many_requests_wait_and_more_are_turned_away(sim):
    """The SDKs try those again."""
    sim.script("*", then=Stall(after=1))
    with served(model(sim), max_in_flight=1, max_waiting=1, max_wait=0.3) as url:
        with sent(url, {**CHAT, "stream": True}):
            until(lambda: sim.requests)
            with sent(url, CHAT) as waiting:
                until(lambda: "resilient_waiting 1.0" in httpx.get(f"{url}/metrics").text)
                third = post(url, CHAT)
                assert (third.status_code, third.headers["x-should-retry"]) == (503, "true")
                assert third.headers["retry-after"] == "1"
                assert waiting.recv(20).startswith(b"HTTP/1.1 503")
        sim.script("*", then=Reply("free"))
        until(lambda: post(url, CHAT).status_code == 200)


def test_keys_of_its_own(sim):
    """Nobody comes in without one, except to see whether the service lives."""
    with served(model(sim), client_keys=["sk-one", "sk-two"]) as url:
        for key in ("sk-one", "sk-two"):
            with client(url, key) as sdk:
                sdk.chat.completions.create(**CHAT)
                assert sdk.models.list().data
        with client(url, "sk-three") as sdk, pytest.raises(openai.AuthenticationError):
            sdk.chat.completions.create(**CHAT)
        for path in ("/v1/models", "/v1/models/resilient", "/metrics"):
            assert httpx.get(f"{url}{path}").status_code == 401
        assert post(url, CHAT).status_code == 401
        assert httpx.get(f"{url}/healthz").json() == {"status": "ok"}
    assert not any("sk-" in str(r.headers) + str(r.body) for r in sim.requests)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 403),
        ({"host": "evil.example:8000"}, 403),
        ({"host": "localhost:8000"}, 200),
        ({"host": "[::1]:8000"}, 200),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
    ],
    ids=["rebound", "rebound-port", "localhost", "ipv6", "text", "form"],
)
def test_web_pages_do_not_come_in(url, headers, status):
    """A page in a browser here can post forms anywhere, and rebind its own name."""
    headers = {"content-type": "application/json", **headers}
    content = json.dumps(CHAT).encode()
    response = httpx.post(f"{url}/v1/chat/completions", content=content, headers=headers)
    assert response.status_code == status


def test_long_bodies_are_refused(sim):
    """Whether or not they say how long they are."""
    with served(model(sim), max_body_bytes=1000) as url:
        long = {**CHAT, "user": "x" * 1000}
        assert post(url, long).status_code == 413
        content = json.dumps(long).encode()
        pieces = (content[n : n + 100] for n in range(0, len(content), 100))
        headers = {"content-type": "application/json"}
        response = httpx.post(f"{url}/v1/chat/completions", content=pieces, headers=headers)
        assert response.status_code == 413
    assert sim.count() == 0


def test_long_heads_are_refused(sim):
    """By the server, before anything is read of them."""
    with served(model(sim), max_header_bytes=2048) as url:
        response = post(url, CHAT, headers={"x-long": "x" * 100_000})
    assert response.status_code in (400, 431)
    assert sim.count() == 0


def test_slow_bodies_are_given_up(sim):
    """A client that sends half a request holds nothing up for long."""
    with served(model(sim), body_timeout=0.1) as url, sent(url, CHAT, whole=False) as sock:
        assert sock.recv(20).startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"temperature": "hot"}, "temperature: Input should be a valid number"),
        ({"temperature": True}, "temperature: must be a number, not True"),
        ({"temprature": 1}, "temprature is no parameter: did you mean temperature?"),
        ({"max_token": 1}, "max_token is no parameter: did you mean max_tokens?"),
        ({"response_format": 5}, "response_format=5 is none"),
        ({"resilience": {"hedge": {"x\nERROR: all is lost\x1b[2J": 1}}}, "hedge.x\\nERROR: all is"),
        ({f"p{n}_": 1 for n in range(65)}, "there are more than 64 parameters"),
        ({"y" * 129: 1}, "y" * 128 + "... is too long for the name"),
    ],
    ids=["type", "bool", "misspelt", "near", "format", "lines", "many", "long"],
)
def test_a_refused_parameter_is_one_line_for_client_and_log(url, sim, caplog, given, says):
    """No traceback, and no advice that the service would refuse in turn."""
    with caplog.at_level(logging.INFO, "langchain_resilient"):
        response = post(url, {**CHAT, **given})
    assert (response.status_code, sim.count()) == (400, 0)
    assert response.json()["error"]["message"].startswith(says)
    assert "extra_body" not in response.text
    assert "".join(caplog.messages).isprintable()
    assert [record for record in caplog.records if record.exc_info] == []


def test_no_tools_need_no_choice_of_them(url, sim):
    """OpenAI refuses what is said of tools where there are none."""
    given = {"tools": [], "tool_choice": "auto", "parallel_tool_calls": False}
    assert post(url, {**CHAT, **given}).status_code == 200
    (seen,) = sim.requests
    assert (seen.status, seen.body.keys() & given.keys()) == (200, set())


def test_advice_for_the_operator_is_not_for_clients(url, sim, caplog):
    """A client cannot raise `timeout` of the service; its log has it."""
    sim.script("*", then=InvalidKey())
    with caplog.at_level(logging.INFO, "langchain_resilient"):
        response = post(url, CHAT)
    assert response.status_code == 502
    assert "What to do" not in response.text
    assert "What to do: check the key and what it is allowed to do" in caplog.text


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ([], None),
        ({"model": "resilient"}, "messages"),
        ({"messages": HELLO}, "model"),
        ({**CHAT, "messages": []}, "messages"),
        ({**CHAT, "messages": ["hi"]}, "messages"),
        ({**CHAT, "messages": [{"role": "king", "content": "hi"}]}, "messages[0].role"),
        ({**CHAT, "messages": [{"role": "user", "content": 5}]}, "messages[0]"),
        ({**CHAT, "stream": "yes"}, "stream"),
        ({**CHAT, "tools": ["add"]}, "tools"),
        ({**CHAT, "stop": 5}, "stop"),
        ({**CHAT, "temperature": 5}, "temperature"),
        ({**CHAT, "extra_headers": {"authorization": "mine"}}, "extra_headers"),
        ({**CHAT, "extra_body": {"model": "gpt-6"}}, "extra_body"),
        ({**CHAT, "resilience": {"model": "x"}}, "resilience"),
    ],
    ids=str,
)
def test_wrong_requests_are_refused_before_anything_is_sent(url, sim, body, param):
    """With the parameter's name."""
    response = post(url, body)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert response.json()["error"]["param"] == param
    assert sim.count() == 0


def test_a_body_that_is_no_json(url):
    """Is refused too."""
    headers = {"content-type": "application/json"}
    for content in (b"", b"{", b"\xff\xfe", b"[" * 100_000):
        response = httpx.post(f"{url}/v1/chat/completions", content=content, headers=headers)
        assert response.status_code == 400


def test_other_paths_and_methods(url):
    """Are errors in OpenAI's form."""
    for method, path, status in (
        ("GET", "/v1/chat/completions", 405),
        ("GET", "/v2", 404),
        ("DELETE", "/v1/models/resilient", 405),
    ):
        response = httpx.request(method, url + path)
        assert response.status_code == status
        assert response.json()["error"]["message"]


def test_a_client_may_say_how_long_its_call_may_take(url, sim):
    """Under `resilience`, which the SDKs let through as `extra_body`."""
    sim.script("*", then=NoAnswer())
    response = post(url, {**CHAT, "resilience": {"timeout": 0.2, "priority": "batch"}})
    assert response.status_code == 504


def test_receipts_if_they_are_wanted(sim):
    """Plain and at the end of a stream; by default nobody is told."""
    sim.script(NAMES[0], then=Status(500))
    with served(model(sim), receipts=True) as url:
        assert post(url, CHAT).json()["resilience"]["winner"] == NAMES[1]
        text = post(url, {**CHAT, "stream": True}).text
        assert f'"winner":"{NAMES[1]}"' in text
    with served(model(sim)) as url:
        assert "resilience" not in post(url, CHAT).json()


class Heard(BaseCallbackHandler):
    """Counts what LangChain tells it."""

    calls = 0

    def on_chat_model_start(self, *args, **kwargs) -> None:
        self.calls += 1


def test_langchains_cache_and_callbacks_have_their_effect(sim):
    """Where there are none, they cost nothing."""
    heard = Heard()
    with served(model(sim, cache=InMemoryCache(), callbacks=[heard])) as url:
        first, second = post(url, CHAT).json(), post(url, CHAT).json()
        assert post(url, {**CHAT, "stream": True}).text.endswith("[DONE]\n\n")
    assert first["choices"] == second["choices"]
    assert sim.count() == 2
    assert heard.calls == 3


def test_it_starts_warm(sim):
    """A first request opens no connection."""
    with served(model(sim), warm=True) as url:
        warm = set(sim._server.connections)
        assert len(warm) >= 2
        post(url, CHAT)
        assert set(sim._server.connections) <= warm


def test_metrics(sim):
    """Requests, calls, attempts with their faults, tokens and the health of targets."""
    sim.script(NAMES[0], then=Status(500))
    with served(model(sim)) as url:
        post(url, CHAT)
        text = httpx.get(f"{url}/metrics").text
    for line in (
        'resilient_requests_total{path="/v1/chat/completions",status="200"} 1.0',
        'resilient_calls_total{end="answered"} 1.0',
        f'outcome="failed",target="{NAMES[0]}"}} 1.0',
        f'kind="fallback",outcome="won",target="{NAMES[1]}"}} 1.0',
        f'resilient_tokens_total{{direction="output",target="{NAMES[1]}"}}',
        f'resilient_target_health{{health="ok",target="{NAMES[1]}"}} 1.0',
        "resilient_in_flight 0.0",
    ):
        assert line in text
