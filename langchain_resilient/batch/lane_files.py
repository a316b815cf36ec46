"""The files of batches: prompts are written into them, within the limits of their provider."""

from __future__ import annotations

import logging
import re
import secrets
from math import inf
from typing import TYPE_CHECKING, Any

from langchain_resilient.runtime.batched import UnbatchableRequestError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from langchain_core.messages import BaseMessage

    from langchain_resilient.exchange import RequestForm
    from langchain_resilient.runtime.batched import BatchDesk, BatchLine

logger = logging.getLogger("langchain_resilient")

QUEUE_SHARE = 0.8
"""Of the tokens that a provider's queue takes, a batch holds at most so many: they are a guess."""

_QUEUE_FULL = re.compile(r"token_limit_exceeded|enqueued|queue", re.IGNORECASE)

_QUEUE_LIMIT = re.compile(r"limit:\s*([0-9][0-9,_]*)", re.IGNORECASE)


def queue_limit(problem: str) -> float | None:
    """Read why a batch failed.

    Returns:
        The tokens that the provider's queue takes, if it had no room; `inf` if it does not say how
        many; None if the batch failed for something else.

    Example:
        ```python
        queue_limit("token_limit_exceeded: Enqueued token limit reached. Limit: 90,000 tokens.")
        ```
    """
    if not _QUEUE_FULL.search(problem):
        return None
    told = _QUEUE_LIMIT.search(problem)
    return inf if told is None else float(re.sub("[,_]", "", told[1]))


class Shard:
    """The file of one batch, while it is written.

    Args:
        folder: Where.
        form: Of all its requests.

    Attributes:
        tag: Of the batch.
        path: The file.
        form: As given.
        custom_ids: Its requests.
        size: Its bytes.
        tokens: Of its prompts, about.
        dollars: What it will cost, about.
    """

    def __init__(self, folder: Path, form: RequestForm) -> None:
        self.tag: str = secrets.token_hex(8)
        self.path: Path = folder / f"langchain-resilient-{self.tag}.jsonl"
        self.form = form
        self.custom_ids: list[str] = []
        self.size = 0
        self.tokens = 0
        self.dollars = 0.0
        self._file = self.path.open("xb")

    def add(self, custom_id: str, line: BatchLine) -> None:
        """Write a request."""
        self._file.write(line.data)
        self.custom_ids.append(custom_id)
        self.size += len(line.data)
        self.tokens += line.tokens
        self.dollars += line.dollars

    def close(self) -> None:
        """Finish the file."""
        self._file.close()


class ShardWriter:
    """Writes prompts into files, one for each form of requests at a time.

    Args:
        desk: Of the target that they are for.
        kwargs: The arguments of each call.
        folder: Where the files are.

    Attributes:
        max_requests: The most requests of a file.
        max_tokens: The most tokens of its prompts.
    """

    def __init__(self, desk: BatchDesk, kwargs: Mapping[str, Any], folder: Path) -> None:
        self.max_requests: int = desk.max_requests
        self.max_tokens: float = inf
        self._desk = desk
        self._kwargs = kwargs
        self._folder = folder
        self._open: dict[RequestForm, Shard] = {}
        self._unbatchable = 0

    def line_of(
        self, index: int, messages: Sequence[BaseMessage], custom_id: str
    ) -> BatchLine | None:
        """Write a request; None if it cannot be part of a batch, which is logged once."""
        try:
            line = self._desk.write(messages, self._kwargs, custom_id)
            if len(line.data) > self._desk.max_bytes:
                raise UnbatchableRequestError("it is larger than a file may be")  # noqa: TRY301  # one way out
            if line.tokens > self.max_tokens:
                raise UnbatchableRequestError("it is longer than the provider's queue")  # noqa: TRY301  # as above
            if line.dollars > self._desk.money_left():
                raise UnbatchableRequestError("the spend cap has no room for it")  # noqa: TRY301  # as above
        except Exception as error:  # noqa: BLE001  # the live call will say so
            if not self._unbatchable:
                logger.warning("prompt %d is asked live: %s", index, error)
            self._unbatchable += 1
            return None
        return line

    def take_full(self, line: BatchLine, in_time: float) -> Shard | None:
        """Take the file that a request would go into, finished, if that has no room for it.

        Args:
            line: The request.
            in_time: The most requests of a file, for the sake of the deadline.
        """
        shard = self._open.get(line.form)
        if shard is None or not (
            len(shard.custom_ids) >= min(self.max_requests, in_time)
            or shard.size + len(line.data) > self._desk.max_bytes
            or shard.tokens + line.tokens > self.max_tokens
        ):
            return None
        return self._finish(shard)

    def add(self, custom_id: str, line: BatchLine) -> str:
        """Write a request into its file, and set money aside for it; returns the batch's tag."""
        shard = self._open.get(line.form)
        if shard is None:
            shard = self._open[line.form] = Shard(self._folder, line.form)
        shard.add(custom_id, line)
        self._desk.set_aside(line.dollars)
        return shard.tag

    def take(self) -> Shard | None:
        """Take any file, finished; None if there is none."""
        return next((self._finish(shard) for shard in self._open.values()), None)

    def _finish(self, shard: Shard) -> Shard:
        shard.close()
        del self._open[shard.form]
        return shard

    def close(self) -> None:
        """Give up all files, and the money that is set aside for them."""
        while (shard := self.take()) is not None:
            self._desk.set_aside(-shard.dollars)
