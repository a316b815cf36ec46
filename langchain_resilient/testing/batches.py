"""Files and batches at the simulated providers: backlogs that take hours, and all that goes wrong.

A batch does not run: how far it is follows from the clock whenever somebody asks. Its answers are
worked out when its results are fetched.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2s
from itertools import count
from random import Random
from typing import Any, Literal

from langchain_resilient.testing.answers import count_prompt_tokens
from langchain_resilient.testing.delays import Delay, draw
from langchain_resilient.testing.dialects.base import with_serial
from langchain_resilient.testing.steps.base import AT_ONCE, Reply

Operation = Literal["upload", "files", "create", "poll", "list", "cancel", "download"]
"""What is asked of files and batches. `"upload"` is the request with the file's content."""

OPERATIONS: tuple[Operation, ...] = (
    "upload", "files", "create", "poll", "list", "cancel", "download"
)  # fmt: skip

Mishap = int | Literal["lost", "half", "cut"]
"""What happens to a request about files or batches: an error status instead of it; or it is done
and its response is `"lost"`, breaks off after `"half"` of its body, or ends there as if that were
all (`"cut"`)."""

ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
"""The states in which a batch stays, in OpenAI's words."""

DAY = 86_400.0


@dataclass(frozen=True)
class Backlog:
    """How a provider works through batches. Frozen: share it, compare it.

    Attributes:
        seconds: How long a batch is worked on, whatever its size.
        start: Seconds before that, in which it is validated.
        finalizing: Seconds after it.
        cancelling: Seconds until a batch that was cancelled has its results.
        stuck_at: The share of a batch after which nothing more is done; None never sticks.
        window: Seconds after which a batch expires.
        errors: The share of requests that end with an error.
        missing: The share of lines that the results lack.
        repeated: The share of lines that the results hold twice.
        broken: The share of lines that are cut off.
        fails: The code of the error for which every batch fails, such as `"invalid_model"`.
        enqueued_tokens: Prompt tokens of a model that may wait at one time; a batch above that
            fails, with `"token_limit_exceeded"`.
        counts: Whether it is told how many requests are done; OpenAI's only.
        max_requests: Requests of one batch.
        max_bytes: Bytes of one file; None for the provider's own limit.
        reply: How requests are answered.

    Example:
        ```python
        sim.backlog("openai:*", Backlog(seconds=4 * 3600, stuck_at=0.6))
        ```
    """

    seconds: Delay = 600.0
    start: Delay = 30.0
    finalizing: Delay = 20.0
    cancelling: Delay = 60.0
    stuck_at: float | None = None
    window: float = DAY
    errors: float = 0.0
    missing: float = 0.0
    repeated: float = 0.0
    broken: float = 0.0
    fails: str | None = None
    enqueued_tokens: int | None = None
    counts: bool = True
    max_requests: int = 50_000
    max_bytes: int | None = None
    reply: Reply = AT_ONCE


@dataclass(frozen=True)
class BatchRecord:
    """A batch as the provider knows it.

    Attributes:
        id: Its id.
        dialect: `"openai"` or `"together"`.
        model: The model of its first request.
        endpoint: Where its requests would go.
        status: In OpenAI's words, whoever the provider is.
        total: Its requests.
        done: Those that were worked on.
        input_file: The id of its file.
        metadata: What its creator noted; OpenAI's only.
        created: When it was created, in seconds of the loop's clock.
    """

    id: str
    dialect: str
    model: str
    endpoint: str
    status: str
    total: int
    done: int
    input_file: str
    metadata: Mapping[str, str]
    created: float


@dataclass
class StoredFile:
    """A file at a provider.

    Attributes:
        id: Its id.
        dialect: Whose it is.
        account: Whose key has uploaded it: nobody else sees it.
        name: As it was uploaded.
        purpose: What for.
        data: Its content; None until that has come.
        created: When, in seconds since 1970.
    """

    id: str
    dialect: str
    account: str
    name: str
    purpose: str
    data: bytes | None
    created: float


@dataclass
class StoredBatch:
    """A batch, and when what happens to it.

    Attributes:
        id: Its id.
        dialect: Whose it is.
        file: Its requests.
        endpoint: Where they would go.
        metadata: Notes of its creator.
        backlog: How it is worked on.
        created: When it was created, in seconds of the loop's clock.
        starts: When work begins.
        works_until: When all of it would be done; `inf` for one that sticks.
        completes: When its results are there.
        ends_cancelled: When it is cancelled for good; `inf` unless somebody wants that.
        cancelled_at: When somebody wanted it.
        failure: Code and message of what it fails for.
        model: The model of its first request.
        total: Its requests.
        tokens: Of its prompts.
        seconds: How long it is worked on.
        order: In which its requests are worked on.
        refused: Whether some of them are refused; None until that was looked at.
        deleted: Which of its files of results were deleted.
    """

    id: str
    dialect: str
    file: StoredFile
    endpoint: str
    metadata: dict[str, str]
    backlog: Backlog
    created: float
    starts: float
    works_until: float
    completes: float
    ends_cancelled: float = math.inf
    cancelled_at: float = math.inf
    failure: tuple[str, str] | None = None
    model: str = ""
    total: int = 0
    tokens: int = 0
    seconds: float = 0.0
    order: list[int] = field(default_factory=list)
    refused: bool | None = None
    deleted: set[str] = field(default_factory=set)

    @property
    def expires(self) -> float:
        """When it is given up."""
        return self.created + self.backlog.window

    def status(self, now: float) -> str:
        """Its state at a moment, in OpenAI's words."""
        if self.failure is not None:
            return "validating" if now < self.starts else "failed"
        if self.cancelled_at <= min(self.completes, self.expires):
            if now >= self.cancelled_at:
                return "cancelling" if now < self.ends_cancelled else "cancelled"
        elif now >= min(self.completes, self.expires):
            return "completed" if self.completes <= self.expires else "expired"
        if now < self.starts:
            return "validating"
        return "in_progress" if now < self.works_until else "finalizing"

    def done(self, now: float) -> int:
        """How many requests were worked on by then."""
        if self.failure is not None:
            return 0
        until = min(now, self.cancelled_at, self.expires)
        if until < self.starts:
            return 0
        share = 1.0 if not self.seconds else min(1.0, (until - self.starts) / self.seconds)
        if self.backlog.stuck_at is not None:
            share = min(share, self.backlog.stuck_at)
        return int(self.total * share + 1e-9)


class BatchStore:
    """All files and batches of one simulator.

    Args:
        seed: Of chance.
        backlog_of: Finds how a target's batches are worked on.

    Attributes:
        files: By id.
        batches: By id.
    """

    def __init__(self, seed: int, backlog_of: Callable[[str], Backlog]) -> None:
        self.files: dict[str, StoredFile] = {}
        self.batches: dict[str, StoredBatch] = {}
        self._seed = seed
        self._random = Random(f"batches:{seed}")
        self._numbers = count(1)
        self._backlog_of = backlog_of
        self._mishaps: dict[tuple[str, str], list[Mishap]] = {}
        self._outages: list[tuple[str, float, float, Mishap, frozenset[str]]] = []

    def clear(self) -> None:
        """Forget all files, batches and mishaps."""
        self.files.clear()
        self.batches.clear()
        self._mishaps.clear()
        self._outages.clear()

    # -- what goes wrong --

    def break_next(self, dialect: str, operation: Operation, mishaps: tuple[Mishap, ...]) -> None:
        """Have the next requests of a kind go wrong."""
        self._mishaps.setdefault((dialect, operation), []).extend(mishaps)

    def add_outage(
        self, dialect: str, start: float, end: float, mishap: Mishap, operations: frozenset[str]
    ) -> None:
        """Have all requests of some kinds go wrong for a time, by the loop's clock."""
        self._outages.append((dialect, start, end, mishap, operations))

    def mishap(self, dialect: str, operation: str, now: float) -> Mishap | None:
        """Say what goes wrong with a request that has just come; None if nothing does."""
        for whose, start, end, mishap, operations in self._outages:
            if whose == dialect and start <= now < end and operation in operations:
                return mishap
        waiting = self._mishaps.get((dialect, operation))
        return waiting.pop(0) if waiting else None

    # -- files --

    def new_file(
        self,
        dialect: str,
        account: str,
        name: str,
        purpose: str,
        data: bytes | None,
        *,
        created: float,
    ) -> StoredFile:
        """Store a file."""
        stored = StoredFile(
            f"file-{next(self._numbers):08d}", dialect, account, name, purpose, data, created
        )
        self.files[stored.id] = stored
        return stored

    def files_of(self, dialect: str, account: str) -> list[StoredFile]:
        """List the files of an account at a provider, the newest first."""
        mine = [
            file for file in self.files.values()
            if (file.dialect, file.account) == (dialect, account) and file.data is not None
        ]  # fmt: skip
        return mine[::-1]

    # -- batches --

    def new_batch(
        self, dialect: str, file: StoredFile, endpoint: str, metadata: dict[str, str], now: float
    ) -> StoredBatch:
        """Create a batch of a file's requests."""
        lines = (file.data or b"").splitlines()
        model = _model_of(lines[0]) if lines else ""
        backlog = self._backlog_of(f"{dialect}:{model}")
        seconds = draw(backlog.seconds, self._random)
        starts = now + draw(backlog.start, self._random)
        works_until = math.inf if backlog.stuck_at is not None else starts + seconds
        batch = StoredBatch(
            id=f"batch_{next(self._numbers):08d}",
            dialect=dialect,
            file=file,
            endpoint=endpoint,
            metadata=metadata,
            backlog=backlog,
            created=now,
            starts=starts,
            works_until=works_until,
            completes=works_until + draw(backlog.finalizing, self._random),
            model=model,
            total=len(lines),
            tokens=sum(count_prompt_tokens(line.decode(errors="replace")) for line in lines),
            seconds=seconds,
        )
        batch.failure = self._failure(batch, lines, now)
        batch.order = list(range(len(lines)))
        Random(f"{self._seed}:{batch.id}").shuffle(batch.order)
        self.batches[batch.id] = batch
        return batch

    def _failure(
        self, batch: StoredBatch, lines: list[bytes], now: float
    ) -> tuple[str, str] | None:
        backlog = batch.backlog
        limit = backlog.max_bytes or (200 if batch.dialect == "openai" else 100) * 1024 * 1024
        place = (batch.dialect, batch.model, batch.file.account)
        waiting = sum(
            other.tokens
            for other in self.batches.values()
            if (other.dialect, other.model, other.file.account) == place
            and other.status(now) not in ENDED
        )
        if backlog.fails is not None:
            return backlog.fails, f"This batch cannot be worked on: {backlog.fails}."
        if not lines:
            return "empty_file", "The batch input file is empty."
        if len(lines) > backlog.max_requests:
            return "max_requests_exceeded", f"The file has over {backlog.max_requests} requests."
        if len(batch.file.data or b"") > limit:
            return "max_file_size_exceeded", f"The file has over {limit} bytes."
        if backlog.enqueued_tokens is not None and waiting + batch.tokens > backlog.enqueued_tokens:
            return "token_limit_exceeded", (
                f"Enqueued token limit reached for {batch.model}. Limit: "
                f"{backlog.enqueued_tokens:,} enqueued tokens. Please try again once some "
                "in_progress batches have been completed."
            )
        return None

    def cancel(self, batch: StoredBatch, now: float) -> bool:
        """Cancel a batch; False if there is nothing left to cancel."""
        if batch.status(now) not in ("validating", "in_progress", "finalizing"):
            return batch.status(now) == "cancelling"
        batch.cancelled_at = now
        batch.ends_cancelled = now + draw(batch.backlog.cancelling, self._random)
        return True

    def batches_of(self, dialect: str, account: str) -> list[StoredBatch]:
        """List the batches of an account at a provider, the newest first."""
        mine = [
            batch for batch in self.batches.values()
            if (batch.dialect, batch.file.account) == (dialect, account)
        ]  # fmt: skip
        return mine[::-1]

    def records(self, now: float) -> list[BatchRecord]:
        """Describe all batches, the oldest first."""
        return [
            BatchRecord(
                b.id, b.dialect, b.model, b.endpoint, b.status(now), b.total, b.done(now),
                b.file.id, dict(b.metadata), b.created,
            )
            for b in self.batches.values()
        ]  # fmt: skip

    # -- results --

    def results(
        self,
        batch: StoredBatch,
        now: float,
        answer: Callable[[StoredBatch, dict[str, Any]], tuple[int, Any]],
        *,
        errors: bool,
    ) -> bytes:
        """Write the results of a batch, or the file of its errors.

        Args:
            batch: One that has ended.
            now: The time.
            answer: Answers a request: its status and its body.
            errors: Which of the two files.
        """
        return b"".join(self._lines(batch, now, answer, errors=errors))

    def _lines(
        self,
        batch: StoredBatch,
        now: float,
        answer: Callable[[StoredBatch, dict[str, Any]], tuple[int, Any]],
        *,
        errors: bool,
    ) -> Iterator[bytes]:
        requests = (batch.file.data or b"").splitlines()
        done, backlog = batch.done(now), batch.backlog
        for place, number in enumerate(batch.order):
            request = json.loads(requests[number])
            custom_id = request["custom_id"]
            chance = Random(f"{self._seed}:{batch.id}:{custom_id}")
            failed, missing = chance.random() < backlog.errors, chance.random() < backlog.missing
            repeated, broken = chance.random() < backlog.repeated, chance.random() < backlog.broken
            if place >= done:
                line = None if batch.dialect == "together" else _undone(custom_id, batch, now)
                is_error = True
            elif failed:
                line, is_error = _failed(custom_id, batch.dialect), True
            else:
                status, body = answer(batch, request)
                is_error = status >= 400  # noqa: PLR2004  # errors begin there
                line = _result(custom_id, status, body, batch.dialect)
            if line is None or is_error is not errors or (missing and not is_error):
                continue
            text = with_serial(json.dumps(line, ensure_ascii=False).encode(), _serial(custom_id))
            text += b"\n"
            if broken and not is_error:
                text = text[: len(text) // 2] + b"\n"
            yield text
            if repeated:
                yield text


def _model_of(line: bytes) -> str:
    try:
        return str(json.loads(line)["body"]["model"])
    except (ValueError, KeyError, TypeError):
        return ""


def _request_id(custom_id: str) -> str:
    return blake2s(custom_id.encode(), digest_size=12).hexdigest()


def _serial(custom_id: str) -> bytes:
    return _request_id(custom_id)[:16].encode()


def _result(custom_id: str, status: int, body: Any, dialect: str) -> dict[str, Any]:
    if dialect == "together" and status >= 400:  # noqa: PLR2004  # as above
        return {"custom_id": custom_id, "error": body.get("error", body)}
    response = {"status_code": status, "request_id": _request_id(custom_id), "body": body}
    return {
        "id": f"batch_req_{_request_id(custom_id)}",
        "custom_id": custom_id,
        "response": response,
        "error": None,
    }


def _failed(custom_id: str, dialect: str) -> dict[str, Any]:
    error = {"message": "The server had an error while processing your request.",
             "type": "server_error", "param": None, "code": "server_error"}  # fmt: skip
    return _result(custom_id, 500, {"error": error}, dialect)


def _undone(custom_id: str, batch: StoredBatch, now: float) -> dict[str, Any]:
    expired = batch.status(now) == "expired"
    reason = "the completion window expired" if expired else "the batch was cancelled"
    return {
        "id": f"batch_req_{_request_id(custom_id)}",
        "custom_id": custom_id,
        "response": None,
        "error": {
            "code": "batch_expired" if expired else "batch_cancelled",
            "message": f"This request could not be executed before {reason}.",
        },
    }
