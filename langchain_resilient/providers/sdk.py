"""The base class of providers that use a vendor's SDK, and the clients that they share.

The SDK supplies the keys, the headers, the transport and the errors; the response is read by
`langchain_resilient.providers.sse`. That takes a third of the CPU time of the SDKs' own
`chat.completions.create()` (see `make bench`).
"""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from functools import cache
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote, urlsplit

from langchain_resilient import notices
from langchain_resilient.errors import InsecureConnectionWarning
from langchain_resilient.exchange import RequestForm, WrittenRequest
from langchain_resilient.providers import address_of, key_for, key_variable, organization_of
from langchain_resilient.providers.connection import (
    ConnectionSetupError,
    client_for,
    close_client,
    proxy_for,
    tls_context,
)
from langchain_resilient.providers.emulation import MAX_WORDS, merged_answers, stopped
from langchain_resilient.providers.errors import refused_fields, wants_reasoning
from langchain_resilient.providers.http import http_client
from langchain_resilient.providers.json_fallback import ConvertedStream, JSONFallback
from langchain_resilient.providers.keys import current_key, sendable
from langchain_resilient.providers.model_lists import (
    ListedModel,
    directory_for,
    fetch_list,
    fetch_list_async,
    refresh_in_background,
)
from langchain_resilient.providers.redaction import MIN_SECRET_LENGTH, redact_error
from langchain_resilient.providers.refusals import Refusals, without_refused_marks
from langchain_resilient.providers.request_template import RequestTemplate
from langchain_resilient.providers.sse import StoredResponse, open_answer
from langchain_resilient.wire.foreign_blocks import (
    ForeignMessages,
    express_foreign_blocks,
    tools_without_marks,
)
from langchain_resilient.wire.json_modes import requested_json, reshape
from langchain_resilient.wire.provider_state import FIELDS, give_back
from langchain_resilient.wire.tool_calls import RenamedCalls, rename_tools

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping
    from collections.abc import Set as AbstractSet

    from langchain_resilient.exchange import ChatRequest, ChunkStream
    from langchain_resilient.options import Target
    from langchain_resilient.providers.families import ModelFamily
    from langchain_resilient.providers.sse import HTTPResponse
    from langchain_resilient.wire.json_modes import JSONMode, RequestedJSON


CONNECT_SECONDS = 5.0
"""Seconds to wait for a connection, where the target has no limits of its own."""

_SECRET_HEADERS = ("auth", "key", "token", "secret", "cookie", "pass", "credential", "session")


class UnbatchableRequestError(ValueError):
    """A request that cannot be part of a batch; says why."""


# -- the provider ----------------------------------------------------------------------------------


class SDKProvider(ABC):
    """Base class of providers that send chat completions through a vendor's SDK client.

    A subclass sets `public_url` and `path` and implements three methods: `import_sdk`,
    `create_client` and `adapt_body`. The SDK must be one that Stainless generates, as those of
    OpenAI and Together are: the client has `post()` and takes an httpx client.

    What all such providers share is done here. What the API refuses is mended for the target from
    then on, with one warning (see `langchain_resilient.providers.refusals`); of the two names of
    the token limit, the other is tried first. JSON that the API does not give in the mode that was
    asked for is asked for in another (see `langchain_resilient.providers.json_fallback`). Clients
    are shared by all targets with the same address, key and headers, one per event loop. Secrets
    are taken out of errors.

    Args:
        target: The target to serve.

    Attributes:
        target: The same.
        base_url: The address from the target or the environment; None for the vendor's usual one.
        is_public: Whether the address is one of the vendor's own.
        organization: The organization or project, from the target or the environment.
        directory: What is known of the models that the account has there.

    Raises:
        ValueError: If the environment variable with the address holds no usable address.

    Example:
        ```python
        from langchain_resilient.providers import register
        from langchain_resilient.providers.sdk import SDKProvider


        @register("acme", api_key_env="ACME_API_KEY")
        class AcmeProvider(SDKProvider):
            public_url = "https://api.acme.example/v1/chat/completions"
            path = "/chat/completions"

            @staticmethod
            def import_sdk():
                import acme, httpx

                return acme, httpx

            def create_client(self, sdk, **settings):
                return sdk.AsyncAcme(**settings)

            def adapt_body(self, body, *, stream):
                body["model"] = self.target.model
                self.drop_parameters({"logit_bias"} & body.keys())
                if stream:
                    body["stream"] = True
                return body
        ```
    """

    public_url: ClassVar[str]
    """The full URL of chat completions at the vendor's public API."""
    path: ClassVar[str]
    """The path of chat completions below any other base URL."""
    required: ClassVar[frozenset[str]] = frozenset(
        {"messages", "model", "tools", "tool_choice", "response_format", "stream", "n",
         "previous_response_id", "conversation", "prompt"}
    )  # fmt: skip
    """Parameters that are never left out: the answer would be another one without them."""
    added: ClassVar[frozenset[str]] = frozenset({"stream_options", "stop"})
    """Parameters that the caller did not set, or that hold on our side: leaving them out needs no
    warning."""
    proxy_variable: ClassVar[str | None] = None
    """An environment variable with a proxy for this provider alone."""

    batch_endpoint: ClassVar[str | None] = None
    """The path by which its batches name this API; None if there are none."""

    family: ModelFamily | None = None
    """Watches the end of the model; None in the provider of one id of a family."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._params = target.sampling_params()
        self._token: Callable[[], Any] | None = None
        if callable(target.api_key):
            self._token = target.api_key
        self._key = None if self._token else key_for(target)
        address = address_of(target)
        self.base_url, self.is_public = address.url, address.public
        self.organization = organization_of(target)
        self._url = self.request_url()
        self._refused_state: set[str] = set()
        self._marks = self.takes_marks()
        self._wants_all_thoughts = False
        self._refusals = Refusals(target.name, self.added, self.drop_parameters)
        self._json_fallback = JSONFallback((type(self), self._url, target.model))
        time_limits = target.time_limits
        self._connect_seconds = time_limits.connect if time_limits else CONNECT_SECONDS
        self._headers = {n: v.get_secret_value() for n, v in target.default_headers.items()}
        self._secrets = _secrets(self._key, self._headers)
        self._client_key = (
            type(self), self.base_url, bool(target.base_url), self._key, self.organization,
            tuple(sorted(self._headers.items())), self._connect_seconds,
            tuple(sorted(self.query().items())), target.ca_certificates, target.client_certificate,
            id(target.http_async_client),
        )  # fmt: skip
        keep = target.base_url is None or self.is_public
        self.directory = directory_for(self.models_url(), self._key, keep=keep)
        if self.base_url and any(len(secret) >= MIN_SECRET_LENGTH for secret in self._secrets):
            _warn_unencrypted(self.base_url)

    # -- what a subclass implements --

    @staticmethod
    @abstractmethod
    def import_sdk() -> tuple[Any, Any]:
        """Import and return the SDK's module and the httpx (or httpx2) that it is built on.

        Imports take half a second, so a subclass does them here and not at the top of its file.
        """

    @abstractmethod
    def create_client(self, sdk: Any, **settings: Any) -> Any:
        """Create the SDK's asynchronous client.

        Args:
            sdk: The module that `import_sdk` returned.
            settings: Keyword arguments for the client: `api_key`, `base_url`, `default_headers`,
                `max_retries`, `timeout` and `http_client`.
        """

    @abstractmethod
    def adapt_body(self, body: dict[str, Any], *, stream: bool) -> dict[str, Any]:
        """Turn a request body into this API's dialect, in place.

        Args:
            body: The merged chat-completions body, without `model` and `stream`; it may be changed,
                but what it contains is shared with other attempts and may not.
            stream: Whether to ask for a stream.

        Returns:
            The body to send. Refused parameters are taken out afterwards.
        """

    def request_url(self) -> str:
        """Return the URL that requests are posted to."""
        return self.completions_url(self.base_url) if self.base_url else self.public_url

    def express(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Write blocks that chat completions have no form for as this API takes them.

        Raises:
            UnsupportedContentError: If it does not take one.
        """
        return express_foreign_blocks(
            messages, takes_urls=not self.is_public, takes_marks=self._marks
        )

    def takes_marks(self) -> bool:
        """Return whether to send `cache_control` marks, until they are refused."""
        return False

    def query(self) -> dict[str, str]:
        """Return the parameters of the query of each request's URL."""
        return dict(self.target.default_query or {})

    def token_headers(self, token: str) -> dict[str, str]:
        """Return the headers that carry a token of the moment."""
        return {"Authorization": f"Bearer {token}"}

    def completions_url(self, base_url: str) -> str:
        """Return the URL of chat completions below a base URL."""
        return base_url.rstrip("/") + self.path

    def models_url(self) -> str:
        """Return the URL of the list of models."""
        return self._url.removesuffix("/chat/completions") + "/models"

    def open_answer(self, response: HTTPResponse, *, stream: bool) -> ChunkStream:
        """Choose how to read a response."""
        return open_answer(response, stream=stream, secrets=self._secrets)

    # -- what it inherits --

    def open(self, request: ChatRequest, *, stream: bool) -> Coroutine[Any, Any, ChunkStream]:
        """Send the request; see `langchain_resilient.exchange.Provider.open`."""
        body = request.body(self._params)
        if request.foreign:
            body["messages"] = ForeignMessages(request.messages)
        return self.send(body, stream=stream)

    async def send(self, original: dict[str, Any], *, stream: bool) -> ChunkStream:
        """Send a chat-completions body, in this API's dialect.

        Args:
            original: The body without `model` and `stream`; it may be changed, but what it contains
                is shared with other attempts and may not.
            stream: Whether to ask for a stream.

        Raises:
            Exception: The SDK's own.
        """
        template = await client_for(self._client_key, self._create_template)
        headers = original.get("extra_headers")
        if headers is not None:
            original = {k: v for k, v in original.items() if k != "extra_headers"}
        original = self._expressed(original)
        if self._token is not None:
            headers = {**(headers or {}), **self.token_headers(await current_key(self._token))}
        requested, unmarked = requested_json(original), False
        mode = self._json_fallback.first(requested) if requested else None
        # Each refusal teaches something about the target, so the loop ends: there is only so much
        # to leave out of a request, and there are only so many modes to try.
        while True:
            if self._refusals.one_answer and (original.get("n") or 1) > 1:
                return await self._send_several(original, stream=stream)
            shaped = reshape(original, requested, mode) if requested and mode else original
            messages = self._give_back(shaped["messages"])
            outgoing = {**shaped, "messages": messages}
            renamed = rename_tools(outgoing) if outgoing.get("tools") else None
            body = self._to_send(outgoing, stream=stream)
            try:
                response = await template.post(body, headers)
                answer = self.open_answer(response, stream=stream)
            except Exception as error:
                redact_error(error, [*self._secrets, *_texts((headers or {}).values())])
                if (
                    template.moved(error)
                    or self._learn(error, body)
                    or self._learn_history(error, messages, shaped)
                ):
                    continue
                if (plain := without_refused_marks(error, original)) is not None:
                    original, unmarked = plain, True
                    continue
                mode = self._next_mode(error, requested, mode)
                if mode is None:
                    raise
            else:
                self._marks = self._marks and not unmarked
                return _as_asked(answer, requested, mode, renamed, original.get("stop"))

    def _expressed(self, body: dict[str, Any]) -> dict[str, Any]:
        """Write what chat completions have no form for as this API takes it, if it does."""
        if body["messages"].__class__ is ForeignMessages:
            body = {**body, "messages": self.express(body["messages"])}
        if not self._marks and body.get("tools"):
            body = {**body, "tools": tools_without_marks(body["tools"])}
        return body

    # -- for batches --

    def write(self, request: ChatRequest, form: RequestForm | None = None) -> WrittenRequest:
        """Write a request as `open` would send it; see `written`."""
        body = request.body(self._params)
        if request.foreign:
            body["messages"] = ForeignMessages(request.messages)
        return self.written(body, form)

    def written(self, original: dict[str, Any], form: RequestForm | None = None) -> WrittenRequest:
        """Write a body as `send` would, and say how to read the answer to it.

        Args:
            original: As for `send`.
            form: In which form it was written before; None to choose.

        Raises:
            UnbatchableRequestError: If it cannot be part of a batch; says why.
        """
        if self.batch_endpoint is None:
            raise UnbatchableRequestError(f"{self.target.name} has no batches")
        for name in ("extra_headers", "extra_query"):
            if original.get(name):
                raise UnbatchableRequestError(f"{name} cannot be part of a batch")
        if self._refusals.one_answer and (original.get("n") or 1) > 1:
            raise UnbatchableRequestError(f"{self.target.name} gives one answer a request")
        original = self._expressed(original)
        requested = requested_json(original)
        mode: Any = None
        if requested is not None:
            mode = form.json_mode if form is not None else self._json_fallback.first(requested)
        shaped = reshape(original, requested, mode) if requested and mode else original
        outgoing = {**shaped, "messages": self._give_back(shaped["messages"])}
        renamed = rename_tools(outgoing) if outgoing.get("tools") else None
        body = self._to_send(outgoing, stream=False)

        def read(data: bytes) -> ChunkStream:
            answer = self.open_answer(StoredResponse(data), stream=False)
            return _as_asked(answer, requested, mode, renamed, original.get("stop"))

        return WrittenRequest(RequestForm(self.batch_endpoint, mode), body, read)

    async def sdk_client(self, seconds: float) -> tuple[Any, Any]:
        """Return the SDK's client, and the HTTP client beneath it, for other requests than chats.

        Args:
            seconds: The longest wait for each piece of a response.
        """
        template = await client_for(self._client_key, self._create_template)
        more: dict[str, Any] = {"timeout": seconds}
        if self._token is not None:
            more["default_headers"] = self.token_headers(await current_key(self._token))
        return template.client.with_options(**more), template.http

    def redact(self, error: BaseException) -> None:
        """Take secrets out of an error of the SDK."""
        redact_error(error, self._secrets)

    def _next_mode(
        self, error: Exception, requested: RequestedJSON | None, mode: JSONMode | None
    ) -> JSONMode | None:
        """Choose how to ask for JSON after a refusal; None if the error is about something else."""
        if requested is None or mode is None:
            return None
        return self._json_fallback.next_after(error, requested, mode)

    def _learn(self, error: Exception, body: Mapping[str, Any]) -> bool:
        """Learn from a refusal what to leave out or to write otherwise; whether there was any."""
        return self._refusals.learn(error, body, self.required)

    async def aclose(self) -> None:
        """Close the account's connections of the running loop; the next request opens new ones."""
        await close_client(self._client_key)

    def prepare(self) -> None:
        """Import the SDK and read the root certificates now.

        Both are slow and block, so call this in a thread.
        """
        _, httpx = self.import_sdk()
        with contextlib.suppress(ConnectionSetupError):  # the target's own fault, once it is asked
            tls_context(httpx)

    async def connect(self) -> None:
        """Open a connection that the next request finds, or use one so that it stays open.

        A small question about the model does that, which costs nothing; what is answered does not
        matter.

        Raises:
            Exception: The transport's, if the server cannot be reached.
        """
        template = await client_for(self._client_key, self._create_template)
        url = f"{self.models_url()}/{quote(self.target.model, safe='')}"
        try:
            async with asyncio.timeout(self._connect_seconds or CONNECT_SECONDS):
                await template.connect(url, self._list_headers())
        except Exception as error:
            redact_error(error, self._secrets)
            raise

    def fetch_models(self) -> list[ListedModel]:
        """Ask for the provider's list of models. Blocks: call it in a thread.

        Raises:
            Exception: The transport's, or a ValueError for what is no list.
        """
        _, httpx = self.import_sdk()
        url = self.models_url()
        try:
            proxy = proxy_for(url, self.proxy_variable)
            return fetch_list(httpx, url, self._list_headers(), proxy.url if proxy else None)
        except Exception as error:
            redact_error(error, self._secrets)
            raise

    async def fetch_models_async(self) -> list[ListedModel]:
        """Do the same over the connections of the running loop."""
        template = await client_for(self._client_key, self._create_template)
        return await fetch_list_async(template.http, self.models_url(), self._list_headers())

    def refresh_models(self) -> None:
        """Ask for the list now, and remember it. Blocks, and raises what `fetch_models` does."""
        self.directory.record_list(self.fetch_models())

    def _list_headers(self) -> dict[str, str]:
        key = self._sendable_key()
        return {**({"authorization": f"Bearer {key}"} if key else {}), **self._headers}

    def _sendable_key(self) -> str | None:
        """Return the key, if there is one.

        Raises:
            UnusableKeyError: If no header can hold it.
        """
        if self._key is None:
            return None
        variable = key_variable(self.target) if self.target.api_key is None else None
        return sendable(self._key, f"the key in {variable}" if variable else "its api_key")

    def _watch_models(self) -> None:
        """Have the list of models asked for, beside the first answer of the vendor's own server."""
        if self._token is None and (self.target.base_url is None or self.is_public):
            refresh_in_background(self.directory, self.fetch_models)

    def drop_parameters(self, names: AbstractSet[str]) -> None:
        """Leave parameters out of all later requests to this target, and warn once about each."""
        self._refusals.drop(names)

    def _give_back(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Put in what this target wants back of its own answers, as far as it takes it."""
        if len(messages) < 3:  # noqa: PLR2004  # there is no answer among them
            return messages
        return give_back(
            messages, self.target.name, self._refused_state, all_thoughts=self._wants_all_thoughts
        )

    def _learn_history(
        self, error: Exception, sent: list[dict[str, Any]], shaped: Mapping[str, Any]
    ) -> bool:
        """Learn from an error how a target wants its own answers; False if there is no news."""
        wants, plain = wants_reasoning(error), shaped["messages"]
        if wants and not self._wants_all_thoughts:
            self._wants_all_thoughts = True
            return self._give_back(plain) != sent
        refused = set() if wants or sent is plain else refused_fields(error, FIELDS)
        news = refused - self._refused_state
        self._refused_state |= news
        return bool(news)

    def _to_send(self, body: dict[str, Any], *, stream: bool) -> dict[str, Any]:
        """Adapt a body to the API and to what the target's refusals have taught."""
        body = self.adapt_body(body, stream=stream)
        if "stop" in body and not isinstance(body["stop"], str):
            body["stop"] = body["stop"][:MAX_WORDS]
        if "extra_body" in body:
            body.update(body.pop("extra_body") or {})
        if self._refusals.learned:
            self._refusals.mend(body)
        return body

    async def _send_several(self, body: dict[str, Any], *, stream: bool) -> ChunkStream:
        """Ask a target that gives one answer a request for each of several."""
        once = {**body, "n": 1}
        return await merged_answers(self.send(dict(once), stream=stream) for _ in range(body["n"]))

    def _create_template(self) -> RequestTemplate:
        sdk, httpx = self.import_sdk()
        timeout = httpx.Timeout(None, connect=self._connect_seconds)
        headers = self._headers
        own = self.target.http_async_client
        http = (
            http_client(
                sdk,
                httpx,
                timeout,
                url=self._url,
                proxy_variable=self.proxy_variable,
                certificates=(self.target.ca_certificates, self.target.client_certificate),
            )
            if own is None
            else _own_client(own, httpx)
        )
        client = self.create_client(
            sdk,
            # Many compatible servers need no key, but the SDKs insist on one.
            api_key=self._sendable_key() or "none",
            base_url=self.base_url,
            default_headers=headers or None,
            default_query=self.query() or None,
            max_retries=0,
            timeout=timeout,
            http_client=http,
        )
        if self.target.base_url:
            # The SDKs add the environment's headers (OPENAI_CUSTOM_HEADERS), which may hold a key.
            client._custom_headers = dict(headers)  # noqa: SLF001  # there is no public way
        changing = frozenset(self.token_headers("")) if self._token else frozenset[str]()
        return RequestTemplate(
            client, http, sdk, httpx, self._url, changing=changing, on_first=self._watch_models,
            owned=own is None or callable(own),
        )  # fmt: skip


def _as_asked(
    answer: ChunkStream,
    requested: RequestedJSON | None,
    mode: JSONMode | None,
    renamed: dict[str, str] | None,
    stop: Any,
) -> ChunkStream:
    """Convert an answer to what the caller asked for, where something else was asked."""
    if stop:
        answer = stopped(answer, stop)
    if renamed is not None:
        answer = RenamedCalls(answer, renamed)
    if requested is not None and mode is not None and mode != requested.original_mode:
        answer = ConvertedStream(answer, requested, mode)
    return answer


def _own_client(given: Any, httpx: Any) -> Any:
    """Give the caller's HTTP client, or make it.

    Raises:
        ConnectionSetupError: If it is not one that the SDK can send with.
    """
    client = given() if callable(given) else given
    if not isinstance(client, httpx.AsyncClient):
        kind = f"{type(client).__module__.partition('.')[0]}.{type(client).__name__}"
        msg = f"http_async_client must be an {httpx.__name__}.AsyncClient here, not {kind}"
        raise ConnectionSetupError(msg)
    return client


@cache
def _warn_unencrypted(url: str) -> None:
    """Warn, once per process and URL, that a key is sent where others can read it."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme == "http" and not _is_loopback(host):
        msg = f"a key is sent to {host} without encryption: use https:// in its base_url"
        notices.warn(msg, InsecureConnectionWarning)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")  # RFC 6761, 6.3


def _secrets(key: str | None, headers: Mapping[str, str]) -> list[str]:
    """List the texts that no error may repeat: secret headers, with and without their scheme."""
    secrets = _texts(
        value
        for name, value in headers.items()
        if any(word in name.lower() for word in _SECRET_HEADERS)
    )
    return [*secrets, key] if key else secrets


def _texts(values: Iterable[str]) -> list[str]:
    """List values of headers, with and without their scheme."""
    return [text for value in values for text in (value, *value.split()[1:])]
