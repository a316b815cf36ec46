"""Who follows a model that is gone: families of ids, and the provider that asks the living one.

A target may name successors of its model (`Target.successors`; the default chain does). When the
provider says that a model is gone, the next one is asked in the same attempt, and that is
remembered for a day, in the cache folder too.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import TYPE_CHECKING, Any

from langchain_resilient import notices
from langchain_resilient.errors import RetirementWarning
from langchain_resilient.faults import FaultKind
from langchain_resilient.models import ANY_MODEL, RETIREMENTS, Retirement
from langchain_resilient.providers.model_lists import (
    FetchList,
    ListedModel,
    ModelDirectory,
    today,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_resilient.exchange import ChatRequest, ChunkStream
    from langchain_resilient.options import Target

logger: logging.Logger = logging.getLogger("langchain_resilient")

_MAX_DISCOVERED = 3
"""So many models of a provider's list are tried where all that were named are gone."""


class ModelFamily:
    """The model of one target, and who follows it.

    Args:
        target: The target.
        directory: What is known of its account's models.

    Attributes:
        model: The id to ask.
    """

    def __init__(self, target: Target, directory: ModelDirectory) -> None:
        self._target = target
        self._directory = directory
        self._discovers = ANY_MODEL in target.successors
        self._ids = (target.model, *(s for s in target.successors if s != ANY_MODEL))
        self._discovered: list[str] = []
        self.model = target.model
        directory.families.add(self)
        self.choose()
        self.warn()

    def choose(self) -> None:
        """Choose the first id that lives: of those that are listed, where any is."""
        if len(self._ids) == 1 and not self._discovers:
            return
        directory = self._directory
        living = [name for name in self._ids if not directory.is_gone(name)]
        if self._discovers and not living:
            living = [name for name in self._discovered if not directory.is_gone(name)]
        listed = [name for name in living if name in directory.listed]
        # If all are gone, that may have been something else: begin anew.
        self._use(next(iter(listed or living), self._ids[0]))

    def _use(self, model: str) -> None:
        if model != self.model:
            logger.info("%s: asked for %s from now on", self._target.name, model)
        self.model = model
        if model != self._target.model:
            _current[_place(self._target)] = model
        else:
            _current.pop(_place(self._target), None)

    async def after(self, gone: str, fetch: FetchList) -> bool:
        """Go on to the next id, because one is gone.

        The provider's list is asked for at the same time: if the next one is gone too, it tells
        which of the others need not be tried.

        Args:
            gone: The id that was asked for.
            fetch: Asks for the provider's list.

        Returns:
            Whether there is another to ask.
        """
        directory = self._directory
        directory.record_gone(gone)
        if self.model != gone and not directory.is_gone(self.model):
            return True  # another request was faster
        pending = None if directory.is_fresh else directory.request_list(fetch)
        following = self._following()
        if following is None and self._discovers:
            if pending is not None:
                await asyncio.wait([pending])
            following = self._following() or self._discovery()
        if following is None:
            return False
        self._use(following)
        return True

    def _following(self) -> str | None:
        """Choose the next id of those that were named."""
        directory = self._directory
        living = [name for name in self._ids if not directory.is_gone(name)]
        listed = [name for name in living if name in directory.listed]
        if directory.is_fresh and self._discovers:
            return next(iter(listed), None)
        return next(iter(listed or living), None)

    def _discovery(self) -> str | None:
        """Choose one that nobody named."""
        if len(self._discovered) >= _MAX_DISCOVERED:
            return None
        found = self._directory.newest((*self._ids, *self._discovered))
        if found is not None:
            self._discovered.append(found)
        return found

    def end(self) -> Retirement | None:
        """When the model that is asked is shut down, as far as is known."""
        return self.end_of(self.model)

    def end_of(self, model: str) -> Retirement | None:
        """When a model is shut down: by the provider's list, else by what it has announced."""
        entry = self._directory.listed.get(model)
        announced = None
        if self._target.base_url is None:
            announced = RETIREMENTS.get((self._target.provider, model))
        if entry is None or entry.end is None:
            return announced
        successor = entry.end.successor or (announced.successor if announced else "")
        return Retirement(entry.end.date, successor)

    def follower(self) -> str:
        """Who is asked, or should be, when the model is gone; empty if nobody is known."""
        ids = self._ids[self._ids.index(self.model) + 1 :] if self.model in self._ids else ()
        own = next((name for name in ids if not self._directory.is_gone(name)), "")
        end = self.end()
        return own or (end.successor if end else "")

    def is_living(self) -> bool | None:
        """Whether the model lives; None if it is only missing from its provider's list."""
        if self._directory.is_gone(self.model):
            return False
        end = self.end()
        if end is not None and end.date <= today():
            return False
        return True if self.model in self._directory.listed else None

    def warn(self) -> None:
        """Warn, once per process, if the model has a known end."""
        end = self.end()
        if end is None:
            return
        verb = "was shut down" if end.date <= today() else "will be shut down"
        msg = f"{self._target.name}: {self.model} {verb} on {end.date}"
        follower = self.follower()
        if follower and follower in self._ids:
            msg += f"; {follower} is asked from then on"
        elif follower:
            msg += f"; use {follower} instead"
        with _lock:
            if msg in _warned:
                return
            _warned.add(msg)
        notices.warn(msg, RetirementWarning)


_lock = threading.Lock()
_warned: set[str] = set()
_current: dict[tuple[str, str | None, str], str] = {}


def _place(target: Target) -> tuple[str, str | None, str]:
    return target.provider, target.base_url, target.model


def current_model(target: Target) -> str:
    """The id that a target's requests ask for now: its own, or a successor's."""
    return _current.get(_place(target), target.model) if _current else target.model


class FamilyProvider:
    """Serves a target whose model has successors: by one provider for each id, made on need.

    What is learned of a model (parameters that it refuses, the API that it wants) stays with it.

    Args:
        target: The target.
        make: Makes the provider of one id.

    Attributes:
        family: Which id is asked.
    """

    def __init__(self, target: Target, make: Callable[[Target], Any]) -> None:
        self._target = target
        self._make = make
        first = make(target)
        self._directory: ModelDirectory = getattr(first, "directory", None) or ModelDirectory()
        self._providers: dict[str, Any] = {target.model: first}
        self.family = ModelFamily(target, self._directory)

    def _serving(self, model: str) -> Any:
        provider = self._providers.get(model)
        if provider is None:
            # Copies are validated: a model may not be among its own successors.
            target = self._target.model_copy(update={"model": model, "successors": ()})
            provider = self._providers[model] = self._make(target)
        return provider

    async def open(self, request: ChatRequest, *, stream: bool) -> ChunkStream:
        """Send the request to the model that lives."""
        # Each turn learns that one more id is gone, so the loop ends.
        while True:
            model = self.family.model
            provider = self._serving(model)
            try:
                answer: ChunkStream = await provider.open(request, stream=stream)
            except Exception as error:
                from langchain_resilient.providers.errors import classify  # noqa: PLC0415  # keeps import light

                if classify(error).kind is not FaultKind.NOT_FOUND:
                    raise
                fetch = getattr(provider, "fetch_models_async", _no_list)
                if not await self.family.after(model, fetch):
                    raise
            else:
                return answer

    def serving(self) -> Any:
        """The provider of the id that is asked now."""
        return self._serving(self.family.model)

    def prepare(self) -> None:
        """Import the SDK now; see `SDKProvider.prepare`."""
        prepare = getattr(self._serving(self.family.model), "prepare", None)
        if prepare is not None:
            prepare()

    async def connect(self) -> None:
        """Open a connection to the server; see `SDKProvider.connect`."""
        connect = getattr(self._serving(self.family.model), "connect", None)
        if connect is not None:
            await connect()

    def refresh_models(self) -> None:
        """Ask for the list of models now, and remember it. Blocks."""
        self._serving(self._target.model).refresh_models()

    async def aclose(self) -> None:
        """Close the connections of the running loop."""
        for provider in tuple(self._providers.values()):
            close = getattr(provider, "aclose", None)
            if close is not None:
                await close()


async def _no_list() -> list[ListedModel]:
    msg = "this provider has no list of models"
    raise LookupError(msg)


def family_of(provider: Any, target: Target) -> ModelFamily | None:
    """The family that a provider serves: of one alone, where its target names no successors."""
    family = getattr(provider, "family", None)
    if family is None and (directory := getattr(provider, "directory", None)) is not None:
        family = ModelFamily(target, directory)
    return family


def forget() -> None:
    """Forget what was warned of and who moved on, for tests."""
    with _lock:
        _warned.clear()
        _current.clear()
