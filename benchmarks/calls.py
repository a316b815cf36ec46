"""CPU, throughput and memory of calls and streams, all contenders in interleaved rounds."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.contenders import CONTENDERS
from benchmarks.environments import installed
from benchmarks.figures import add
from benchmarks.fleet import Crew, crew, instant_server
from benchmarks.instant_server import CHUNKS

if TYPE_CHECKING:
    from benchmarks.figures import Rounds

IN_FLIGHT = 64
STREAMS_IN_FLIGHT = 8
CALLS_BEFORE_MEMORY = 1_000


@dataclass(frozen=True)
class Effort:
    """How much is measured in each round.

    Attributes:
        rounds: How many; one more, to warm up, does not count.
        alone: Calls one after the other.
        crowd: Calls with many in flight.
        streams: Streams of `CHUNKS` pieces.
    """

    rounds: int = 5
    alone: int = 100
    crowd: int = 320
    streams: int = 8


def measure(effort: Effort) -> tuple[Rounds, dict[str, dict[str, str]]]:
    """Run all rounds; figures, and what versions each contender ran with."""
    rounds: Rounds = {}
    with instant_server() as url, crew(installed(CONTENDERS)) as workers:
        built = {name: workers.do(name, "build", url=url) for name in workers.names}
        for name, item in built.items():
            add(rounds, "memory_import", name, item["memory"])
            add(rounds, "first_answer", name, item["first_answer"])
            warm = workers.do(name, "calls", count=CALLS_BEFORE_MEMORY, at_once=IN_FLIGHT)
            add(rounds, "memory_calls", name, warm["memory"])
            print(f"  {name} is warm", file=sys.stderr, flush=True)
            workers.do(name, "streams", count=STREAMS_IN_FLIGHT, at_once=4, pieces=CHUNKS)
        for number in range(effort.rounds):
            # Each begins once: whoever comes after a heavy one finds cold caches.
            turn = number % len(workers.names)
            for name in (*workers.names[turn:], *workers.names[:turn]):
                _one_round(workers, name, effort, rounds)
    return rounds, {name: item["versions"] for name, item in built.items()}


def _one_round(workers: Crew, name: str, effort: Effort, rounds: Rounds) -> None:
    alone = workers.do(name, "calls", count=effort.alone, at_once=1)
    crowd = workers.do(name, "calls", count=effort.crowd, at_once=IN_FLIGHT)
    streams = workers.do(
        name, "streams", count=effort.streams, at_once=STREAMS_IN_FLIGHT, pieces=CHUNKS
    )
    add(rounds, "call_1", name, alone["cpu"] * 1e3)
    add(rounds, "call_64", name, crowd["cpu"] * 1e3)
    add(rounds, "rate_1", name, 1 / alone["wall"])
    add(rounds, "rate_64", name, 1 / crowd["wall"])
    add(rounds, "chunk", name, streams["cpu"] / CHUNKS * 1e6)
