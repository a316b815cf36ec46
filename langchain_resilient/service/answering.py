"""From a request to its answer: who may come in, how many at a time, and clients that leave."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import aclosing
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from langchain_core.callbacks import AsyncCallbackManager
from langchain_core.globals import get_llm_cache
from pydantic_core import from_json

from langchain_resilient.configuration import chain_of
from langchain_resilient.runtime.call import RECEIPTS
from langchain_resilient.service.calls import as_document
from langchain_resilient.service.config import is_loopback
from langchain_resilient.service.failures import BadRequestError, Failure, failure_of
from langchain_resilient.wire.provider_state import RECEIPT_KEY

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from typing import Self

    from langchain_core.messages import AIMessage, AIMessageChunk

    from langchain_resilient.chat_model import ResilientChatModel
    from langchain_resilient.service.calls import API, Call, StreamWriter
    from langchain_resilient.service.config import ServiceConfig
    from langchain_resilient.service.metrics import Metrics

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

logger = logging.getLogger("langchain_resilient.service")

_UNWATCHED_SECONDS = 0.05
"""How long nobody looks whether a client is slow, or still there."""

_COMMENT = b": still working\n\n"
_EVENT_HEADERS: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx would hold the events back
]


class ClientGoneError(Exception):
    """The client has closed its connection; there is nobody to answer."""


class Door:
    """Lets in whoever has a key, and never a web page that a browser on this machine shows.

    Args:
        config: The keys.
    """

    def __init__(self, config: ServiceConfig) -> None:
        self._keys = [key.get_secret_value().encode() for key in config.client_keys]
        self._open = config.open_to_all
        self._longest = config.max_header_bytes

    def check(self, scope: Scope) -> dict[bytes, bytes]:
        """Refuse whoever may not come in; gives the headers of whoever may.

        Raises:
            BadRequestError: With the status that says why.
        """
        headers = dict(scope["headers"])
        # Servers look only at heads that come in several pieces.
        if sum([len(name) + len(value) for name, value in scope["headers"]]) > self._longest:
            raise BadRequestError("the head is too long", status=431)
        if self._keys:
            scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
            # Each is compared, so that the time tells nothing.
            fits = [hmac.compare_digest(given.strip(), key) for key in self._keys]
            if not (any(fits) and scheme.lower() == b"bearer"):
                raise BadRequestError("Incorrect API key provided", None, "invalid_api_key", 401)
        elif not self._open and not _is_local(headers.get(b"host", b"")):
            # DNS that is rebound to this machine: the page's own name stands there.
            raise BadRequestError("this service is for its own machine alone", status=403)
        return headers


@lru_cache(maxsize=64)
def _is_local(header: bytes) -> bool:
    host = header.decode("latin-1")
    return is_loopback(host if host.endswith("]") else host.rpartition(":")[0] or host)


class Names:
    """What the names of models in requests stand for: the chain, or targets of it.

    Args:
        llm: The model.
        config: The name of the chain, and what unknown names get.

    Attributes:
        known: All of them.
    """

    def __init__(self, llm: ResilientChatModel, config: ServiceConfig) -> None:
        usable = {target.name for target in llm.stats().targets}
        self._chain = config.name
        self._lenient = config.unknown_models == "chain"
        self._models = {t.name: t.model for t in chain_of(llm) if t.name in usable}
        self.known = list(dict.fromkeys([config.name, *self._models, *self._models.values()]))

    def find(self, wanted: str) -> str | list[str] | None:
        """Find a target, the targets with a model's id, or the chain (None).

        Raises:
            BadRequestError: If a name stands for nothing.
        """
        if wanted == self._chain:
            return None
        if wanted in self._models:
            return wanted
        if named := [name for name, model in self._models.items() if model == wanted]:
            return named
        if self._lenient:
            return None
        msg = f"The model {wanted[:200]!r} does not exist here; /v1/models lists those that do"
        raise BadRequestError(msg, "model", "model_not_found", 404)


class BusyError(Exception):
    """As many requests as may are answered and wait already."""


class Queue:
    """Lets so many requests be answered at a time; others wait for their turn or are turned away.

    Args:
        config: The bounds.
        metrics: Where it is counted.
    """

    def __init__(self, config: ServiceConfig, metrics: Metrics) -> None:
        self._turns = asyncio.Semaphore(config.max_in_flight)
        self._bounds = config
        self._waiting = 0
        self._metrics = metrics

    async def __aenter__(self) -> None:
        if self._turns.locked():
            await self._wait()
        else:
            await self._turns.acquire()
        self._metrics.in_flight += 1

    async def _wait(self) -> None:
        if self._waiting >= self._bounds.max_waiting:
            raise BusyError
        self._waiting += 1
        self._metrics.waiting += 1
        try:
            async with asyncio.timeout(self._bounds.max_wait):
                await self._turns.acquire()
        except TimeoutError:
            raise BusyError from None
        finally:
            self._waiting -= 1
            self._metrics.waiting -= 1

    async def __aexit__(self, *exc_info: object) -> None:
        self._turns.release()
        self._metrics.in_flight -= 1


class Reply:
    """The response to one request, as an ASGI server takes it.

    Args:
        send: The server's.

    Attributes:
        status: The status that was sent; 0 before.
        done: Whether nothing is left to send.
        sent_at: When something was last sent, on the loop's clock.
        commenting: The task that sends a comment, while it does.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._loop = asyncio.get_running_loop()
        self.status = 0
        self.done = False
        self.sent_at = self._loop.time()
        self.commenting: asyncio.Task[None] | None = None

    async def document(self, status: int, body: dict[str, Any], headers: Headers) -> None:
        """Send a whole JSON response."""
        content = as_document(body)
        self.status, self.done = status, True
        head = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(content)).encode()),
            *headers,
        ]
        await self._send({"type": "http.response.start", "status": status, "headers": head})
        await self._send({"type": "http.response.body", "body": content})

    async def event(self, data: bytes, *, last: bool = False) -> None:
        """Send events, and the head before the first; waits for a client that reads slowly."""
        if self.commenting is not None:
            await self.commenting
        await self._event(data, last=last)

    async def comment(self) -> None:
        """Send a comment, which clients skip; too late if the answer has ended meanwhile."""
        if not self.done:
            await self._event(_COMMENT)
        self.commenting = None

    async def _event(self, data: bytes, *, last: bool = False) -> None:
        if not self.status:
            self.status = 200
            head = {"type": "http.response.start", "status": 200, "headers": _EVENT_HEADERS}
            await self._send(head)
        self.done = last
        self.sent_at = self._loop.time()
        await self._send({"type": "http.response.body", "body": data, "more_body": not last})


class Asker:
    """Asks the model; past LangChain's callbacks, cache and rate limiter where there are none.

    They take a quarter of a call's time.

    Args:
        llm: The model.
    """

    def __init__(self, llm: ResilientChatModel) -> None:
        self._llm = llm
        found = AsyncCallbackManager.configure(llm.callbacks, verbose=llm.verbose)
        self._direct = not (found.handlers or llm.cache or llm.rate_limiter or llm.output_version)

    async def answers(self, call: Call) -> list[AIMessage]:
        """Get whole answers."""
        RECEIPTS.set(call.receipts)
        result: Any
        if self._direct and (self._llm.cache is False or get_llm_cache() is None):
            result = await self._llm._agenerate(call.messages, **call.params)  # noqa: SLF001  # LangChain's own seam
            generations = result.generations
        else:
            result = await self._llm.agenerate([call.messages], **call.params)
            generations = result.generations[0]
        return [generation.message for generation in generations]

    async def chunks(self, call: Call) -> AsyncGenerator[AIMessageChunk, None]:
        """Get the pieces of an answer."""
        RECEIPTS.set(call.receipts)
        answer: Any
        if self._direct:
            answer = self._llm._astream(call.messages, **call.params)  # noqa: SLF001  # as above
            async with aclosing(answer) as chunks:
                async for chunk in chunks:
                    yield chunk.message
        else:
            answer = self._llm.astream(call.messages, **call.params)
            async with aclosing(answer) as chunks:
                async for chunk in chunks:
                    yield chunk


class Service:
    """What all endpoints share.

    Args:
        llm: The model.
        config: How it is served.
        metrics: Where it is counted.
    """

    def __init__(self, llm: ResilientChatModel, config: ServiceConfig, metrics: Metrics) -> None:
        self.asker = Asker(llm)
        self.config = config
        self.metrics = metrics
        self.door = Door(config)
        self.names = Names(llm, config)
        self.queue = Queue(config, metrics)
        # A chunk that replaces what came before has no place in OpenAI's streams.
        self.overrides = {"on_break": "continue"} if llm.on_break == "replace" else {}


class Endpoint:
    """Answers the requests of one API.

    Args:
        api: Which.
        path: Its path, for the metrics.
        service: What it shares with the others.
    """

    def __init__(self, api: API, path: str, service: Service) -> None:
        self._api = api
        self._path = path
        self._service = service
        self._asker = service.asker
        self._config = service.config

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        began = time.perf_counter()
        reply = Reply(send)
        try:
            headers = self._service.door.check(scope)
            _check_type(headers)
            async with self._service.queue:
                await self._answer(headers, receive, reply)
        except ClientGoneError:
            reply.status = 499
        except BusyError:
            failure = Failure(
                503, "too many requests are under way", "server_error", "overloaded",
                retry_after=1, retry=True,
            )  # fmt: skip
            await self._fail(reply, failure)
        except Exception as error:  # noqa: BLE001  # `failure_of` logs what nobody expected
            await self._fail(reply, failure_of(error))
        finally:
            seconds = time.perf_counter() - began
            self._service.metrics.on_response(self._path, reply.status, seconds)

    async def _fail(self, reply: Reply, failure: Failure) -> None:
        if not reply.status:
            body = {"error": failure.as_dict()}
            await reply.document(failure.status, body, failure.headers())

    async def _answer(self, headers: dict[bytes, bytes], receive: Receive, reply: Reply) -> None:
        with _Watch(receive, reply, self._config.body_timeout) as watch:
            body = await read_body(headers, receive, self._config.max_body_bytes)
            watch.body_came()
            call = self._api.read(_parsed(body))
            target = self._service.names.find(call.model)
            if target is not None:
                call.params["model"] = target
            call.params.update(self._service.overrides)
            await (self._stream if call.stream else self._whole)(call, reply)

    async def _whole(self, call: Call, reply: Reply) -> None:
        messages = await self._asker.answers(call)
        document = self._api.document(call, messages)
        receipt = messages[0].response_metadata.get(RECEIPT_KEY) or {}
        if self._config.receipts:
            document["resilience"] = receipt
        await reply.document(200, document, [(b"x-resilient-target", _header(receipt))])

    async def _stream(self, call: Call, reply: Reply) -> None:
        writer = self._api.writer(call)
        send = self._several if call.answers > 1 else self._in_pieces
        try:
            with _Comments(reply, self._config.comment_interval):
                receipt = await send(call, writer, reply)
        except Exception as error:
            if not reply.status:
                raise
            await reply.event(writer.failure(failure_of(error)), last=True)
        else:
            await reply.event(writer.end(receipt if self._config.receipts else None), last=True)

    async def _in_pieces(self, call: Call, writer: StreamWriter, reply: Reply) -> Any:
        receipt = None
        async with aclosing(self._asker.chunks(call)) as chunks:
            async for chunk in chunks:
                receipt = chunk.response_metadata.get(RECEIPT_KEY, receipt)
                if data := writer.add(chunk):
                    await reply.event(data)
        return receipt

    async def _several(self, call: Call, writer: StreamWriter, reply: Reply) -> Any:
        """Send several answers as a stream: no model streams more than one here."""
        messages = await self._asker.answers(call)
        await reply.event(writer.whole(messages))
        return messages[0].response_metadata.get(RECEIPT_KEY)


def _check_type(headers: dict[bytes, bytes]) -> None:
    """Refuse what a browser would send for a foreign page without asking first."""
    given = headers.get(b"content-type", b"")
    if given.partition(b";")[0].strip().lower() != b"application/json":
        raise BadRequestError("the body must be JSON: content-type: application/json", status=415)


async def read_body(headers: dict[bytes, bytes], receive: Receive, longest: int) -> bytes:
    """Read the body of a request, as far as it may be long.

    Raises:
        BadRequestError: If it is too long.
        ClientGoneError: If the client leaves.
    """
    length = headers.get(b"content-length", b"0")
    if length.isdigit() and int(length) > longest:
        raise _too_long(longest)
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        body += message.get("body", b"")
        if len(body) > longest:
            raise _too_long(longest)
        if not message.get("more_body"):
            return bytes(body)


def _too_long(longest: int) -> BadRequestError:
    message = f"the body is longer than {longest} bytes"
    return BadRequestError(message, None, "body_too_large", 413)


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        parsed = from_json(body)
    except ValueError as error:
        raise BadRequestError(f"the body is not JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise BadRequestError("the body must be a JSON object")
    return parsed


class _Watch:
    """Cancels what is done for a client that does not send its body in time, or that leaves.

    It begins to look after a moment: most bodies have come and most short answers have been sent by
    then, and a task that watches costs as much as to write one.

    Args:
        receive: The server's.
        reply: The response; once that is done, nobody is missed.
        body_timeout: Seconds that the body may take.

    Raises:
        BadRequestError: If it took longer.
        ClientGoneError: If the client has left.
    """

    __slots__ = (
        "_body_timeout",
        "_ended",
        "_has_body",
        "_late",
        "_receive",
        "_reply",
        "_task",
        "_timer",
        "_waiting",
    )

    def __init__(self, receive: Receive, reply: Reply, body_timeout: float) -> None:
        self._receive = receive
        self._reply = reply
        self._body_timeout = body_timeout
        self._has_body = self._late = False
        self._ended: Exception | None = None
        self._waiting: asyncio.Task[None] | None = None

    def __enter__(self) -> Self:
        self._task = asyncio.current_task()
        self._timer = asyncio.get_running_loop().call_later(_UNWATCHED_SECONDS, self._begin)
        return self

    def body_came(self) -> None:
        """From now on the client may only leave."""
        self._has_body = True
        if self._late:
            self._timer.cancel()
            self._begin()

    def _begin(self) -> None:
        if self._has_body:
            self._waiting = asyncio.create_task(self._wait())
            return
        self._late = True
        left = self._body_timeout - _UNWATCHED_SECONDS
        error = BadRequestError("the body came too slowly", None, "timeout", 408)
        self._timer = asyncio.get_running_loop().call_later(max(0, left), self._end, error)

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if not self._reply.done:
            self._end(ClientGoneError())

    def _end(self, error: Exception) -> None:
        if self._task is not None and self._ended is None:
            self._ended = error
            self._task.cancel()

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        self._timer.cancel()
        if self._waiting is not None:
            self._waiting.cancel()
        # Tasks keep the error that ended them, which refers to its frames: no circle through us.
        task, self._task, self._waiting = self._task, None, None
        # Whoever else has cancelled it, such as the server at its end, is heard.
        if self._ended is None or not isinstance(error, asyncio.CancelledError):
            return
        if task is not None and not task.uncancel():
            raise self._ended from None


class _Comments:
    """Sends comments while nothing else is sent for so many seconds.

    Args:
        reply: The stream.
        interval: Seconds; None for no comments.
    """

    __slots__ = ("_interval", "_loop", "_reply", "_timer")

    def __init__(self, reply: Reply, interval: float | None) -> None:
        self._reply = reply
        self._interval = interval
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        if self._interval is not None:
            self._timer = self._loop.call_later(self._interval, self._due, self._interval)

    def _due(self, interval: float) -> None:
        left = self._reply.sent_at + interval - self._loop.time()
        if left <= 0 and self._reply.commenting is None:
            self._reply.commenting = self._loop.create_task(self._reply.comment())
        self._timer = self._loop.call_later(left if left > 0 else interval, self._due, interval)

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _header(receipt: dict[str, Any]) -> bytes:
    return str(receipt.get("winner") or "").encode("ascii", "replace").replace(b"\n", b" ")
