"""What the two official SDKs have in common: send one body, learn what an API does not take.

The path through the SDK is its documented `client.post(...)` with the raw response as its result:
the SDK gives the address, the keys, the headers, the transport and the errors; the answer's bytes
are read by `sse.py`. That is a third of the CPU of `chat.completions.create()` (see `make bench`).
"""

from __future__ import annotations

import logging
import os
import warnings
from typing import TYPE_CHECKING, Any, ClassVar

from langchain_resilient.providers import entry, key_for
from langchain_resilient.providers.clients import client_for
from langchain_resilient.providers.sse import open_answer

if TYPE_CHECKING:
    from langchain_resilient.providers.base import ChunkStream
    from langchain_resilient.request import ChatRequest
    from langchain_resilient.target import Target

logger = logging.getLogger("langchain_resilient")

MAX_CONNECTIONS = 1000
KEEPALIVE_CONNECTIONS = 200
_VITAL = frozenset({"messages", "model", "tools", "tool_choice", "response_format", "stream", "n"})


class DroppedParameterWarning(UserWarning):
    """A target's API does not take a parameter; it was left out for that target."""


class SDKProvider:
    """Base of the providers that go through an official SDK client."""

    path: ClassVar[str]
    unknown: ClassVar[frozenset[str]]
    """Parameters that this API refuses."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._params = target.sampling_params()
        self._key = key_for(target)
        env = entry(target.provider).base_url_env
        self._base_url = target.base_url or (os.environ.get(env) or None if env else None)
        self._dropped: set[str] = set()
        timeouts = target.timeouts
        self._connect_seconds = timeouts.connect if timeouts else 5.0
        self._identity = (
            type(self), self._base_url, self._key, target.organization,
            tuple(sorted(target.default_headers.items())), self._connect_seconds,
        )  # fmt: skip

    async def open(self, request: ChatRequest, *, stream: bool) -> ChunkStream:
        """Send; see `langchain_resilient.providers.base.Provider.open`."""
        client = await client_for(self._identity, self._make_client)
        body = self._adapt(request.body(self._params), stream=stream)
        while True:
            try:
                return open_answer(await self._post(client, body), stream=stream)
            except Exception as error:
                name = self._refused_parameter(error, body)
                if name is None:
                    raise
                self._drop(name)
                del body[name]

    def _make_client(self) -> Any:
        raise NotImplementedError  # a subclass's whole purpose

    async def _post(self, client: Any, body: dict[str, Any]) -> Any:
        raise NotImplementedError

    def _adapt(self, body: dict[str, Any], *, stream: bool) -> dict[str, Any]:
        """Turn the merged body into this API's dialect, in place."""
        raise NotImplementedError

    def _drop(self, name: str) -> None:
        """Leave a parameter out for this target from now on, and say so once."""
        if name not in self._dropped:
            self._dropped.add(name)
            msg = f"{self.target.name} does not take {name!r}: left out for this target"
            warnings.warn(msg, DroppedParameterWarning, stacklevel=2)
            logger.info(msg)

    def _drop_unknown(self, body: dict[str, Any], unknown: frozenset[str]) -> None:
        for name in unknown & body.keys():
            self._drop(name)
            del body[name]
        for name in self._dropped & body.keys():
            del body[name]

    def _refused_parameter(self, error: Exception, body: dict[str, Any]) -> str | None:
        """Find the optional parameter that a 400 complains of: models differ within one API."""
        if getattr(error, "status_code", None) not in (400, 422):
            return None
        details = getattr(error, "body", None)
        details = details.get("error", details) if isinstance(details, dict) else None
        if not isinstance(details, dict):
            return None
        code, message = str(details.get("code") or ""), str(details.get("message") or "")
        if not (code.startswith(("unsupported", "unknown_parameter")) or "nrecognized" in message):
            return None
        named = str(details.get("param") or "").partition(".")[0] or message.rpartition(": ")[2]
        optional = named in body and named not in _VITAL and named not in self._dropped
        return named if optional else None
