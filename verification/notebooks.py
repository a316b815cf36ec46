"""`python -m verification.notebooks`: run the notebooks from top to bottom, and keep their outputs.

Without arguments all of them; else those whose names begin with one, such as `03`.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

CELL_SECONDS = 60
"""The longest that one cell may take."""


def run(path: Path) -> nbformat.NotebookNode:
    """Run a notebook in a kernel of its own, from top to bottom.

    Args:
        path: Of the notebook; it is not written.

    Returns:
        The notebook with its new outputs, and nothing in it of the machine or the time of day.

    Raises:
        nbclient.exceptions.CellExecutionError: If a cell raises.
    """
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(path.parent)}}
    # The package of this clone, whatever the environment holds. The kernel has no terminal.
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": paths, "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    client = NotebookClient(
        notebook, timeout=CELL_SECONDS, kernel_name="python3", resources=resources,
        record_timing=False, coalesce_streams=True,
    )  # fmt: skip
    client.execute(env=environment)
    notebook.metadata["language_info"] = {"name": "python"}
    return notebook


def main(wanted: list[str]) -> None:
    """Run and save."""
    for path in NOTEBOOKS:
        if not wanted or path.name.startswith(tuple(wanted)):
            began = time.monotonic()
            nbformat.write(run(path), path)
            print(f"{path.name}: {time.monotonic() - began:.1f} s")


if __name__ == "__main__":
    main(sys.argv[1:])
