"""Choices read from bytes: hypothesis shrinks them, a coverage-guided fuzzer breeds them."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T")


class Dice:
    """Makes choices, and goes on with the first option for ever once its bytes are used up.

    Drawing every choice from a strategy of its own would take hypothesis thirty times as long.

    Args:
        data: One byte a choice, two where there are more options than a byte can tell.

    Example:
        ```python
        dice = Dice(bytes([2, 1]))
        dice.pick("abc"), dice.pick("abc"), dice.pick("abc")  # ('c', 'b', 'a')
        ```
    """

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def below(self, count: int) -> int:
        """A number from 0 on; one of few bytes is as likely as any other."""
        size = 1 if count <= 256 else 2 if count <= 65_536 else 4
        taken = self._data[self._at : self._at + size]
        self._at += size
        return int.from_bytes(taken, "little") % count

    def pick(self, options: Sequence[T]) -> T:
        """One of them; the first should be the harmless one."""
        return options[self.below(len(options))]

    def once_in(self, count: int) -> bool:
        """Whether something rare happens."""
        return self.below(count) == count - 1

    def rest(self) -> bytes:
        """What is left."""
        return self._data[self._at :]
