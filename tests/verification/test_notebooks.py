"""The notebooks run from top to bottom, and what is committed of them is fit to be read."""

from __future__ import annotations

import os
import re

import nbformat
import pytest

from verification.notebooks import NOTEBOOKS, run

EVERY = os.environ.get("NOTEBOOKS") == "all"
QUICK = ("01", "04")
"""Run each time; the others with `NOTEBOOKS=all`."""


def _case(path):
    marks = [
        pytest.mark.skipif(
            not (EVERY or path.name.startswith(QUICK)), reason="NOTEBOOKS=all runs it too"
        ),
        *([pytest.mark.local] if "local" in _sources(path) else []),
    ]
    return pytest.param(path, id=path.stem, marks=marks)


def _sources(path):
    cells = nbformat.read(path, as_version=4).cells
    return "\n".join(cell.source for cell in cells if cell.cell_type == "code")


def test_there_are_four():
    """So that the other tests cannot pass by finding none."""
    assert [path.name[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04"]


@pytest.mark.parametrize("path", [_case(path) for path in NOTEBOOKS])
def test_it_runs_from_top_to_bottom(path):
    """In a kernel of its own, without a key."""
    cells = [cell for cell in run(path).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_its_outputs_are_committed(path):
    """Of every cell, in one go from the top; none is an error, nor a complaint beside the bars."""
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert outputs
    assert not [output for output in outputs if output.output_type == "error"]
    results = [o.text for o in outputs if o.get("name") == "stderr"]
    assert [
        text for text in results if not re.fullmatch(r"100%\|█+\| .* prompts/s.*\s*", text)
    ] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_tells_nothing_of_the_machine(path):
    """No paths, no addresses."""
    text = path.read_text()
    assert not [word for word in ("/root", "/home", "/tmp", "127.0.0.1:") if word in text]  # noqa: S108
