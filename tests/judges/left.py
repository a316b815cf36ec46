"""What our client leaves behind in this process: tasks, losers, sockets."""

from __future__ import annotations

import asyncio
import gc
import os
import stat
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from langchain_resilient.providers.sdk import close_clients
from langchain_resilient.runtime.background_loop import background_loop
from langchain_resilient.runtime.shared_state import loop_reaper

if TYPE_CHECKING:
    from collections.abc import Collection

_DESCRIPTORS = Path("/proc/self/fd")
_SETTLE = 2.0
_TICK = 0.01


def sockets() -> set[str]:
    """What this process holds now: what others opened before is not ours to close."""
    return set(_sockets(()))


async def left(ours: Collection[int] = (), before: Collection[str] = ()) -> list[str]:
    """Close the clients, wait until what was given up is gone, and list what is still there.

    Sockets are counted where the kernel shows a process its descriptors (Linux). The event loops'
    own pairs are no connections.

    Args:
        ours: Ports on which this process serves: what is bound there is not the client's.
        before: What `sockets()` said before.
    """
    with warnings.catch_warnings(record=True) as complaints:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", ResourceWarning)
        found = await _closed() + await asyncio.to_thread(background_loop().run, _closed())
        gc.collect()
        until = time.monotonic() + _SETTLE
        while (rest := _rest(ours, before)) and time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(_TICK)
    return [*found, *rest, *(str(one.message) for one in complaints)]


async def _closed() -> list[str]:
    dying = await loop_reaper().drain()
    await close_clients()
    return [f"{dying} losers were not closed"] if dying else []


def _rest(ours: Collection[int], before: Collection[str]) -> list[str]:
    # Those of others may change their state meanwhile, not their ends.
    known = {one.partition(", state")[0] for one in before}
    new = [one for one in _sockets(ours) if one.partition(", state")[0] not in known]
    return _tasks() + new


def _tasks() -> list[str]:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    return [f"task left: {task}" for task in others]


def _sockets(ours: Collection[int]) -> list[str]:
    """List TCP sockets that this process holds, by their rows in the kernel's table."""
    if not _DESCRIPTORS.exists():
        return []
    mine = {f"{inode}" for inode in map(_inode, _DESCRIPTORS.iterdir()) if inode}
    rows = [row.split() for row in Path("/proc/self/net/tcp").read_text("ascii").splitlines()[1:]]
    return [
        f"socket left: {local} to {remote}, state {state}"
        for _, local, remote, state, *_, inode in (row[:10] for row in rows)
        if inode in mine and int(local.rpartition(":")[2], 16) not in ours
    ]


def _inode(descriptor: Path) -> int:
    try:
        status = os.stat(descriptor)  # noqa: PTH116  # follows to the socket itself
    except OSError:  # it was the descriptor of the listing itself
        return 0
    return status.st_ino if stat.S_ISSOCK(status.st_mode) else 0
