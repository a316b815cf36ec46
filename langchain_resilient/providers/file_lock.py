"""A lock between processes and threads, on a file."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_POLL_SECONDS = 0.1


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes and threads out; the system lets go of it when a process dies."""
    with path.open("ab") as file:
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
