"""Asks a model for rows of tables: what Ray Data, Daft and plain pools of processes share.

`RowAsker` lives as long as the process that it serves, and is asked from any of its threads. All
rows go through one batch that never ends, so that the slowest row of one table holds up no other.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from contextlib import aclosing
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from langchain_resilient.batch.journal import Journal
from langchain_resilient.batch.journal_file import is_folder
from langchain_resilient.batch.journal_keys import RequestKeys
from langchain_resilient.batch.mixin import BATCH_CONCURRENCY
from langchain_resilient.batch.options import BatchOptions
from langchain_resilient.batch.rows import (
    ANSWER_COLUMNS,
    PARSED,
    TOOL_CALLS,
    ModelParts,
    RowPrompts,
    columns_of,
    parts_of,
)
from langchain_resilient.runtime.background_loop import background_loop
from langchain_resilient.runtime.keywords import refuse_misspelt

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence

    from langchain_core.messages import AIMessage
    from langchain_core.runnables import Runnable, RunnableConfig

    from langchain_resilient.batch.journal import JournalMatch
    from langchain_resilient.batch.mixin import LaneOption
    from langchain_resilient.batch.options import Progress, Within


# -- the journal ----------------------------------------------------------------------------------


_LOCK_TIMEOUT = 60.0
"""Seconds to wait for a file that all actors of a machine write to."""


class RowJournal(Journal):
    """A journal that knows an answer by its row's name and its request, wherever the row is.

    A row is asked by any process, in any order, so the how many-th of equal prompts it is says
    nothing. Rows without a name that are equal in all have one answer.

    Attributes:
        ids: The names of rows, by their indexes in the batch; None for none.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, match: JournalMatch = "prompt", alone: bool = False
    ) -> None:
        """Make a journal.

        Args:
            path: See `Journal`.
            match: See `Journal`.
            alone: Whether this batch has all rows, so that equal ones can be told apart.
        """
        super().__init__(path, match=match, lock_timeout=_LOCK_TIMEOUT)
        self.ids: dict[int, str | None] = {}
        self._alone = alone

    def _place(self, index: int, keys: RequestKeys | str) -> tuple[RequestKeys, int]:
        if isinstance(keys, str):
            keys = RequestKeys(keys, keys)
        if (row := self.ids.get(index)) is not None:
            keys = keys._replace(prompt=_named(row, keys.prompt), exact=_named(row, keys.exact))
        return super()._place(index, keys) if self._alone else (keys, 0)


def _named(row: str, key: str) -> str:
    return hashlib.sha256(f"{row}\n{key}".encode(errors="surrogatepass")).hexdigest()


def journal_path(journal: str | os.PathLike[str]) -> tuple[str, bool]:
    """Make a journal's path absolute, and say whether it is a folder.

    A folder is one that exists, and a name that ends with `/` or has no suffix.

    Raises:
        ValueError: If it is the address of an object store.
    """
    text = str(journal)
    if "://" in text:
        msg = f"journal={text!r}: a journal is a file, or a folder on shared storage, not a URL"
        raise ValueError(msg)
    path = Path(text).absolute()
    return str(path), is_folder(path) or text.endswith(("/", "\\")) or not path.suffix


# -- asking ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Question:
    """What is asked for a row."""

    prompt: Any
    options: dict[str, Any]
    id: str | None


class RowAsker:
    """Answers rows, from any thread, as long as its process lives.

    Args:
        llm: A `ResilientChatModel`, one with tools or a schema bound, or a chain with one.
        prompts: How a row becomes a prompt. Where `llm` begins with a prompt template, that takes
            the row.
        journal: An SQLite file, or a folder; see `journal_path`. None to keep nothing.
        journal_match: See `Journal`.
        max_concurrency: Rows that are asked at one time.
        return_exceptions: Whether a row's error becomes its column; otherwise the first is raised,
            and the others are cancelled.
        progress: True for a line every ten seconds, or a function; see `BatchingChatModel`.
        lane: `"batch"` to ask all rows of one `ask` by batches of the provider.
        within: The time that has.
        kwargs: More arguments of each call.

    Raises:
        TypeError: If `llm` is none of these, or an argument is misspelt.
        ValueError: If arguments do not fit each other.

    Example:
        ```python
        asker = RowAsker(llm, journal="run.db")
        asker.ask([{"prompt": "Why is the sky blue?"}])[0]["answer"]
        ```
    """

    def __init__(
        self,
        llm: Runnable[Any, Any],
        prompts: RowPrompts | None = None,
        *,
        journal: str | os.PathLike[str] | None = None,
        journal_match: JournalMatch = "prompt",
        max_concurrency: int = BATCH_CONCURRENCY,
        return_exceptions: bool = True,
        progress: Progress = False,
        lane: LaneOption = None,
        within: Within = None,
        kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self._parts = parts_of(llm)
        self._prompts = prompts or RowPrompts()
        self._kwargs = {**self._parts.kwargs, **(kwargs or {})}
        refuse_misspelt(self._kwargs, batch=True)
        if lane is not None and self._prompts.options is not None:
            msg = "rows of lane='batch' have the same arguments: leave out options="
            raise ValueError(msg)
        self._match: JournalMatch = journal_match
        self._path: str | None = None
        if journal is not None:
            self._path, in_folder = journal_path(journal)
            if in_folder:
                Path(self._path).mkdir(parents=True, exist_ok=True)
        self._options = BatchOptions(
            return_exceptions, progress, self._path, None, lane is not None, max_concurrency,
            lane=lane, within=within,
        )  # fmt: skip
        self._stream: _Stream | None = None
        self._lock = threading.Lock()

    @property
    def added(self) -> tuple[str, ...]:
        """The names of the columns that rows get."""
        tools = (TOOL_CALLS,) if self._kwargs.get("tools") else ()
        return (*ANSWER_COLUMNS, *tools, *((PARSED,) if self._parts.after else ()))

    @property
    def columns(self) -> set[str] | None:
        """The columns of rows that are read; None for all."""
        return None if self._parts.before is not None else self._prompts.columns

    def check_columns(self, present: Iterable[str]) -> None:
        """Check that a table has what is read of it.

        Raises:
            ValueError: Names what is missing.
        """
        if self._parts.before is None:
            self._prompts.check_columns(present)

    def ask(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Answer rows; returns for each the columns that it gets, in the order of the rows.

        Raises:
            JournalError: If the journal cannot be used.
            Exception: The first row's, without `return_exceptions`.
        """
        results = background_loop().run(self._results(rows))
        return [
            {name: x for name, x in columns_of(r, self._parts.after).items() if name in self.added}
            for r in results
        ]

    def close(self) -> None:
        """End the batch and close the journal. Rows that are asked are waited for."""
        with self._lock:
            stream, self._stream = self._stream, None
        if stream is not None:
            background_loop().run(stream.aclose())

    async def _results(self, rows: Sequence[Mapping[str, Any]]) -> list[AIMessage | Exception]:
        asked: list[_Question | Exception] = [self._question(row) for row in rows]
        questions = [one for one in asked if isinstance(one, _Question)]
        if self._options.lane is not None:
            answers = await self._ask_apart(questions)
        else:
            answers = await self._running_stream().ask(questions)
        rest = iter(answers)
        return [next(rest) if isinstance(one, _Question) else one for one in asked]

    def _question(self, row: Mapping[str, Any]) -> _Question | Exception:
        before = self._parts.before
        try:
            prompt = self._prompts.prompt_of(row) if before is None else before.invoke(dict(row))
            return _Question(prompt, self._prompts.options_of(row), self._prompts.id_of(row))
        except Exception as error:
            if not self._options.return_exceptions:
                raise
            return error

    def _running_stream(self) -> _Stream:
        with self._lock:
            if self._stream is None:
                journal = self._journal()
                self._stream = _Stream(self._parts, self._kwargs, self._options, journal)
            return self._stream

    def _journal(self, *, alone: bool = False) -> RowJournal | None:
        if self._path is None:
            return None
        return RowJournal(self._path, match=self._match, alone=alone)

    async def _ask_apart(self, questions: Sequence[_Question]) -> list[AIMessage | Exception]:
        """Ask these rows as one batch, with an end: a batch of a provider has to be sent whole."""
        journal = self._journal(alone=True)
        if journal is not None:
            journal.ids = {n: question.id for n, question in enumerate(questions)}
        prompts = [question.prompt for question in questions]
        options = replace(self._options, journal=journal)
        batch = _batch(self._parts, prompts, options, self._kwargs)
        async with aclosing(batch) as results:
            answers = {index: result async for index, result in results}
        return [answers[n] for n in range(len(questions))]


class _Stream:
    """A batch that never ends: each prompt comes when it is given, its answer goes to who asked."""

    def __init__(
        self,
        parts: ModelParts,
        kwargs: dict[str, Any],
        options: BatchOptions,
        journal: RowJournal | None,
    ) -> None:
        self._journal = journal
        self._questions: asyncio.Queue[tuple[_Question, asyncio.Future[Any]] | None] = (
            asyncio.Queue()
        )
        self._each: dict[int, dict[str, Any]] = {}
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._error: BaseException | None = None
        batch = _batch(parts, self._source(), replace(options, journal=journal), kwargs, self._each)
        self._task = asyncio.create_task(self._run(batch))

    async def ask(self, questions: Sequence[_Question]) -> list[AIMessage | Exception]:
        """Ask, and wait for all answers."""
        if self._journal is not None:
            await self._journal.refresh()  # what a process has recorded that is no more
        loop = asyncio.get_running_loop()
        waiting = []
        for question in questions:
            if self._error is not None:
                raise self._error
            answer = loop.create_future()
            self._questions.put_nowait((question, answer))
            waiting.append(answer)
        return list(await asyncio.gather(*waiting))

    async def _source(self) -> AsyncIterator[Any]:
        # The batch counts its prompts in this way too.
        for index in count():
            if (item := await self._questions.get()) is None:
                return
            question, self._answers[index] = item
            if question.options:
                self._each[index] = question.options
            if self._journal is not None:
                self._journal.ids[index] = question.id
            yield question.prompt

    async def _run(self, batch: AsyncGenerator[tuple[int, Any], None]) -> None:
        try:
            async with aclosing(batch) as results:
                async for index, result in results:
                    self._each.pop(index, None)
                    if self._journal is not None:
                        self._journal.ids.pop(index, None)
                    _settle(self._answers.pop(index), result)
        except Exception as error:  # noqa: BLE001  # raised by `ask`
            self._fail(error)
        finally:
            self._fail(RuntimeError("the batch of these rows has ended"))

    def _fail(self, error: Exception) -> None:
        self._error = self._error or error
        waiting = [*self._answers.values()]
        self._answers.clear()
        while not self._questions.empty():
            item = self._questions.get_nowait()
            waiting += [] if item is None else [item[1]]
        for answer in waiting:
            if not answer.done():
                answer.set_exception(self._error)
                answer.exception()  # one of them is raised: that is enough

    async def aclose(self) -> None:
        """End it when all that was asked is answered."""
        self._questions.put_nowait(None)
        await self._task


def _settle(answer: asyncio.Future[Any], result: AIMessage | Exception) -> None:
    if not answer.done():  # who asked may have given up
        answer.set_result(result)


def _batch(
    parts: ModelParts,
    prompts: Any,
    options: BatchOptions,
    kwargs: dict[str, Any],
    each: Mapping[int, Mapping[str, Any]] | None = None,
) -> AsyncGenerator[tuple[int, Any], None]:
    config = cast("RunnableConfig", parts.config)
    return parts.model._answers(prompts, config, options, kwargs, each=each)  # noqa: SLF001  # our own
