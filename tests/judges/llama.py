"""llama.cpp's own server, for cancellation: does it stop generating for a loser?"""

from __future__ import annotations

import subprocess
import sys
import time

from tests.judges.install import MissingError

ROUNDS = 2
_PATIENCE = 900.0
_MISSING = 2


def judged() -> bool:
    """Be judged by llama.cpp: its own metrics tell whether it stops for a loser (`make losers`).

    Raises:
        MissingError: If there is no llama.cpp, or no model for it.
    """
    began = time.monotonic()
    command = [sys.executable, "-m", "tests.losers", "--rounds", str(ROUNDS)]
    done = subprocess.run(command, text=True, capture_output=True, timeout=_PATIENCE, check=False)
    if done.returncode == _MISSING:
        raise MissingError(done.stderr.strip())
    print("\n".join(f"    {line}" for line in done.stdout.splitlines()))
    print(f"    {time.monotonic() - began:.0f} s, exit status {done.returncode}", flush=True)
    return done.returncode == 0
