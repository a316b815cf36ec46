"""Finds the code in the pages.

- ` ```python ` is run, in the order of the page; all blocks of a page share their names.
- ` ```output ` after it is what the block prints, `...` standing for anything.
- ` ```console ` holds commands behind `$ `, each with what it prints; they are run.
- ` ```bash ` holds commands that need time, keys or network: each is checked by its name.
- `<!-- not run: reason -->` before a block says that it is only compiled, and why.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.conftest import ROOT

if TYPE_CHECKING:
    from pathlib import Path

ROOT_PAGES = [
    ROOT / name
    for name in ("README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
]
PAGES = [*ROOT_PAGES, *sorted((ROOT / "docs").glob("*.md"))]

_BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^\n]*) -->\n)?"
    r"^(?P<indent> *)```(?P<language>\w+)\n(?P<code>.*?)^(?P=indent)```$"
    r"(?:\n\n?(?P=indent)```output\n(?P<output>.*?)^(?P=indent)```$)?",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Block:
    """One block of code.

    Attributes:
        page: The file that it stands in.
        line: The line of its first line of code.
        language: As the page names it.
        code: What it says.
        output: What it prints; None where the page does not say.
        reason: Why it is not run; None if it is.
    """

    page: Path
    line: int
    language: str
    code: str
    output: str | None
    reason: str | None

    @property
    def place(self) -> str:
        """Where it stands, as editors and tracebacks write it."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """The blocks of a page, in order; their outputs are part of them."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            page,
            text.count("\n", 0, found.start("code")) + 1,
            found["language"],
            found["code"],
            found["output"],
            found["reason"],
        )
        for found in _BLOCK.finditer(text)
    ]
