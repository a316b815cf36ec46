"""Race a real llama.cpp server, and see by its metrics that it stops for losers.

Needs the extra `local` and the embedded model's weights (which it fetches); Linux.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import statistics
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import count
from typing import TYPE_CHECKING

from langchain_resilient.providers.local.weights import WeightsError, ensure_weights
from langchain_resilient.testing import ProviderSimulator
from verification.losers.llama import SOCKETS, llama
from verification.losers.scenes import MAX_TOKENS, SCENES, Scene, Stage, read

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from verification.losers.llama import Llama

CLOSED = 0.2
"""Seconds within which our side must have closed the connection."""

QUIET = 0.3
"""Seconds for which nothing may be generated once the server is idle."""


LEGEND = f"""
Median/worst of all plays. closed: our side's connection, as the kernel sees it. idle: the server's
llamacpp:requests_processing is 0. decodes: calls of llama_decode until then, at most. later: in the
next {QUIET:g} s, and tokens predicted. While llama.cpp has nothing to send, it looks for its client
once a second; and not while other requests keep it busy with results."""


@dataclass(frozen=True)
class Loss:
    """What came of one play.

    Attributes:
        happened: Whether the server was at work when its answer was no longer wanted.
        closed: Seconds until its connection was closed.
        idle: Seconds until it was idle.
        decodes: Tokens or batches that it decoded in between, at most.
        later: Tokens or batches that it decoded after that.
    """

    happened: bool
    closed: float
    idle: float
    decodes: int
    later: int

    def good(self, scene: Scene) -> bool:
        """Whether it lost as it should."""
        in_time = self.closed <= CLOSED and self.idle <= scene.bound
        return self.happened and in_time and not self.later


async def lose(scene: Scene, stage: Stage) -> Loss:
    """Play a scene and watch the server."""
    server = stage.llama
    await server.until(lambda s: not s.busy and not s.clients, after=server.samples[-1].at)
    at = await scene.play(stage)
    if at is None:
        return Loss(happened=False, closed=0.0, idle=0.0, decodes=0, later=0)
    before = server.before(at)
    closed = await server.until(lambda s: not s.clients, after=at)
    idle = await server.until(lambda s: not s.busy, after=at)
    later = await server.until(lambda _: True, after=idle.at + QUIET)
    return Loss(
        happened=before.busy > 0,
        closed=closed.at - at,
        idle=idle.at - at,
        decodes=idle.decodes - before.decodes,
        later=later.decodes - idle.decodes + later.predicted - idle.predicted,
    )


async def left_alone(stage: Stage) -> str:
    """Let one answer be read to its end: what the others would have cost."""
    server = stage.llama
    before = server.samples[-1]
    await read(stage.alone().astream(stage.prompt))
    after = await server.until(lambda s: not s.busy, after=server.samples[-1].at)
    seconds, tokens = after.at - before.at, after.predicted - before.predicted
    return (
        f"an answer that nobody stops (max_tokens={MAX_TOKENS}): {tokens} tokens, {seconds:.1f} s"
    )


async def play(
    server: Llama, sim: ProviderSimulator, options: argparse.Namespace, transport: str
) -> bool:
    """Play every scene over one transport, and print a line for each."""
    numbers = count(1)
    good = True
    for dialect in options.dialects:
        stages: Iterator[Stage] = (Stage(server, sim, dialect, transport, n) for n in numbers)
        print(f"\n{dialect} SDK on {transport}; {await left_alone(next(stages))}", flush=True)
        print(f"{'':<47}{'closed ms':>12}{'idle ms':>12}{'bound':>7}{'decodes':>9}{'later':>7}")
        for scene in SCENES:
            if options.only in scene.name:
                losses = [await lose(scene, next(stages)) for _ in range(options.rounds)]
                good &= all(loss.good(scene) for loss in losses)
                print(line(scene, losses), flush=True)
    return good


def line(scene: Scene, losses: Sequence[Loss]) -> str:
    """Write the medians and the worst of a scene's plays."""
    decodes, later = max(x.decodes for x in losses), max(x.later for x in losses)
    bad = sum(not loss.good(scene) for loss in losses)
    missed = sum(not loss.happened for loss in losses)
    verdict = f"{bad} of {len(losses)} bad" if bad else "ok"
    return (
        f"{scene.name:<47}{_spread([x.closed for x in losses]):>12}"
        f"{_spread([x.idle for x in losses]):>12}{scene.bound * 1e3:>7.0f}{decodes:>9}{later:>7}"
        f"  {verdict}{f', {missed} did not happen' if missed else ''}"
    )


def _spread(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds) * 1e3:.0f}/{max(seconds) * 1e3:.0f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status: 1 if a loser went on too long, 2 if there is no llama.cpp.
    """
    options = _parser().parse_args(arguments)
    try:
        model = find_model()
    except (ImportError, WeightsError) as error:
        print(f"no llama.cpp server: {error}", file=sys.stderr)
        return 2
    good = True
    # A full collection, which walks over all that was imported, took up to 0.3 s on a slow
    # machine: 17 of 60 plays had one, told as time to close where it fell between losing and that.
    gc.collect()
    gc.freeze()
    with llama(model) as server, ProviderSimulator() as sim:
        for transport in options.transports:
            os.environ["LANGCHAIN_RESILIENT_TRANSPORT"] = transport
            good &= asyncio.run(play(server, sim, options, transport))
    print(LEGEND)
    return int(not good)


def find_model() -> Path:
    """Find the model's weights, or raise what is missing here."""
    if find_spec("xllamacpp") is None:
        msg = 'it comes with pip install "langchain-resilient[local]"'
        raise ImportError(msg)
    if not SOCKETS.exists():
        msg = f"its connections are watched in {SOCKETS}, which only Linux has"
        raise ImportError(msg)
    return ensure_weights()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m verification.losers", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10, metavar="N", help="plays of each scene")
    parser.add_argument("--only", default="", metavar="TEXT", help="scenes that have this in them")
    parser.add_argument("--dialects", nargs="+", default=["openai"], choices=("openai", "together"))
    parser.add_argument(
        "--transports", nargs="+", default=["aiohttp", "httpx"], choices=("aiohttp", "httpx")
    )
    return parser


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    raise SystemExit(main())
