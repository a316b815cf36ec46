"""Answers to a file: JSON lines in the order of the prompts, whole or not at all."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from filelock import lock_descriptor

if TYPE_CHECKING:
    from types import TracebackType

MOST_IN_MEMORY = 8_000_000
"""Bytes of lines that wait for an earlier one; what is more waits in a file without a name."""

_OURS = ("answer", "error", "target", "usage")


def as_line(rest: dict[str, Any], found: dict[str, Any]) -> bytes:
    """Write one row: what the prompt's row held beside the prompt, then the answer.

    A field of the prompt's row that has the name of one of ours is called `input_...`.

    Args:
        rest: The prompt's other fields.
        found: The answer's.
    """
    row: dict[str, Any] = {}
    for name, value in rest.items():
        while name in _OURS or name in row:
            name = f"input_{name}"  # noqa: PLW2901  # until it is free
        row[name] = value
    row |= found
    try:
        return json.dumps(row, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # half of a surrogate pair, which UTF-8 cannot say
        return json.dumps(row).encode() + b"\n"


class InOrder:
    """Puts lines that come in any order into their order; gives each as soon as it may go out.

    Example:
        ```python
        order = InOrder()
        order.put(1, b"b")  # []
        order.put(0, b"a")  # [b"a", b"b"]
        ```
    """

    def __init__(self, most: int = MOST_IN_MEMORY) -> None:
        self._next = 0
        self._waiting: dict[int, bytes | tuple[int, int]] = {}
        self._size = 0
        self._most = most
        self._spill: BinaryIO | None = None

    def put(self, index: int, line: bytes) -> list[bytes]:
        """Take a line; return all that can go out now."""
        ready = []
        if index != self._next:
            self._keep(index, line)
        else:
            ready.append(line)
            self._next += 1
            while self._next in self._waiting:
                ready.append(self._take(self._next))
                self._next += 1
        return ready

    def _keep(self, index: int, line: bytes) -> None:
        if self._size + len(line) <= self._most:
            self._size += len(line)
            self._waiting[index] = line
            return
        if self._spill is None:
            self._spill = tempfile.TemporaryFile()  # noqa: SIM115  # closed by `close`
        self._waiting[index] = (self._spill.seek(0, os.SEEK_END), len(line))
        self._spill.write(line)

    def _take(self, index: int) -> bytes:
        found = self._waiting.pop(index)
        if isinstance(found, bytes):
            self._size -= len(found)
            return found
        assert self._spill is not None  # noqa: S101  # somebody put the line there
        place, length = found
        self._spill.seek(place)
        return self._spill.read(length)

    def close(self) -> None:
        """Let go of what waits."""
        if self._spill is not None:
            self._spill.close()


def private(path: str, flags: int) -> int:
    """Open a file for its user alone: an `opener` for files whose names can be foreseen.

    A symbolic link that another user put there, in a folder that both may write, is not followed.

    Raises:
        OSError: If it is one.

    Example:
        ```python
        with open("answers.part", "ab", opener=private) as file:
            file.write(b"...")
        ```
    """
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o600)


def _try_lock(file: BinaryIO) -> bool:
    """Lock an open file until it is closed; False if another process has locked it."""
    try:
        return lock_descriptor(file.fileno(), blocking=False)
    except OSError:  # a file system without locks: answers are worth the risk
        return True


class AnswerFile:
    """Writes lines in order to `NAME.part`, and makes that `NAME` when all are there.

    So `NAME` is never half written, whatever kills the process; and the answers that may already go
    out can be read in `NAME.part`. The next run writes that anew.

    Args:
        name: The file; `"-"` for standard output, which gets each line as soon as it may go out.

    Raises:
        OSError: If it cannot be written, or another process writes it.
    """

    def __init__(self, name: str) -> None:
        self._path = None if name == "-" else Path(name)
        self._order = InOrder()
        if self._path is None:
            self._file: BinaryIO = sys.stdout.buffer
            return
        self._part = self._path.with_name(f"{self._path.name}.part")
        self._file = open(self._part, "ab", opener=private)  # noqa: SIM115  # kept
        if not _try_lock(self._file) or not self._is_there():
            self._file.close()
            raise BlockingIOError(f"{self._part} is being written by another run: wait for it")
        self._file.truncate(0)

    def _is_there(self) -> bool:
        """Whether the file was not made the output by another run since it was opened."""
        mine = os.fstat(self._file.fileno())
        return self._part.exists() and os.path.samestat(mine, self._part.stat())

    def put(self, index: int, line: bytes) -> None:
        """Write a line as soon as all before it are written."""
        ready = self._order.put(index, line)
        self._file.writelines(ready)
        if ready:
            self._file.flush()

    def finish(self) -> None:
        """All lines are there."""
        self._file.flush()
        if self._path is not None:
            os.fsync(self._file.fileno())
            if sys.platform == "win32":  # where what is open cannot be renamed
                self._file.close()
            self._part.replace(self._path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._order.close()
        if self._path is not None:
            self._file.close()
