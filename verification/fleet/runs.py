"""Runs one row: worker processes with one key, a simulator in a process of its own, real Redis."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
import threading
import time
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self

from verification.fleet.ends import Ends
from verification.kit.redis_server import RedisServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection

TOKENS = 50
"""The `max_tokens` of rows that are limited by tokens: what a request costs at admission."""

START_SECONDS = 240.0
"""Seconds that processes may take to start."""


@dataclass(frozen=True)
class Row:
    """Batches in several processes under one limit.

    Attributes:
        dialect: `openai` states its limits in headers; `together` states none: the user does.
        sizes: How many prompts each process has.
        requests_per_minute: The simulator's limit; 0 for none.
        tokens_per_minute: Likewise.
        chaos: What is done to Redis or to a process, 8 s after the start.
        shared: Whether the processes share; else each is told the whole.
    """

    dialect: Literal["openai", "together"]
    sizes: tuple[int, ...]
    requests_per_minute: float = 0.0
    tokens_per_minute: float = 0.0
    chaos: Literal["", "redis killed", "redis frozen", "process killed"] = ""
    shared: bool = True

    @property
    def prompts(self) -> int:
        """In all processes."""
        return sum(self.sizes)

    def ideal(self) -> float:
        """Seconds that the limit alone makes it take: a second's worth goes at once."""
        times = []
        if self.requests_per_minute:
            rate = self.requests_per_minute / 60
            times.append((self.prompts - rate) / rate)
        if self.tokens_per_minute:
            rate = self.tokens_per_minute / 60
            times.append((self.prompts * TOKENS - rate) / rate)
        return max(times)


@dataclass
class Result(Ends):
    """What came of a row.

    Attributes:
        row: Which.
        seconds: From the start to the end of the last process.
        ends: Seconds that each process took.
        answered: How many prompts of each process were answered.
        failed: How many were not, without those of a process that was killed.
        sends: Requests that reached the simulator.
        refused: 429s among them.
        operations: Scripts that Redis ran, for all processes.
        errors: Texts of some errors.
    """

    row: Row
    seconds: float
    ends: list[float] = field(default_factory=list)
    answered: list[int] = field(default_factory=list)
    failed: int = 0
    sends: int = 0
    refused: int = 0
    operations: int = 0
    errors: list[str] = field(default_factory=list)

    @property
    def times_ideal(self) -> float:
        """How much longer than the ideal it took."""
        return self.seconds / self.row.ideal()

    @property
    def share_refused(self) -> float:
        """429s as a share of sends."""
        return self.refused / max(1, self.sends)

    @property
    def operations_per_call(self) -> float:
        """Scripts per request."""
        return self.operations / max(1, self.sends)


def simulate(pipe: Connection, row: dict[str, Any]) -> None:
    """Be the providers, in a process of one's own, until the pipe is closed."""
    from langchain_resilient.testing import Lognormal, NoAnswer, ProviderSimulator, Reply, Status

    steps = {"hang": NoAnswer(), "401": Status(401)}
    with ProviderSimulator(1) as sim:
        answer = Reply(first_text=Lognormal(row.get("median", 0.4), 0.2))
        sim.script("*", then=answer)
        if row.get("primary"):
            sim.script("openai:*", then=steps[row["primary"]])
        if row.get("requests_per_minute") or row.get("tokens_per_minute"):
            sim.limit(
                "*",
                requests_per_minute=row.get("requests_per_minute") or None,
                tokens_per_minute=row.get("tokens_per_minute") or None,
                window="second",
            )
        pipe.send({name: sim.base_url(name) for name in ("openai", "together")})
        while True:
            try:
                question = pipe.recv()
            except EOFError:
                return
            if question == "stop":
                return
            pipe.send(
                {
                    "sends": sim.count(),
                    "refused": sim.count(status=429),
                    "primary": sim.count("openai:*"),
                    "dead": sim.count(status=401),
                }
            )


class Simulator:
    """The simulator in its own process; a context manager."""

    def __init__(self, **row: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=simulate, args=(theirs, row), daemon=True)
        self._process.start()
        self.urls: dict[str, str] = self._pipe.recv()

    def counts(self) -> dict[str, int]:
        """What it has seen."""
        self._pipe.send("count")
        counts: dict[str, int] = self._pipe.recv()
        return counts

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._pipe.send("stop")
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()


def _quiet() -> None:
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")


def work(  # noqa: PLR0917  # as `Process` passes them
    i: int, row: Row, base: str, url: str | None, start: Any, results: Any
) -> None:
    """Be one worker process: one batch."""
    _quiet()
    from langchain_resilient import ResilientChatModel, Target

    limits: dict[str, Any] = {}
    if row.dialect == "together":
        limits = {
            "requests_per_minute": row.requests_per_minute or None,
            "tokens_per_minute": row.tokens_per_minute or None,
        }
    llm = ResilientChatModel(
        targets=[Target(f"{row.dialect}:m", base_url=base, api_key="k", **limits)],
        max_retries=100,
        shared=url,
        **({"max_tokens": TOKENS} if row.tokens_per_minute else {}),
    )
    llm._ready()
    prompts = [f"p{i}-{k}" for k in range(row.sizes[i])]
    import openai
    import together  # noqa: F401  # their import is no part of what is measured

    _ = openai.AsyncOpenAI
    start.wait()
    began = time.monotonic()
    answers = asyncio.run(
        llm.abatch(
            prompts, {"max_concurrency": 64}, return_exceptions=True, timeout=None, tail_hedge=False
        )
    )
    took = time.monotonic() - began
    failed = [answer for answer in answers if isinstance(answer, Exception)]
    operations = 0
    if url is not None:
        from langchain_resilient.fleet import link

        operations = sum(one.operations for one in link._links.values())
    results.put((i, took, len(answers) - len(failed), len(failed), operations,
                 [str(error)[:200] for error in failed[:1]]))  # fmt: skip


def play(row: Row) -> Result:
    """Run a row."""
    context = multiprocessing.get_context("spawn")
    sim = Simulator(
        requests_per_minute=row.requests_per_minute, tokens_per_minute=row.tokens_per_minute
    )
    with sim, RedisServer() as redis:
        url = redis.url if row.shared else None
        start, results = context.Barrier(len(row.sizes) + 1), context.Queue()
        base = sim.urls[row.dialect]
        workers = [
            context.Process(target=work, args=(i, row, base, url, start, results), daemon=True)
            for i in range(len(row.sizes))
        ]
        for worker in workers:
            worker.start()
        start.wait(START_SECONDS)
        began = time.monotonic()
        chaos = threading.Thread(target=_harm, args=(row, redis, workers), daemon=True)
        chaos.start()
        result = Result(row, 0.0)
        expected = len(workers) - (row.chaos == "process killed")
        for report in _reports(results, expected, limit=4 * row.ideal() + 60):
            _, took, answered, failed, operations, errors = report
            result.ends.append(took)
            result.answered.append(answered)
            result.failed += failed
            result.operations += operations
            result.errors += errors
        result.seconds = time.monotonic() - began
        chaos.join(30)
        for worker in workers:
            worker.join(10)
        counts = sim.counts()
        result.sends, result.refused = counts["sends"], counts["refused"]
    return result


def _reports(results: Any, count: int, limit: float) -> Iterator[Any]:
    until = time.monotonic() + limit
    for _ in range(count):
        yield results.get(timeout=max(1.0, until - time.monotonic()))


def _harm(row: Row, redis: RedisServer, workers: list[Any]) -> None:
    if row.chaos:
        time.sleep(8)
    if row.chaos == "redis killed":
        redis.kill()
        time.sleep(8)
        redis.start()
    elif row.chaos == "redis frozen":
        redis.freeze()
        time.sleep(6)
        redis.thaw()
    elif row.chaos == "process killed":
        os.kill(workers[-1].pid, signal.SIGKILL)
