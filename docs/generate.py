"""Generates the parts of the pages that come from the code. Sphinx runs it at each build.

`python -m docs.generate` writes them to `docs/_generated` for inspection.
"""

from __future__ import annotations

from pathlib import Path

from docs import chat_openai, cli, errors, options, providers, simulator

PAGES = {
    "options.md": options.page,
    "chat_openai.md": chat_openai.page,
    "cli.md": cli.page,
    "errors.md": errors.page,
    "providers.md": providers.page,
    "simulator.md": simulator.page,
}


def write(folder: Path) -> None:
    """Write the parts that have changed; Sphinx rebuilds the pages whose files are newer."""
    folder.mkdir(exist_ok=True)
    for name, page in PAGES.items():
        path, text = folder / name, page()
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(Path(__file__).parent / "_generated")
