"""What the service adds to the latency of its upstream, at a fixed rate of requests.

Each request goes to the upstream directly and through the service, in turn: whatever else this
machine does meets both alike. Requests are sent on time, whether or not earlier ones have ended.
The upstream (`benchmarks/instant_server.py`) costs little, so that the service is measured. The
service's CPU time per request is told too: it depends less on what else the machine does.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from benchmarks.fleet import instant_server
from benchmarks.instant_server import CHUNKS, LONG, SHORT, TEXT
from verification.kit.report import Table
from verification.service.process import service

MAX_P50, MAX_P99 = 2.0, 10.0
"""The bar, in milliseconds, for whole short answers."""

WARM_UP = 1.0
"""Seconds that do not count: of SDKs that are imported, and first connections."""


@dataclass
class Series:
    """Milliseconds of one kind of request, one way; for streams also to the first text."""

    whole: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)

    def quantile(self, share: float) -> float:
        """The time in which so many of the whole answers came."""
        return statistics.quantiles(self.whole, n=1000)[round(share * 1000) - 1]


async def _ask(
    session: aiohttp.ClientSession, url: str, body: bytes, expected: bytes, series: Series
) -> None:
    began = time.perf_counter()
    first = 0.0
    data = b""
    async with session.post(url, data=body, headers={"content-type": "application/json"}) as reply:
        async for piece, _ in reply.content.iter_chunks():
            data += piece
            if not first and b'"content":' in data:
                first = time.perf_counter()
        assert reply.status == 200, data
    ended = time.perf_counter()
    assert expected in data, data[:500]
    series.whole.append((ended - began) * 1000)
    series.first.append((first - began) * 1000)


async def _series(
    urls: dict[str, str], body: bytes, expected: bytes, *, rate: float, seconds: float
) -> dict[str, Series]:
    found = {way: Series() for way in urls}
    gap = 1 / rate / len(urls)
    loop = asyncio.get_running_loop()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        for counts in (False, True):
            series = found if counts else {way: Series() for way in urls}
            began, tasks = loop.time(), []
            for number in range(round((seconds if counts else WARM_UP) / gap)):
                await asyncio.sleep(began + number * gap - loop.time())
                way = list(urls)[number % len(urls)]
                asking = _ask(session, urls[way], body, expected, series[way])
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
    kinds = {
        "plain": (_body(SHORT, stream=False), TEXT.encode(), rate),
        "stream, 9 chunks": (_body(SHORT, stream=True), b"[DONE]", rate),
        f"stream, {CHUNKS} chunks": (_body(LONG, stream=True), last, rate / 10),
    }
    table = Table(
        ("ms", "<22"), ("rate", ">6"), ("direct p50", ">12.2f"), ("p99", ">9.2f"),
        ("service p50", ">13.2f"), ("p99", ">9.2f"), ("added p50", ">11.2f"), ("p99", ">9.2f"),
        ("first p50", ">11.2f"), ("CPU", ">7.2f"),
    )  # fmt: skip
    print(table.header())
    status = 0
    with (
        instant_server() as upstream,
        service("-t", "openai:m", OPENAI_BASE_URL=upstream, OPENAI_API_KEY="none") as running,
    ):
        url, process = running
        urls = {
            "direct": f"{upstream}/chat/completions",
            "service": f"{url}/v1/chat/completions",
        }
        for kind, (body, expected, at) in kinds.items():
            before = _cpu(process.pid)
            found = asyncio.run(_series(urls, body, expected, rate=at, seconds=seconds))
            cpu = (_cpu(process.pid) - before) * 1000 / (at * (seconds + WARM_UP))
            direct, through = found["direct"], found["service"]
            p50, p99 = (through.quantile(q) - direct.quantile(q) for q in (0.5, 0.99))
            first = statistics.median(through.first) - statistics.median(direct.first)
            figures = (
                direct.quantile(0.5), direct.quantile(0.99), through.quantile(0.5),
                through.quantile(0.99), p50, p99, first, cpu,
            )  # fmt: skip
            print(table.line(kind, f"{at:.0f}/s", *figures))
            if kind == "plain" and (p50 > MAX_P50 or p99 > MAX_P99):
                status = 1
    print(f"the bar for plain answers: {MAX_P50:g} ms at p50, {MAX_P99:g} ms at p99")
    return status
