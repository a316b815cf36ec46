"""What the two official SDKs have in common: send one body, learn what an API does not take.

The SDK gives the keys, the headers, the transport and the errors (`sending.py`); the answer's bytes
are read by `sse.py`. That is a third of the CPU of `chat.completions.create()` (see `make bench`).
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import threading
import warnings
from functools import cache
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar
from urllib.parse import urlsplit

from pydantic_core import to_json

from langchain_resilient.errors import DroppedParameterWarning, InsecureConnectionWarning
from langchain_resilient.options import checked_url
from langchain_resilient.providers import key_for, provider_entry
from langchain_resilient.providers.errors import (
    MIN_SECRET_LENGTH,
    error_details,
    error_text,
    refused_parameters,
    scrub,
)
from langchain_resilient.providers.http import http_client, tls_context
from langchain_resilient.providers.json_modes import ConvertedStream, JSONModes
from langchain_resilient.providers.sse import open_answer
from langchain_resilient.wire.json_modes import requested_json, reshape
from langchain_resilient.wire.tool_calls import SHORT_ID_MODELS, shorten_call_ids

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Hashable
    from collections.abc import Set as AbstractSet

    from langchain_resilient.exchange import ChatRequest, ChunkStream
    from langchain_resilient.options import Target
    from langchain_resilient.providers.sse import HTTPResponse


class Closable(Protocol):
    """Any SDK client."""

    async def close(self) -> None:
        """Close its connections."""
        ...


C = TypeVar("C", bound=Closable)


class _LoopClients:
    """The clients of one loop, and the generator whose end closes them."""

    __slots__ = ("_closer", "_loop", "made")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.made: dict[Hashable, Any] = {}
        self._loop = loop
        self._closer = self._until_closed()

    async def adopt(self) -> None:
        """Have the running loop close the clients at its end.

        An async generator is what a loop itself promises to close (`shutdown_asyncgens`, which
        asyncio.run and Runner call), and so the one hook on a loop's end that asyncio offers.
        """
        await anext(self._closer)

    async def _until_closed(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            with _lock:
                if _by_loop.get(self._loop) is self:
                    del _by_loop[self._loop]
            while self.made:
                _, client = self.made.popitem()
                with contextlib.suppress(Exception):
                    await client.close()

    async def close(self) -> None:
        """Close every client, on their loop."""
        await self._closer.aclose()

    def abandon(self) -> None:
        """Close after the loop has gone: there is nothing left to wait for, so one step does it."""
        for closing in (*(client.close() for client in self.made.values()), self._closer.aclose()):
            with contextlib.suppress(Exception, StopIteration):
                closing.send(None)


_by_loop: dict[asyncio.AbstractEventLoop, _LoopClients] = {}


_lock = threading.Lock()


async def client_for(key: Hashable, make: Callable[[], C]) -> C:
    """Return the running loop's client for `key`, made on first use.

    Args:
        key: Everything that tells one client from another: base URL, API key, headers.
        make: Builds it.
    """
    loop = asyncio.get_running_loop()
    clients = _by_loop.get(loop)
    if clients is None:
        clients = _LoopClients(loop)
        with _lock:
            gone = [_by_loop.pop(known) for known in list(_by_loop) if known.is_closed()]
            _by_loop[loop] = clients
        for one in gone:
            one.abandon()
        await clients.adopt()
    found: C | None = clients.made.get(key)
    if found is None:
        found = clients.made[key] = make()
    return found


async def close_client(key: Hashable) -> None:
    """Close the running loop's client for `key`, if there is one. New calls make a new one."""
    clients = _by_loop.get(asyncio.get_running_loop())
    client = None if clients is None else clients.made.pop(key, None)
    if client is not None:
        with contextlib.suppress(Exception):
            await client.close()


async def close_clients() -> None:
    """Close every client of the running loop. New calls make new clients."""
    clients = _by_loop.get(asyncio.get_running_loop())
    if clients is not None:
        await clients.close()


def _in_child() -> None:
    """Start afresh after a fork."""
    global _by_loop, _lock  # noqa: PLW0603  # one a process is their whole point
    _lock = threading.Lock()
    if _by_loop:
        inherited, _by_loop = _by_loop, {}
        _keep_for_ever(inherited)


def _at_exit() -> None:
    if _by_loop:
        _keep_for_ever(_by_loop)


def _keep_for_ever(value: object) -> None:
    """Leak it on purpose: only so does not even the interpreter's end finalise it."""
    with contextlib.suppress(ImportError, AttributeError):  # CPython alone has it, and needs it
        import ctypes  # noqa: PLC0415  # for the rare loop that nobody closed

        ctypes.pythonapi.Py_IncRef(ctypes.py_object(value))


atexit.register(_at_exit)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


_OWN = ("content-length", "cookie", "host", "transfer-encoding")
"""Headers that belong to one request."""


_ONCE = "idempotency-key"
"""A request with it must never be a pattern: servers would take the others for its repetition."""


class RequestTemplate:
    """Posts bodies to one URL, by one SDK client. Errors are the SDK's.

    Args:
        client: The SDK's; this owns it now.
        http: The HTTP client that it was given.
        sdk: The module `openai` or `together`.
        httpx: The httpx that it is made for: `httpx2` or `httpx`.
        url: Where to.
    """

    __slots__ = ("_client", "_http", "_httpx", "_pattern", "_sdk", "_url")

    def __init__(self, client: Any, http: Any, sdk: Any, httpx: Any, url: str) -> None:
        self._client = client
        self._http = http
        self._sdk = sdk
        self._httpx = httpx
        self._url = url
        self._pattern: dict[str, Any] | None = None

    async def post(self, body: dict[str, Any]) -> HTTPResponse:
        """Send and return the open response.

        Args:
            body: Is written as JSON.

        Raises:
            Exception: What the SDK raises for a status over 299, and where no response comes.
        """
        pattern = self._pattern
        if pattern is None:
            return await self._by_sdk(body)
        try:
            content = to_json(body, inf_nan_mode="constants")
        except ValueError:
            return await self._by_sdk(body)  # its error is the one that users know
        request = self._httpx.Request("POST", content=content, **pattern)
        try:
            response: Any = await self._http.send(request, stream=True)
        except self._httpx.TimeoutException as error:
            raise self._sdk.APITimeoutError(request=request) from error
        except Exception as error:
            raise self._sdk.APIConnectionError(request=request) from error
        if response.status_code > 299:  # noqa: PLR2004  # HTTP's own numbers read best as such
            raise await self._error(response)
        found: HTTPResponse = response
        return found

    async def close(self) -> None:
        """Close the client and its connections."""
        await self._client.close()

    async def _by_sdk(self, body: dict[str, Any]) -> HTTPResponse:
        response: Any = await self._client.post(
            self._url,
            body=body,
            cast_to=self._httpx.Response,
            stream=True,
            stream_cls=self._sdk.AsyncStream[object],
        )
        request = response.request
        if _ONCE not in request.headers:
            headers = [one for one in request.headers.multi_items() if one[0] not in _OWN]
            self._pattern = {
                "url": request.url,
                "headers": self._httpx.Headers(headers),
                "extensions": {k: v for k, v in request.extensions.items() if k == "timeout"},
            }
        found: HTTPResponse = response
        return found

    async def _error(self, response: Any) -> Exception:
        """Make the SDK's error for a status."""
        try:
            await response.aread()
        finally:
            await response.aclose()
        # There is no public way to it but a second request.
        error: Exception = self._client._make_status_error_from_response(response)  # noqa: SLF001
        return error


logger = logging.getLogger("langchain_resilient")


CONNECT_SECONDS = 5.0


_VITAL = frozenset({"messages", "model", "tools", "tool_choice", "response_format", "stream", "n"})


_UNASKED = frozenset({"stream_options"})


_TWIN = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}


_SECRET_HEADERS = ("auth", "key", "token", "secret", "cookie", "pass", "credential", "session")


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
        env = provider_entry(target.provider).base_url_env
        self._base_url = target.base_url or _from_environment(env)
        self._url = self._below(self._base_url) if self._base_url else self.public_url
        self._dropped: set[str] = set()
        self._short_ids = False
        self._ways = JSONModes((type(self), self._url, target.model))
        time_limits = target.time_limits
        self._connect_seconds = time_limits.connect if time_limits else CONNECT_SECONDS
        self._headers = {n: v.get_secret_value() for n, v in target.default_headers.items()}
        self._secrets = _secrets(self._key, self._headers)
        self._identity = (
            type(self), self._base_url, bool(target.base_url), self._key, target.organization,
            tuple(sorted(self._headers.items())), self._connect_seconds,
        )  # fmt: skip
        if self._base_url and any(len(secret) >= MIN_SECRET_LENGTH for secret in self._secrets):
            _warn_of_clear_text(self._base_url)

    async def open(self, request: ChatRequest, *, stream: bool) -> ChunkStream:
        """Send; see `langchain_resilient.exchange.Provider.open`."""
        sender = await client_for(self._identity, self._make_sender)
        plain = request.body(self._params)
        want = requested_json(plain)
        way = self._ways.first(want) if want else None
        while True:
            shaped = reshape(plain, want, way) if want and way else plain
            body = self._adapt(dict(shaped), stream=stream)
            if self._short_ids:
                body["messages"] = shorten_call_ids(body["messages"])
            try:
                response = await sender.post(body)
                answer = open_answer(response, stream=stream, secrets=self._secrets)
            except Exception as error:
                scrub(error, self._secrets)
                if refused := refused_parameters(error, body.keys() - _VITAL):
                    self._learn(refused)
                elif not self._short_ids and SHORT_ID_MODELS.search(
                    error_text(error, error_details(error))
                ):
                    self._short_ids = True
                elif not want or not way or not (way := self._ways.after(error, want, way)):
                    raise
            else:
                if want and way and way != want.asked:
                    return ConvertedStream(answer, want, way)
                return answer

    async def aclose(self) -> None:
        """Close the account's connections of the running loop; the next request opens new ones."""
        await close_client(self._identity)

    def prepare(self) -> None:
        """Import the SDK and read the root certificates now: slow and blocking, so in a thread."""
        _, httpx = self._libraries()
        tls_context(httpx)

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

    def _make_sender(self) -> RequestTemplate:
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
        return RequestTemplate(client, http, sdk, httpx, self._url)

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
