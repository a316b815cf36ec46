"""A server that sends too much: `python -m verification.fuzz.hostile_server` prints its address.

It is a process of its own, so that what its client takes of memory can be measured.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import sys
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_BLOCK = 64 * 1024
_MUCH = 1_000_000_000
"""Bytes: whoever takes all of it has taken a gigabyte."""

_SSE = "text/event-stream"
_JSON = "application/json"
HEALTHY = "All is well."


def _head(kind: str, *more: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", "Connection: close", *more, "", ""]
    return "\r\n".join(lines).encode()


def _repeated(piece: bytes, size: int = _MUCH) -> Iterator[bytes]:
    """Say the same until there is so much of it."""
    block = piece * max(1, _BLOCK // len(piece))
    return (block for _ in range(size // len(block)))


def _chunk(finish: str | None = None, **delta: object) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    fields = {"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": [choice]}
    return f"data: {json.dumps(fields)}\n\n".encode()


def _call(args: str, **more: object) -> bytes:
    return _chunk(tool_calls=[{"index": 0, "function": {"arguments": args, **more}}])


def _calls(numbers: Iterable[int]) -> bytes:
    return _chunk(tool_calls=[{"index": n, "function": {"name": "f"}} for n in numbers])


def _choice(index: int) -> bytes:
    choice = {"index": index, "delta": {"content": "x"}, "finish_reason": "stop"}
    return f"data: {json.dumps({'choices': [choice]})}\n\n".encode()


def _endless(begin: bytes, piece: bytes, kind: str = _SSE) -> Iterator[bytes]:
    yield _head(kind) + begin
    yield from _repeated(piece)


def _bomb(kind: str, coding: str, data: bytes) -> Iterator[bytes]:
    yield _head(kind, f"Content-Encoding: {coding}") + data


def _zeros(wbits: int) -> bytes:
    """A gigabyte of one letter, compressed to a megabyte: a block that is said again and again."""
    compressor = zlib.compressobj(9, wbits=wbits)
    head = compressor.compress(b"x") + compressor.flush(zlib.Z_FULL_FLUSH)
    block = compressor.compress(b"x" * 1_000_000) + compressor.flush(zlib.Z_FULL_FLUSH)
    return head + block * 1000


def _whole(message: str) -> Iterator[bytes]:
    choice = f'{{"index":0,"message":{message},"finish_reason":"stop"}}'
    yield _head(_JSON) + f'{{"id":"c","model":"m","choices":[{choice}]}}'.encode()


def _stream(*events: bytes) -> Iterator[bytes]:
    yield _head(_SSE) + b"".join(events) + b"data: [DONE]\n\n"


def _well() -> Iterator[bytes]:
    return _stream(_chunk(role="assistant", content=HEALTHY), _chunk("stop"))


def _tiny_pieces() -> Iterator[bytes]:
    """A good answer in HTTP chunks of one byte each."""
    yield _head(_SSE, "Transfer-Encoding: chunked")
    text = b"".join([_chunk(content="word ")] * 2000 + [_chunk("stop"), b"data: [DONE]\n\n"])
    for at in range(0, len(text), 1000):
        yield b"".join(b"1\r\n%c\r\n" % byte for byte in text[at : at + 1000])
    yield b"0\r\n\r\n"


def _many_headers() -> Iterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\n"
    for number in range(0, 100_000, 1000):
        yield b"".join(b"X-Header-%d: value\r\n" % n for n in range(number, number + 1000))
    yield b"\r\n"


def _one_header() -> Iterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\nX-Bomb: "
    yield from _repeated(b"x", 10_000_000)
    yield b"\r\n\r\n"


_DEEP = 100_000
_DEEP_LIST = "[" * _DEEP + "]" * _DEEP
_DEEP_ARGS = json.dumps(f'{{"a": {_DEEP_LIST}}}')
_HUGE = b"9" * 1_000_000

SCENES: dict[str, Callable[[], Iterable[bytes]]] = {
    "a line without end": lambda: _endless(b"data: ", b"x"),
    "a JSON string without end": lambda: _endless(b'data: {"choices": [{"delta": "', b"x"),
    "an event of many lines": lambda: _endless(b"", b"data:\n"),
    "an event of long lines": lambda: _endless(b"", b"data: " + b"x" * 1000 + b"\n"),
    "comments without end": lambda: _endless(b"", b": keep-alive\n\n"),
    "a comment without end": lambda: _endless(b":", b"x"),
    "carriage returns without end": lambda: _endless(b"", b"\r"),
    "line feeds without end": lambda: _endless(b"", b"\n"),
    "a body without end": lambda: _endless(b'{"choices": [{"message": "', b"x", _JSON),
    "a body of many objects": lambda: _endless(b'{"choices": [', b'{"":0},', _JSON),
    "an event of many objects": lambda: iter(
        [_head(_SSE), b'data: {"choices": [', b'{"":0},' * 3_000_000, b"{}]}\n\n"]
    ),
    "an error without end": lambda: iter(
        [_head("text/html", status="500 Oops") + b"<html>", *_repeated(b"<", 10**8)]
    ),
    "text without end": lambda: _endless(_chunk(role="assistant"), _chunk(content="word ")),
    "long text without end": lambda: _endless(b"", _chunk(content="word " * 10_000)),
    "thoughts without end": lambda: _endless(b"", _chunk(reasoning="hm ")),
    "white space without end": lambda: _endless(b"", _chunk(content=" ")),
    "chunks that say nothing": lambda: _endless(b"", _chunk()),
    "more after the end": lambda: _endless(_chunk("stop", content="Hi"), _chunk()),
    "a call without end": lambda: _endless(_call("{", name="f"), _call("x" * 10_000)),
    "calls without end": lambda: _endless(_calls(range(500)), _calls(range(500, 1100))),
    "choices without end": lambda: iter([_head(_SSE), *map(_choice, range(1, 100_000))]),
    "deep JSON": lambda: iter([_head(_JSON) + _DEEP_LIST.encode()]),
    "a deep event": lambda: _stream(f'data: {{"choices": {_DEEP_LIST}}}\n\n'.encode()),
    "deep arguments": lambda: _whole(
        f'{{"tool_calls":[{{"function":{{"name":"f","arguments":{_DEEP_ARGS}}}}}]}}'
    ),
    "a huge number": lambda: _stream(b'data: {"usage":{"prompt_tokens":' + _HUGE + b"}}\n\n"),
    "a gzip bomb": lambda: _bomb(_JSON, "gzip", _zeros(31)),
    "a gzip bomb of events": lambda: _bomb(_SSE, "gzip", _zeros(31)),
    "a deflate bomb": lambda: _bomb(_SSE, "deflate", _zeros(15)),
    "a bomb in a bomb": lambda: _bomb(_SSE, "gzip, gzip", gzip.compress(_zeros(31), 9)),
    "a coding nobody asked for": lambda: _bomb(_SSE, "br", b"\x0b\x02\x80x\x03"),
    "a header of 10 MB": _one_header,
    "100,000 headers": _many_headers,
    "provisional answers without end": lambda: _repeated(b"HTTP/1.1 102 Wait\r\n\r\n", 10**8),
    "a redirect to itself": lambda: iter(
        [_head(_JSON, "Location: /openai/v1/chat/completions", status="307 Again") + b"{}"]
    ),
    "tiny pieces": _tiny_pieces,
    "well": _well,
    "fallback": _well,
}
"""What comes, by the model that is asked for."""


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError, asyncio.IncompleteReadError):
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        length = re.search(r"content-length: *(\d+)", head, re.IGNORECASE)
        body = json.loads(await reader.readexactly(int(length[1]) if length else 0))
        for piece in SCENES[body["model"]]():
            writer.write(piece)
            await writer.drain()
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


async def main() -> None:
    """Serve until the standard input ends: with whoever started this."""
    server = await asyncio.start_server(_serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    sys.stdout.write(f"http://127.0.0.1:{port}/v1\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    server.close()


if __name__ == "__main__":
    asyncio.run(main())
