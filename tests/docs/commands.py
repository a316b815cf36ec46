"""Checks a command without running it: that what it calls exists and takes these options."""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import shlex
import tomllib
from functools import cache
from importlib.util import find_spec

from langchain_resilient import cli
from tests.conftest import ROOT

_SEPARATORS = {"|", "&&", ";", "||"}
_SYSTEM = {"cd", "git", "export", "jq", "echo", "cat", "uvicorn", "gunicorn"}


def check(line: str) -> None:
    """Check a line of shell.

    Raises:
        ValueError: If something in it does not exist; the message names it.
    """
    for words in _commands(line):
        _check(words)


def _commands(line: str) -> list[list[str]]:
    """The words of each command of a pipeline, without redirections and assignments."""
    tokens = list(shlex.shlex(line, posix=True, punctuation_chars="|&;<>"))
    words = shlex.split(line, comments=True)
    if not _SEPARATORS & set(tokens):
        return [words] if words else []
    commands: list[list[str]] = [[]]
    for word in words:
        if word in _SEPARATORS:
            commands.append([])
        else:
            commands[-1].append(word)
    return [command for command in commands if command]


def _check(words: list[str]) -> None:
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    name, *arguments = words
    if name == "langchain-resilient":
        _parses(arguments)
    elif name == "make":
        _is_known(arguments[0], _targets(), "make target")
    elif name == "pytest":
        _exists([a for a in arguments if a.startswith("tests")])
    elif name == "python" and arguments[0] == "-m":
        _is_known(arguments[1], [m for m in arguments[1:2] if _module(m)], "module")
    elif name == "pip" and arguments[0] == "install":
        _is_known(_extras(arguments) - _known_extras(), [set()], "extra")
    else:
        _is_known(name, _SYSTEM, "command")


def _is_known(name: object, known: object, what: str) -> None:
    if name not in known:  # type: ignore[operator]
        msg = f"no such {what}: {name}"
        raise ValueError(msg)


def _parses(arguments: list[str]) -> None:
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint), contextlib.redirect_stdout(io.StringIO()):
            cli.parser().parse_args(arguments)
    except (SystemExit, argparse.ArgumentError) as error:
        if getattr(error, "code", 2):
            raise ValueError(complaint.getvalue()) from None


@cache
def _targets() -> list[str]:
    return re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)


def _exists(paths: list[str]) -> None:
    for path in paths:
        file, _, test = path.partition("::")
        if not (ROOT / file).exists() or (test and test not in (ROOT / file).read_text()):
            msg = f"no such test: {path}"
            raise ValueError(msg)


def _module(name: str) -> bool:
    spec = find_spec(name)
    return spec is not None and (
        spec.submodule_search_locations is None or find_spec(f"{name}.__main__") is not None
    )


def _extras(arguments: list[str]) -> set[str]:
    matches = [re.search(r"(?:langchain-resilient|\.)\[([\w,-]+)\]", a) for a in arguments]
    return {extra for match in matches if match for extra in match[1].split(",")}


def _known_extras() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return set(project["optional-dependencies"])
