"""What the service adds to the latency of its upstream, at a fixed rate of requests.

Each request goes to the upstream directly and through the service, in turn: whatever else this
machine does meets both alike. Requests are sent on time, whether or not earlier ones have ended.
The last kind is for a model that asks its targets for whole answers too (`Hedge(on="response")`).
The upstream (`benchmarks/instant_server.py`) costs little, so that the service is measured. The
service's CPU time per request is told too: it depends less on what else the machine does.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp

from benchmarks.fleet import instant_server
from benchmarks.instant_server import CHUNKS, LONG, SHORT, TEXT
from verification.kit.report import Table
from verification.service.process import service

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_P50, MAX_P99 = 2.0, 10.0
"""The bar, in milliseconds, for whole short answers."""

WARM_UP = 1.0
"""Seconds that do not count: of SDKs that are imported, and first connections."""

TABLE = Table(
    ("ms", "<22"), ("rate", ">6"), ("direct p50", ">12.2f"), ("p99", ">9.2f"),
    ("service p50", ">13.2f"), ("p99", ">9.2f"), ("added p50", ">11.2f"), ("p99", ">9.2f"),
    ("first p50", ">11.2f"), ("CPU", ">7.2f"),
)  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """One kind of request.

    Attributes:
        name: What the table calls it.
        body: What is sent.
        expected: What its answer holds.
        rate: Requests a second, each way.
        bar: Whether the bar is for it.
    """

    name: str
    body: bytes
    expected: bytes
    rate: float
    bar: bool = False


@dataclass
class Series:
    """Milliseconds of one kind of request, one way; for streams also to the first text."""

    whole: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)

    def quantile(self, share: float) -> float:
        """The time in which so many of the whole answers came."""
        return statistics.quantiles(self.whole, n=1000)[round(share * 1000) - 1]


async def _ask(session: aiohttp.ClientSession, url: str, kind: Kind, series: Series) -> None:
    began = time.perf_counter()
    first = 0.0
    data = b""
    headers = {"content-type": "application/json"}
    async with session.post(url, data=kind.body, headers=headers) as reply:
        async for piece, _ in reply.content.iter_chunks():
            data += piece
            if not first and b'"content":' in data:
                first = time.perf_counter()
        assert reply.status == 200, data
    ended = time.perf_counter()
    assert kind.expected in data, data[:500]
    series.whole.append((ended - began) * 1000)
    series.first.append((first - began) * 1000)


async def _series(urls: dict[str, str], kind: Kind, seconds: float) -> dict[str, Series]:
    found = {way: Series() for way in urls}
    gap = 1 / kind.rate / len(urls)
    loop = asyncio.get_running_loop()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        for counts in (False, True):
            series = found if counts else {way: Series() for way in urls}
            began, tasks = loop.time(), []
            for number in range(round((seconds if counts else WARM_UP) / gap)):
                await asyncio.sleep(began + number * gap - loop.time())
                way = list(urls)[number % len(urls)]
                asking = _ask(session, urls[way], kind, series[way])
                tasks.append(asyncio.create_task(asking))
            await asyncio.gather(*tasks)
    return found


def _body(prompt: str, *, stream: bool) -> bytes:
    message = {"role": "user", "content": prompt}
    body = {"model": "resilient", "messages": [message], **({"stream": True} if stream else {})}
    return json.dumps(body).encode()


def _cpu(pid: int) -> float:
    """Seconds of CPU time that a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # user's and system's


def measure(rate: float, seconds: float) -> int:
    """Measure plain answers, short streams and long ones; the exit status.

    Args:
        rate: Requests a second, each way. Long streams are sent at a tenth of it.
        seconds: How long, for each kind.
    """
    last = f"word{CHUNKS - 1}".encode()
    plain = Kind("plain", _body(SHORT, stream=False), TEXT.encode(), rate, bar=True)
    kinds = (
        plain,
        Kind("stream, 9 chunks", _body(SHORT, stream=True), b"[DONE]", rate),
        Kind(f"stream, {CHUNKS} chunks", _body(LONG, stream=True), last, rate / 10),
    )
    asked_whole = (replace(plain, name="plain, asked whole", bar=False),)
    print(f"Python {sys.version}\n{TABLE.header()}", flush=True)
    with instant_server() as upstream, tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "serve.toml")
        config.write_text('[model]\nhedge = { on = "response" }\n', "utf-8")
        met = _measure(kinds, upstream, seconds)
        met &= _measure(asked_whole, upstream, seconds, "-c", str(config))
    print(f"the bar for plain answers: {MAX_P50:g} ms at p50, {MAX_P99:g} ms at p99")
    return 0 if met else 1


def _measure(kinds: Sequence[Kind], upstream: str, seconds: float, *flags: str) -> bool:
    """Print a line for each kind of request to one service; whether the bar was met."""
    met = True
    key = {"OPENAI_BASE_URL": upstream, "OPENAI_API_KEY": "none"}
    with service(*flags, "-t", "openai:m", **key) as (url, process):
        urls = {"direct": f"{upstream}/chat/completions", "service": f"{url}/v1/chat/completions"}
        for kind in kinds:
            before = _cpu(process.pid)
            found = asyncio.run(_series(urls, kind, seconds))
            cpu = (_cpu(process.pid) - before) * 1000 / (kind.rate * (seconds + WARM_UP))
            direct, through = found["direct"], found["service"]
            p50, p99 = (through.quantile(q) - direct.quantile(q) for q in (0.5, 0.99))
            figures = (
                direct.quantile(0.5), direct.quantile(0.99),
                through.quantile(0.5), through.quantile(0.99), p50, p99,
                statistics.median(through.first) - statistics.median(direct.first), cpu,
            )  # fmt: skip
            print(TABLE.line(kind.name, f"{kind.rate:.0f}/s", *figures), flush=True)
            met &= not kind.bar or (p50 <= MAX_P50 and p99 <= MAX_P99)
    return met
