"""What the service adds to the latency of its upstream, at a fixed rate of requests.

Each request goes to the upstream directly and through the service, in turn: whatever else this
machine does meets both alike. Requests are sent on time, whether or not earlier ones have ended.
"No pauses" is one after the other, a hundred this way and a hundred that way.
"Asked whole" is a model that asks its targets for whole answers too (`Hedge(on="response")`);
"bytes passed on" is no service, but the least that a proxy on the same libraries costs
(`bare_proxy.py`): what is left of the bar above that is for all that a service does.
The upstream (`benchmarks/instant_server.py`) costs little, so that the service is measured;
"spoken" answers come at a provider's pace: many are under way at once, and whatever holds the
service up delays them all. CPU time per request is told too, and before and after all how cold the
caches of this machine get in a pause (`cold.py`): the figures go with it.

`beside` puts other proxies beside it: the least that one costs, and litellm's.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp

from benchmarks.fleet import instant_server
from benchmarks.instant_server import CHUNKS, LONG, SHORT, TEXT
from verification.kit.report import Table
from verification.service import cold
from verification.service.process import bare_proxy, litellm_proxy, service

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from verification.service.process import Started

MAX_P50, MAX_P99 = 2.0, 10.0
"""The bar, in milliseconds, for whole short answers."""

WARM_UP = 1.0
"""Seconds that do not count: of SDKs that are imported, and first connections."""

BLOCK = 100
"""So many requests go one way in a row where one follows the other: caches stay warm."""

PACE = (0.15, 0.01)
"""A provider's: seconds before its first text, and before each further one."""

TABLE = Table(
    ("ms", "<24"), ("rate", ">6"), ("direct p50", ">12.2f"), ("p99", ">9.2f"),
    ("service p50", ">13.2f"), ("p99", ">9.2f"), ("added p50", ">11.2f"), ("p99", ">9.2f"),
    ("first p50", ">11.2f"), ("CPU", ">7.2f"),
)  # fmt: skip
BESIDE = Table(
    ("ms", "<18"), ("rate", ">6"), ("", "<22"), ("added p50", ">10.2f"), ("p99", ">9.2f"),
    ("CPU", ">7.2f"), gap=" ",
)  # fmt: skip


def _body(prompt: str, *, stream: bool) -> bytes:
    message = {"role": "user", "content": prompt}
    body = {"model": "resilient", "messages": [message], **({"stream": True} if stream else {})}
    return json.dumps(body).encode()


@dataclass(frozen=True)
class Kind:
    """One kind of request.

    Attributes:
        name: What the table calls it.
        body: What is sent.
        expected: What its answer holds.
        rate: Requests a second, each way; 0 for one after the other.
        bar: Whether the bar is for it.
    """

    name: str
    body: bytes
    expected: bytes
    rate: float
    bar: bool = False


PLAIN = Kind("plain", _body(SHORT, stream=False), TEXT.encode(), 100)
STREAM = Kind("stream, 9 chunks", _body(SHORT, stream=True), b"[DONE]", 100)


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
    if not kind.rate:
        await _without_pauses(urls, kind, seconds, found)
        return found
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


async def _without_pauses(
    urls: dict[str, str], kind: Kind, seconds: float, found: dict[str, Series]
) -> None:
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    async with aiohttp.ClientSession() as session:
        while loop.time() < until:
            for way, url in urls.items():
                for _ in range(BLOCK):
                    await _ask(session, url, kind, found[way])


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
    plain = replace(PLAIN, rate=rate, bar=True)
    stream = replace(STREAM, rate=rate)
    kinds = (
        plain,
        replace(PLAIN, name="plain, no pauses", rate=0),
        stream,
        Kind(f"stream, {CHUNKS} chunks", _body(LONG, stream=True), last, rate / 10),
    )
    print(f"Python {sys.version}\n{cold.told()}\n{TABLE.header()}", flush=True)
    others = replace(plain, bar=False)
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "serve.toml")
        config.write_text('[model]\nhedge = { on = "response" }\n', "utf-8")
        with instant_server() as upstream:
            met = _measure(kinds, upstream, seconds, _ours(upstream))
            asked_whole = replace(others, name="plain, asked whole")
            _measure([asked_whole], upstream, seconds, _ours(upstream, "-c", str(config)))
            passed_on = replace(others, name="plain, bytes passed on")
            _measure([passed_on], upstream, seconds, bare_proxy(upstream))
        with instant_server(*PACE) as upstream:
            spoken = [replace(kind, name=f"{kind.name}, spoken") for kind in (others, stream)]
            _measure(spoken, upstream, seconds, _ours(upstream))
    print(cold.told())
    print(f"the bar for plain answers: {MAX_P50:g} ms at p50, {MAX_P99:g} ms at p99")
    return 0 if met else 1


def _measure(
    kinds: Sequence[Kind], upstream: str, seconds: float, proxy: AbstractContextManager[Started]
) -> bool:
    """Print a line for each kind of request through one proxy; whether the bar was met."""
    met = True
    with proxy as started:
        for kind in kinds:
            direct, (proxied,) = _through(kind, upstream, [started], seconds)
            through, cpu = proxied
            p50, p99 = (through.quantile(q) - direct.quantile(q) for q in (0.5, 0.99))
            figures = (
                direct.quantile(0.5), direct.quantile(0.99),
                through.quantile(0.5), through.quantile(0.99), p50, p99,
                statistics.median(through.first) - statistics.median(direct.first), cpu,
            )  # fmt: skip
            rate = f"{kind.rate:.0f}/s" if kind.rate else "-"
            print(TABLE.line(kind.name, rate, *figures), flush=True)
            met &= not kind.bar or (p50 <= MAX_P50 and p99 <= MAX_P99)
    return met


def compare(rate: float, seconds: float, litellm: Path | None) -> int:
    """Measure the service beside other proxies, all in turn; the exit status.

    Args:
        rate: Requests a second, each way.
        seconds: How long, for each kind.
        litellm: litellm's program, if its proxy is installed.
    """
    print(f"Python {sys.version}", flush=True)
    with ExitStack() as open_:
        upstream = open_.enter_context(instant_server())
        folder = Path(open_.enter_context(tempfile.TemporaryDirectory()))
        proxies = {
            "langchain-resilient": _ours(upstream),
            "bytes passed on": bare_proxy(upstream),
        }
        if litellm is not None:
            proxies["litellm"] = litellm_proxy(litellm, upstream, folder)
        started = [open_.enter_context(each) for each in proxies.values()]
        print(BESIDE.header(), flush=True)
        for kind in (replace(PLAIN, rate=rate), replace(STREAM, rate=rate)):
            direct, proxied = _through(kind, upstream, started, seconds)
            for name, (through, cpu) in zip(proxies, proxied, strict=True):
                p50, p99 = (through.quantile(q) - direct.quantile(q) for q in (0.5, 0.99))
                print(BESIDE.line(kind.name, f"{rate:.0f}/s", name, p50, p99, cpu), flush=True)
    return 0


def _through(
    kind: Kind, upstream: str, proxies: Sequence[Started], seconds: float
) -> tuple[Series, list[tuple[Series, float]]]:
    """Ask directly and through each of some proxies, in turn.

    Returns:
        How long it took directly, and through each proxy, with its CPU time per request in ms.
    """
    urls = {"": f"{upstream}/chat/completions"}
    urls |= {url: f"{url}/v1/chat/completions" for url, _ in proxies}
    before = [_cpu(process.pid) for _, process in proxies]
    found = asyncio.run(_series(urls, kind, seconds))
    requests = kind.rate * (seconds + WARM_UP) or len(found[""].whole)
    cpu = [(_cpu(p.pid) - b) * 1000 / requests for (_, p), b in zip(proxies, before, strict=True)]
    return found[""], list(zip([found[url] for url, _ in proxies], cpu, strict=True))


def _ours(upstream: str, *flags: str) -> AbstractContextManager[Started]:
    key = {"OPENAI_BASE_URL": upstream, "OPENAI_API_KEY": "none"}
    return service(*flags, "-t", "openai:m", **key)
