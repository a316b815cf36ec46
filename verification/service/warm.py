"""First calls and first hedges over TLS with a round trip of 50 ms: cold, and warm.

Each trial is a process of its own. Between it and the simulator stand a TLS terminator and a proxy
that delays every byte by half a round trip, and the first ones of a connection by a whole one more,
for TCP's own handshake.
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
from typing import Any

from langchain_resilient import Hedge, ResilientChatModel, Target
from langchain_resilient.testing import ProviderSimulator, Reply
from verification.kit.report import Table

ROUND_TRIP = 0.05
HEDGE_DELAY = 0.2
SILENT, QUICK = "openai:gpt-4.1", "together:qwen"


# -- the way there ---------------------------------------------------------------------------------


async def _pipe(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float, earliest: float
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
        queue.put_nowait((max(loop.time(), earliest) + delay, data))
    await writing


async def _listen(port: int, *, delay: float = 0.0, tls: ssl.SSLContext | None = None) -> int:
    """Listen at a port of its own for what goes on to another."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # The round trip of SYN and ACK is before the first byte.
        earliest = asyncio.get_running_loop().time() + 2 * delay
        there, back = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(_pipe(reader, back, delay, earliest), _pipe(there, writer, delay, 0))

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
    """Ask once, wait, and ask where the first target is silent; milliseconds of each."""

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
    answer = await hedging.ainvoke("Say exactly: hello")
    receipt = answer.response_metadata["resilience"]
    assert receipt["winner"] == QUICK
    (won,) = [a for a in receipt["attempts"] if a["outcome"] == "won"]
    assert won["kind"] == "hedge"
    found["first hedge"] = (won["first_text"] - won["started"]) * 1000
    await hedging.aclose()
    return found


async def _measure(idle: float, tries: int) -> dict[bool, list[dict[str, float]]]:
    results: dict[bool, list[dict[str, float]]] = {False: [], True: []}
    with tempfile.TemporaryDirectory() as folder, ProviderSimulator() as sim:
        sim.script(SILENT, then=Reply(first_text=30.0))
        cert, tls = _certificate(Path(folder))
        urls = {}
        for dialect in ("openai", "together"):
            base = sim.base_url(dialect)
            port = int(base.split(":")[2].partition("/")[0])
            outer = await _listen(await _listen(port, tls=tls), delay=ROUND_TRIP / 2)
            urls[dialect] = base.replace(f"http://127.0.0.1:{port}", f"https://127.0.0.1:{outer}")

        async def one(*, warm: bool) -> None:
            told = json.dumps({"urls": urls, "cert": str(cert), "warm": warm, "idle": idle})
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "verification.service.warm", told,
                stdout=subprocess.PIPE,
                env={**os.environ, "LANGCHAIN_RESILIENT_MODEL_LISTS": "off"},
            )  # fmt: skip
            out, _ = await process.communicate()
            results[warm].append(json.loads(out))

        for _ in range(tries):
            await asyncio.gather(one(warm=False), one(warm=True))
    return results


def measure(idle: float, tries: int) -> int:
    """Measure and print; the exit status: a warm hedge must take no handshake.

    Args:
        idle: Seconds before the hedge.
        tries: How many processes of each kind.
    """
    results = asyncio.run(_measure(idle, tries))
    table = Table(("median ms", "<30"), ("cold", ">8.0f"), ("warm", ">8.0f"))
    print(table.header())
    medians: dict[str, dict[bool, float]] = {}
    for name in ("first call", "first hedge"):
        found = {warm: statistics.median(r[name] for r in rows) for warm, rows in results.items()}
        medians[name] = found
        what = name if name == "first call" else f"{name}, after {idle:.0f} s"
        print(table.line(what, found[False], found[True]))
    round_trip = ROUND_TRIP * 1000
    print(f"over TLS 1.3; a round trip of {round_trip:.0f} ms, {tries} processes each")
    hedge: Any = medians["first hedge"]
    return int(not hedge[True] < 2 * round_trip < hedge[False])


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    trial = _trial(given["urls"], given["cert"], warm=given["warm"], idle=given["idle"])
    print(json.dumps(asyncio.run(trial)))
