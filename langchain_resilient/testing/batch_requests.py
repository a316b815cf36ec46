"""The HTTP of files and batches, as OpenAI and Together speak it."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs

from langchain_resilient.testing.batches import (
    ENDED,
    BatchStore,
    Mishap,
    StoredBatch,
    StoredFile,
)
from langchain_resilient.testing.dialects import APIS, DIALECTS
from langchain_resilient.testing.dialects.base import Dialect
from langchain_resilient.testing.http import HttpRequest, head
from langchain_resilient.testing.server import Connection

_PAGE = 20
"""Batches of one page at OpenAI, unless more are asked for."""

_TOGETHER_STATUS = {"finalizing": "IN_PROGRESS", "cancelling": "IN_PROGRESS"}


_Response = tuple[int, Any, tuple[tuple[str, str], ...]]
"""Status, body and headers."""


class BatchRequests:
    """Handles the requests about files and batches.

    Args:
        store: What there is.
        answer: Answers a request of a batch, in the dialect of the API that it is for.
        check: Whether such a request is refused.
        clock: The loop's clock.
        wall_clock: Seconds since 1970.
    """

    def __init__(
        self,
        store: BatchStore,
        answer: Callable[[Dialect, StoredBatch, dict[str, Any]], tuple[int, Any]],
        check: Callable[[Dialect, dict[str, Any]], bool],
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._answer = answer
        self._check = check
        self._clock = clock
        self._wall_clock = wall_clock

    def handle(self, connection: Connection, request: HttpRequest, dialect: Dialect) -> bool:
        """Answer a request, if it is one about files or batches; else return False."""
        path = request.head.path.removeprefix(dialect.base_path).removeprefix("/v1")
        parts = path.strip("/").split("/")
        if parts[0] not in ("files", "batches", "storage"):
            return False
        operation = _operation(request.head.method, parts, dialect.name)
        mishap = self._store.mishap(dialect.name, operation, self._clock())
        if isinstance(mishap, int):
            self._send(connection, mishap, _error(f"simulated: {mishap}"))
            return True
        status, body, headers = self._do(request, dialect, parts)
        if mishap == "lost":
            connection.abort()
        else:
            self._send(connection, status, body, headers, mishap)
        return True

    def _send(
        self,
        connection: Connection,
        status: int,
        body: bytes | dict[str, Any] | list[Any],
        headers: tuple[tuple[str, str], ...] = (),
        mishap: Mishap | None = None,
    ) -> None:
        kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = data[: len(data) // 2] if mishap in ("half", "cut") else data
        length = len(sent) if mishap == "cut" else len(data)
        fields = [("content-type", kind), ("content-length", str(length)), *headers]
        connection.write(head(status, fields) + sent)
        connection.release(close=mishap == "half")

    # -- what is asked --

    def _do(self, request: HttpRequest, dialect: Dialect, parts: list[str]) -> _Response:
        if parts[0] == "storage":
            return self._store_content(request, parts)
        if parts[0] == "files":
            return self._files(request, dialect, parts)
        now = self._clock()
        if len(parts) > 1:
            return self._one_batch(request, dialect, parts, now)
        if request.head.method == "POST":
            return self._create(request, dialect, now)
        return 200, self._list(request, dialect, now), ()

    def _one_batch(
        self, request: HttpRequest, dialect: Dialect, parts: list[str], now: float
    ) -> _Response:
        batch = self._store.batches.get(parts[1])
        if batch is None or not _may_see(request, dialect, batch.file):
            return 404, _error(f"No batch found with id '{parts[1]}'."), ()
        if parts[-1] == "cancel" and not self._store.cancel(batch, now):
            message = f"Cannot cancel a batch with status '{batch.status(now)}'."
            return 409, _error(message), ()
        return 200, self._batch(batch, now), ()

    def _files(self, request: HttpRequest, dialect: Dialect, parts: list[str]) -> _Response:
        asked = request.head
        if asked.method == "POST" and len(parts) == 1:
            return self._upload(request, dialect)
        if len(parts) == 1:
            files = self._store.files_of(dialect.name, asked.token)
            data = [self._file(file) for file in files]
            return 200, {"object": "list", "data": data, "has_more": False}, ()
        file, batch = self._store.files.get(parts[1]), self._batch_of(parts[1])
        owned = file if batch is None else batch.file
        if owned is None or not _may_see(request, dialect, owned):
            return 404, _error(f"No such File object: {parts[1]}"), ()
        if asked.method == "DELETE":
            if batch is not None:
                batch.deleted.add(parts[1])
            else:
                del self._store.files[parts[1]]
            return 200, {"id": parts[1], "object": "file", "deleted": True}, ()
        if parts[-1] == "content":
            return 200, owned.data if batch is None else self._results(dialect, parts[1], batch), ()
        return 200, {**self._file(owned), "id": parts[1]}, ()

    def _upload(self, request: HttpRequest, dialect: Dialect) -> _Response:
        form = _form(request.head.headers.get("content-type", ""), request.body)
        purpose = form.get("purpose", (b"", ""))[0].decode()
        if dialect.name == "openai":
            if purpose != "batch" or "file" not in form:
                return 400, _error("'file' and the purpose 'batch' are required."), ()
            data, name = form["file"]
            return 200, self._file(self._new(request, dialect, name, purpose, data)), ()
        if purpose != "batch-api":
            return 400, _error("the purpose must be 'batch-api'."), ()
        stored = self._new(request, dialect, form["file_name"][0].decode(), purpose, None)
        host = request.head.headers.get("host", "127.0.0.1")
        location = f"http://{host}{dialect.base_path}/storage/{stored.id}"
        return 302, b"", (("location", location), ("x-together-file-id", stored.id))

    def _new(
        self, request: HttpRequest, dialect: Dialect, name: str, purpose: str, data: bytes | None
    ) -> StoredFile:
        account, created = request.head.token, self._wall_clock()
        return self._store.new_file(dialect.name, account, name, purpose, data, created=created)

    def _store_content(self, request: HttpRequest, parts: list[str]) -> _Response:
        file = self._store.files.get(parts[1])
        if file is None or request.head.method != "PUT":
            return 404, _error("no such upload"), ()
        file.data = request.body
        return 200, b"", ()

    def _create(self, request: HttpRequest, dialect: Dialect, now: float) -> _Response:
        asked = json.loads(request.body or b"{}")
        file = self._store.files.get(asked.get("input_file_id", ""))
        endpoint = asked.get("endpoint", "")
        if file is None or file.data is None or not _may_see(request, dialect, file):
            return 400, _error(f"No such File object: {asked.get('input_file_id')}"), ()
        if endpoint not in _ENDPOINTS[dialect.name]:
            return 400, _error(f"Invalid value for 'endpoint': {endpoint!r}."), ()
        metadata = asked.get("metadata") or {}
        batch = self._store.new_batch(dialect.name, file, endpoint, metadata, now)
        described = self._batch(batch, now)
        return 200, {"job": described} if dialect.name == "together" else described, ()

    def _list(self, request: HttpRequest, dialect: Dialect, now: float) -> Any:
        batches = self._store.batches_of(dialect.name, request.head.token)
        if dialect.name == "together":
            return [self._batch(batch, now) for batch in batches]
        query = parse_qs(request.head.query)
        limit = int(query.get("limit", [str(_PAGE)])[0])
        after = query.get("after", [""])[0]
        ids = [batch.id for batch in batches]
        begin = ids.index(after) + 1 if after in ids else 0
        page = batches[begin : begin + limit]
        return {
            "object": "list",
            "data": [self._batch(batch, now) for batch in page],
            "first_id": page[0].id if page else None,
            "last_id": page[-1].id if page else None,
            "has_more": begin + limit < len(batches),
        }

    # -- what is answered --

    def _batch_of(self, name: str) -> StoredBatch | None:
        """The batch that a file of results is of; None if there is no such file."""
        kind, _, batch_id = name.partition("-")
        batch = self._store.batches.get(batch_id)
        if batch is None or kind not in ("output", "errors") or name in batch.deleted:
            return None
        return batch if batch.status(self._clock()) in ENDED else None

    def _results(self, dialect: Dialect, name: str, batch: StoredBatch) -> bytes:
        return self._store.results(
            batch,
            self._clock(),
            lambda stored, request: self._answer(_api(dialect, stored), stored, request),
            errors=name.startswith("errors"),
        )

    def _refuses(self, batch: StoredBatch) -> bool:
        """Whether some request of a batch is refused, so that it has a file of errors."""
        if batch.refused is None:
            bodies = (json.loads(line)["body"] for line in (batch.file.data or b"").splitlines())
            api = _api(DIALECTS[batch.dialect], batch)
            batch.refused = any(self._check(api, body) for body in bodies)
        return batch.refused

    def _file(self, file: StoredFile) -> dict[str, Any]:
        described: dict[str, Any] = {
            "id": file.id,
            "object": "file",
            "bytes": len(file.data or b""),
            "created_at": int(file.created),
            "filename": file.name,
            "purpose": file.purpose,
        }
        if file.dialect == "openai":
            return {**described, "status": "processed", "expires_at": None}
        return {**described, "FileType": "jsonl", "processing_status": "COMPLETED"}

    def _batch(self, batch: StoredBatch, now: float) -> dict[str, Any]:
        status, done = batch.status(now), batch.done(now)
        wall = self._wall_clock() - now
        fetchable = status in ENDED and status != "failed"
        output = f"output-{batch.id}" if fetchable and done and batch.backlog.errors < 1 else None
        undone = done < batch.total and batch.dialect == "openai"
        errors = None
        if fetchable and (batch.backlog.errors or undone or self._refuses(batch)):
            errors = f"errors-{batch.id}"
        described: dict[str, Any] = {
            "id": batch.id,
            "endpoint": batch.endpoint,
            "input_file_id": batch.file.id,
            "output_file_id": output,
            "error_file_id": errors,
        }
        if batch.dialect == "together":
            return {
                **described,
                "status": _TOGETHER_STATUS.get(status, status.upper()),
                "progress": 100.0 * done / batch.total if batch.total else 0.0,
                "model_id": batch.model,
                "file_size_bytes": len(batch.file.data or b""),
                "created_at": _iso(wall + batch.created),
                "job_deadline": _iso(wall + batch.expires),
                "error": batch.failure[1] if status == "failed" and batch.failure else None,
            }
        failed = batch.failure if status == "failed" else None
        return {
            **described,
            "object": "batch",
            "model": batch.model,
            "completion_window": "24h",
            "status": status,
            "created_at": int(wall + batch.created),
            "in_progress_at": int(wall + batch.starts) if now >= batch.starts else None,
            "expires_at": int(wall + batch.expires),
            "errors": {
                "object": "list",
                "data": [{"code": failed[0], "message": failed[1], "line": None, "param": None}],
            }
            if failed
            else None,
            "request_counts": {"total": batch.total, "completed": done, "failed": 0}
            if batch.backlog.counts
            else None,
            "metadata": batch.metadata,
        }


_ENDPOINTS = {
    "openai": ("/v1/chat/completions", "/v1/responses"),
    "together": ("/v1/chat/completions",),
}


def _may_see(request: HttpRequest, dialect: Dialect, file: StoredFile) -> bool:
    return (file.dialect, file.account) == (dialect.name, request.head.token)


def _api(dialect: Dialect, batch: StoredBatch) -> Dialect:
    return APIS[dialect.base_path.removesuffix("/v1") + batch.endpoint]


def _operation(method: str, parts: list[str], dialect: str) -> str:
    if parts[0] == "storage":
        return "upload"
    if parts[0] == "files":
        if parts[-1] == "content":
            return "download"
        # The first request of an upload to Together has no content yet.
        uploads = method == "POST" and len(parts) == 1 and dialect == "openai"
        return "upload" if uploads else "files"
    if len(parts) == 1:
        return "create" if method == "POST" else "list"
    return "cancel" if parts[-1] == "cancel" else "poll"


def _error(message: str) -> dict[str, Any]:
    return {
        "error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}
    }


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def _form(content_type: str, body: bytes) -> dict[str, tuple[bytes, str]]:
    """Read a multipart form: each field's content, and the name of its file."""
    _, _, boundary = content_type.partition("boundary=")
    mark = b"--" + boundary.strip('"').encode()
    fields: dict[str, tuple[bytes, str]] = {}
    at = body.find(mark)
    while at >= 0 and boundary:
        start = at + len(mark) + 2
        end = body.find(b"\r\n" + mark, start)
        if end < 0:
            break
        gap = body.find(b"\r\n\r\n", start)
        names = dict(
            pair.strip().partition("=")[::2] for pair in body[start:gap].decode().split(";")
        )
        name = names.get("name", "").split("\r\n")[0].strip('"')
        filename = names.get("filename", "").split("\r\n")[0].strip('"')
        fields[name] = (body[gap + 4 : end], filename)
        at = end + 2
    return fields
