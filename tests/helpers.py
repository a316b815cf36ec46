"""Child processes of tests: ended however the test ends."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

UNWARNED_FORK = ("-W", "ignore:This process:DeprecationWarning")
"""Options of a Python that forks beside its threads on purpose: 3.12 and later warn of that."""


@contextmanager
def process(*command: str, **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """A child process that does not outlive the block, nor do its pipes, however the block ends."""
    with subprocess.Popen(command, **options) as started:
        try:
            yield started
        finally:
            started.kill()  # does nothing to one that has been waited for
