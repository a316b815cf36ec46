"""What the two official SDKs have in common: send one body, learn what an API does not take.

The SDK gives the keys, the headers, the transport and the errors (`sending.py`); the answer's bytes
are read by `sse.py`. That is a third of the CPU of `chat.completions.create()` (see `make bench`).
"""

from __future__ import annotations

import logging
import os
import warnings
from functools import cache
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit

from langchain_resilient.providers import entry, key_for
from langchain_resilient.providers.clients import client_for
from langchain_resilient.providers.evidence import (
    SHORTEST_SECRET,
    details,
    refused_parameters,
    scrub,
    words,
)
from langchain_resilient.providers.sending import Sender
from langchain_resilient.providers.sse import open_answer
from langchain_resilient.providers.transport import http_client, tls
from langchain_resilient.providers.ways import Turned, Ways
from langchain_resilient.target import checked_url
from langchain_resilient.wire.call_ids import WANTED, short_ids
from langchain_resilient.wire.ways import reshape, wanted

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from langchain_resilient.providers.base import ChunkStream
    from langchain_resilient.request import ChatRequest
    from langchain_resilient.target import Target

logger = logging.getLogger("langchain_resilient")

CONNECT_SECONDS = 5.0
_VITAL = frozenset({"messages", "model", "tools", "tool_choice", "response_format", "stream", "n"})
_UNASKED = frozenset({"stream_options"})
_TWIN = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
_SECRET_HEADERS = ("auth", "key", "token", "secret", "cookie", "pass", "credential", "session")


class DroppedParameterWarning(UserWarning):
    """A target's API does not take a parameter; it was left out for that target."""


class InsecureConnectionWarning(UserWarning):
    """A key is sent to another machine without encryption."""


class SDKProvider:
    """Base of the providers that go through an official SDK client.

    A parameter that the API refuses is left out for the target from then on, with one warning; of
    the two names of the token limit, the other is tried first. JSON that it will not give as it was
    asked for is asked for in another way: see `ways.py`.
    """

    public_url: ClassVar[str]
    """Where the provider's own chat completions are."""
    path: ClassVar[str]
    """Where they are below another base URL."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._params = target.sampling_params()
        self._key = key_for(target)
        env = entry(target.provider).base_url_env
        self._base_url = target.base_url or _from_environment(env)
        self._url = self._below(self._base_url) if self._base_url else self.public_url
        self._dropped: set[str] = set()
        self._short_ids = False
        self._ways = Ways((type(self), self._url, target.model))
        timeouts = target.timeouts
        self._connect_seconds = timeouts.connect if timeouts else CONNECT_SECONDS
        self._headers = {n: v.get_secret_value() for n, v in target.default_headers.items()}
        self._secrets = _secrets(self._key, self._headers)
        self._identity = (
            type(self), self._base_url, bool(target.base_url), self._key, target.organization,
            tuple(sorted(self._headers.items())), self._connect_seconds,
        )  # fmt: skip
        if self._base_url and any(len(secret) >= SHORTEST_SECRET for secret in self._secrets):
            _warn_of_clear_text(self._base_url)

    async def open(self, request: ChatRequest, *, stream: bool) -> ChunkStream:
        """Send; see `langchain_resilient.providers.base.Provider.open`."""
        sender = await client_for(self._identity, self._make_sender)
        plain = request.body(self._params)
        want = wanted(plain)
        way = self._ways.first(want) if want else None
        while True:
            shaped = reshape(plain, want, way) if want and way else plain
            body = self._adapt(dict(shaped), stream=stream)
            if self._short_ids:
                body["messages"] = short_ids(body["messages"])
            try:
                response = await sender.post(body)
                answer = open_answer(response, stream=stream, secrets=self._secrets)
            except Exception as error:
                scrub(error, self._secrets)
                if refused := refused_parameters(error, body.keys() - _VITAL):
                    self._learn(refused)
                elif not self._short_ids and WANTED.search(words(error, details(error))):
                    self._short_ids = True
                elif not want or not way or not (way := self._ways.after(error, want, way)):
                    raise
            else:
                if want and way and way != want.asked:
                    return Turned(answer, want, way)
                return answer

    def prepare(self) -> None:
        """Import the SDK and read the root certificates now: slow and blocking, so in a thread."""
        _, httpx = self._libraries()
        tls(httpx)

    @staticmethod
    def _libraries() -> tuple[Any, Any]:
        """Import the SDK and its httpx: they cost half a second, so on first use only."""
        raise NotImplementedError  # a subclass's whole purpose

    def _sdk_client(self, sdk: Any, **settings: Any) -> Any:
        """Make the SDK's client."""
        raise NotImplementedError

    def _adapt(self, body: dict[str, Any], *, stream: bool) -> dict[str, Any]:
        """Turn the merged body into this API's dialect, in place."""
        raise NotImplementedError

    def _below(self, base_url: str) -> str:
        """Where the chat completions are below a base URL."""
        return base_url.rstrip("/") + self.path

    def _make_sender(self) -> Sender:
        sdk, httpx = self._libraries()
        timeout = httpx.Timeout(None, connect=self._connect_seconds)
        headers = self._headers
        http = http_client(sdk, httpx, timeout, public=self._base_url is None)
        client = self._sdk_client(
            sdk,
            # Many compatible servers need no key, but the SDKs insist on one.
            api_key=self._key or "none",
            base_url=self._base_url,
            default_headers=headers or None,
            max_retries=0,
            timeout=timeout,
            http_client=http,
        )
        if self.target.base_url:
            # The SDKs add the environment's headers (OPENAI_CUSTOM_HEADERS), which may hold a key.
            client._custom_headers = dict(headers)  # noqa: SLF001  # there is no public way
        return Sender(client, http, sdk, httpx, self._url)

    def _learn(self, refused: AbstractSet[str]) -> None:
        """Remember what this target does not take, and say so once."""
        for name in refused - self._dropped:
            self._dropped.add(name)
            if name not in _UNASKED and _TWIN.get(name, name) in self._dropped:
                msg = f"{self.target.name} does not take {name!r}: left out for this target"
                warnings.warn(msg, DroppedParameterWarning, stacklevel=2)
                logger.info(msg)

    def _leave_out(self, body: dict[str, Any]) -> None:
        """Take out what the target does not take, or give it its other name."""
        for name in self._dropped & body.keys():
            value, twin = body.pop(name), _TWIN.get(name)
            if twin is not None and twin not in self._dropped:
                body[twin] = value


def _from_environment(name: str | None) -> str | None:
    """Read a base URL from the environment.

    Raises:
        ValueError: If it is none, or holds what belongs elsewhere; names the variable.
    """
    found = os.environ.get(name) if name else None
    if not found:
        return None
    try:
        return checked_url(found)
    except ValueError as error:
        msg = f"{name} {error}"
        raise ValueError(msg) from None


@cache
def _warn_of_clear_text(url: str) -> None:
    """Warn, once a process, of a key that others on the way to a server can read."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme == "http" and not _is_loopback(host):
        msg = f"a key is sent to {host} without encryption: use https:// in its base_url"
        warnings.warn(msg, InsecureConnectionWarning, stacklevel=2)
        logger.warning(msg)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")  # RFC 6761, 6.3


def _secrets(key: str | None, headers: dict[str, str]) -> list[str]:
    """List the texts that no error may repeat: a header's value, and what follows its scheme."""
    found = [
        text
        for name, value in headers.items()
        if any(word in name.lower() for word in _SECRET_HEADERS)
        for text in (value, *value.split()[1:])
    ]
    return [*found, key] if key else found
