"""The part of the matrix that is run every day."""

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

CELLS = 3
"""Cells of each row."""


def cover(rows: Iterable[Row] = tuple(ROWS.values())) -> list[Cell]:
    """Choose some cells of each row.

    The numbers of ways, places and dialects share no factor, so that counting through all three at
    once meets each combination of them.
    """
    places = tuple(PLACES.values())
    return [
        Cell(row, WAYS[n % len(WAYS)], places[n % len(places)], DIALECTS[n % len(DIALECTS)])
        for at, row in enumerate(rows)
        for n in range(at * CELLS, (at + 1) * CELLS)
    ]
