"""One call's arguments, taken apart: what is for the race, and what is for the providers."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

from langchain_core.messages import convert_to_messages
from pydantic import TypeAdapter

from langchain_resilient.policy import HedgeOption, OnBreak, Seconds
from langchain_resilient.priority import PRIORITY, Priority
from langchain_resilient.request import ChatRequest
from langchain_resilient.sampling import SAMPLING_FIELDS, Sampling
from langchain_resilient.size import characters, tokens
from langchain_resilient.wire.messages import to_wire
from langchain_resilient.wire.repair import repaired

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextvars import Context

    from langchain_core.messages import BaseMessage

    from langchain_resilient.engine.events import Plan
    from langchain_resilient.wire.structure import Structure

logger = logging.getLogger("langchain_resilient")

_SAMPLING = frozenset(SAMPLING_FIELDS) | {"model_kwargs"}
_timeout: TypeAdapter[float | None] = TypeAdapter(Seconds | None)
_affinity: TypeAdapter[str | None] = TypeAdapter(str | None)
_on_break: TypeAdapter[OnBreak | None] = TypeAdapter(OnBreak | None)
_hedge: TypeAdapter[Any] = TypeAdapter(HedgeOption)
_priority: TypeAdapter[Priority] = TypeAdapter(Priority)


class Call:
    """What one `invoke` or `stream` asks for.

    Attributes:
        request: For the providers.
        model: The `model=` override; None for the model's own chain.
        stream: Whether its text is shown as it comes.
        on_break: What follows a break; None for what the model says.
        several: Whether more than one answer is wanted (`n`).
        affinity: The name of its conversation; None if it has none of its own.
        batch: Whether nobody sits and waits for it (`priority="batch"`): at a target's rate limit
            it lets interactive calls go first, and its deadline runs from its first send.
        max_tokens: The longest answer it asks for; 0 where it does not say.
        structure: What the answer must fit; None for any.
        skipped: Targets that are not asked, each with the reason.
        context: The caller's, where an observer wants it.

    Raises:
        ValueError: If there are no messages, or an argument is out of range; names it.
    """

    __slots__ = ("_plan", "_size", "affinity", "batch", "context", "max_tokens", "model",
                 "on_break", "request", "several", "skipped", "stream", "structure")  # fmt: skip

    def __init__(
        self,
        defaults: Mapping[str, Any],
        messages: Sequence[BaseMessage],
        stop: list[str] | None,
        kwargs: dict[str, Any],
        *,
        stream: bool,
    ) -> None:
        self.stream: bool = stream
        self.model: Any = None
        self.affinity: str | None = None
        self.on_break: OnBreak | None = None
        self.batch = PRIORITY.get() == "batch"
        self.structure: Structure | None = None
        self.skipped: list[tuple[str, str]] = []
        self.context: Context | None = None
        self._size: int | None = None
        self._plan: dict[str, Any] = {}
        overrides = self._sort(kwargs) if kwargs else {}
        if stop:
            overrides["stop"] = stop
        wire, source = _conversation(messages)
        self.request = ChatRequest(wire, defaults, overrides, source=source)
        self.max_tokens: int = int(overrides.get("max_tokens") or defaults.get("max_tokens") or 0)
        self.several = (overrides.get("n") or defaults.get("n") or 1) > 1
        if self.several and stream:
            msg = "n must be 1 for a stream: LangChain has no place for several answers in one"
            raise ValueError(msg)

    @property
    def size(self) -> int:
        """The request's size in characters; measured when it is first asked for."""
        if self._size is None:
            given = self.request.overrides
            schemas = (given.get("tools"), given.get("response_format"))
            self._size = characters(self.request.messages, *schemas)
        return self._size

    def prompt_tokens(self) -> int:
        """About how many tokens its prompt has."""
        return tokens(self.size)

    def plan(self, plan: Plan) -> Plan:
        """The model's plan, with what this call changes of it."""
        return replace(plan, **self._plan) if self._plan else plan

    def _sort(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Take out what is about the race; check what is about sampling; pass the rest on."""
        kwargs.pop("stream", None)
        self.model = kwargs.pop("model", None)
        self.structure = kwargs.pop("structure", None)
        self.affinity = _affinity.validate_python(kwargs.pop("affinity", None))
        self.on_break = _on_break.validate_python(kwargs.pop("on_break", None))
        if "priority" in kwargs:
            self.batch = _priority.validate_python(kwargs.pop("priority")) == "batch"
        if "timeout" in kwargs:
            self._plan["deadline"] = _timeout.validate_python(kwargs.pop("timeout"))
        if "hedge" in kwargs:
            self._plan["hedge"] = _hedge.validate_python(kwargs.pop("hedge"))
        sampling = {name: kwargs.pop(name) for name in _SAMPLING & kwargs.keys()}
        if sampling:
            kwargs.update(Sampling(**sampling).sampling_params())
        return kwargs


def _conversation(
    messages: Sequence[BaseMessage],
) -> tuple[list[dict[str, Any]], Sequence[BaseMessage]]:
    """Convert the messages, for the wire and for targets that are LangChain models."""
    wire = to_wire(messages)
    mended = repaired(wire)
    if mended is wire:
        return wire, messages
    _tell_of_repairs()
    return mended, convert_to_messages(mended)


@cache
def _tell_of_repairs() -> None:
    """Say it once a process: an agent sends its history with every turn."""
    logger.warning(
        "a conversation was mended before it was sent: it held a tool call without its result, a "
        "result without its call, or a call that cannot be read"
    )
