"""`langchain-resilient demo`: its options, and how it is run."""

from __future__ import annotations

import asyncio
import sys
from math import isfinite
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from langchain_resilient.demo.stage import Show

INTERRUPTED = 130

DESCRIPTION = """\
Three simulated providers misbehave on a schedule, and the same requests go to ResilientChatModel
and to LangChain's own retry and fallbacks. No key, no network: all of it is on loopback."""

_MIN_SECONDS, _MAX_SECONDS, _MAX_RATE = 4.0, 3600.0, 50.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add = parser.add_argument
    add("--seconds", type=float, default=120.0, metavar="N",
        help="how long requests are sent (default %(default)g)")  # fmt: skip
    add("--rate", type=float, default=4.0, metavar="N",
        help="requests a second, for each side (default %(default)g)")  # fmt: skip
    add("--seed", type=int, default=0, help="of the providers' randomness (default %(default)d)")
    add("--no-live", action="store_true", help="plain lines; as without a terminal")


def run(args: argparse.Namespace) -> int:
    """Play the show, and print how both sides did.

    Returns:
        0, or 130 when it was interrupted.

    Raises:
        ValueError: If an option is out of range.
    """
    _check(args)
    live = _is_terminal() and not args.no_live
    from langchain_resilient.demo import plain  # noqa: PLC0415  # a wrong command fails fast
    from langchain_resilient.demo.stage import Show  # noqa: PLC0415

    show = Show(length=args.seconds, rate=args.rate, seed=args.seed)
    code = 0
    try:
        asyncio.run(_live(show) if live else _lines(show))
    except KeyboardInterrupt:
        code = INTERRUPTED
    if show.started:
        _say("\n" + plain.summary(show))
    return code


def _is_terminal() -> bool:
    return sys.stdout.isatty()


def _check(args: argparse.Namespace) -> None:
    if not _MIN_SECONDS <= args.seconds <= _MAX_SECONDS:
        raise ValueError(f"--seconds must be {_MIN_SECONDS:g} to {_MAX_SECONDS:g}")
    if not (isfinite(args.rate) and 1 / args.seconds <= args.rate <= _MAX_RATE):
        raise ValueError(f"--rate must be at most {_MAX_RATE:g}, and enough for one request")


async def _lines(show: Show) -> None:
    """Print a line about every tenth of the show, and at least every five seconds."""
    from langchain_resilient.demo import plain  # noqa: PLC0415

    _say(plain.conditions(show))
    playing = asyncio.create_task(show.run())
    try:
        while not (await asyncio.wait({playing}, timeout=min(5.0, show.length / 10)))[0]:
            if show.started:
                _say(plain.line(show))
    finally:
        await _stopped(playing)


async def _live(show: Show) -> None:
    from langchain_resilient.demo.screen import stage_lights  # noqa: PLC0415

    playing = asyncio.create_task(show.run())
    try:
        with stage_lights(show) as draw:
            while not (await asyncio.wait({playing}, timeout=0.25))[0]:
                draw()
    finally:
        await _stopped(playing)


async def _stopped(playing: asyncio.Task[None]) -> None:
    """Stop the show if it is still on; raise what went wrong in it."""
    if not playing.done():
        playing.cancel()
        await asyncio.wait({playing})
        return
    await playing


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
