"""Malformed answers over real sockets: broken framing, lies about lengths, no HTTP at all."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING

from langchain_resilient.options import Target, TimeLimits
from langchain_resilient.providers.sdk import close_clients
from tests.fuzz.answers import Answer, Case, case
from tests.fuzz.dice import Dice
from tests.fuzz.world import Place, Tally, chain, healthy, play
from tests.whole_stack.world import _busy_connections

if TYPE_CHECKING:
    from collections.abc import Iterable

LIMITS = TimeLimits(first_text=0.5, chunk_gap=0.5)
"""Seconds: a silence is to be told from a hang soon."""

_STATUS_LINES = (
    b"", b"HTTP/1.1 200", b"HTTP/9.9 200 OK", b"HTTP/1.1 abc OK", b"HTTP/1.1 99999 Much",
    b"HTTP/1.1 -1 Less", b"\x00\x01\x02", b"SSH-2.0-OpenSSH", b"ICY 200 OK", b"HTTP/1.0 200 OK",
    b"HTTP/1.1 200 " + b"x" * 10_000, b"HTTP/1.1 101 Switching", b"HTTP/1.1 100 Continue\r\n",
)  # fmt: skip
_HEADER_LINES = (
    b"", b"no colon", b": no name", b" folded", b"\tfolded", b"a\x00b: c", b"a: b\x00c", b"a : b",
    b"a: " + b"x" * 9000, b"\xff: \xff", b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip",
    b"Content-Length: 3", b"Content-Length: 3, 4", b"Content-Length: +3", b"Content-Length: \xb2",
    b"Transfer-Encoding: chunked, chunked", b"Connection: upgrade\r\nUpgrade: h2c", b"a: b\nc: d",
    b"Set-Cookie: a=\xff\xfe", b"Keep-Alive: timeout=-1",
)  # fmt: skip
_CHUNK_SIZES = (
    b"", b"-1", b"zz", b"ffffffffffffffffffff", b"5;" + b"x" * 5000, b"0", b" 5", b"5 ", b"0x5",
)  # fmt: skip


def rendered(dice: Dice, answer: Answer) -> bytes:
    """Write an answer as HTTP, or nearly so."""
    lines = [b"HTTP/1.1 %d Said" % answer.status]
    if dice.once_in(8):
        lines = [dice.pick(_STATUS_LINES)]
    told = [(n, v) for n, v in answer.headers if n and b"\n" not in v]
    lines += [b"%s: %s" % header for header in told]
    lines += [dice.pick(_HEADER_LINES) for _ in range(dice.pick((0, 0, 0, 1, 2)))]
    framing, body = _framed(dice, answer)
    lines += framing
    end = dice.pick((b"\n", b"\r")) if dice.once_in(20) else b"\r\n"
    return end.join([*lines, b"", b""]) + body


def _framed(dice: Dice, answer: Answer) -> tuple[list[bytes], bytes]:
    body = b"".join(answer.pieces)
    way = dice.below(6)
    if way <= 1:  # where the connection ends
        return [b"Connection: close"], body
    if way == 2:
        lie = dice.pick((0, 0, 1, -1, 1000, -len(body), 10**12))
        return [b"Content-Length: %d" % (len(body) + lie)], body
    parts = [b"%x\r\n%s\r\n" % (len(piece), piece) for piece in answer.pieces if piece]
    last = b"0\r\n\r\n"
    if way == 3 and parts:
        parts.insert(dice.below(len(parts)), dice.pick(_CHUNK_SIZES) + b"\r\nhello\r\n")
    elif way == 4:
        last = dice.pick((b"", b"0\r\n", b"0\r\nTrailer: x\r\n\r\n", b"0\r\n\r\nmore", b"\x00"))
    return [b"Transfer-Encoding: chunked"], b"".join(parts) + last


class _Server:
    """Answers any request with some bytes, and ends the connection as it is told."""

    def __init__(self) -> None:
        self.url = ""
        self.data = b""
        self.end = "clean"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Speak to one client once."""
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(self.data)
            await writer.drain()
            if self.end == "broken":
                end = struct.pack("ii", 1, 0)
                sock = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, end)
            if self.end == "silent":
                await reader.read()  # until the client goes
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def play_over_sockets(datas: Iterable[bytes], tally: Tally) -> None:
    """Try cases one after the other on the running loop, at a server of bytes."""
    sick, well = _Server(), _Server()
    servers = [await asyncio.start_server(one.serve, "127.0.0.1", 0) for one in (sick, well)]
    for one, server in zip((sick, well), servers, strict=True):
        one.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    place = _place(sick, well)
    for data in datas:
        one_case = case(data)
        dice = Dice(data[::-1])
        sick.data, sick.end = rendered(dice, one_case.answer), one_case.answer.end
        if sick.end == "silent" and dice.below(4):
            sick.end = "clean"  # it takes half a second
        good = healthy(stream=one_case.way != "plain")
        well.data = rendered(Dice(b""), good)
        await play(one_case, place, tally)
    await close_clients()
    for server in servers:
        server.close()
        await server.wait_closed()


def _place(sick: _Server, well: _Server) -> Place:
    def targets(one: Case) -> list[Target]:
        return chain(one.dialect, sick.url, well.url if one.healthy else None)

    loop = asyncio.get_running_loop()
    return Place(
        targets,
        lambda: _busy_connections(loop),
        is_ours=lambda task: "_Server" not in repr(task.get_coro()),
        timeout=5.0,
        timeouts=LIMITS,
    )
