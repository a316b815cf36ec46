"""Which observers go with a pickled model: those that can be pickled."""

from __future__ import annotations

import logging
import pickle
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from langchain_resilient.observability.observer import Observer

logger = logging.getLogger("langchain_resilient")


def travellers(observers: Iterable[Observer]) -> tuple[Observer, ...]:
    """Leave behind those that hold what belongs to this process: sockets, locks, open files.

    Each that stays is named in the log, for a worker that sends the model on must not fail for it.
    """
    return tuple(one for one in observers if _can_travel(one))


def _can_travel(observer: Observer) -> bool:
    try:
        pickle.dumps(observer)
    except Exception as error:  # noqa: BLE001  # pickle lets anything out
        name = type(observer).__name__
        logger.warning("observer %s stays behind: it cannot be pickled (%s)", name, error)
        return False
    return True
