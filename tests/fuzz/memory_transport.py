"""A transport without sockets below both SDKs: it hands out answers, and counts who is open."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from langchain_resilient.providers import http

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from tests.fuzz.answers import Answer

SILENCE = 1e6
"""Seconds of a silence that does not end: every limit of the library is shorter."""


class Ledger:
    """What was opened, and what was not closed again.

    Attributes:
        opened: Bodies that were handed out.
        open: Of these, how many are not closed yet.
        answers: The answers to give, by the model that is asked for.
    """

    def __init__(self) -> None:
        self.opened = 0
        self.open = 0
        self.answers: dict[str, Answer] = {}


def _body(base: type, answer: Answer, ledger: Ledger, broken: Callable[[str], Exception]) -> Any:
    """Make a stream of the class that an httpx wants."""

    class Body(base):  # type: ignore[misc]
        def __init__(self) -> None:
            ledger.opened += 1
            ledger.open += 1
            self._closed = False

        async def __aiter__(self) -> AsyncIterator[bytes]:
            for number, piece in enumerate(answer.pieces):
                yield piece
                if not number % 16:
                    await asyncio.sleep(0)
            if answer.end == "broken":
                raise broken("the connection was reset")
            if answer.end == "silent":
                await asyncio.sleep(SILENCE)

        async def aclose(self) -> None:
            if not self._closed:
                self._closed = True
                ledger.open -= 1

    return Body()


def memory_transport(httpx: Any, ledger: Ledger) -> Any:
    """Make the transport for one of the two httpx."""

    class Transport(httpx.AsyncBaseTransport):  # type: ignore[misc]
        async def handle_async_request(self, request: Any) -> Any:
            answer = ledger.answers[request.url.host.partition(".")[0]]
            return httpx.Response(
                answer.status,
                headers=list(answer.headers),
                stream=_body(httpx.AsyncByteStream, answer, ledger, httpx.ReadError),
            )

    return Transport()


@contextmanager
def in_memory() -> Iterator[Ledger]:
    """Let both SDKs run without sockets, with everything else as it is."""
    ledger, real = Ledger(), http.http_client

    def client(sdk: Any, httpx: Any, timeout: Any, *, public: bool) -> Any:
        made = real(sdk, httpx, timeout, public=public)
        made._transport, made._mounts = memory_transport(httpx, ledger), {}
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("langchain_resilient.providers.sdk.http_client", client)
        yield ledger
