"""A journal without a thread of its own: virtual time does not wait for threads."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from langchain_resilient.batch.journal import Journal
from langchain_resilient.batch.journal_file import JournalFile
from langchain_resilient.batch.report import Money

if TYPE_CHECKING:
    from langchain_resilient.batch.journal_file import JournalWrite


class InlineJournal(Journal):
    """Writes where it is called; everything else is as in `Journal`."""

    async def open(self) -> None:
        """Open the file, or create it."""
        self._ended = asyncio.get_running_loop().create_future()
        self.restored = self.differing = 0
        self.earlier, self.complete = Money(), False
        self._file = JournalFile(self.path, lock_timeout=10.0)
        # Its only crash is a simulated one: what the system holds is as good as what the disk does.
        self._file._writer.execute("PRAGMA synchronous = OFF")
        self._waiting: Any = _Writer(self._file)

    async def aclose(self) -> None:
        """Close the file."""
        file, self._file = self._file, None
        if file is not None:
            with suppress(Exception):
                if self.complete:
                    file.end_run()
            file.close()


class _Writer:
    """Takes the place of the queue that leads to the thread."""

    def __init__(self, file: JournalFile) -> None:
        self._file = file

    def put(self, write: tuple[tuple[JournalWrite, ...], asyncio.Future[None] | None]) -> None:
        rows, done = write
        try:
            self._file.write(rows)
        except Exception as error:
            if done is None:
                raise
            done.set_exception(error)
        else:
            if done is not None:
                done.set_result(None)
