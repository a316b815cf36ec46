"""Asks a chain whose first target is out of its mind, and judges what its user gets."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import struct
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk
from tenacity import stop_after_attempt

from langchain_resilient import (
    FaultKind,
    Hedge,
    ResilientChatModel,
    ResilientError,
    Retry,
    StreamBrokenError,
    Target,
    TimeLimits,
    sum_chunks,
)
from langchain_resilient.providers import http
from langchain_resilient.providers.connection import close_clients
from langchain_resilient.runtime import shared_state, spending
from verification.fuzz.answers import Answer, Case, case
from verification.fuzz.nonsense import Dice
from verification.kit.leftovers import busy_connections
from verification.kit.scripted_targets import CANARY

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator


SILENCE = 1e6
"""Seconds of a silence that does not end: every limit of the library is shorter."""


class Ledger:
    """What was opened, and what was not closed again.

    Attributes:
        opened: Bodies that were handed out.
        open: Of these, how many are not closed yet.
        answers: The answers to give, by the model that is asked for.
    """

    def __init__(self) -> None:
        self.opened = 0
        self.open = 0
        self.answers: dict[str, Answer] = {}


def _body(base: type, answer: Answer, ledger: Ledger, broken: Callable[[str], Exception]) -> Any:
    """Make a stream of the class that an httpx wants."""

    class Body(base):  # type: ignore[misc]
        def __init__(self) -> None:
            ledger.opened += 1
            ledger.open += 1
            self._closed = False

        async def __aiter__(self) -> AsyncIterator[bytes]:
            for number, piece in enumerate(answer.pieces):
                yield piece
                if not number % 16:
                    await asyncio.sleep(0)
            if answer.end == "broken":
                raise broken("the connection was reset")
            if answer.end == "silent":
                await asyncio.sleep(SILENCE)

        async def aclose(self) -> None:
            if not self._closed:
                self._closed = True
                ledger.open -= 1

    return Body()


def memory_transport(httpx: Any, ledger: Ledger) -> Any:
    """Make the transport for one of the two httpx."""

    class Transport(httpx.AsyncBaseTransport):  # type: ignore[misc]
        async def handle_async_request(self, request: Any) -> Any:
            answer = ledger.answers[request.url.host.partition(".")[0]]
            return httpx.Response(
                answer.status,
                # A name that is empty never gets past a parser of HTTP, and httpx forgets to close
                # its stream where Python (3.14) refuses it.
                headers=[header for header in answer.headers if header[0]],
                stream=_body(httpx.AsyncByteStream, answer, ledger, httpx.ReadError),
            )

    return Transport()


@contextmanager
def in_memory() -> Iterator[Ledger]:
    """Let both SDKs run without sockets, with everything else as it is."""
    ledger, real = Ledger(), http.http_client

    def client(sdk: Any, httpx: Any, timeout: Any, **options: Any) -> Any:
        made = real(sdk, httpx, timeout, **options)
        made._transport, made._mounts = memory_transport(httpx, ledger), {}
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("langchain_resilient.providers.sdk.http_client", client)
        yield ledger


HEALTHY = "All is well."
DEADLINE = 40.0
"""Seconds that a call may take by the loop's clock."""

SLOW = 10.0
"""Seconds on the wall's clock after which a case hangs: a thousand times what they take."""

_TICKS = 50
_JSON = {"title": "Output", "type": "object", "properties": {"city": {"type": "string"}}}


class HangError(BaseException):
    """A case took too long; no `except Exception` may swallow it."""


@dataclass
class Tally:
    """What came of all cases.

    Attributes:
        cases: How many were tried.
        came: How often which kind of outcome came: an answer, or an error's name.
        faults: How often which kind of fault was told.
        problems: What must not be, in words, with the case.
        crashes: Of these, how often anything but a message or one of our errors came.
        hangs: How often nothing came.
        unclosed: How many streams and tasks were left.
    """

    cases: int = 0
    came: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    crashes: int = 0
    hangs: int = 0
    unclosed: int = 0

    def add(self, other: Tally) -> None:
        """Take in what another counted."""
        self.cases += other.cases
        self.came += other.came
        self.faults += other.faults
        self.problems += other.problems
        self.crashes += other.crashes
        self.hangs += other.hangs
        self.unclosed += other.unclosed


def healthy(*, stream: bool) -> Answer:
    """A well-formed answer."""
    part = "delta" if stream else "message"
    text = json.dumps({"city": HEALTHY})
    choice = {"index": 0, part: {"role": "assistant", "content": text}, "finish_reason": "stop"}
    chunk = json.dumps({"id": "c", "model": "m", "choices": [choice]})
    kind = b"text/event-stream" if stream else b"application/json"
    body = f"data: {chunk}\n\ndata: [DONE]\n\n" if stream else chunk
    return Answer("healthy", 200, ((b"content-type", kind),), (body.encode(),), "clean")


def chain(dialect: str, sick: str, well: str | None) -> list[Target]:
    """Two targets, each with an account of its own."""
    results = [Target(f"{dialect}:sick", base_url=sick, api_key=CANARY)]
    if well is not None:
        results.append(Target("openai:well", base_url=well, api_key="sk-well-0123456789"))
    return results


@dataclass(frozen=True)
class Stage:
    """Where cases are played.

    Attributes:
        targets: The chain of a case.
        unclosed: What is still open after a call, in words.
        is_ours: Whether a task is not the server's.
        timeout: Seconds that a call may take by the loop's clock.
        time_limits: The limits inside it.
    """

    targets: Callable[[Case], list[Target]]
    unclosed: Callable[[], list[str]]
    is_ours: Callable[[asyncio.Task[Any]], bool] = lambda _: True
    timeout: float = DEADLINE
    time_limits: TimeLimits = field(default_factory=TimeLimits)


async def outcome(case: Case, stage: Stage) -> Any:
    """Ask; returns a message, or the error."""
    shared_state.reset()
    spending.reset_ledgers()
    model = ResilientChatModel(
        targets=stage.targets(case),
        timeout=stage.timeout,
        time_limits=stage.time_limits,
        hedge=Hedge(on="response") if case.way == "plain" else None,
        retry=Retry(stop=stop_after_attempt(1)),
        health=None,
    )
    try:
        if case.way == "astream":
            return sum_chunks([chunk async for chunk in model.astream("Hello")])
        if case.way == "json":
            answer = await model.with_structured_output(_JSON, include_raw=True).ainvoke("Hello")
            return answer["raw"]
        return await model.ainvoke("Hello")
    except ResilientError as error:
        return error


async def play(case: Case, stage: Stage, tally: Tally) -> None:
    """Try one case, and write down what came of it."""
    tally.cases += 1
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        with limited():
            got = await outcome(case, stage)
            await shared_state.loop_reaper().drain()
        wrong = list(problems(case, got, tally))
        if loop.time() - began > stage.timeout + 3:
            wrong.append(f"took {loop.time() - began:.1f} s, past its deadline")
    except HangError:
        tally.hangs += 1
        wrong = [f"hung for {SLOW} s"]
    except Exception as error:  # noqa: BLE001  # that is what is looked for
        tally.crashes += 1
        wrong = [f"crashed: {type(error).__name__}: {str(error)[:300]}"]
    left = await _left(stage)
    tally.unclosed += len(left)
    tally.problems += [f"{what}\n    {case}" for what in wrong + left]


async def _left(stage: Stage) -> list[str]:
    """List what a call left behind, once the loop has had time to finalise its generators."""
    tasks: set[asyncio.Task[Any]] = set()
    for _ in range(_TICKS):
        await asyncio.sleep(0)
        tasks = set(filter(stage.is_ours, asyncio.all_tasks() - {asyncio.current_task()}))
        if not tasks:
            break
    return [*stage.unclosed(), *(f"a task is left: {task}" for task in tasks)]


def problems(case: Case, got: Any, tally: Tally) -> Iterator[str]:
    """Tell what must not be in what a user got."""
    error = isinstance(got, ResilientError)
    tally.came[type(got).__name__ if error else "answer"] += 1
    if error:
        yield from _in_error(case, got, tally)
    elif isinstance(got, AIMessage):
        yield from _in_answer(got, tally)
    else:
        yield f"got {type(got).__name__}, neither a message nor an error of ours"


def _in_answer(message: AIMessage, tally: Tally) -> Iterator[str]:
    receipt = message.response_metadata.get("resilience", {})
    for attempt in receipt.get("attempts", ()):
        if "fault" in attempt:
            yield from _in_fault(attempt["fault"], attempt["message"], tally)
    if not (message.text or message.tool_calls or message.invalid_tool_calls
            or message.additional_kwargs):  # fmt: skip
        yield "an empty answer passed"
    if isinstance(message, AIMessageChunk) and message.chunk_position != "last":
        yield "a stream without its last chunk passed"
    message.text.encode()
    # What came must be fit to be kept; what a model writes into arguments is LangChain's to read.
    message.model_copy(update={"tool_calls": [], "invalid_tool_calls": []}).model_dump_json()
    if receipt.get("winner") == "openai:well" and HEALTHY not in message.text:
        yield f"the healthy target's answer reads {message.text[:80]!r}"


def _in_error(case: Case, error: ResilientError, tally: Tally) -> Iterator[str]:
    for _, fault in error.receipt.faults if error.receipt else ():
        yield from _in_fault(fault.kind.value, fault.message, tally)
    if CANARY in f"{error} {error!r} {error.receipt}":
        yield "the error tells the key"
    if case.healthy and not isinstance(error, StreamBrokenError):
        yield f"no answer, though a target was well: {type(error).__name__}"


def _in_fault(kind: str | None, message: Any, tally: Tally) -> Iterator[str]:
    tally.faults[str(kind)] += 1
    if kind == FaultKind.INTERNAL:
        yield f"not classified: {str(message)[:200]}"


@contextmanager
def limited() -> Iterator[None]:
    """Interrupt what does not end."""

    def ring(*_: object) -> None:
        raise HangError

    old = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, SLOW)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


async def play_in_memory(cases: Iterable[Case], ledger: Ledger, tally: Tally) -> None:
    """Try cases one after the other on the running loop, without sockets."""

    def targets(case: Case) -> list[Target]:
        ledger.answers = {"sick": case.answer, "well": healthy(stream=case.way != "plain")}
        return chain(
            case.dialect, "http://sick.test/v1", "http://well.test/v1" if case.healthy else None
        )

    def unclosed() -> list[str]:
        still, ledger.open = ledger.open, 0
        return [f"{still} streams were not closed"] if still else []

    stage = Stage(targets, unclosed)
    for one_case in cases:
        await play(one_case, stage, tally)
    await close_clients()


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
    plain = [(n, v) for n, v in answer.headers if n and b"\n" not in v]
    lines += [b"%s: %s" % header for header in plain]
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
    stage = _place(sick, well)
    for data in datas:
        one_case = case(data)
        dice = Dice(data[::-1])
        sick.data, sick.end = rendered(dice, one_case.answer), one_case.answer.end
        if sick.end == "silent" and dice.below(4):
            sick.end = "clean"  # it takes half a second
        good = healthy(stream=one_case.way != "plain")
        well.data = rendered(Dice(b""), good)
        await play(one_case, stage, tally)
    await close_clients()
    for server in servers:
        server.close()
        await server.wait_closed()


def _place(sick: _Server, well: _Server) -> Stage:
    def targets(one: Case) -> list[Target]:
        return chain(one.dialect, sick.url, well.url if one.healthy else None)

    loop = asyncio.get_running_loop()
    return Stage(
        targets,
        lambda: busy_connections(loop),
        is_ours=lambda task: "_Server" not in repr(task.get_coro()),
        timeout=5.0,
        time_limits=LIMITS,
    )
