"""One call's arguments, taken apart: what is for the race, and what is for the providers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from langchain_resilient.policy import HedgeOption, OnBreak, Seconds
from langchain_resilient.request import ChatRequest
from langchain_resilient.sampling import SAMPLING_FIELDS, Sampling
from langchain_resilient.size import characters
from langchain_resilient.wire.messages import to_wire

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextvars import Context

    from langchain_core.messages import BaseMessage

    from langchain_resilient.engine.events import Plan

_SAMPLING = frozenset(SAMPLING_FIELDS) | {"model_kwargs"}
_timeout: TypeAdapter[float | None] = TypeAdapter(Seconds | None)
_affinity: TypeAdapter[str | None] = TypeAdapter(str | None)
_on_break: TypeAdapter[OnBreak | None] = TypeAdapter(OnBreak | None)
_hedge: TypeAdapter[Any] = TypeAdapter(HedgeOption)


class Call:
    """What one `invoke` or `stream` asks for.

    Attributes:
        request: For the providers.
        model: The `model=` override; None for the model's own chain.
        stream: Whether its text is shown as it comes.
        on_break: What follows a break; None for what the model says.
        several: Whether more than one answer is wanted (`n`).
        affinity: The name of its conversation; None if it has none of its own.
        max_tokens: The longest answer it asks for; 0 where it does not say.
        skipped: Targets that are not asked, each with the reason.
        context: The caller's, where an observer wants it.

    Raises:
        ValueError: If there are no messages, or an argument is out of range; names it.
    """

    __slots__ = ("_plan", "_size", "affinity", "context", "max_tokens", "model", "on_break",
                 "request", "several", "skipped", "stream")  # fmt: skip

    def __init__(
        self,
        defaults: Mapping[str, Any],
        messages: Sequence[BaseMessage],
        stop: list[str] | None,
        kwargs: dict[str, Any],
        *,
        stream: bool,
    ) -> None:
        self.stream = stream
        self.model: Any = None
        self.affinity: str | None = None
        self.on_break: OnBreak | None = None
        self.skipped: list[tuple[str, str]] = []
        self.context: Context | None = None
        self._size: int | None = None
        self._plan: dict[str, Any] = {}
        overrides = self._sort(kwargs) if kwargs else {}
        if stop:
            overrides["stop"] = stop
        self.request = ChatRequest(to_wire(messages), defaults, overrides, source=messages)
        self.max_tokens = int(overrides.get("max_tokens") or defaults.get("max_tokens") or 0)
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

    def plan(self, plan: Plan) -> Plan:
        """The model's plan, with what this call changes of it."""
        return replace(plan, **self._plan) if self._plan else plan

    def _sort(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Take out what is about the race; check what is about sampling; pass the rest on."""
        kwargs.pop("stream", None)
        self.model = kwargs.pop("model", None)
        self.affinity = _affinity.validate_python(kwargs.pop("affinity", None))
        self.on_break = _on_break.validate_python(kwargs.pop("on_break", None))
        if "timeout" in kwargs:
            self._plan["deadline"] = _timeout.validate_python(kwargs.pop("timeout"))
        if "hedge" in kwargs:
            self._plan["hedge"] = _hedge.validate_python(kwargs.pop("hedge"))
        sampling = {name: kwargs.pop(name) for name in _SAMPLING & kwargs.keys()}
        if sampling:
            kwargs.update(Sampling(**sampling).sampling_params())
        return kwargs
