"""Where rivals live: environments of their own, which `make bench` builds."""

from __future__ import annotations

import sys
from pathlib import Path

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
