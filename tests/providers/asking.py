"""Asks a provider as the race does: open, read to the end, close once."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from langchain_core.messages import HumanMessage

from langchain_resilient import Target
from langchain_resilient.exchange import ChatRequest
from langchain_resilient.providers import create_provider
from langchain_resilient.providers.errors import classify
from langchain_resilient.wire.accumulator import ResponseAccumulator
from verification.kit.scripted_targets import target

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from langchain_resilient import Fault
    from langchain_resilient.exchange import Provider
    from langchain_resilient.testing import ProviderSimulator

DIALECTS = ("openai", "together")
TRANSPORTS = ("aiohttp", "httpx")


def ids(value: object) -> str:
    """A test's name, short enough to be read."""
    return str(value).replace("=None", "")[:60]


def provider_at(sim: ProviderSimulator, spec: str = "openai:m", **fields: Any) -> Provider:
    """The provider of a target at the simulator."""
    return create_provider(target(sim, spec, **fields))


def request(text: str = "hello", **overrides: Any) -> ChatRequest:
    """A request of one message."""
    messages = [{"role": "user", "content": text}]
    return ChatRequest(messages, overrides=overrides, source=[HumanMessage(text)])


async def ask(
    provider: Provider, asked: ChatRequest | None = None, *, stream: bool = True
) -> ResponseAccumulator:
    """Read one whole answer."""
    response = ResponseAccumulator()
    answer = await provider.open(asked or request(), stream=stream)
    try:
        async for chunk in answer:
            response.add(chunk)
    finally:
        await answer.aclose()
    return response


async def fault_of(provider: Provider, *, stream: bool = True) -> Fault:
    """What goes wrong, as the race would see it."""
    try:
        response = await ask(provider, stream=stream)
    except Exception as error:  # noqa: BLE001  # as the race does
        return classify(error)
    fault = response.fault()
    assert fault is not None, f"answered: {response.text!r}"
    return fault


class Raw:
    """A server that answers any request with the same bytes and hangs up.

    Attributes:
        url: Where it listens.
        heads: The heads of the requests that came.
        bodies: Their bodies, decoded.
    """

    def __init__(self, *parts: bytes, delay: float = 0.0) -> None:
        self.url = ""
        self.heads: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self._parts = parts
        self._delay = delay

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.heads.append(head)
        length = int(head.lower().partition("content-length:")[2].split("\r\n")[0])
        self.bodies.append(json.loads(await reader.readexactly(length)))
        for part in self._parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(self._delay)
        writer.close()
        await writer.wait_closed()


async def until(true: Callable[[], object], seconds: float = 5.0) -> None:
    """Wait for something that nobody announces."""
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110  # that is its purpose
            await asyncio.sleep(0.002)


@asynccontextmanager
async def listening(*parts: bytes, delay: float = 0.0) -> AsyncIterator[Raw]:
    """A `Raw` server, for as long as the block runs."""
    raw = Raw(*parts, delay=delay)
    server = await asyncio.start_server(raw.serve, "127.0.0.1", 0)
    raw.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield raw


@asynccontextmanager
async def replying(*parts: bytes, delay: float = 0.0) -> AsyncIterator[Target]:
    """A target at a `Raw` server."""
    async with listening(*parts, delay=delay) as raw:
        yield Target("openai:m", base_url=f"{raw.url}/v1", api_key="sk-0123456789")


def http(body: bytes | str, status: str = "200 OK", kind: str = "application/json", **headers: str):
    """A whole HTTP response that ends where the connection does."""
    data = body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + data


def sse(*events: str) -> bytes:
    """A whole streamed HTTP response."""
    return http("".join(f"{event}\n\n" for event in events), kind="text/event-stream")


def raised_from(error: BaseException, cause: BaseException) -> BaseException:
    """Give an exception a cause, as `raise error from cause` does."""
    error.__cause__ = cause
    return error
