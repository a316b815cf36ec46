"""What the HTTP server bears from clients that do not do as they should."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import time
from contextlib import contextmanager
from http.client import HTTPResponse
from typing import TYPE_CHECKING, Any, cast

import httpx
import pytest

pytest.importorskip("starlette", reason="needs the extra `serve`")
pytest.importorskip("httptools", reason="needs the extra `serve`")
pytest.importorskip("prometheus_client", reason="needs the extra `serve`")

import uvicorn
from uvicorn.server import ServerState

from langchain_resilient.service.config import ServiceConfig
from langchain_resilient.service.http import GatheringTransport, bounded
from langchain_resilient.testing import ProviderSimulator, answer_to
from tests.service.serving import model, served

if TYPE_CHECKING:
    from collections.abc import Iterator

BODY = json.dumps({"model": "resilient", "messages": [{"role": "user", "content": "Hi"}]}).encode()
START = b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\n"
HEAD = START + b"content-type: application/json\r\n"
LENGTH = b"content-length: %d\r\n\r\n" % len(BODY)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with ProviderSimulator() as sim, served(model(sim), max_header_bytes=1024) as url:
        yield url


@pytest.fixture(scope="module")
def hasty() -> Iterator[str]:
    """One that waits for nobody."""
    with ProviderSimulator() as sim, served(model(sim), body_timeout=0.05, idle_timeout=1) as url:
        yield url


@contextmanager
def connection(url: str, *pieces: bytes) -> Iterator[socket.socket]:
    """One on which some was sent, piece by piece."""
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), 10) as sock:
        for piece in pieces:
            sock.sendall(piece)
            time.sleep(0.01)
        yield sock


def answer(sock: socket.socket) -> tuple[int, bytes]:
    """The next one: its status and its body."""
    response = HTTPResponse(sock)
    response.begin()
    return response.status, response.read()


def until_closed(sock: socket.socket) -> bytes:
    said = b""
    while data := sock.recv(65536):
        said += data
    return said


@pytest.mark.parametrize(
    "pieces",
    [(HEAD + LENGTH + BODY,), (HEAD + LENGTH, BODY), (HEAD[:30], HEAD[30:], LENGTH, BODY)],
    ids=["at once", "head and body", "in pieces"],
)
def test_a_request_may_come_in_pieces(url, pieces):
    """And the connection is good for another."""
    with connection(url, *pieces) as sock:
        for _ in range(2):
            status, body = answer(sock)
            assert status == 200
            assert json.loads(body)["choices"][0]["message"]["content"] == answer_to("Hi")
            sock.sendall(HEAD + LENGTH + BODY)


@pytest.mark.parametrize(
    "endless", [b"x: " + b"y" * 600, b"x: y\r\n" * 100], ids=["one header", "many"]
)
def test_an_endless_head_is_refused(url, endless):
    """Nothing gathers it; a single piece that is too long is refused by the application."""
    with connection(url, HEAD, endless, endless) as sock:
        assert until_closed(sock).startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize("begun", [b"", HEAD[:20]], ids=["nothing", "half a head"])
def test_a_client_that_does_not_go_on_is_not_waited_for(hasty, begun):
    """The connection is closed: after `body_timeout`, or `idle_timeout` if nothing came."""
    with connection(hasty, begun) as sock:
        assert until_closed(sock) == b""


WRONG = START + b"content-type: text/plain\r\n" + LENGTH


@pytest.mark.parametrize(
    ("asks", "status", "more"),
    [
        (b"", None, b"\r\n"),
        (HEAD + LENGTH + BODY, 200, b"\r\n"),
        (WRONG + BODY[:9], 415, BODY[9:]),
    ],
    ids=["an empty line", "one behind an answer", "a body behind its answer"],
)
def test_what_begins_no_request_keeps_no_connection(hasty, asks, status, more):
    """Nobody needs a key to send that: the connection is idle, and closed like any other."""
    with connection(hasty, asks) as sock:
        assert status is None or answer(sock)[0] == status
        sock.sendall(more)
        assert until_closed(sock) == b""


def test_an_answered_request_must_end_too(hasty):
    """One that is refused may not go on for ever."""
    with connection(hasty, START + b"content-type: text/plain\r\n" + LENGTH, BODY[:5]) as sock:
        assert until_closed(sock).startswith(b"HTTP/1.1 415")


def test_what_follows_a_body_is_nobodys(url):
    """Trailers are dropped, however many; the answer comes."""
    chunked = HEAD + b"transfer-encoding: chunked\r\n\r\n"
    body = b"%x\r\n%s\r\n0\r\n" % (len(BODY), BODY)
    with connection(url, chunked, body, b"x: y\r\n" * 1000, b"\r\n") as sock:
        assert answer(sock)[0] == 200


def test_many_offers_at_once_are_passed_over(url, caplog):
    """One after the other, as requests: without a frame for each, or a copy of all that follow."""
    offer = b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n" + OFFER + b"\r\n"
    with connection(url, offer * 600) as sock, sock.makefile("rb") as told:
        statuses = 0
        while statuses < 600:  # a body ends without a line's end
            line = told.readline()
            assert line
            statuses += line.count(b"HTTP/1.1 200")
    assert [each for each in caplog.records if each.levelno >= logging.WARNING] == []


OFFER = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n"


@pytest.mark.parametrize(
    "pieces",
    [(HEAD + OFFER + LENGTH + BODY,), (HEAD + OFFER[:9], OFFER[9:] + LENGTH, BODY)],
    ids=["at once", "in pieces"],
)
def test_an_offer_of_http_2_is_passed_over(url, pieces):
    """Java's client makes one with its first request, whose body must not be lost."""
    with connection(url, *pieces) as sock:
        for _ in range(2):
            assert answer(sock)[0] == 200
            sock.sendall(HEAD + LENGTH + BODY)


def test_it_is_no_proxy(url):
    """CONNECT is refused."""
    with connection(url, b"CONNECT example.com:443 HTTP/1.1\r\n\r\n") as sock:
        assert until_closed(sock).startswith(b"HTTP/1.1 400")


def test_a_client_that_sends_ahead_is_answered_in_order(url):
    """Both requests of a pipeline."""
    with connection(url, (HEAD + LENGTH + BODY) * 2) as sock:
        said = b""
        while said.count(b"HTTP/1.1 200") < 2:
            data = sock.recv(65536)
            assert data
            said += data


def test_what_is_no_http_is_refused(url):
    """And other clients are served."""
    with connection(url, b"\x16\x03\x01\x02\x00\x01\x00") as sock:
        assert until_closed(sock).startswith(b"HTTP/1.1 400")
    assert httpx.get(f"{url}/healthz").status_code == 200


class Wire:
    """A transport that remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[bytes | str] = []
        self.closing = False

    def write(self, data: bytes) -> None:
        self.told.append(data)

    def write_eof(self) -> None:
        self.told.append("eof")

    def close(self) -> None:
        self.told.append("close")
        self.closing = True

    def is_closing(self) -> bool:
        return self.closing

    def get_extra_info(self, name: str) -> None:
        """Nothing is known of its ends."""

    def resume_reading(self) -> None:
        """Nothing was paused."""


async def test_the_end_of_an_answer_does_not_wait_for_what_its_application_does_after_it():
    wire, sent_by_then = Wire(), []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-length", b"4")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        sent_by_then.append(len(wire.told))
        await send({"type": "http.response.body", "body": b"text"})
        sent_by_then.append(len(wire.told))

    config = uvicorn.Config(app, lifespan="off", log_config=None)
    config.load()
    protocol = bounded(ServiceConfig())(config, ServerState(), {})
    protocol.connection_made(cast("asyncio.Transport", wire))
    protocol.data_received(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
    await asyncio.gather(*protocol.tasks)
    protocol.connection_lost(None)
    assert sent_by_then == [0, 1]
    assert wire.told[0].endswith(b"\r\n\r\ntext")


async def test_what_is_written_in_one_turn_is_sent_in_one_piece():
    """Nothing waits longer than that, not much is kept, and all is sent before the end."""
    wire = Wire()
    transport = GatheringTransport(wire, asyncio.get_running_loop())
    transport.write(b"head ")
    transport.write(b"body")
    assert wire.told == []
    await asyncio.sleep(0)
    assert wire.told == [b"head body"]
    for size in (40_000, 30_000):
        transport.write(b"x" * size)
    assert [len(one) for one in wire.told] == [9, 70_000]
    await asyncio.sleep(0)
    transport.write(b"last")
    transport.write_eof()
    transport.write(b"more")
    transport.close()
    assert wire.told[2:] == [b"last", "eof", b"more", "close"]
    assert transport.is_closing()
    transport.write(b"too late")
    await asyncio.sleep(0)
    assert wire.told[-1] == "close"
