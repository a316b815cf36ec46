"""Prompts that are on their way through the batches of a provider: on disk, not in memory."""

from __future__ import annotations

import pickle
import sqlite3
import tempfile
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from langchain_resilient.batch.journal_keys import RequestKeys

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_core.messages import BaseMessage


class RowState(IntEnum):
    """Where a prompt is."""

    WAITING = 0
    """In a batch, or in the file of one that is not yet sent."""
    LIVE = 1
    """To be asked live."""
    ASKING = 2
    """Being asked live, or its answer is being judged."""
    DONE = 3
    """It has a result."""


class Row(NamedTuple):
    """One prompt.

    Attributes:
        position: Its place among the prompts.
        custom_id: Its name within batches.
        keys: Its keys in the journal; None for what is no prompt at all.
        tag: The batch that it is in; empty for none.
        state: Where it is.
        prompt: The prompt; None once it has a result.
    """

    position: int
    custom_id: str
    keys: RequestKeys | None
    tag: str
    state: RowState
    prompt: Any


_TABLE = """
CREATE TABLE rows (
  position INTEGER PRIMARY KEY, custom_id TEXT NOT NULL, prompt_key TEXT, exact_key TEXT,
  key_text TEXT,
  tag TEXT NOT NULL, state INTEGER NOT NULL, prompt BLOB,
  counted TEXT  -- the batch whose answer was counted last
)
"""

_INDEXES = (
    "CREATE UNIQUE INDEX by_name ON rows (custom_id)",
    "CREATE INDEX by_state ON rows (state, tag) WHERE state < 3",
)

_COLUMNS = "position, custom_id, prompt_key, exact_key, key_text, tag, state, prompt"

_CACHE_KIB = 4096


class Spool:
    """The prompts of one run: a nameless file that is gone with the process, however it ends.

    Used from one event loop. Its memory does not grow with the number of prompts.

    Example:
        ```python
        with Spool() as spool:
            spool.add(0, "name", keys, messages, tag="", state=RowState.LIVE)
            spool.take_live().prompt  # messages
        ```
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="langchain-resilient-")
        self.folder: Path = Path(self._folder.name)
        # SQLite deletes the file of a nameless database as soon as it is open.
        self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        for pragma in ("journal_mode = OFF", "synchronous = OFF", f"cache_size = -{_CACHE_KIB}"):
            self._db.execute(f"PRAGMA {pragma}")
        for statement in (_TABLE, *_INDEXES):
            self._db.execute(statement)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Delete all of it."""
        self._db.close()
        self._folder.cleanup()

    def add(
        self,
        position: int,
        custom_id: str,
        keys: RequestKeys | None,
        prompt: Sequence[BaseMessage] | Any,
        *,
        tag: str = "",
        state: RowState = RowState.WAITING,
    ) -> None:
        """Add a prompt."""
        own = (None, None, None) if keys is None else keys
        # Its only reader is this process.
        data = pickle.dumps(prompt, pickle.HIGHEST_PROTOCOL)
        self._db.execute(
            f"INSERT INTO rows ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608  # our own names
            (position, custom_id, *own, tag, state, data),
        )

    def find(self, custom_id: str) -> Row | None:
        """Return the prompt with a name; None if this run has none of that name."""
        row = self._one("custom_id = ?", custom_id)
        return None if row is None else _row(row)

    def _one(self, where: str, *values: Any) -> Any:
        return self._db.execute(
            f"SELECT {_COLUMNS} FROM rows WHERE {where}",  # noqa: S608  # our own texts
            values,
        ).fetchone()

    def set_state(self, position: int, state: RowState) -> None:
        """Note where a prompt is now; one with a result is no longer kept."""
        prompt = ", prompt = NULL" if state is RowState.DONE else ""
        self._db.execute(f"UPDATE rows SET state = ?{prompt} WHERE position = ?", (state, position))  # noqa: S608  # our own texts

    def take_live(self) -> Row | None:
        """Take the next prompt that is to be asked live; None if there is none."""
        row = self._one("state = ? AND state < 3 LIMIT 1", RowState.LIVE)
        if row is None:
            return None
        self.set_state(row[0], RowState.ASKING)
        return _row(row)

    def next_of(self, tag: str) -> Row | None:
        """The next prompt that waits for a batch; None if there is none."""
        row = self._one("state = ? AND state < 3 AND tag = ? LIMIT 1", RowState.WAITING, tag)
        return None if row is None else _row(row)

    def move(self, position: int, tag: str) -> None:
        """Note that a prompt is in another batch now."""
        self._db.execute("UPDATE rows SET tag = ? WHERE position = ?", (tag, position))

    def count_once(self, position: int, tag: str) -> bool:
        """Note that what a batch gave for a prompt is counted; False if it was before."""
        return bool(
            self._db.execute(
                "UPDATE rows SET counted = ? WHERE position = ? AND counted IS NOT ?",
                (tag, position, tag),
            ).rowcount
        )

    def release(self, tag: str) -> int:
        """Have all prompts that wait for a batch asked live; returns how many."""
        return self._db.execute(
            "UPDATE rows SET state = ? WHERE state = ? AND tag = ?",
            (RowState.LIVE, RowState.WAITING, tag),
        ).rowcount

    def count(self, state: RowState, tag: str | None = None) -> int:
        """Count the prompts in a state, of one batch or of all; not those with a result."""
        of_batch = "" if tag is None else " AND tag = ?"
        values = (state,) if tag is None else (state, tag)
        query = f"SELECT count(*) FROM rows WHERE state = ?{of_batch}"  # noqa: S608  # our own texts
        return int(self._db.execute(f"{query} AND state < 3", values).fetchone()[0])


def _row(found: Any) -> Row:
    position, custom_id, prompt_key, exact_key, text, tag, state, data = found
    keys = None if prompt_key is None else RequestKeys(prompt_key, exact_key, text)
    prompt = None if data is None else pickle.loads(data)  # noqa: S301  # written by this process
    return Row(position, custom_id, keys, tag, RowState(state), prompt)
