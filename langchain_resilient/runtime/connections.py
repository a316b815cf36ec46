"""Opens connections to targets before they are needed, and keeps them open."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_resilient.engine.interfaces import Route

logger: logging.Logger = logging.getLogger("langchain_resilient")

REFRESH_SECONDS = 45.0
"""How often a kept connection is used: sooner than it would be closed for being idle
(`langchain_resilient.providers.http.KEEPALIVE_SECONDS`)."""


class Connections:
    """The connections of one model's targets, on every event loop that it is used on.

    Args:
        routes: The targets; those without connections (a fixed text) are no business of this.
    """

    def __init__(self, routes: Sequence[Route]) -> None:
        self._routes = routes
        self._keepers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Task[None]] = (
            weakref.WeakKeyDictionary()
        )

    async def open(self) -> dict[str, str | None]:
        """Connect to every target, and shake hands, all at once.

        Returns:
            By target what went wrong; None where nothing did.
        """
        await asyncio.to_thread(prepare, self._routes)
        names = [route.state.name for route in self._routes]
        return dict(zip(names, await asyncio.gather(*map(_connect, self._routes)), strict=True))

    def keep(self, *, after: float = 0.0) -> None:
        """Keep them open on the running loop, until `close` or the model's end.

        Args:
            after: Seconds until they are used, or opened, for the first time.
        """
        loop = asyncio.get_running_loop()
        keeper = self._keepers.get(loop)
        if keeper is None or keeper.done():
            self._keepers[loop] = loop.create_task(_keep(weakref.ref(self), after))

    async def close(self) -> None:
        """Keep them no longer on the running loop."""
        keeper = self._keepers.pop(asyncio.get_running_loop(), None)
        if keeper is not None:
            keeper.cancel()
            await asyncio.wait([keeper])


def prepare(routes: Sequence[Route]) -> None:
    """Import the targets' SDKs and read the root certificates. Blocks: call it in a thread."""
    for route in routes:
        prepare_one = getattr(route.sources[0], "prepare", None)
        if prepare_one is not None:
            with contextlib.suppress(Exception):  # whoever needs it will see the error then
                prepare_one()


async def _connect(route: Route) -> str | None:
    """Connect to a target with each of its keys."""
    try:
        for provider in route.sources:
            connect: Any = getattr(provider, "connect", None)
            if connect is not None:
                await connect()
    except Exception as error:  # noqa: BLE001  # whatever it is, a call will see it too
        logger.info("%s: no connection yet: %s", route.state.name, error)
        return f"{type(error).__name__}: {error}"
    return None


async def _keep(connections: weakref.ref[Connections], after: float) -> None:
    await asyncio.sleep(after)
    while (kept := connections()) is not None:
        await kept.open()
        del kept
        await asyncio.sleep(REFRESH_SECONDS)
