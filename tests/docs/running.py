"""Runs a page: its Python in this process, its console blocks in a shell.

Keys and base URLs of both providers point to a `ProviderSimulator`, so that code for OpenAI and
Together runs as shown. Each page has a folder, a simulator and names of its own.
"""

from __future__ import annotations

import contextlib
import doctest
import gc
import io
import os
import re
import shlex
import subprocess
import sys
import tempfile
import warnings
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

from langchain_resilient import ResilientChatModel, cli, providers
from langchain_resilient.runtime import shared_state, spending
from langchain_resilient.testing import ProviderSimulator
from tests.conftest import ROOT
from tests.docs.commands import check
from tests.docs.pages import Block, blocks

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMAND_SECONDS = 60
"""The longest that one command may take."""

_LOOSE = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
_COMMAND = re.compile(r"^\$ ((?:.*\\\n)*.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)
_SHELL = f"""
langchain-resilient() {{ "{sys.executable}" -m langchain_resilient "$@"; }}
python() {{ "{sys.executable}" "$@"; }}
"""


class PageError(AssertionError):
    """A page says what is not so; the message says where."""


@dataclass(slots=True)
class Tally:
    """What was done with a page's blocks.

    Attributes:
        python: Blocks that were run.
        outputs: Of these, the ones whose output was compared.
        compiled: Blocks that were only compiled, since the page says why they cannot run.
        shell: Commands that were run.
        named: Commands that were checked by name.
        skipped: Blocks that were only compiled, since a package is absent.
    """

    python: int = 0
    outputs: int = 0
    compiled: int = 0
    shell: int = 0
    named: int = 0
    skipped: int = 0


def run(page: Path) -> Tally:
    """Run a page from top to bottom.

    Raises:
        PageError: If a block fails or prints something other than the page shows.
    """
    tally, names = Tally(), {"__name__": "page"}
    with _surroundings():
        for block in blocks(page):
            try:
                _run(block, names, tally)
            except PageError:
                raise
            except BaseException as error:
                raise PageError(f"{block.place}: {type(error).__name__}: {error}") from error
    return tally


@contextlib.contextmanager
def _surroundings() -> Iterator[None]:
    with (
        ProviderSimulator() as sim,
        tempfile.TemporaryDirectory() as folder,
        contextlib.chdir(folder),
        mock.patch.dict(os.environ, environment(sim)),
        mock.patch.object(providers, "_entries", dict(providers._entries)),
    ):
        _warm_up()
        shared_state.reset()
        spending.reset_ledgers()
        yield


@cache
def _warm_up() -> None:
    """Import both SDKs once: a loaded machine takes so long that the first call would be hedged."""
    for target in ("openai:warm", "together:warm"):
        ResilientChatModel(targets=[target]).invoke("Hello")


def environment(sim: ProviderSimulator) -> dict[str, str]:
    return {
        "OPENAI_API_KEY": "simulated",
        "OPENAI_BASE_URL": sim.base_url("openai"),
        "TOGETHER_API_KEY": "simulated",
        "TOGETHER_BASE_URL": sim.base_url("together"),
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "100",
        "NO_COLOR": "1",
    }


def _run(block: Block, names: dict[str, object], tally: Tally) -> None:
    if block.language == "python":
        _python(block, names, tally)
    elif block.language == "console":
        for command, output in _COMMAND.findall(block.code):
            _compare(block, output, _shell(command))
            tally.shell += 1
    elif block.language == "bash":
        for line in re.sub(r"\\\n", " ", block.code).splitlines():
            check(line)
            tally.named += bool(line.strip())


def _python(block: Block, names: dict[str, object], tally: Tally) -> None:
    # Tracebacks show the page's own line.
    code = compile("\n" * (block.line - 1) + block.code, str(block.page), "exec")
    if block.reason is not None:
        tally.compiled += 1
        return
    if block.needs is not None and find_spec(block.needs) is None:
        tally.skipped += 1
        return
    if block.file is not None:
        Path(block.file).write_text(block.code, encoding="utf-8")
        tally.python += 1
        return
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), warnings.catch_warnings():
        if block.needs is not None:
            # Ray leaves pipes of its processes to the collector, which is theirs to mend.
            warnings.simplefilter("ignore", ResourceWarning)
        exec(code, names)  # noqa: S102  # our own pages
        if block.needs is not None:
            gc.collect()
    tally.python += 1
    if block.output is not None:
        _compare(block, block.output, printed.getvalue())
        tally.outputs += 1


def _shell(command: str) -> str:
    """Run a command; the package's own in this process, which saves the import."""
    words = shlex.split(command, comments=True)
    if words[0] == "langchain-resilient" and not {"|", ">", "<", "&&"} & set(words):
        return _own_command(words[1:])
    finished = subprocess.run(
        ["bash", "-c", f"{_SHELL}\n{command}"],
        capture_output=True, text=True, timeout=COMMAND_SECONDS, stdin=subprocess.DEVNULL,
        check=False,
    )  # fmt: skip
    return finished.stdout + finished.stderr


def _own_command(arguments: list[str]) -> str:
    output = io.StringIO()
    with (
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(output),
        contextlib.suppress(SystemExit),
        warnings.catch_warnings(),
    ):
        cli.main(arguments)
    return output.getvalue()


def _compare(block: Block, expected: str, printed: str) -> None:
    if not doctest.OutputChecker().check_output(expected, printed, _LOOSE):
        raise PageError(f"{block.place} shows\n{expected}\nbut prints\n{printed}")
