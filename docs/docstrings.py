"""Reads names and their meanings from the code: attribute docstrings and Google-style sections."""

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
class Attribute:
    """What the source says about one attribute.

    Attributes:
        annotation: Its type, as written in the source.
        meaning: The docstring under it, on one line; empty without one.
    """

    annotation: str
    meaning: str


@cache
def attributes(cls: type) -> dict[str, Attribute]:
    """Return the annotated attributes of a class and the docstrings under them, bases first."""
    own_and_inherited: dict[str, Attribute] = {}
    for base in reversed(cls.__mro__):
        if base.__module__.startswith("langchain_resilient"):
            own_and_inherited |= _own(base)
    return own_and_inherited


def members(cls: type) -> dict[str, str]:
    """Return the members of an enumeration and the docstrings under them."""
    return {name: meaning for name, (_, meaning) in _statements(cls).items() if name.isupper()}


def _own(cls: type) -> dict[str, Attribute]:
    return {
        name: Attribute(ast.unparse(node.annotation), meaning)
        for name, (node, meaning) in _statements(cls).items()
        if isinstance(node, ast.AnnAssign) and not name.startswith("_")
    }


def _statements(cls: type) -> dict[str, tuple[ast.stmt, str]]:
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    body = tree.body if isinstance(tree, ast.ClassDef) else []
    statements: dict[str, tuple[ast.stmt, str]] = {}
    for node, after in zip(body, [*body[1:], None], strict=True):
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name):
            statements[target.id] = (node, _text(after))
    return statements


def _text(node: ast.stmt | None) -> str:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return " ".join(str(node.value.value).split())
    return ""


def aliases(module: Any) -> dict[str, str]:
    """Return the type aliases of a module; those under TYPE_CHECKING take precedence."""
    tree = ast.parse(inspect.getsource(module))
    for_checkers: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for_checkers |= _assigned(node.body)
    return _assigned(tree.body) | for_checkers


def _assigned(body: list[ast.stmt]) -> dict[str, str]:
    return {
        node.targets[0].id: ast.unparse(node.value)
        for node in body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }


def description(thing: Any) -> str:
    """Return the docstring up to its first section, as Markdown."""
    lines = (inspect.getdoc(thing) or "").splitlines()
    ends = [n for n, line in enumerate(lines) if _SECTION.match(line)]
    return "\n".join(lines[: ends[0]] if ends else lines).strip()


def section(thing: Any, title: str) -> dict[str, str]:
    """Return the entries of one section of a docstring (`Args`, `Attributes`), each on one line."""
    entries: dict[str, str] = {}
    name = current = ""
    for line in (inspect.getdoc(thing) or "").splitlines():
        if heading := _SECTION.match(line):
            current = heading[1]
        elif current == title and (entry := _ENTRY.match(line)):
            name = entry[1].strip("*")
            entries[name] = entry[2]
        elif current == title and name and line.startswith(" " * 8):
            entries[name] += " " + line.strip()
    return entries


def bullets(thing: Any) -> dict[str, str]:
    """Return the docstring's list of names (``- `name`: meaning``), each on one line."""
    text = re.sub(r"\n {2,}", " ", inspect.getdoc(thing) or "")
    return dict(re.findall(r"^- `(\w+)`: (.*)$", text, re.MULTILINE))
