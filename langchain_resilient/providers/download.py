"""Download one file, going on where an earlier try was interrupted, and say how far it is."""

from __future__ import annotations

import hashlib
import http.client
import sys
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, TextIO

from langchain_resilient.providers.file_lock import private

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import IO

    Progress = Callable[[int, int], object]
    """Called with the bytes that are there and those of the whole file."""

TRIES = 5
"""Tries in a row without a single new byte after which a download is given up."""

_SILENT_SECONDS = 30
_BLOCK_BYTES = 1 << 18
_RANGE_NOT_SATISFIABLE = 416
_PARTIAL_CONTENT = 206


class DownloadError(Exception):
    """The file could not be downloaded whole; what came is kept for the next try.

    Attributes:
        untouched: Whether the server gave not even a first answer.
    """

    def __init__(self, message: str, *, untouched: bool = False) -> None:
        super().__init__(message)
        self.untouched = untouched


def download(
    url: str,
    part: Path,
    opener: urllib.request.OpenerDirector,
    progress: Progress,
    *,
    sleep: Callable[[float], object] = time.sleep,
) -> None:
    """Complete a partial file.

    Args:
        url: http, https or file.
        part: Where to; what is there counts as the file's beginning.
        opener: Knows proxies and certificates.
        progress: Called after each block.
        sleep: Waits between tries, seconds.

    Raises:
        DownloadError: If the server refuses, or breaks off too often.
        OSError: If the file cannot be written.
    """
    failures, answered = 0, False
    while True:
        before = _size(part)
        try:
            if _fetch(url, part, opener, progress):
                return
            reason: Exception | str = "the connection was closed early"
            answered = True
        except urllib.error.HTTPError as error:
            error.close()
            if error.code < 500:  # noqa: PLR2004  # no server's fault
                msg = f"the server answered {error.code} {error.reason}"
                raise DownloadError(msg, untouched=not answered) from error
            reason = error
        except (
            urllib.error.URLError,
            http.client.HTTPException,
            ConnectionError,
            TimeoutError,
        ) as error:
            reason = error
        failures = 1 if _size(part) > before else failures + 1
        if failures >= TRIES:
            raise DownloadError(str(reason), untouched=not answered)
        sleep(0.5 * 2 ** (failures - 1))


def _fetch(url: str, part: Path, opener: urllib.request.OpenerDirector, progress: Progress) -> bool:
    """Ask for what is missing; tell whether the file is whole now."""
    offset = _size(part)
    headers = {"Range": f"bytes={offset}-"} if offset else {}
    request = urllib.request.Request(url, headers=headers)  # noqa: S310  # the user's own index gave it
    try:
        response = opener.open(request, timeout=_SILENT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code != _RANGE_NOT_SATISFIABLE or not offset:
            raise
        with error:
            whole = error.headers.get("Content-Range", "") == f"bytes */{offset}"
        if not whole:
            part.unlink()
        return whole
    with response:
        if offset and not _continues(response, offset):
            offset = 0
        total = offset + int(response.headers.get("Content-Length") or 0)
        with open(part, "ab" if offset else "wb", opener=private) as file:
            return _copy(response, file, offset, total, progress)


def _continues(response: http.client.HTTPResponse, offset: int) -> bool:
    """Tell whether the server heeded the range; one that does not sends the whole file."""
    told = response.headers.get("Content-Range", "")
    return response.status == _PARTIAL_CONTENT and told.startswith(f"bytes {offset}-")


def _copy(source: IO[bytes], file: IO[bytes], done: int, total: int, progress: Progress) -> bool:
    while block := source.read(_BLOCK_BYTES):
        file.write(block)
        done += len(block)
        progress(done, max(done, total))
    # A connection that is cut looks like the end of the file to http.client.
    return done >= total


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def sha256_of(path: Path) -> str:
    """Hash a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Bar:
    """Progress on one line of a terminal; elsewhere a line at the start and one at the end.

    Args:
        what: What is being fetched, for people.
        out: Where to.
    """

    def __init__(self, what: str, out: TextIO | None = None) -> None:
        self._out = sys.stderr if out is None else out
        self._live = self._out.isatty()
        self._began = self._shown = time.monotonic()
        self._first: int | None = None
        self._done = 0
        self._write(f"fetching {what}", "\n")

    def __call__(self, done: int, total: int) -> None:
        """Show it, ten times a second at most."""
        now, self._done = time.monotonic(), done
        if self._first is None:  # what an earlier call fetched has no part in the speed
            self._first, self._began = done, now
        if self._live and (now - self._shown >= 0.1 or done >= total):  # noqa: PLR2004
            self._shown = now
            rate = (done - self._first) / max(now - self._began, 1e-3)
            share = done / total
            bar = ("#" * round(30 * share)).ljust(30, ".")
            text = f"\r  [{bar}] {share:4.0%}  {_mb(done)} of {_mb(total)} MB  {_mb(rate)} MB/s "
            self._out.write(text)
            self._out.flush()

    def close(self, said: str) -> None:
        """End with a line."""
        self._write(said, "\n", "\n" if self._live and self._done else "")

    def _write(self, text: str, end: str, before: str = "") -> None:
        self._out.write(f"{before}langchain-resilient: {text}{end}")
        self._out.flush()


def _mb(count: float) -> str:
    return f"{count / 1e6:.1f}"
