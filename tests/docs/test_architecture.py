"""ARCHITECTURE.md names every module, and nothing that does not exist."""

from __future__ import annotations

import ast
import re

import pytest

from tests.conftest import ROOT
from tests.test_imports import LAYERS

PACKAGE = ROOT / "langchain_resilient"
TEXT = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
SELF_EXPLAINED = {"testing", "simulation", "demo"}
"""Rooms that the page leaves to their own docstrings."""


def trees():
    """Each module's path below the package, and its syntax tree."""
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE), ast.parse(path.read_text(encoding="utf-8"))


def test_every_module_has_a_row():
    """An `__init__.py` that holds only a docstring is no module of its own."""
    modules = {
        str(path)
        for path, tree in trees()
        if path.parts[0] not in SELF_EXPLAINED
        and not (path.name == "__init__.py" and len(tree.body) == 1)
    }
    rows = re.findall(r"^\| `([\w/]+\.py)` \| [A-Z`].*\. \|$", TEXT, re.MULTILINE)
    assert sorted(rows) == sorted(modules)


def test_every_path_exists():
    """Files and folders, below the package or below the repository."""
    paths = re.findall(r"`((?:[\w]+/)+(?:[\w.]+)?|\w+\.(?:py|md))`", TEXT)
    assert len(paths) > 80
    assert [p for p in paths if not (PACKAGE / p).exists() and not (ROOT / p).exists()] == []


def test_every_method_exists():
    """`Class.method`, wherever the class is defined."""
    members: dict[str, set[str]] = {}
    for _, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                inside = {n.name for n in node.body if isinstance(n, FUNCTIONS)}
                members.setdefault(node.name, set()).update(inside)
    named = re.findall(r"`([A-Z]\w+)\.(\w+)`", TEXT)
    assert len(named) > 20
    assert [f"{c}.{m}" for c, m in named if m not in members.get(c, set())] == []


def test_every_name_exists():
    """Classes and functions that stand alone in backticks."""
    source = "\n".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    named = set(re.findall(r"`([A-Z][a-z]+[A-Z]\w+|[a-z]+_[a-z_]+)`", TEXT))
    unknown = {n for n in named if not re.search(rf"\b{n}\b", source)}
    assert unknown == set()


@pytest.mark.parametrize("room", sorted(SELF_EXPLAINED))
def test_the_rooms_that_are_left_out_are_named(room):
    """With the reason."""
    assert f"`{room}/`" in TEXT


def test_no_layer_may_import_a_higher_one():
    """By the tests of imports, room by room."""
    lines = re.findall(r"^(\d)\. (`.*?):", TEXT.partition("## The files")[0], re.MULTILINE)
    layer = {room: int(n) for n, line in lines for room in re.findall(r"`(\w+)/?`", line)}
    rooms = LAYERS.keys() - SELF_EXPLAINED
    assert rooms <= layer.keys()
    upward = [
        f"{room} (layer {layer[room]}) may import {other}"
        for room in rooms
        for other in LAYERS[room] & layer.keys()
        if layer[other] < layer[room]
    ]
    assert upward == []
