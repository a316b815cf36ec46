"""Writes the parts of the pages that come out of the code. Sphinx runs it at each build.

`python -m docs.generate` writes them into `docs/_generated` for a look.
"""

from __future__ import annotations

from pathlib import Path

from docs import commands, failures, options, simulator

PAGES = {
    "options.md": options.page,
    "cli.md": commands.page,
    "errors.md": failures.page,
    "simulator.md": simulator.page,
}


def write(folder: Path) -> None:
    """Write each part, where it has changed: Sphinx reads again what is newer."""
    folder.mkdir(exist_ok=True)
    for name, make in PAGES.items():
        path, text = folder / name, make()
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(Path(__file__).parent / "_generated")
