"""A client that looks at every byte: raw asyncio streams, no HTTP library in between."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langchain_resilient.testing import ProviderSimulator

PATHS = {"openai": "/openai/v1/chat/completions", "together": "/together/v1/chat/completions"}


@dataclass
class Wire:
    """What came over the wire.

    `end` is `"complete"` (the body ended as HTTP says), `"closed"` (the connection was closed
    before), `"reset"` (RST), or `"open"` (nothing more came within the patience).
    """

    end: str = "open"
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    raw: bytes = b""

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        return self.json["error"]

    @property
    def lines(self) -> list[str]:
        return [line for line in self.body.decode().split("\n") if line]

    @property
    def events(self) -> list[Any]:
        """The data of every event, as JSON where it is JSON."""
        data = [line.removeprefix("data: ") for line in self.lines if line.startswith("data: ")]
        return [_maybe_json(text) for text in data]

    @property
    def chunks(self) -> list[dict[str, Any]]:
        return [event for event in self.events if isinstance(event, dict) and "choices" in event]

    @property
    def deltas(self) -> list[dict[str, Any]]:
        return [chunk["choices"][0]["delta"] for chunk in self.chunks if chunk["choices"]]

    @property
    def text(self) -> str:
        """The text of the answer, plain or streamed."""
        if self.headers.get("content-type", "").startswith("text/event-stream"):
            return "".join(delta.get("content") or "" for delta in self.deltas)
        return self.json["choices"][0]["message"]["content"]

    @property
    def finish(self) -> list[str]:
        """Every finish reason of a stream."""
        reasons = [
            chunk["choices"][0]["finish_reason"] for chunk in self.chunks if chunk["choices"]
        ]
        return [reason for reason in reasons if reason]


def chat(content: Any = "Hello", *, model: str = "gpt-4", **more: Any) -> dict[str, Any]:
    """A request with one user message."""
    return {"model": model, "messages": [{"role": "user", "content": content}], **more}


def request_bytes(
    path: str, body: Any = None, headers: dict[str, str] | None = None, method: str = "POST"
) -> bytes:
    data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    lines = {"host": "127.0.0.1", "content-length": str(len(data)), **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + data


async def ask(
    sim: ProviderSimulator,
    body: Any = None,
    *,
    dialect: str = "openai",
    headers: dict[str, str] | None = None,
    patience: float = 5.0,
    path: str | None = None,
    method: str = "POST",
) -> Wire:
    """Send one request on a connection of its own, and read until something ends it."""
    body = chat() if body is None and method == "POST" else body
    data = request_bytes(path or PATHS[dialect], body, headers, method)
    reader, writer = await asyncio.open_connection("127.0.0.1", sim.port)
    wire = Wire()
    try:
        writer.write(data)
        async with asyncio.timeout(patience):
            await read_response(reader, wire)
    except TimeoutError:
        wire.end = "open"
    except ConnectionResetError:
        wire.end = "reset"
    except asyncio.IncompleteReadError as error:
        wire.raw += error.partial
        wire.end = "closed"
    finally:
        if wire.status is not None and wire.end != "complete":
            wire.body += dechunked(wire) if "chunked" in str(wire.headers) else b""
        writer.close()
    return wire


async def read_response(reader: asyncio.StreamReader, wire: Wire) -> None:
    """Read one response; what came before a break stays in the wire."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        wire.raw = error.partial
        wire.end = "closed"
        return
    lines = head.decode().split("\r\n")
    wire.status = int(lines[0].split(" ")[1])
    wire.headers = dict(line.split(": ", 1) for line in lines[1:] if line)
    if wire.status < 200:
        return
    if "content-length" in wire.headers:
        left = int(wire.headers["content-length"])
        while left and (data := await reader.read(left)):
            wire.body += data
            left -= len(data)
        wire.end = "complete" if not left else "closed"
        return
    while data := await reader.read(65536):
        wire.raw += data
        if wire.raw.endswith(b"0\r\n\r\n"):
            wire.body, wire.end = dechunked(wire), "complete"
            return
    wire.end = "closed"


def dechunked(wire: Wire) -> bytes:
    """Take the chunk framing off, as far as whole chunks came."""
    body, rest = b"", wire.raw
    while b"\r\n" in rest:
        size, _, rest = rest.partition(b"\r\n")
        count = int(size, 16)
        if count == 0 or len(rest) < count:
            break
        body += rest[:count]
        rest = rest[count + 2 :]
    return body


def _maybe_json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
