"""The tool calls of one answer, put together from their fragments."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from langchain_resilient.wire.reading import MOST_CALLS, BadChunkError

if TYPE_CHECKING:
    from langchain_resilient.wire.reading import Fragment


class Call:
    """One tool call as far as it has come."""

    __slots__ = ("_args", "given_id", "made_id", "name")

    def __init__(self) -> None:
        self.given_id: str | None = None
        self.made_id: str | None = None
        self.name: str = ""
        self._args: list[str] = []

    @property
    def id(self) -> str:
        """The server's id, or one made here: an agent cannot answer a call without one."""
        if self.given_id:
            return self.given_id
        if self.made_id is None:
            self.made_id = f"call_{uuid.uuid4().hex[:24]}"
        return self.made_id

    @property
    def args(self) -> str:
        """The arguments, JSON if the model did well."""
        return "".join(self._args)

    def length(self) -> int:
        """Characters of its arguments."""
        return sum(map(len, self._args))

    def add(self, fragment: Fragment) -> tuple[str | None, str | None, str | None]:
        """Take what is new in a fragment.

        Returns:
            The id, name and arguments that it added, each None where it added nothing.
        """
        id_ = name = None
        if fragment.id and not self.given_id:
            self.given_id = id_ = fragment.id
        # A name may come in pieces, or be repeated whole with every piece of the arguments.
        if fragment.name and not self._args and fragment.name != self.name:
            self.name += fragment.name
            name = fragment.name
        args = fragment.args or None
        if args == "null" and not self._args:  # how some models say "no arguments"
            args = None
        if args:
            self._args.append(args)
        return id_, name, args


class ToolCalls:
    """Tells which fragment belongs to which call.

    The index decides where it means anything. It does not with servers that number every call 0
    (Grok and Gemini behind gateways) or give no index: there a new id beside a name, or a second
    name, begins a new call.
    """

    __slots__ = ("_by_id", "_by_index", "calls")

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._by_index: dict[int, int] = {}
        self._by_id: dict[str, int] = {}

    def length(self) -> int:
        """Characters of all their arguments."""
        return sum([call.length() for call in self.calls])

    def add(self, fragment: Fragment) -> tuple[int, str | None, str | None, str | None]:
        """Fold in one fragment.

        Returns:
            The place of its call, and the id, name and arguments that are new.

        Raises:
            BadChunkError: If there are more calls than any answer has.
        """
        place = self._place(fragment)
        if place is None:
            place = len(self.calls)
            if place == MOST_CALLS:
                raise BadChunkError(f"an answer has more than {MOST_CALLS} tool calls")
            self.calls.append(Call())
        if fragment.number is not None:
            self._by_index[fragment.number] = place
        if fragment.id:
            self._by_id.setdefault(fragment.id, place)
        return (place, *self.calls[place].add(fragment))

    def _place(self, f: Fragment) -> int | None:
        known = self._by_id.get(f.id) if f.id else None
        if f.number is None:
            return self._place_by_id(f, known)
        place = self._by_index.get(f.number)
        if place is None or not f.id or self.calls[place].given_id in (None, f.id):
            return place
        if known is not None:
            return known
        # Without a name it is no new call: vLLM has sent a fresh id with every fragment.
        return None if f.name else place

    def _place_by_id(self, f: Fragment, known: int | None) -> int | None:
        if known is not None:
            return known
        last = self._last()
        begins = f.name and (f.id or last is None or self.calls[last].name)
        return None if begins else last

    def _last(self) -> int | None:
        return len(self.calls) - 1 if self.calls else None
