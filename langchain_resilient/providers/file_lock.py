"""A lock between processes and threads, on a file."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_POLL_SECONDS = 0.1


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


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes and threads out; the system lets go of it when a process dies."""
    with open(path, "ab", opener=private) as file:  # pathlib's takes no opener
        while not try_lock(file):
            time.sleep(_POLL_SECONDS)
        yield


if sys.platform == "win32":
    import msvcrt

    def try_lock(file: BinaryIO) -> bool:
        """Lock an open file until it is closed; False if another has locked it."""
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def try_lock(file: BinaryIO) -> bool:
        """Lock an open file until it is closed; False if another has locked it."""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks: hashes still guard the outcome
            return True
        return True
