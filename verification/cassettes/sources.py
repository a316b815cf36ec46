"""From what each folder of cassettes was recorded: written beside them, shown in their README."""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import Any

from verification.cassettes.store import ENDING, FOLDER, payloads, read

SOURCE = "SOURCE.json"
HEADINGS = ("folder", "recorded from", "model", "cassettes", "exchanges", "bytes")


def source_of(folder: str) -> dict[str, Any]:
    """Tell from what a folder was recorded; empty where it was not yet."""
    path = FOLDER / folder / SOURCE
    return json.loads(path.read_text()) if path.is_file() else {}


def write_source(folder: str, kind: str, server: str, model: str, *packages: str) -> None:
    """Say from what a folder was recorded.

    Args:
        folder: Its name.
        kind: `"simulator"`, `"embedded"` or `"live"`.
        server: What answered, in words.
        model: Which model was asked.
        *packages: Whose versions tell what the wire looked like.
    """
    source = {
        "kind": kind,
        "server": server,
        "model": model,
        "packages": {name: version(name) for name in packages},
    }
    (FOLDER / folder / SOURCE).write_text(json.dumps(source, indent=1) + "\n")


def table() -> str:
    """The table in `cassettes/README.md`, made from what lies there."""
    rows = [HEADINGS, tuple("---" for _ in HEADINGS)]
    for folder in sorted(path.parent for path in FOLDER.glob(f"*/{SOURCE}")):
        files = sorted(folder.glob(f"*.{ENDING}"))
        source = source_of(folder.name)
        packages = ", ".join(f"{name} {number}" for name, number in source["packages"].items())
        rows.append(
            (
                f"`{folder.name}/`",
                f"{source['server']} ({packages})",
                f"`{source['model']}`",
                str(len(files)),
                str(sum(len(read(file)) for file in files)),
                f"{sum(file.stat().st_size for file in files):,}",
            )
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def tokens(folder: str) -> tuple[int, int]:
    """Tokens of prompts and of answers in a folder, by the usage that stands in its answers."""
    given = made = 0
    for file in (FOLDER / folder).glob(f"*.{ENDING}"):
        for exchange in read(file):
            usage: dict[str, int] = {}
            for one in payloads(exchange["response"]["body"]["string"]):
                usage = one.get("usage") or usage
            given += usage.get("prompt_tokens", 0)
            made += usage.get("completion_tokens", 0)
    return given, made
