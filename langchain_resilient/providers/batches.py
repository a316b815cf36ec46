"""Files and batches of a provider, through its official SDK.

Limits and words are those of the providers' documentation: OpenAI's guide to batches, and
docs.together.ai/docs/inference/batch, as of November 2026.
"""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from langchain_resilient.exchange import BatchState, BatchStatus
from langchain_resilient.faults import Fault, FaultKind
from langchain_resilient.providers.error_details import error_details, error_status
from langchain_resilient.providers.errors import classify
from langchain_resilient.providers.openai import OpenAIProvider
from langchain_resilient.providers.sdk import SDKProvider
from langchain_resilient.providers.together import TogetherProvider

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator
    from pathlib import Path

REQUEST_SECONDS = 60.0
"""The longest wait for an answer about a file or a batch."""

TRANSFER_SECONDS = 1800.0
"""The longest time for a file to go up or down."""

_MIB = 1024 * 1024

_TAG = "langchain_resilient"
"""The name of our note on a batch at OpenAI."""

_MAX_LISTED = 1000
"""Batches that are looked through for one of ours: it is among the newest."""

_REDIRECTS = (301, 302, 303, 307, 308)

_REFUSED = range(400, 500)
_NOT_REFUSED = frozenset({408, 409, 425, 429})
"""Statuses of these that say nothing about the request, or that it was done already."""


class ResultLine(NamedTuple):
    """One line of a file of results.

    Attributes:
        custom_id: Whose it is.
        body: The body of the answer; None for an error.
        fault: What went wrong.
    """

    custom_id: str
    body: bytes | None
    fault: Fault | None = None


class BatchRequestError(Exception):
    """A request about a file or a batch failed.

    Attributes:
        refused: Whether the provider has said no, so that nothing was done, and asking again is no
            use. Else it may have been done although no answer came.
        missing: Whether there is no such thing, or this key may not see it.
        status: The HTTP status; None without one.
        retry_after: Seconds after which to ask again; None where the provider does not say.
    """

    def __init__(
        self, message: str, *, status: int | None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.refused = status in _REFUSED and status not in _NOT_REFUSED
        self.missing = status in (401, 403, 404)
        self.retry_after = retry_after


class ProviderBatches(ABC):
    """The files and batches of one account.

    Args:
        provider: Whose SDK, address and key are used.

    Attributes:
        max_requests: The most requests of one batch.
        max_bytes: The most bytes of its file.
        takes_notes: Whether a batch says whose it is; else its file does.
        lines_say_where: Whether each request says which API it is for; else its batch does.
    """

    max_requests: ClassVar[int] = 50_000
    max_bytes: ClassVar[int]
    takes_notes: ClassVar[bool]
    lines_say_where: ClassVar[bool]

    def __init__(self, provider: SDKProvider) -> None:
        self._provider = provider

    def line(self, custom_id: str, endpoint: str, body: dict[str, Any]) -> dict[str, Any]:
        """Make the line of one request."""
        where = {"method": "POST", "url": endpoint} if self.lines_say_where else {}
        return {"custom_id": custom_id, **where, "body": body}

    async def upload(self, path: Path) -> str:
        """Upload a file of requests; returns its id.

        Raises:
            BatchRequestError: If it failed; it may have arrived all the same.
        """
        async with _asking(self._provider, TRANSFER_SECONDS) as client:
            return await self._upload(client, path)

    async def find_file(self, name: str) -> str | None:
        """Find the id of a file by the name that we gave it; None if it is not there."""
        async with _asking(self._provider, REQUEST_SECONDS) as client:
            return await self._find_file(client, name)

    async def create(self, file: str, endpoint: str, tag: str) -> BatchState:
        """Create a batch.

        Raises:
            BatchRequestError: If it failed; unless it was `refused`, look for it with `find`.
        """
        async with _asking(self._provider, REQUEST_SECONDS) as client:
            return await self._create(client, file, endpoint, tag)

    async def find(self, file: str, tag: str) -> BatchState | None:
        """Find a batch of ours that was created and has not failed; None if there is none."""
        async with _asking(self._provider, REQUEST_SECONDS) as client:
            async for state in self._list(client):
                ours = state.tag == tag if self.takes_notes else state.input_file == file
                if ours and state.status != "failed":
                    return state
        return None

    async def retrieve(self, batch: str) -> BatchState:
        """Ask how a batch is."""
        async with _asking(self._provider, REQUEST_SECONDS) as client:
            return self._state(await client.batches.retrieve(batch))

    async def cancel(self, batch: str) -> None:
        """Cancel a batch; what is done of it will be there."""
        async with _asking(self._provider, REQUEST_SECONDS) as client:
            await client.batches.cancel(batch)

    async def download(self, file: str, path: Path) -> None:
        """Write the content of a file to disk, piece by piece."""
        async with _asking(self._provider, TRANSFER_SECONDS) as client:
            try:
                async with client.files.with_streaming_response.content(file) as response:
                    await _store(response.iter_bytes(), path)
            except Exception as error:
                response = getattr(error, "response", None)
                if getattr(response, "status_code", None) not in _REDIRECTS:
                    raise
                # To a store of files: the key stays here.
                _, http = await self._provider.sdk_client(REQUEST_SECONDS)
                url = getattr(response, "headers", {})["location"]
                async with http.stream("GET", url) as stored:
                    stored.raise_for_status()
                    await _store(stored.aiter_bytes(), path)

    async def has_file(self, file: str) -> bool:
        """Say whether this account has a file."""
        try:
            async with _asking(self._provider, REQUEST_SECONDS) as client:
                await client.files.retrieve(file)
        except BatchRequestError as error:
            if error.missing:
                return False
            raise
        return True

    async def delete(self, file: str) -> None:
        """Delete a file."""
        async with _asking(self._provider, REQUEST_SECONDS) as client:
            await client.files.delete(file)

    # -- what the SDKs have under other names --

    @abstractmethod
    async def _upload(self, client: Any, path: Path) -> str: ...

    async def _find_file(self, client: Any, name: str) -> str | None:
        listed = await client.files.list()
        return next((file.id for file in listed.data if file.filename == name), None)

    @abstractmethod
    async def _create(self, client: Any, file: str, endpoint: str, tag: str) -> BatchState: ...

    @abstractmethod
    def _list(self, client: Any) -> AsyncGenerator[BatchState, None]: ...

    @abstractmethod
    def _state(self, batch: Any) -> BatchState: ...


async def _store(pieces: AsyncIterator[bytes], path: Path) -> None:
    with path.open("wb") as file:
        async for piece in pieces:
            file.write(piece)


@asynccontextmanager
async def _asking(provider: SDKProvider, seconds: float) -> AsyncGenerator[Any, None]:
    """Give the SDK's client for one request, and make one kind of error of what may come of it.

    Args:
        provider: Whose client it is.
        seconds: The longest time for all of it.
    """
    client, _ = await provider.sdk_client(REQUEST_SECONDS)
    try:
        async with asyncio.timeout(seconds):
            yield client
    except Exception as error:
        provider.redact(error)
        raise _request_error(error) from error


def _request_error(error: Exception) -> BatchRequestError:
    details = error_details(error)
    status = error_status(error, details)
    fault = classify(error)
    return BatchRequestError(
        f"{type(error).__name__}: {fault.message}" if fault.message else type(error).__name__,
        status=status,
        retry_after=fault.retry_after,
    )


class OpenAIBatches(ProviderBatches):
    """OpenAI's."""

    max_bytes: ClassVar[int] = 200 * _MIB
    takes_notes: ClassVar[bool] = True
    lines_say_where: ClassVar[bool] = True

    _STATUS: ClassVar[dict[str, BatchStatus]] = {
        "validating": "waiting",
        "in_progress": "running",
        "finalizing": "running",
        "cancelling": "cancelling",
        "completed": "completed",
        "failed": "failed",
        "expired": "expired",
        "cancelled": "cancelled",
    }

    async def _upload(self, client: Any, path: Path) -> str:
        with path.open("rb") as file:
            return str((await client.files.create(file=file, purpose="batch")).id)

    async def _create(self, client: Any, file: str, endpoint: str, tag: str) -> BatchState:
        return self._state(
            await client.batches.create(
                input_file_id=file,
                endpoint=endpoint,
                completion_window="24h",
                metadata={_TAG: tag},
            )
        )

    async def _list(self, client: Any) -> AsyncGenerator[BatchState, None]:
        seen = 0
        async for batch in client.batches.list(limit=100):
            yield self._state(batch)
            seen += 1
            if seen >= _MAX_LISTED:
                return

    def _state(self, batch: Any) -> BatchState:
        counts, errors = batch.request_counts, batch.errors
        done = None if counts is None else counts.completed + counts.failed
        told = [f"{e.code}: {e.message}" for e in (errors.data or ())] if errors else []
        return BatchState(
            id=batch.id,
            status=self._STATUS.get(batch.status, "running"),
            share=done / counts.total if counts is not None and done and counts.total else 0.0,
            done=None if counts is None else counts.completed,
            input_file=batch.input_file_id,
            output_file=batch.output_file_id,
            error_file=batch.error_file_id,
            tag=(batch.metadata or {}).get(_TAG),
            problem="; ".join(told[:3]),
        )


class TogetherBatches(ProviderBatches):
    """Together's: chat completions only, and no notes."""

    max_bytes: ClassVar[int] = 100 * _MIB
    takes_notes: ClassVar[bool] = False
    lines_say_where: ClassVar[bool] = False

    _STATUS: ClassVar[dict[str, BatchStatus]] = {
        "VALIDATING": "waiting",
        "IN_PROGRESS": "running",
        "COMPLETED": "completed",
        "FAILED": "failed",
        "EXPIRED": "expired",
        "CANCELLED": "cancelled",
    }

    async def _upload(self, client: Any, path: Path) -> str:
        sent = await client.files.upload(path, purpose="batch-api", check=False)
        return str(sent.id)

    async def _create(self, client: Any, file: str, endpoint: str, tag: str) -> BatchState:  # noqa: ARG002  # it takes no note
        made = await client.batches.create(input_file_id=file, endpoint=endpoint)
        return self._state(made.job)

    async def _list(self, client: Any) -> AsyncGenerator[BatchState, None]:
        for batch in await client.batches.list():
            yield self._state(batch)

    def _state(self, batch: Any) -> BatchState:
        return BatchState(
            id=batch.id,
            status=self._STATUS.get(batch.status, "running"),
            share=(batch.progress or 0.0) / 100.0,
            input_file=batch.input_file_id,
            output_file=batch.output_file_id,
            error_file=batch.error_file_id,
            problem=batch.error or "",
        )


def batches_of(provider: Any) -> ProviderBatches | None:
    """Return the batches of a provider; None if it has none that are known here."""
    if not isinstance(provider, SDKProvider) or provider.batch_endpoint is None:
        return None
    if isinstance(provider, TogetherProvider):
        return TogetherBatches(provider)
    return OpenAIBatches(provider) if isinstance(provider, OpenAIProvider) else None


def result_lines(path: Path) -> Iterator[ResultLine]:
    """Read a file of answers or of errors, line by line; lines that cannot be read are left out."""
    with path.open("rb") as file:
        for text in file:
            line = _result_line(text)
            if line is not None:
                yield line


def _result_line(text: bytes) -> ResultLine | None:
    try:
        line = json.loads(text)
        custom_id = line["custom_id"]
        response, error = line.get("response"), line.get("error")
        if response and response.get("status_code", 200) < 300:  # noqa: PLR2004  # HTTP's
            return ResultLine(custom_id, json.dumps(response["body"]).encode())
        if response:
            body = response.get("body") or {}
            error = {**(body.get("error") or body), "status": response.get("status_code")}
        elif not error:
            return None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return ResultLine(custom_id, None, _line_fault(error))


def _line_fault(error: Any) -> Fault:
    details = error if isinstance(error, dict) else {"message": str(error)}
    status = details.get("status")
    return Fault(
        FaultKind.SERVER if not isinstance(status, int) or status >= 500 else FaultKind.BAD_REQUEST,  # noqa: PLR2004  # HTTP's
        str(details.get("message") or details.get("code") or "the request failed"),
        status=status if isinstance(status, int) else None,
    )
