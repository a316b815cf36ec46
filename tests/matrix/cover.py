"""Which cells there are, and which of them are run every day."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.matrix.cell import Cell
from tests.matrix.places import PLACES
from tests.matrix.row import WAYS
from tests.matrix.rows import ROWS
from tests.streams.bench import DIALECTS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.matrix.row import Row

DAILY = 2
"""Cells of each row that are run every day."""


def every_cell() -> list[Cell]:
    """List all cells there are."""
    return [
        Cell(row, way, place, dialect)
        for row in ROWS.values()
        for place in PLACES.values()
        for way in WAYS
        for dialect in DIALECTS
    ]


def matrix() -> list[Cell]:
    """List the cells of the matrix: of the rows that are variants of others every way once."""
    some = cover([row for row in ROWS.values() if row.variant], each=len(WAYS))
    chosen = {str(cell) for cell in some}
    return [cell for cell in every_cell() if not cell.row.variant or str(cell) in chosen]


def cover(rows: Iterable[Row] = tuple(ROWS.values()), each: int = DAILY) -> list[Cell]:
    """Choose some cells of each row.

    The numbers of ways, places and dialects share no factor, so that counting through all three at
    once meets each combination of them.
    """
    places = tuple(PLACES.values())
    return [
        Cell(row, WAYS[n % len(WAYS)], places[n % len(places)], DIALECTS[n % len(DIALECTS)])
        for at, row in enumerate(rows)
        for n in range(at * each, (at + 1) * each)
    ]
