"""Keeps a conversation at the target that holds its prompt cache.

Providers keep the prefix of a prompt ready for some minutes, which makes the next turn of the same
conversation faster and cheaper there (https://platform.openai.com/docs/guides/prompt-caching).
"""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

MOST_CONVERSATIONS = 4096
"""Beyond that the one that was quiet for longest is forgotten."""


class Affinity:
    """Remembers which target answered a conversation last. Safe for use by any thread.

    Example:
        ```python
        affinity = Affinity()
        key = conversation(request.messages)
        affinity.keep(key, "openai:gpt-4o")
        affinity.target(key)
        ```
    """

    __slots__ = ("_lock", "_targets")

    def __init__(self) -> None:
        self._targets: OrderedDict[Hashable, str] = OrderedDict()
        self._lock = Lock()

    def target(self, key: Hashable) -> str | None:
        """Name the target that answered it last."""
        return self._targets.get(key)

    def keep(self, key: Hashable, target: str) -> None:
        """Remember who answered."""
        with self._lock:
            self._targets[key] = target
            self._targets.move_to_end(key)
            if len(self._targets) > MOST_CONVERSATIONS:
                self._targets.popitem(last=False)


def conversation(messages: Sequence[Mapping[str, Any]]) -> Hashable:
    """Tell conversations apart by how they begin: all up to the first message of the user.

    Args:
        messages: As in `ChatRequest.messages`.
    """
    beginning = []
    for message in messages:
        beginning.append(str(message.get("content")))
        if message.get("role") == "user":
            break
    return hash(tuple(beginning))
