"""Where rivals live: environments of their own, which `make bench` builds."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from benchmarks.contenders import RUST

ROOT = Path(__file__).parents[1]
SHARED = ROOT / ".rivals"
LITELLM = SHARED / "litellm"


def python_of(name: str) -> str:
    """Return the interpreter that a contender runs in.

    The newest litellm wants an older openai than the others, so it has an environment to itself.

    Args:
        name: A contender's name; litellm's begin with "litellm".

    Returns:
        The path; this interpreter where no such environment was built.
    """
    home = LITELLM if name.startswith("litellm") else SHARED
    python = home / "bin" / "python"
    return str(python) if python.exists() else sys.executable


OPTIONAL = {RUST: "liter_llm"}
"""Contenders that are measured where they could be installed, and what they import."""


def installed(names: Iterable[str]) -> list[str]:
    """Leave out those optional contenders that are not there; says so, once for each."""
    return [name for name in names if name not in OPTIONAL or _imports(name)]


@cache
def _imports(name: str) -> bool:
    command = [python_of(name), "-c", f"import {OPTIONAL[name]}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["it does not start"])[-1]
        print(f"  {name} is skipped: {reason}", file=sys.stderr, flush=True)
    return not done.returncode
