"""Generates the reference of the command line from its `--help`."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING
from unittest import mock

from docs.docstrings import description
from langchain_resilient import cli
from langchain_resilient.testing import __main__ as simulator

if TYPE_CHECKING:
    from collections.abc import Iterator

WIDTH = "96"
"""Columns of the help texts, whatever terminal they are generated in."""


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yield a parser and those of its commands, recursively."""
    yield parser
    for action in parser._actions:  # noqa: SLF001  # argparse has no public way
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001  # as above
            for command in action.choices.values():
                yield from parsers(command)


def page() -> str:
    """Return the reference as Markdown."""
    commands = [*parsers(cli.parser()), simulator.parser()]
    with mock.patch.dict(os.environ, {"COLUMNS": WIDTH, "NO_COLOR": "1"}):
        helps = [f"## `{p.prog}`\n\n```text\n{p.format_help()}```\n" for p in commands]
    codes = description(cli).partition("Exit codes")[2]
    return "\n".join([*helps, f"## Exit codes\n\nExit codes{codes}\n"])
