"""Thousands of requests through the service while its targets fail: none lost, nothing left behind.

A simulator in this process plays two targets: the first fails in every way there is, the second
now and then by a status or a broken stream. Clients ask plainly and by streams, over both APIs;
some leave before the end. Lost is a request of one that stayed which had no whole, right answer;
leaked is what is left afterwards: requests in flight at the service or at its targets.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections import Counter
from typing import Any

import aiohttp

from langchain_resilient.testing import (
    Cut,
    Empty,
    Malformed,
    ProviderSimulator,
    RateLimited,
    Reset,
    Stall,
    Status,
    answer_to,
)
from verification.service.process import service

FIRST, SECOND = "openai:gpt-4.1", "together:qwen"
AT_ONCE = 32
LEAVES = 0.02
"""The share of clients that leave early."""

FAULTS: dict[Any, float] = {
    Status(500): 0.04,
    Status(503): 0.03,
    RateLimited(seconds=1): 0.03,
    Reset(): 0.03,
    Cut(after=3): 0.04,
    Stall(after=3): 0.01,
    Empty(): 0.02,
    Malformed(): 0.02,
}


async def _ask(
    session: aiohttp.ClientSession, url: str, number: int, rng: random.Random, tally: Counter[str]
) -> None:
    prompt = f"question {number}"
    expected = answer_to(prompt)
    stream, responses, leaves = rng.random() < 0.5, rng.random() < 0.3, rng.random() < LEAVES
    body: dict[str, Any] = {"model": "resilient", "stream": stream}
    if responses:
        url, body["input"] = f"{url}/v1/responses", prompt
    else:
        url = f"{url}/v1/chat/completions"
        body["messages"] = [{"role": "user", "content": prompt}]
    try:
        async with session.post(url, json=body) as reply:
            if leaves:
                await reply.content.readany()
                reply.close()
                tally["left"] += 1
                return
            text = _text(await reply.text(), stream=stream, responses=responses)
            right = reply.status == 200 and text == expected
    except (aiohttp.ClientError, TimeoutError, ValueError, KeyError) as error:
        right, text = False, repr(error)
    tally["right" if right else "lost"] += 1
    if not right and tally["lost"] <= 3:
        print(f"lost: {prompt} {body} {text[:300]!r}")


def _text(data: str, *, stream: bool, responses: bool) -> str:
    """The text of an answer, if it came to its end."""
    if not stream:
        document = json.loads(data)
        if responses:
            parts = [p for item in document["output"] for p in item.get("content") or ()]
            return "".join(p["text"] for p in parts if p["type"] == "output_text")
        return str(document["choices"][0]["message"]["content"])
    events = re.findall(r"^data: (.*)$", data, re.MULTILINE)
    if responses:
        told = [json.loads(event) for event in events]
        if told[-1]["type"] != "response.completed":
            return data[-300:]
        return "".join(e["delta"] for e in told if e["type"] == "response.output_text.delta")
    if events[-1:] != ["[DONE]"]:
        return data[-300:]
    choices = [c for event in events[:-1] for c in json.loads(event)["choices"]]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


async def _run(requests: int, seed: int) -> int:
    rng = random.Random(seed)
    tally: Counter[str] = Counter()
    async with ProviderSimulator(seed=seed) as sim:
        sim.chaos(FIRST, FAULTS)
        sim.chaos(SECOND, {Status(500): 0.02, Cut(after=5): 0.02})
        addresses = {
            "OPENAI_BASE_URL": sim.base_url("openai"),
            "TOGETHER_BASE_URL": sim.base_url("together"),
            "OPENAI_API_KEY": "none",
            "TOGETHER_API_KEY": "none",
        }
        flags = ("-t", FIRST, "-t", SECOND)
        running = service(*flags, **addresses)
        url, process = await asyncio.to_thread(running.__enter__)
        try:
            began = time.perf_counter()
            numbers = iter(range(requests))
            async with aiohttp.ClientSession() as session:

                async def client() -> None:
                    for number in numbers:
                        await _ask(session, url, number, rng, tally)

                await asyncio.gather(*(client() for _ in range(AT_ONCE)))
                seconds = time.perf_counter() - began
                leaked = await _leaked(session, url, sim)
        finally:
            await asyncio.to_thread(running.__exit__, None, None, None)
            code = process.returncode
        leaked += [f"{sim.in_flight} requests at the targets"] if sim.in_flight else []
        leaked += [f"exit code {code}"] if code else []
        failed = sum(r.status != 200 or r.aborted for r in sim.requests)
    counts = f"{tally['right']} right, {tally['lost']} lost, {tally['left']} left early"
    print(f"{requests} requests in {seconds:.0f} s: {counts}")
    print(f"{failed} of the last requests to targets failed or were stopped")
    print(f"leaked: {'; '.join(leaked) or 'nothing'}")
    return int(bool(tally["lost"] or leaked))


async def _leaked(session: aiohttp.ClientSession, url: str, sim: ProviderSimulator) -> list[str]:
    """What the service still holds when all has ended."""
    for _ in range(100):
        async with session.get(f"{url}/metrics") as reply:
            page = await reply.text()
        held = [name for name in ("in_flight", "waiting") if f"resilient_{name} 0.0" not in page]
        if not held and not sim.in_flight:
            return []
        await asyncio.sleep(0.1)
    return [*held, f"{sim.in_flight} upstream"]


def measure(requests: int, seed: int) -> int:
    """Run it; the exit status.

    Args:
        requests: How many.
        seed: Of the faults and of what is asked.
    """
    return asyncio.run(_run(requests, seed))
