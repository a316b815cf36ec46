"""A server that costs little: prepared bytes for every request, so that clients are measured.

    python benchmarks/instant_server.py [FIRST GAP]

Prints its base URL. Whoever asks for `LONG` gets a stream of `CHUNKS` pieces, any other the short
`TEXT`, plainly or as a stream: each in a single write, or as a provider speaks, the first text
after `FIRST` seconds and each further one `GAP` seconds later. It runs in a process of its own and
ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

CHUNKS = 400
TEXT = "The sky is blue because of Rayleigh scattering."
SHORT = "Why is the sky blue?"
LONG = f"Say {CHUNKS} words."
_LENGTH = re.compile(rb"content-length:\s*(\d+)", re.IGNORECASE)
_STREAM = re.compile(rb'"stream":\s*true')
_LONG = LONG.encode()


def _usage() -> dict[str, int]:
    return {"prompt_tokens": 12, "completion_tokens": 9, "total_tokens": 21}


def plain() -> bytes:
    """Return a whole response with a short answer."""
    message = {"role": "assistant", "content": TEXT, "refusal": None, "annotations": []}
    body = json.dumps(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1_700_000_000,
            "model": "m",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": _usage(),
        }
    ).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


def _chunk(delta: dict[str, str], finish: str | None = None) -> dict[str, object]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": "m",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    }


def stream(pieces: Iterable[str]) -> list[bytes]:
    """Return a whole response that is a stream, each event a chunk of HTTP too.

    Cut where a provider that speaks would pause: before each text but the first.
    """
    results = [_chunk({"role": "assistant", "content": ""})]
    results += [_chunk({"content": piece}) for piece in pieces]
    results += [_chunk({}, "stop"), {**_chunk({}), "choices": [], "usage": _usage()}]
    events = [*(json.dumps(each, separators=(",", ":")) for each in results), "[DONE]"]
    head = (
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    lines = [f"data: {event}\n\n" for event in events]
    chunks = [f"{len(line):x}\r\n{line}\r\n".encode() for line in lines]
    role, *texts, stop, usage, done = chunks
    texts[0] = head.encode() + role + texts[0]
    texts[-1] += stop + usage + done + b"0\r\n\r\n"
    return texts


class Streamed:
    """A stream, in one piece and cut where a provider that speaks would pause.

    Args:
        texts: Its texts.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self.pieces = stream(texts)
        self.at_once = b"".join(self.pieces)


class Instant(asyncio.Protocol):
    """One connection: reads requests, answers each with prepared bytes.

    Args:
        pace: Seconds before the first text and before each further one; None for all at once.
    """

    whole = plain()
    short = Streamed(re.findall(r"\s?\S+", TEXT))
    long = Streamed(f" word{number}" for number in range(CHUNKS))

    def __init__(self, pace: tuple[float, float] | None = None) -> None:
        self._pace = pace

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        assert isinstance(transport, asyncio.Transport)
        self._transport, self._seen = transport, b""

    def data_received(self, data: bytes) -> None:
        """Answer every request that is complete."""
        self._seen += data
        while (end := self._seen.find(b"\r\n\r\n")) >= 0:
            length = _LENGTH.search(self._seen, 0, end)
            size = end + 4 + (int(length[1]) if length else 0)
            if len(self._seen) < size:
                return
            request, self._seen = self._seen[:size], self._seen[size:]
            self._answer(request)

    def _answer(self, request: bytes) -> None:
        answer = self.long if _LONG in request else self.short
        streams = _STREAM.search(request)
        if self._pace is None:
            self._transport.write(answer.at_once if streams else self.whole)
            return
        first, gap = self._pace
        loop = asyncio.get_running_loop()
        at = loop.time() + first
        if not streams:
            loop.call_at(at + (len(answer.pieces) - 1) * gap, self._transport.write, self.whole)
            return
        for number, piece in enumerate(answer.pieces):
            loop.call_at(at + number * gap, self._transport.write, piece)


async def main(pace: tuple[float, float] | None) -> None:
    """Serve until standard input ends."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Instant(pace), "127.0.0.1", 0, backlog=1024)
    sys.stdout.write(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1\n")
    sys.stdout.flush()
    async with server:
        await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    given = [float(each) for each in sys.argv[1:]]
    asyncio.run(main((given[0], given[1]) if given else None))
