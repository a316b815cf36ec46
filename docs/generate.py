"""Writes the parts of the pages that come from the code: `python -m docs.generate`.

They stand in the pages, between two marks, so that whoever reads them at the repository sees them
too; `tests/docs/test_reference.py` says when they are not those of the code any more.
"""

from __future__ import annotations

import re
from pathlib import Path

from docs import chat_openai, cli, errors, options, providers, simulator

PARTS = {
    "options.md": options.page,
    "chat_openai.md": chat_openai.page,
    "cli.md": cli.page,
    "errors.md": errors.page,
    "servers.md": providers.page,
    "testing.md": simulator.page,
}
"""By the page that they stand in."""

BEGIN = "<!-- from here on by python -m docs.generate -->"
END = "<!-- to here -->"


def generated(page: str) -> str:
    """Return the text of a page with its part as the code has it now."""
    text = (Path(__file__).parent / page).read_text(encoding="utf-8")
    part = f"{BEGIN}\n\n{PARTS[page]().strip()}\n\n{END}"
    made, count = re.subn(f"{BEGIN}.*?{END}", lambda _: part, text, flags=re.DOTALL)
    if count != 1:
        msg = f"{page} has {count} places for what is generated, and should have one"
        raise ValueError(msg)
    return made


if __name__ == "__main__":
    for name in PARTS:
        (Path(__file__).parent / name).write_text(generated(name), encoding="utf-8")
