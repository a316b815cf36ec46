"""The routes of one model: its targets with their providers, and their connections.

A call may name targets that are not of the model's chain (`model=`): their routes are kept too.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import weakref
from typing import TYPE_CHECKING, Any

from langchain_resilient.engine.interfaces import Route
from langchain_resilient.options import TARGET_SYNTAX, Target, as_target
from langchain_resilient.providers import (
    address_of,
    create_provider,
    known_providers,
    provider_entry,
)
from langchain_resilient.runtime.shared_state import usable_targets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_resilient.policies import Health, TimeLimits
    from langchain_resilient.runtime.memory import Memory
    from langchain_resilient.runtime.shared_state import SharedState

logger: logging.Logger = logging.getLogger("langchain_resilient")

REFRESH_SECONDS = 45.0
"""How often a kept connection is used: sooner than it would be closed for being idle
(`langchain_resilient.providers.http.KEEPALIVE_SECONDS`)."""


class Routes:
    """The routes of one model's targets, and of others that its calls named.

    Args:
        time_limits: The limits of targets without their own.
        shared: What the process remembers of targets.
        health: When a target counts as sick; None for never.
        memory: What was learned in earlier processes, if that is kept.
        wants_responses: Whether OpenAI is asked by its Responses API where a target may choose.

    Attributes:
        made: The routes, by the names of their targets.
        by_name: The targets, those that calls named too.
        own_limits: `max_tokens` of the targets that have their own.
    """

    def __init__(
        self,
        time_limits: TimeLimits,
        shared: SharedState,
        *,
        health: Health | None,
        memory: Memory | None,
        wants_responses: bool,
    ) -> None:
        self._time_limits = time_limits
        self._shared = shared
        self._health = health
        self._memory = memory
        self._wants_responses = wants_responses
        self.made: dict[str, Route] = {}
        self._adopted: dict[str, Route] = {}  # by what a call gave as `model=`
        self.by_name: dict[str, Target] = {}
        self.own_limits: dict[str, int] = {}

    def add(self, target: Target) -> Route:
        """Make the route of a target of the chain."""
        if target.max_tokens:
            self.own_limits[target.name] = target.max_tokens
        return self.make(target)

    async def aclose(self) -> None:
        """Close what the targets hold open on the running loop."""
        for route in tuple(self.made.values()):
            for provider in route.sources:
                close = getattr(provider, "aclose", None)
                if close is not None:
                    await close()

    def chosen(self, models: Any, chain: Sequence[Route]) -> list[Route]:
        """Find the routes for a `model=` override: targets of the chain, or any others.

        Raises:
            ValueError: If it is neither; says what it may be.
        """
        one = isinstance(models, str | Target) or hasattr(models, "ainvoke")
        wanted = [models] if one else models
        if not isinstance(wanted, list | tuple) or not wanted:
            msg = f"model={models!r} is no target, and no list of targets; {TARGET_SYNTAX}"
            raise ValueError(msg)
        return [self._find(model, chain) for model in wanted]

    def _find(self, wanted: Any, chain: Sequence[Route]) -> Route:
        for route in chain:
            target = self.by_name[route.state.name]
            if wanted in (target.name, target.model):
                return route
        if not isinstance(wanted, str):
            return self._adopt(as_target(wanted))
        adopted = self._adopted.get(wanted)
        if adopted is None:
            unknown = f"model={wanted!r} is no target of this chain ({', '.join(self.by_name)})"
            provider, colon, _ = wanted.partition(":")
            if not colon and provider not in known_providers():
                msg = f'{unknown} and not of the form "provider:model"'
                raise ValueError(msg)
            try:
                provider_entry(provider)
            except ValueError as error:
                msg = f"{unknown}, and not at a provider that is known: {error}"
                raise ValueError(msg) from None
            adopted = self._adopted[wanted] = self._adopt(as_target(wanted))
        return adopted

    def _adopt(self, target: Target) -> Route:
        """Make the route of a target from outside the chain, for one call."""
        usable_targets([target])
        return self.add(target)

    def make(self, target: Target) -> Route:
        """Make the route of the last resort, whose `max_tokens` is its own matter."""
        self.by_name[target.name] = target
        limits = target.time_limits or self._time_limits
        api = target.api
        if self._wants_responses and api == "auto" and target.provider == "openai":
            api = "responses"
        keys = target.api_key if isinstance(target.api_key, tuple) else (target.api_key,)
        first, *others = (
            create_provider(
                target.model_copy(update={"time_limits": limits, "api_key": key, "api": api})
            )
            for key in keys
        )
        route = Route(self._shared.state_of(target), first, limits, other_keys=others)
        self.made[target.name] = route
        if self._memory is not None:
            self._memory.watch(
                route.state,
                target.name,
                None if target.runnable else address_of(target).url,
                now=clock(),
                trip_after=self._health.trip_after if self._health is not None else 0,
            )
        return route


def clock() -> float:
    """The engine's clock, inside a loop or out of one."""
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:
        return time.monotonic()  # what the loops of asyncio and uvloop go by


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
