"""What a process holds: connections in use, sockets, threads and files."""

from __future__ import annotations

import os
import threading
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_resilient.providers import sdk
from tests.whole_stack.world import busy

if TYPE_CHECKING:
    from collections.abc import Collection

WORKERS = "matrix-worker"
"""The threads in which synchronous calls are made; they stay."""

_STAY = (WORKERS, "asyncio_")
"""Threads that loops keep for their blocking work, a bounded number."""

_FILES = Path("/proc/self/fd")


def busy_connections(keys: Collection[str]) -> list[str]:
    """List the connections that the clients of these API keys count as in use, on any loop."""
    known = [c for one in list(sdk._by_loop.values()) for c in list(one.made.values())]
    mine = [one for one in known if one._client.api_key in keys]
    return [f"a pool holds {found}" for one in mine if (found := busy(one._http._transport))]


def stock() -> Counter[str]:
    """Count the process's threads by name, and its open files by kind, sockets among them."""
    names = [t.name for t in threading.enumerate() if not t.name.startswith(_STAY)]
    return Counter([*(f"thread {name}" for name in names), *_open_files()])


def _open_files() -> list[str]:
    found = []
    for one in os.listdir(_FILES) if _FILES.exists() else ():  # noqa: PTH208  # names, not paths
        try:
            # A directory that is listed is open, too, and gone by now.
            found.append(os.readlink(_FILES / one).partition(":")[0])  # noqa: PTH115
        except OSError:
            continue
    return found


def grown(before: Counter[str], after: Counter[str]) -> list[str]:
    """List what there is more of."""
    return [f"{number} more: {what}" for what, number in (after - before).items()]


def keys_of(model: Any) -> list[str]:
    """List the API keys of a model's targets."""
    return [target.api_key.get_secret_value() for target in model.chain()]
