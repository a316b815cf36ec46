"""Whether a whole answer is good enough: it must fit its schema, and please `check`."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage, HumanMessage

from langchain_resilient.fault import Fault, FaultKind
from langchain_resilient.wire.answers import to_result

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_resilient.call import Call
    from langchain_resilient.engine.events import Attempt
    from langchain_resilient.request import ChatRequest
    from langchain_resilient.target import Target

_ASKING = """\
This answer does not fit what was asked for: {problem}

Answer again, so that it fits, and say nothing else."""


class Judge:
    """Judges the answers to one call, and tells the next attempt what was wrong with the last.

    Args:
        call: Who asks, and for what.
        check: The model's `check`, if it has one.
        target_of: Which target an attempt went to.

    Attributes:
        unfit: The last attempt whose answer was whole and did not fit the schema.
        ask: Takes the request that attempts from now on are to send.
    """

    def __init__(
        self,
        call: Call,
        check: Callable[[AIMessage], Any] | None,
        target_of: Callable[[Attempt], Target],
    ) -> None:
        self._structure = call.structure
        self._request = call.request
        self._check = check
        self._target_of = target_of
        self.unfit: Attempt | None = None
        self.ask: Callable[[ChatRequest], None] | None = None

    @property
    def kept(self) -> Attempt | None:
        """An unfit answer, where the caller would rather have that than an error."""
        structure = self._structure
        return self.unfit if structure is not None and structure.keep else None

    async def __call__(self, attempt: Attempt) -> Fault | None:
        """Judge a whole answer; a fault means that it is none."""
        target = self._target_of(attempt)
        result = to_result(attempt.draft, target.provider, target.model)
        message: Any = result.generations[0].message  # a generation of ours holds an AIMessage
        fault = self._structure.fault(message) if self._structure is not None else None
        if fault is not None:
            self._found(attempt, message, fault)
            return fault
        return await self._checked(message) if self._check is not None else None

    def _found(self, attempt: Attempt, message: AIMessage, fault: Fault) -> None:
        self.unfit = attempt
        repair = self._structure is not None and self._structure.repair
        if repair and self.ask is not None and fault.kind is FaultKind.INVALID:
            self.ask(repaired(self._request, message, fault.message))

    async def _checked(self, message: AIMessage) -> Fault | None:
        check: Any = self._check
        try:
            said: Any = check(message)
            said = await said if inspect.isawaitable(said) else said
        except Exception as error:  # noqa: BLE001  # an exception is a way to say no
            return Fault(FaultKind.INVALID, f"validate raised {error!r}", cause=error)
        return Fault(FaultKind.INVALID, "validate said False") if said is False else None


def judge_for(
    call: Call,
    check: Callable[[AIMessage], Any] | None,
    target_of: Callable[[Attempt], Target],
) -> Judge | None:
    """Make the judge of a call, if there is anything to judge.

    A schema alone does not hold a stream back: whoever streams wants the parts as they come, and
    the parser judges them at the end.
    """
    wanted = check is not None or (call.structure is not None and not call.stream)
    return Judge(call, check, target_of) if wanted else None


def repaired(request: ChatRequest, answer: AIMessage, problem: str) -> ChatRequest:
    """Make the request that shows a bad answer and what was wrong with it.

    A bad tool call is shown as its text: a call would want a result.

    Args:
        request: The one that was answered badly; it stays as it is.
        answer: The bad answer.
        problem: What is wrong with it.
    """
    bad, asking = said(answer), _ASKING.format(problem=problem)
    told = [{"role": "assistant", "content": bad}, {"role": "user", "content": asking}]
    return replace(
        request,
        messages=[*request.messages, *told],
        source=[*request.source, AIMessage(bad), HumanMessage(asking)],
    )


def said(answer: AIMessage) -> str:
    """All that an answer says, calls included, as text; never empty, which no API takes."""
    calls = [str(c["args"]) for c in (*answer.tool_calls, *answer.invalid_tool_calls)]
    return "\n".join([*([answer.text] if answer.text else []), *calls]) or "(nothing)"
