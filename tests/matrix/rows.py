"""All rows, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.matrix.breaking import BREAKING
from tests.matrix.refusing import REFUSING
from tests.matrix.replying import REPLYING

if TYPE_CHECKING:
    from tests.matrix.row import Row

ROWS: dict[str, Row] = {row.name: row for row in (*REPLYING, *BREAKING, *REFUSING)}
