"""What a response may do to this process: how it is encoded, and how long a refusal may be.

Both SDKs read the body of an error to its end, whatever its size, and httpx decompresses a piece of
a body at once, whatever comes of it: 16 KB that were compressed twice can be 16 GB. A hook on the
HTTP client sees every response before anybody reads it. What is neither an error nor compressed
passes as it is, and costs nothing.
"""

from __future__ import annotations

import asyncio
import functools
import zlib
from typing import TYPE_CHECKING, Any

from langchain_resilient.providers.faults import AnswerError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

ACCEPTED = "gzip, deflate"
"""What is asked for as `Accept-Encoding`; the standard library can stop in the midst of both."""

MAX_ERROR_BYTES = 256 * 1024
"""So much of an error's body is read: its status has told what to believe."""

ERROR_SECONDS = 2.0
"""The longest wait for the next piece of an error's body."""

_ERROR = 300
"""From this status on the SDKs raise."""

_STEP = 64 * 1024
_KNOWN = {"gzip": 31, "x-gzip": 31, "deflate": 15, "br": 0, "zstd": 0, "compress": 0}
"""Content codings and their `wbits`; 0 for those that nobody asked for."""


def guard(httpx: Any) -> Callable[[Any], Awaitable[None]]:
    """Make a hook for the responses of one HTTP client.

    Args:
        httpx: The httpx that the client is of: `httpx2` or `httpx`.

    Example:
        ```python
        httpx.AsyncClient(event_hooks={"response": [guard(httpx)]})
        ```
    """
    guarded = _stream_class(httpx.AsyncByteStream)

    async def look(response: Any) -> None:
        coding, status = response.headers.get("content-encoding"), response.status_code
        if coding or status >= _ERROR:
            response.stream = guarded(response.stream, coding or "", status)
            if coding:
                del response.headers["content-encoding"]
        if status >= _ERROR:
            # There are charsets whose decoders raise, and then nobody learns of the status.
            response.encoding = "utf-8"

    return look


@functools.cache
def _stream_class(base: type) -> Any:
    """Make the stream that one of the two httpx takes for its own."""
    return type("Guarded", (_Guarded, base), {})


class _Guarded:
    """A body, decompressed in small steps; of an error only the beginning.

    Args:
        source: What the transport gave; this owns it now.
        coding: The `Content-Encoding`.
        status: The HTTP status.
    """

    def __init__(self, source: Any, coding: str, status: int) -> None:
        self._source = source
        self._coding = coding
        self._status = status

    async def __aiter__(self) -> AsyncIterator[bytes]:
        pieces = self._error() if self._status >= _ERROR else self._decoded()
        try:
            async for piece in pieces:
                yield piece
        except BaseException:
            # Together's SDK leaves a response open whose body cannot be read.
            await self._source.aclose()
            raise

    async def aclose(self) -> None:
        """Free the connection."""
        await self._source.aclose()

    async def _error(self) -> AsyncIterator[bytes]:
        """Give what can be had of an error's body: its status and headers tell more."""
        size, pieces = 0, self._decoded()
        while size < MAX_ERROR_BYTES:
            try:
                async with asyncio.timeout(ERROR_SECONDS):
                    piece = await anext(pieces, None)
            except Exception:  # noqa: BLE001  # whatever breaks it off
                return
            if piece is None:
                return
            size += len(piece)
            yield piece

    async def _decoded(self) -> AsyncIterator[bytes]:
        decoder, surplus = self._decoder(), 0
        async for data in self._source:
            if decoder is None:
                yield data
            elif decoder.eof:
                # A connection that was read to its end serves again; but not for ever.
                surplus += len(data)
                if surplus > _STEP:
                    return
            else:
                for piece in self._decompressed(decoder, data):
                    yield piece

    def _decoder(self) -> Any:
        """Make the decompressor; None where the body is as it is.

        Raises:
            AnswerError: If it is encoded in a way, or in ways, that nobody asked for.
        """
        names = [name.strip().lower() for name in self._coding.split(",")]
        known = [name for name in names if name in _KNOWN]  # others stand there by mistake
        if not known:
            return None
        if len(known) > 1 or not _KNOWN[known[0]]:
            message = f"the answer is encoded as {self._coding[:60]!r}, not as {ACCEPTED}"
            raise AnswerError(message, status_code=self._status)
        return zlib.decompressobj(_KNOWN[known[0]])

    def _decompressed(self, decoder: Any, data: bytes) -> Iterator[bytes]:
        piece = b" " * _STEP
        while (data or len(piece) == _STEP) and not decoder.eof:
            try:
                piece = decoder.decompress(data, _STEP)
            except zlib.error as error:
                message = f"the answer is not encoded as {self._coding[:60]!r}: {error}"
                raise AnswerError(message, status_code=self._status) from None
            data = decoder.unconsumed_tail
            if piece:
                yield piece
