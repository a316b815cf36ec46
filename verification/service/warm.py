"""First calls and first hedges over TLS with a round trip of 50 ms: cold, and warm.

Each trial is a process of its own. Between it and the simulator stand a TLS terminator and a proxy
that delays every byte by half a round trip, and the first ones of a connection by a whole one more,
for TCP's own handshake. The proxy counts round trips too: they say the same on a machine that is
busy, where milliseconds do not.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from langchain_resilient import Hedge, ResilientChatModel, Target
from langchain_resilient.testing import ProviderSimulator, Reply
from verification.kit.report import Table

if TYPE_CHECKING:
    from collections.abc import Callable

ROUND_TRIP = 0.05
HEDGE_DELAY = 0.2
SILENT, QUICK = "openai:gpt-4.1", "together:qwen"


# -- the way there ---------------------------------------------------------------------------------


async def _pipe(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    delay: float,
    earliest: float,
    seen: Callable[[], None] = lambda: None,
) -> None:
    """Pass bytes on, each after the same time, and none before some point in time."""
    loop, queue = asyncio.get_running_loop(), asyncio.Queue[tuple[float, bytes]]()

    async def write() -> None:
        while True:
            due, data = await queue.get()
            await asyncio.sleep(due - loop.time())
            if not data:
                writer.close()
                return
            writer.write(data)

    writing = asyncio.create_task(write())
    data = b" "
    while data:
        try:
            data = await reader.read(65536)
        except OSError:
            data = b""
        seen()
        queue.put_nowait((max(loop.time(), earliest) + delay, data))
    await writing


async def _listen(
    port: int,
    *,
    delay: float = 0.0,
    tls: ssl.SSLContext | None = None,
    trips: list[float] | None = None,
) -> int:
    """Listen at a port of its own for what goes on to another.

    Args:
        port: The other port.
        delay: Seconds that each way takes.
        tls: What to end TLS with.
        trips: Gets the time of every round trip's beginning, that of TCP's handshake too.
    """

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # The round trip of SYN and ACK is before the first byte.
        earliest = time.monotonic() + 2 * delay
        there, back = await asyncio.open_connection("127.0.0.1", port)
        asked = False
        begun = [] if trips is None else trips
        begun.append(time.monotonic())

        def ask() -> None:
            nonlocal asked
            if not asked:
                begun.append(time.monotonic())
            asked = True

        def answer() -> None:
            nonlocal asked
            asked = False

        await asyncio.gather(
            _pipe(reader, back, delay, earliest, ask), _pipe(there, writer, delay, 0, answer)
        )

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    _servers.append(server)
    return int(server.sockets[0].getsockname()[1])


_servers: list[asyncio.Server] = []


def _certificate(folder: Path) -> tuple[Path, ssl.SSLContext]:
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = [
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
        "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext",
        "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return cert, context


# -- one trial -------------------------------------------------------------------------------------


async def _trial(urls: dict[str, str], cert: str, *, warm: bool, idle: float) -> dict[str, float]:
    """Ask once, wait, and ask where the first target is silent; milliseconds of each.

    Also when the hedge began and ended, on the system's clock.
    """

    def target(name: str) -> Target:
        url = urls[name.partition(":")[0]]
        return Target(name, api_key="k", base_url=url, ca_certificates=cert)

    llm = ResilientChatModel(
        targets=[target(QUICK), target("openai:gpt-4.1-mini")], share_learning=False
    )
    if warm:
        found = await llm.awarm()
        assert set(found.values()) == {None}, found
    began = time.perf_counter()
    await llm.ainvoke("Say exactly: hello")
    found = {"first call": (time.perf_counter() - began) * 1000}
    await llm.aclose()
    hedging = ResilientChatModel(
        targets=[target(SILENT), target(QUICK)],
        share_learning=False,
        hedge=Hedge(delay=HEDGE_DELAY, budget=1),
    )
    if warm:
        assert set((await hedging.awarm()).values()) == {None}
    await asyncio.sleep(idle)
    began = time.monotonic()
    answer = await hedging.ainvoke("Say exactly: hello")
    receipt = answer.response_metadata["resilience"]
    assert receipt["winner"] == QUICK
    (won,) = [a for a in receipt["attempts"] if a["outcome"] == "won"]
    assert won["kind"] == "hedge"
    found["first hedge"] = (won["first_text"] - won["started"]) * 1000
    found["began"], found["ended"] = began, time.monotonic()
    await hedging.aclose()
    return found


async def _measure(idle: float, tries: int) -> dict[bool, list[dict[str, float]]]:
    results: dict[bool, list[dict[str, float]]] = {False: [], True: []}
    with tempfile.TemporaryDirectory() as folder, ProviderSimulator() as sim:
        sim.script(SILENT, then=Reply(first_text=30.0))
        cert, tls = _certificate(Path(folder))
        inner = {
            dialect: await _listen(urlsplit(sim.base_url(dialect)).port or 0, tls=tls)
            for dialect in ("openai", "together")
        }

        async def one(*, warm: bool) -> None:
            trips: dict[str, list[float]] = {"openai": [], "together": []}
            urls = {}
            for dialect, port in inner.items():
                outer = await _listen(port, delay=ROUND_TRIP / 2, trips=trips[dialect])
                path = urlsplit(sim.base_url(dialect)).path
                urls[dialect] = f"https://127.0.0.1:{outer}{path}"
            told = json.dumps({"urls": urls, "cert": str(cert), "warm": warm, "idle": idle})
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "verification.service.warm", told,
                stdout=subprocess.PIPE,
                env={**os.environ, "LANGCHAIN_RESILIENT_MODEL_LISTS": "off"},
            )  # fmt: skip
            out, _ = await process.communicate()
            found = json.loads(out)
            hedges = trips[QUICK.partition(":")[0]]
            found["trips"] = sum(found["began"] <= at <= found["ended"] for at in hedges)
            results[warm].append(found)

        for _ in range(tries):
            await asyncio.gather(one(warm=False), one(warm=True))
    return results


def measure(idle: float, tries: int) -> int:
    """Measure and print; the exit status: a warm hedge must take one round trip, its own.

    Args:
        idle: Seconds before the hedge.
        tries: How many processes of each kind.
    """
    results = asyncio.run(_measure(idle, tries))
    table = Table(("median", "<36"), ("cold", ">8.0f"), ("warm", ">8.0f"))
    print(table.header())
    for name, what in (
        ("first call", "first call, ms"),
        ("first hedge", f"first hedge, after {idle:.0f} s, ms"),
        ("trips", "its round trips"),
    ):
        cold, warm = (statistics.median(row[name] for row in results[w]) for w in (False, True))
        print(table.line(what, cold, warm))
    round_trip = ROUND_TRIP * 1000
    print(f"over TLS 1.3; a round trip of {round_trip:.0f} ms, {tries} processes each")
    return int(any(row["trips"] != 1 for row in results[True]))


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    trial = _trial(given["urls"], given["cert"], warm=given["warm"], idle=given["idle"])
    print(json.dumps(asyncio.run(trial)))
