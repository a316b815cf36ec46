"""What the runner needs of others: the work on an item, and a journal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from langchain_core.messages import AIMessage

T_contra = TypeVar("T_contra", contravariant=True)
R = TypeVar("R")


class Work(Protocol[T_contra, R]):
    """What is done with each item of a batch."""

    def find(self, index: int, item: T_contra) -> R | None:
        """Return the result of an item if there is one already; then nothing else is called."""
        ...

    async def ask(self, index: int, item: T_contra, *, again: bool) -> R:
        """Make the result of an item. An `Exception` is its failure.

        Args:
            index: The item's place.
            item: The item.
            again: Another worker is asking for the same item; the first answer wins, and the other
                call is cancelled.
        """
        ...

    async def keep(self, index: int, result: R | Exception) -> None:
        """Take in a result before it is reported; once an item, in no order.

        An exception of this ends the whole batch.
        """
        ...


class Journal(Protocol):
    """Keeps answers beyond the life of the process, by position and request.

    A batch opens it, and closes it when it ends, however it ends. One batch at a time uses it.
    """

    async def open(self) -> None:
        """Read what is there."""
        ...

    def look_up(self, index: int, key: str) -> AIMessage | None:
        """Return the answer that was recorded for this position and this request, if any."""
        ...

    async def record(self, index: int, key: str, message: AIMessage) -> None:
        """Keep an answer. It is durable when this returns."""
        ...

    async def aclose(self) -> None:
        """Let go of the file."""
        ...
