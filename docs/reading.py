"""Reads names and their meanings out of the code: attribute docstrings and Google's sections."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from dataclasses import dataclass
from functools import cache
from typing import Any

_SECTION = re.compile(r"^(Args|Attributes|Raises|Returns|Yields|Example|Environment variables):$")
_ENTRY = re.compile(r"^ {4}(\*{0,2}\w[\w.]*): (.*)$")


@dataclass(frozen=True, slots=True)
class Written:
    """What stands in the source about one attribute.

    Attributes:
        annotation: Its type, as it is written.
        meaning: The docstring under it, on one line; empty without one.
    """

    annotation: str
    meaning: str


@cache
def attributes(cls: type) -> dict[str, Written]:
    """Read the annotated attributes of a class and the docstrings under them, bases first."""
    found: dict[str, Written] = {}
    for base in reversed(cls.__mro__):
        if base.__module__.startswith("langchain_resilient"):
            found |= _own(base)
    return found


def members(cls: type) -> dict[str, str]:
    """Read the members of an enumeration and the docstrings under them."""
    return {name: said for name, (_, said) in _statements(cls).items() if name.isupper()}


def _own(cls: type) -> dict[str, Written]:
    return {
        name: Written(ast.unparse(node.annotation), said)
        for name, (node, said) in _statements(cls).items()
        if isinstance(node, ast.AnnAssign) and not name.startswith("_")
    }


def _statements(cls: type) -> dict[str, tuple[ast.stmt, str]]:
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    body = tree.body if isinstance(tree, ast.ClassDef) else []
    found: dict[str, tuple[ast.stmt, str]] = {}
    for node, after in zip(body, [*body[1:], None], strict=True):
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name):
            found[target.id] = (node, _text(after))
    return found


def _text(node: ast.stmt | None) -> str:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return " ".join(str(node.value.value).split())
    return ""


def aliases(module: Any) -> dict[str, str]:
    """Read what the module-level names of a module stand for, as types; checkers' ones first."""
    tree = ast.parse(inspect.getsource(module))
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            found |= _assigned(node.body)
    return _assigned(tree.body) | found


def _assigned(body: list[ast.stmt]) -> dict[str, str]:
    return {
        node.targets[0].id: ast.unparse(node.value)
        for node in body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }


def story(thing: Any) -> str:
    """The docstring up to its first section: what it is for, in Markdown."""
    lines = (inspect.getdoc(thing) or "").splitlines()
    ends = [n for n, line in enumerate(lines) if _SECTION.match(line)]
    return "\n".join(lines[: ends[0]] if ends else lines).strip()


def section(thing: Any, title: str) -> dict[str, str]:
    """The entries of one section of a docstring (`Args`, `Attributes`), each on one line."""
    found: dict[str, str] = {}
    name = current = ""
    for line in (inspect.getdoc(thing) or "").splitlines():
        if told := _SECTION.match(line):
            current = told[1]
        elif current == title and (entry := _ENTRY.match(line)):
            name = entry[1].strip("*")
            found[name] = entry[2]
        elif current == title and name and line.startswith(" " * 8):
            found[name] += " " + line.strip()
    return found


def bullets(thing: Any) -> dict[str, str]:
    """The docstring's list of names: ``- `name`: meaning``, each on one line."""
    text = re.sub(r"\n {2,}", " ", inspect.getdoc(thing) or "")
    return dict(re.findall(r"^- `(\w+)`: (.*)$", text, re.MULTILINE))
