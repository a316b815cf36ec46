"""HTTP as far as it goes."""

from __future__ import annotations

import asyncio

import pytest

from langchain_resilient.testing import ProviderSimulator, Reply, Status, answer_to
from langchain_resilient.testing.http import MAX_BODY, MalformedRequestError, RequestParser
from tests.testing.wire_client import PATHS, Wire, ask, chat, read_response, request_bytes


async def talk(sim: ProviderSimulator, *parts: bytes, responses: int = 1) -> list[Wire]:
    """Write some bytes on one connection, and read some responses."""
    reader, writer = await asyncio.open_connection("127.0.0.1", sim.port)
    wires = [Wire() for _ in range(responses)]
    try:
        for part in parts:
            writer.write(part)
            await asyncio.sleep(0.01)
        async with asyncio.timeout(5):
            for wire in wires:
                await read_response(reader, wire)
    finally:
        writer.close()
    return wires


async def test_a_connection_is_kept(sim: ProviderSimulator) -> None:
    """Many requests, one socket."""
    requests = [request_bytes(PATHS["openai"], chat(f"{i}")) for i in range(5)]
    wires = await talk(sim, *requests, responses=5)
    assert [wire.text for wire in wires] == [answer_to(f"{i}") for i in range(5)]


async def test_pipelined_requests_are_answered_in_order(sim: ProviderSimulator) -> None:
    """Even if the first takes longer."""
    sim.script("*", Reply("first", latency=0.03), then=Reply("second"))
    one = request_bytes(PATHS["openai"], chat())
    wires = await talk(sim, one + one, responses=2)
    assert [wire.text for wire in wires] == ["first", "second"]


async def test_a_request_may_come_in_single_bytes(sim: ProviderSimulator) -> None:
    """TCP knows no messages."""
    data = request_bytes(PATHS["openai"], chat())
    reader, writer = await asyncio.open_connection("127.0.0.1", sim.port)
    for at in range(len(data)):
        writer.write(data[at : at + 1])
        await asyncio.sleep(0)
    wire = Wire()
    await read_response(reader, wire)
    writer.close()
    assert wire.text == answer_to("Hello")


async def test_a_chunked_request(sim: ProviderSimulator) -> None:
    """Some clients do not know how long their body is."""
    body = b'{"model":"gpt-4","messages":[{"role":"user","content":"Hello"}]}'
    head = f"POST {PATHS['openai']} HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n".encode()
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:20], body[20:]))
    (wire,) = await talk(sim, head + chunks[:30], chunks[30:] + b"0\r\n\r\n")
    assert wire.text == answer_to("Hello")


async def test_a_client_that_waits_for_100_continue_gets_it(sim: ProviderSimulator) -> None:
    """`Expect: 100-continue` before a long body."""
    data = request_bytes(PATHS["openai"], chat(), {"expect": "100-continue"})
    head, _, body = data.partition(b"\r\n\r\n")
    leave, wire = await talk(sim, head + b"\r\n\r\n", body, responses=2)
    assert leave.status == 100
    assert wire.text == answer_to("Hello")


@pytest.mark.parametrize("version", ["HTTP/1.0", "HTTP/1.1"])
async def test_a_client_may_want_the_connection_closed(
    sim: ProviderSimulator, version: str
) -> None:
    """By header, or by an old version."""
    data = request_bytes(PATHS["openai"], chat(), {"connection": "close"})
    (wire,) = await talk(sim, data.replace(b"HTTP/1.1", version.encode()))
    assert wire.end == "complete"
    await sim.await_idle(sockets=0)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / SPDY/3\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\ncontent-length: many\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n", 400),
        (b"POST / HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % (MAX_BODY + 1), 413),
        (b"A" * 70_000, 431),
    ],
)
async def test_bytes_that_are_not_http_are_refused(
    sim: ProviderSimulator, data: bytes, status: int
) -> None:
    """With the status that says why."""
    (wire,) = await talk(sim, data)
    assert (wire.status, wire.headers["connection"]) == (status, "close")
    await sim.await_idle(sockets=0)


def test_the_parser_waits_for_the_whole_request() -> None:
    """And says what is wrong as soon as it is clear."""
    parser = RequestParser()
    parser.feed(
        b"POST /a?b=c HTTP/1.1\r\nAuthorization: Bearer k\r\nX-A:  b \r\nContent-Length: 2\r\n"
    )
    assert parser.next_request() is None
    parser.feed(b"\r\n{")
    assert parser.next_request() is None
    parser.feed(b"}")
    request = parser.next_request()
    assert request is not None
    assert (request.head.method, request.head.path, request.body) == ("POST", "/a", b"{}")
    assert request.head.headers == {"x-a": "b", "content-length": "2"}
    assert request.head.token == "k"
    assert "Bearer" not in repr(request)
    parser.feed(b"\r\n\r\n")
    with pytest.raises(MalformedRequestError):
        parser.next_request()


async def test_models_are_listed(sim: ProviderSimulator) -> None:
    """Those scripted or asked, without the retired ones, in each dialect's shape."""
    sim.script("openai:gpt-4", Status(500))
    sim.script("openai:gpt-3", Status(500))
    sim.script("openai:*", Status(500))
    sim.retire("openai:gpt-3")
    await ask(sim, chat(model="asked"))
    await ask(sim, chat(model="llama"), dialect="together")
    models = (await ask(sim, path="/openai/v1/models", method="GET")).json
    assert [model["id"] for model in models["data"]] == ["asked", "gpt-4"]
    models = (await ask(sim, path="/together/v1/models", method="GET")).json
    assert [model["id"] for model in models] == ["llama"]


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/openai/v1/embeddings", "POST", 404),
        ("/together/v1/v1/chat/completions", "POST", 404),
        ("/", "GET", 404),
        (PATHS["openai"], "GET", 405),
    ],
)
async def test_other_paths_are_errors(
    sim: ProviderSimulator, path: str, method: str, status: int
) -> None:
    """In the dialect's words, and not counted as chats."""
    wire = await ask(sim, path=path, method=method)
    assert wire.status == status
    assert path in wire.error["message"]
    assert sim.count() == 0
