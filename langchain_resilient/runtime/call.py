"""The options of one call, and the validation of its answers: schema and `check`."""

from __future__ import annotations

import asyncio
import inspect
import logging
import sys
import traceback
from contextvars import ContextVar
from dataclasses import replace
from functools import cache
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from langchain_core.messages import AIMessage, HumanMessage, convert_to_messages
from pydantic import ConfigDict

from langchain_resilient.engine.interfaces import CallEnd
from langchain_resilient.engine.time_model import RequestProfile
from langchain_resilient.exchange import ChatRequest, RequestForm
from langchain_resilient.faults import (
    CHECK_FAILED,
    CHECK_REFUSED,
    Fault,
    FaultKind,
    is_callers_business,
)
from langchain_resilient.policies import HedgeOption, OnBreak, Seconds
from langchain_resilient.runtime.keywords import refuse_misspelt
from langchain_resilient.runtime.token_estimate import (
    count_characters,
    estimate_prompt_tokens,
    tokens_by_length,
)
from langchain_resilient.sampling import OTHER_NAMES, Sampling, sampling_params
from langchain_resilient.wire.foreign_blocks import ForeignMessages
from langchain_resilient.wire.message_repair import repair_conversation
from langchain_resilient.wire.messages import to_chat_messages
from langchain_resilient.wire.output import to_chat_result
from langchain_resilient.wire.responses_request import STATEFUL

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextvars import Context

    from langchain_core.messages import BaseMessage
    from langchain_core.outputs import ChatResult

    from langchain_resilient.engine.attempt import Attempt
    from langchain_resilient.engine.interfaces import Plan
    from langchain_resilient.engine.race import Race
    from langchain_resilient.options import Target
    from langchain_resilient.receipt import Receipt
    from langchain_resilient.runtime.reservations import CallReservations
    from langchain_resilient.threads import Threads
    from langchain_resilient.wire.structured_output import OutputSpec


Priority = Literal["interactive", "batch"]

PRIORITY: ContextVar[Priority] = ContextVar("langchain_resilient_priority", default="interactive")
"""Of the calls in this context that do not say `priority=` themselves."""


class StoredAnswer(NamedTuple):
    """An answer that came by a batch of a provider.

    Attributes:
        target: The target that gave it.
        form: In which form its request was written.
        data: The body.
        seconds: How long it took.
    """

    target: str
    form: RequestForm
    data: bytes
    seconds: float


class Receipts(list["Receipt"]):
    """Takes the receipt of a call when it is over; until then it knows the call's race.

    Attributes:
        race: The race, once it has begun.
        stored: An answer that is there already, out of a batch: it is judged, and nobody is asked.
    """

    race: Race | None = None
    stored: StoredAnswer | None = None

    @property
    def answered(self) -> bool:
        """Whether the call has its answer, though its message may still be made."""
        return self.race is not None and self.race.end is CallEnd.ANSWERED

    @property
    def answering(self) -> str | None:
        """The target whose answer it is so far; None as long as there is none."""
        winner = self.race.winner if self.race is not None else None
        return winner.candidate.state.name if winner is not None else None


RECEIPTS: ContextVar[Receipts | None] = ContextVar("langchain_resilient_receipts", default=None)
"""Takes the receipt of the next call in this context, as an object; its message holds a dict."""


def has_stored_answer() -> bool:
    """Whether the next call in this context has its answer already, out of a batch."""
    receipts = RECEIPTS.get()
    return receipts is not None and receipts.stored is not None


logger = logging.getLogger("langchain_resilient")
_CONVERTED = frozenset({"tools", "functions", "tool_choice", "response_format"})
_NO_LIMITS: dict[str, int] = {}


class _Keywords(Sampling):
    """The keywords of a call that are ours, checked before anybody is asked."""

    # Built by the first call that has any, not by every import.
    model_config: ClassVar[ConfigDict] = ConfigDict(
        title="the keywords of a call", defer_build=True
    )

    affinity: str | None = None
    on_break: OnBreak | None = None
    priority: Priority = "interactive"
    timeout: Seconds | None = None
    hedge: HedgeOption = None


_OWN = frozenset({*_Keywords.model_fields, *OTHER_NAMES})


class CallOptions:
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
        parses: Whether the object that it holds goes with it, as `additional_kwargs["parsed"]`.
        receipts: Where its receipt goes as an object; None if nobody waits for it.
        skipped: Targets that are not asked, each with the reason.
        context: The caller's, where an observer wants it.
        reservations: What it has reserved of the money; None where nothing limits that.

    Args:
        defaults: What the model sets.
        messages: The conversation.
        stop: As LangChain gives it.
        kwargs: All other arguments of the call.
        stream: As the attribute.
        own_limits: By the name of a target that has one: the longest answer it is asked for, where
            the call does not say.

    Raises:
        ValueError: If there are no messages, or an argument is out of range; names it.
        TypeError: If a keyword is misspelt, or one of a batch.
    """

    __slots__ = ("_limited", "_own_limits", "_plan", "_size", "_tokens", "affinity", "batch",
                 "context", "max_tokens", "model", "on_break", "parses", "receipts", "request",
                 "reservations", "several", "skipped", "stream", "structure")  # fmt: skip

    def __init__(
        self,
        defaults: Mapping[str, Any],
        messages: Sequence[BaseMessage],
        stop: list[str] | None,
        kwargs: dict[str, Any],
        *,
        stream: bool,
        own_limits: Mapping[str, int] = _NO_LIMITS,
    ) -> None:
        self.stream: bool = stream
        self.model: Any = None
        self.affinity: str | None = None
        self.on_break: OnBreak | None = None
        self.batch = PRIORITY.get() == "batch"
        self.receipts = RECEIPTS.get()
        if self.receipts is not None:
            RECEIPTS.set(None)  # not for calls inside this one, by a `check` or a wrapped model
        self.structure: OutputSpec | None = None
        self.parses = False
        self.skipped: list[tuple[str, str]] = []
        self.context: Context | None = None
        self.reservations: CallReservations | None = None
        self._own_limits = own_limits
        self._size: int | None = None
        self._tokens: int | None = None
        self._plan: dict[str, Any] = {}
        if stop is not None:
            kwargs = {**kwargs, "stop": stop}
        overrides = self._sort(kwargs) if kwargs else {}
        # With a conversation that the provider keeps, what is sent is only its end.
        mend = STATEFUL.isdisjoint(overrides) and STATEFUL.isdisjoint(defaults)
        wire, source = _conversation(messages, mend=mend)
        foreign = wire.__class__ is ForeignMessages
        self.request = ChatRequest(wire, defaults, overrides, source=source, foreign=foreign)
        self._limited = bool(overrides.get("max_tokens"))
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
            self._size = count_characters(self.request.messages, *schemas)
        return self._size

    def prompt_tokens(self) -> int:
        """About how many tokens its prompt has; measured when it is first asked for."""
        if self._tokens is None:
            given = self.request.overrides
            schemas = (given.get("tools"), given.get("response_format"))
            self._tokens = estimate_prompt_tokens(self.request.messages, *schemas)
        return self._tokens

    def max_tokens_at(self, target: str) -> int:
        """The longest answer that it asks of a target, which may have a limit of its own."""
        if self._limited:
            return self.max_tokens
        return self._own_limits.get(target, self.max_tokens)

    @property
    def has_deadline(self) -> bool:
        """Whether the call itself says how long it may take."""
        return "deadline" in self._plan

    def profile(self, *, plain: bool) -> RequestProfile:
        """What the time to its first text depends on.

        Tools are left out: they are the same for most calls of a program, and large to measure.

        Args:
            plain: Whether whole answers are waited for.
        """
        request = self.request
        size = self._size
        if size is None:
            size = count_characters(request.messages)
        effort = request.overrides.get("reasoning_effort") or request.defaults.get(
            "reasoning_effort"
        )
        return RequestProfile(
            tokens_by_length(size),
            effort if isinstance(effort, str) else None,
            self.max_tokens if plain else 0,
        )

    def raise_if_unfit(self, answer: Any) -> None:
        """Raise if a streamed answer does not fit what was asked for.

        Raises:
            OutputParserException: Says what is wrong.
        """
        if self.structure is not None:
            self.structure.raise_if_unfit([answer])

    def add_parsed(self, *answers: Any) -> None:
        """Put the object that each answer holds on it, as `ChatOpenAI` does, where it fits."""
        structure: Any = self.structure
        for answer in answers:
            # Of several only the first was judged; the others are shown as they are.
            fits = structure.fault(answer) is None
            if fits and (parsed := structure.parsed(answer)) is not None:
                answer.additional_kwargs["parsed"] = parsed

    def plan(self, plan: Plan) -> Plan:
        """The model's plan, with what this call changes of it."""
        return replace(plan, **self._plan) if self._plan else plan

    def _sort(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Take out what is about the race; check what is about sampling; pass the rest on."""
        kwargs.pop("stream", None)
        self.model = kwargs.pop("model", None)
        self.structure = kwargs.pop("structure", None)
        own: dict[str, Any] = {name: kwargs.pop(name) for name in _OWN & kwargs.keys()}
        if own:
            said = _Keywords(**own)
            own = sampling_params(said)
            self.affinity, self.on_break = said.affinity, said.on_break
            if "priority" in said.model_fields_set:
                self.batch = said.priority == "batch"
            if "timeout" in said.model_fields_set:
                self._plan["deadline"] = said.timeout
            if "hedge" in said.model_fields_set:
                self._plan["hedge"] = said.hedge
        if not _CONVERTED.isdisjoint(kwargs):
            from langchain_resilient.wire.request_params import convert_params  # noqa: PLC0415

            if self.structure is None:
                self.structure = _structure_of(kwargs)
                self.parses = self.structure is not None
            convert_params(kwargs)
        if kwargs:
            refuse_misspelt(kwargs)
        return {**kwargs, **own} if own else kwargs


def _structure_of(kwargs: Mapping[str, Any]) -> OutputSpec | None:
    """What an answer must fit by its `response_format`, where that is a pydantic class."""
    from langchain_resilient.wire.structured_output import OutputSpec, is_pydantic  # noqa: PLC0415

    schema = kwargs.get("response_format")
    if not is_pydantic(schema):
        return None
    return OutputSpec(schema, "json_schema", allows_calls=bool(kwargs.get("tools")))


def _conversation(
    messages: Sequence[BaseMessage], *, mend: bool
) -> tuple[list[dict[str, Any]], Sequence[BaseMessage]]:
    """Convert the messages, for the wire and for targets that are LangChain models."""
    wire = to_chat_messages(messages)
    mended = repair_conversation(wire) if mend else wire
    if mended is wire:
        return wire, messages
    _log_repairs()
    if wire.__class__ is ForeignMessages:
        mended = ForeignMessages(mended)
    return mended, convert_to_messages(mended)


@cache
def _log_repairs() -> None:
    """Once per process: an agent sends its history with every turn."""
    logger.warning(
        "a conversation was mended before it was sent: it held a tool call without its result, a "
        "result without its call, or a call that cannot be read"
    )


_ASKING = """\
This answer does not fit what was asked for: {problem}

Answer again, so that it fits, and say nothing else."""


class AnswerValidator:
    """Decides whether a whole answer is good enough, and asks for a repair where that is wanted.

    It is the race's `validate`. Each answer is turned into LangChain's form once: `result_of` gives
    what `check` has seen.

    Args:
        call: The call's options: its request, and the schema that answers must fit.
        check: The model's `check`, if it has one.
        threads: Where a `check` that is no coroutine function runs, so that it blocks nobody.
        target_of: Finds the target that an attempt went to.

    Attributes:
        unfit: The last attempt whose answer was whole and did not fit the schema.
    """

    def __init__(
        self,
        call: CallOptions,
        check: Callable[[AIMessage], Any] | None,
        threads: Threads,
        target_of: Callable[[Attempt], Target],
    ) -> None:
        self._structure = call.structure
        self._request = call.request
        self._check = check
        self._threads = threads
        self._target_of = target_of
        self._results: dict[Attempt, ChatResult] = {}
        self.unfit: Attempt | None = None

    @property
    def kept(self) -> Attempt | None:
        """The attempt with an unfit answer, where the caller prefers that to an error."""
        structure = self._structure
        return self.unfit if structure is not None and structure.keep else None

    def result_of(self, attempt: Attempt) -> ChatResult:
        """The answer of an attempt in LangChain's form; the same object each time."""
        result = self._results.get(attempt)
        if result is None:
            target = self._target_of(attempt)
            result = to_chat_result(attempt.response, target.provider, target.model)
            self._results[attempt] = result
        return result

    async def __call__(
        self, attempt: Attempt, change_request: Callable[[ChatRequest], None]
    ) -> Fault | None:
        """Judge a whole answer.

        Args:
            attempt: Whose answer it is.
            change_request: Takes the request that attempts from now on are to send.

        Returns:
            What is wrong with it; None if nothing is.
        """
        message: Any = self.result_of(attempt).generations[0].message  # always an AIMessage
        structure = self._structure
        fault = structure.fault(message) if structure is not None else None
        if fault is None:
            return await self._run_check(message) if self._check is not None else None
        self.unfit = attempt
        if structure is not None and structure.repair and fault.kind is FaultKind.INVALID:
            change_request(repair_request(self._request, message, fault.message))
        return fault

    async def _run_check(self, message: AIMessage) -> Fault | None:
        check: Any = self._check
        try:
            if inspect.iscoroutinefunction(check):
                verdict: Any = await check(message)
            else:
                verdict = await self._threads.run(check, message)
                verdict = await verdict if inspect.isawaitable(verdict) else verdict
        except (Exception, asyncio.CancelledError) as error:
            if is_callers_business(error) or _is_cancellation(error):
                raise
            # Any other exception is a way to say no; but some look like a fault of its own.
            broken = isinstance(error, _BUGS)
            code = CHECK_FAILED if broken else CHECK_REFUSED
            where = f" at {_place_of(error)}" if broken else ""
            if not broken:  # its frames lead to the attempt that keeps the fault: no circle
                error.__traceback__ = None
            return Fault(
                FaultKind.INVALID, f"check raised {error!r}{where}", code=code, cause=error
            )
        if verdict is False:
            return Fault(FaultKind.INVALID, "check said False", code=CHECK_REFUSED)
        return None


_BUGS = (
    AttributeError,
    ImportError,
    NameError,
    NotImplementedError,
    TypeError,
    asyncio.CancelledError,
)


def _is_cancellation(error: BaseException) -> bool:
    """Whether the call itself is cancelled, not only something that a `check` waited for."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and (task is None or bool(task.cancelling()))


def _place_of(error: BaseException) -> str:
    """The line of the `check` that raised it, as `file.py:12`."""
    lines = list(traceback.walk_tb(error.__traceback__))
    users = (
        (frame, line)
        for frame, line in lines
        if frame.f_globals.get("__name__", "").partition(".")[0]
        not in sys.stdlib_module_names | {"langchain_resilient"}
    )
    frame, line = next(users, lines[-1])
    return f"{PurePath(frame.f_code.co_filename).name}:{line}"


def validator_for(
    call: CallOptions,
    check: Callable[[AIMessage], Any] | None,
    threads: Threads,
    target_of: Callable[[Attempt], Target],
) -> AnswerValidator | None:
    """Make the validator of a call, if there is anything to validate.

    A schema alone does not hold a stream back: whoever streams wants the parts as they come, and
    the parser validates them at the end.
    """
    needed = check is not None or (call.structure is not None and not call.stream)
    return AnswerValidator(call, check, threads, target_of) if needed else None


def repair_request(request: ChatRequest, answer: AIMessage, problem: str) -> ChatRequest:
    """Make the request that shows a bad answer and what was wrong with it.

    A bad tool call is shown as its text: a call would want a result.

    Args:
        request: The one that was answered badly; it stays as it is.
        answer: The bad answer.
        problem: What is wrong with it.
    """
    bad, asking = answer_as_text(answer), _ASKING.format(problem=problem)
    exchange = [{"role": "assistant", "content": bad}, {"role": "user", "content": asking}]
    return replace(
        request,
        messages=[*request.messages, *exchange],
        source=[*request.source, AIMessage(bad), HumanMessage(asking)],
    )


def answer_as_text(answer: AIMessage) -> str:
    """All that an answer says, calls included, as text; never empty, which no API takes."""
    calls = [str(c["args"]) for c in (*answer.tool_calls, *answer.invalid_tool_calls)]
    return "\n".join([*([answer.text] if answer.text else []), *calls]) or "(nothing)"
