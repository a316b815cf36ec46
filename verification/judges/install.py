"""Where the judges come from, each pinned and in its own place: nothing of theirs is ours."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

PLACES = Path(__file__).parent.parent.parent / ".judges"
"""Kept out of the repository."""

LLMOCK = "llmock==0.2.2"
AIMOCK = "@copilotkit/aimock@1.43.0"

_PATIENCE = 300.0
_SYSTEM_FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")


class MissingError(Exception):
    """A judge can not be had here; the message says what to do."""


def llmock() -> list[str]:
    """Install `llmock`, from PyPI.

    Returns:
        Its command.

    Raises:
        MissingError: If it can not be installed.
    """
    position = PLACES / "llmock"
    if _is_new(position, LLMOCK):
        python = position / "bin" / "python"
        _run([sys.executable, "-m", "venv", str(position)])
        _run([str(python), "-m", "pip", "--disable-pip-version-check", "install", "-q", LLMOCK])
        _done(position, LLMOCK)
    return [str(position / "bin" / "llmock")]


def aimock() -> list[str]:
    """Install `aimock`, from npm.

    Returns:
        Its command, whose name is another's: `llmock` is its server with plain options.

    Raises:
        MissingError: If there is no Node.js, or it can not be installed.
    """
    if shutil.which("npm") is None or shutil.which("node") is None:
        msg = "node and npm are not on the PATH: install Node.js 20 or newer"
        raise MissingError(msg)
    position = PLACES / "aimock"
    if _is_new(position, AIMOCK):
        position.mkdir(parents=True, exist_ok=True)
        _run(["npm", "install", "--no-audit", "--no-fund", "--prefix", str(position), AIMOCK])
        _done(position, AIMOCK)
    return [str(position / "node_modules" / ".bin" / "llmock")]


def haproxy() -> list[str]:
    """Find HAProxy, which only the system's packages have.

    Returns:
        Its command.

    Raises:
        MissingError: If it is not there.
    """
    path = os.pathsep.join((os.environ.get("PATH", ""), *_SYSTEM_FOLDERS))
    result = shutil.which("haproxy", path=path)
    if result is None:
        msg = "haproxy is not on the PATH: apt-get install haproxy, or brew install haproxy"
        raise MissingError(msg)
    return [result]


def _is_new(folder: Path, version: str) -> bool:
    stamp = folder / ".version"
    return not stamp.exists() or stamp.read_text("utf-8") != version


def _done(folder: Path, version: str) -> None:
    (folder / ".version").write_text(version, "utf-8")


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        msg = f"{' '.join(command)}: {error}"
        raise MissingError(msg) from error
    if done.returncode:
        words = (done.stderr.strip() or done.stdout.strip()).splitlines()
        msg = f"{' '.join(command)}: {words[-1] if words else done.returncode}"
        raise MissingError(msg)
