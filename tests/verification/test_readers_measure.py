"""The reader's measure counts a small made-up package as one would by hand."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

import pytest

from verification.readers_calls import Tracer, counted_objects, own_classes
from verification.readers_measure import measure, table

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILES = {
    "__init__.py": '"""A package."""\n',
    "shapes.py": '''"""Shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from tiny.drawing.pen import Pen


class Shape(Protocol):
    """What has an area."""

    def area(self) -> float: ...


class Square:
    """A square."""

    side: float = 1.0
    """In metres."""

    def area(self) -> float:
        # Exact: no rounding is needed.
        return self._squared() + _nothing()  # noqa: E501

    def _squared(self) -> float:
        return self.side * self.side

    def _unused(self) -> float:
        return 0.0

    def draw(self, pen: Pen, *, width: int) -> object:
        """Draw it."""
        return pen.draw(pen, width=width)


class Point(NamedTuple):
    x: int
    y: int


def _nothing() -> float:
    return sum(map(_zero, [1]))


def _zero(_number: int) -> float:
    return 0.0
''',
    "drawing/__init__.py": "",
    "drawing/pen.py": '''"""A pen."""

from dataclasses import dataclass

from tiny import shapes
from tiny.drawing import ink


class Pen(ink.Liquid):
    """Draws."""

    def __init__(self) -> None:
        super().__init__(3)

    def _flow(self) -> int:
        return 2


@dataclass(frozen=True)
class Square:
    """Another thing of that name."""

    size: int = 0


async def draw() -> int:
    """Draw a square."""
    shapes.Point(1, 2)
    Square()
    return Pen().drops() + int(shapes.Square().area())
''',
    "drawing/ink.py": '''"""Ink."""


class Liquid:
    """Flows."""

    def __init__(self, amount: int) -> None:
        self.amount = amount  # type: ignore[assignment]

    def drops(self) -> int:
        return sum(drop for drop in self._all()) + self._flow()

    def _all(self):
        yield self.amount
        yield self.amount

    def _flow(self) -> int:
        return 1
''',
    "testing.py": '"""Aside."""\n\nfrom tiny.drawing.ink import Liquid\n\nwater = Liquid(1)\n',
}


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    root = tmp_path / "tiny"
    (root / "drawing").mkdir(parents=True)
    for name, text in FILES.items():
        (root / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield root
    for name in [name for name in sys.modules if name.partition(".")[0] == "tiny"]:
        del sys.modules[name]


@pytest.fixture
def result(tiny: Path) -> dict[str, Any]:
    return measure(tiny, calls=False)


def test_files_and_lines_are_counted_with_and_without_the_rooms_aside(
    result: dict[str, Any],
) -> None:
    product, package = result["product"]["numbers"], result["package"]["numbers"]
    assert (product["files"], package["files"]) == (5, 6)
    assert package["lines in all"] - product["lines in all"] == 5
    # Neither docstrings nor blank lines: the import and the call.
    assert package["lines of code"] - product["lines of code"] == 2
    assert product["files under 60 lines"] == 5
    assert product["files over 600 lines"] == 0


def test_importers_for_types_alone_are_told_apart(result: dict[str, Any]) -> None:
    lists, numbers = result["package"]["lists"], result["package"]["numbers"]
    assert lists["one importer"] == {"drawing.pen": "shapes", "shapes": "drawing.pen"}
    assert lists["one importer at run time"] == {"shapes": "drawing.pen"}
    assert numbers["  of these, for types only"] == 1


def test_an_importer_aside_counts_for_the_product_too(result: dict[str, Any]) -> None:
    assert "drawing.ink" not in result["product"]["lists"]["one importer"]


def test_helpers_named_once_are_found_and_hooks_and_unused_ones_are_not(
    result: dict[str, Any],
) -> None:
    assert result["product"]["lists"]["named once"] == {
        "shapes:Square._squared": True,
        "shapes:_nothing": True,
        "shapes:_zero": False,
        "drawing.ink:Liquid._all": True,
    }


def test_circles_duplicates_protocols_and_pass_throughs_are_named(
    result: dict[str, Any],
) -> None:
    lists = result["package"]["lists"]
    assert lists["circles at run time"] == []
    assert lists["circles with types"] == [["drawing.pen", "shapes"]]
    assert lists["duplicate classes"] == {"Square": ["drawing.pen", "shapes"]}
    assert lists["single protocols"] == {"shapes:Shape": "shapes:Square"}
    assert lists["pass-throughs"] == ["shapes:Square.draw"]


def test_comments_that_direct_a_tool_are_counted_apart(result: dict[str, Any]) -> None:
    numbers = result["product"]["numbers"]
    assert (numbers["noqa"], numbers["type: ignore"]) == (1, 1)
    rooms = result["product"]["comments by room"]
    assert rooms["drawing"] == 0
    assert rooms["."] > 0


def test_the_table_is_aligned(result: dict[str, Any]) -> None:
    head = table(result)[: len(result["package"]["numbers"]) + 1]
    assert len({len(line) for line in head}) == 1


async def test_a_function_counts_once_a_call_however_often_it_is_resumed(tiny: Path) -> None:
    pen = importlib.import_module("tiny.drawing.pen")
    tracer = Tracer(tiny)
    try:
        with tracer:
            await pen.draw()
        counts = tracer.counts
    finally:
        tracer.close()
    assert tracer.functions["drawing/ink.py", "Liquid._all"] == 1
    assert tracer.functions["drawing/pen.py", "draw"] == 1
    # draw; Pen.__init__, Liquid.__init__, drops, _all, _flow; area, _squared, _nothing, _zero.
    assert counts == {"files": 3, "functions": 10, "calls": 10}


async def test_what_is_aside_or_comes_when_it_is_off_is_not_traced(tiny: Path) -> None:
    pen = importlib.import_module("tiny.drawing.pen")
    tracer = Tracer(tiny, aside=("drawing",))
    try:
        await pen.draw()
        with tracer:
            await pen.draw()
    finally:
        tracer.close()
    assert {file for file, _ in tracer.functions} == {"shapes.py"}


async def test_each_object_is_counted_once_by_its_own_class(tiny: Path) -> None:
    pen = importlib.import_module("tiny.drawing.pen")
    with counted_objects(own_classes("tiny")) as created:
        await pen.draw()
    assert created == {
        "tiny.drawing.pen.Pen": 1,
        "tiny.drawing.pen.Square": 1,
        "tiny.shapes.Square": 1,
        "tiny.shapes.Point": 1,
    }
    await pen.draw()
    assert created.total() == 4
