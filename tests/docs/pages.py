"""Finds the code in the pages.

- ` ```python ` is run, in the order of the page; all blocks of a page share their names.
- ` ```output ` after it is what the block prints; `...` stands for anything.
- ` ```console ` contains commands after `$ `, each with its output; they are run.
- ` ```bash ` contains commands that need time, keys or network: they are checked without running.
- `<!-- not run: reason -->` before a block means that it is only compiled, and says why.
- `<!-- needs: package -->` before a block: where the package is absent, it is only compiled.
- `<!-- file: name.py -->` before a block: it is written to that file, which a command then runs.
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
    r"(?:^<!-- (?:not run: (?P<reason>[^\n]*)|needs: (?P<needs>\w+)|file: (?P<file>[\w.]+)) -->\n)?"
    r"^(?P<indent> *)```(?P<language>\w+)\n(?P<code>.*?)^(?P=indent)```$"
    r"(?:\n\n?(?P=indent)```output\n(?P<output>.*?)^(?P=indent)```$)?",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Block:
    """One block of code.

    Attributes:
        page: Its file.
        line: The line number of its first line of code.
        language: As the page names it.
        code: Its text.
        output: What it prints; None where the page does not say.
        reason: Why it is not run; None if it is.
        needs: The package without which it is not run; None if it needs none.
        file: The file that it is written to; None if it is run in this process.
    """

    page: Path
    line: int
    language: str
    code: str
    output: str | None
    reason: str | None
    needs: str | None = None
    file: str | None = None

    @property
    def place(self) -> str:
        """File and line, as editors and tracebacks write them."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """Return the blocks of a page, in order; their outputs are part of them."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            page,
            text.count("\n", 0, match.start("code")) + 1,
            match["language"],
            match["code"],
            match["output"],
            match["reason"],
            match["needs"],
            match["file"],
        )
        for match in _BLOCK.finditer(text)
    ]
