"""Whether an answer fits the schema that was asked for: the judge of structured output."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.output_parsers import JsonOutputParser
from langchain_core.outputs import ChatGeneration
from langchain_core.utils.pydantic import is_basemodel_subclass

from langchain_resilient.fault import Fault, FaultKind
from langchain_resilient.wire.fitting import misfit
from langchain_resilient.wire.structured import Method, Schema, schema_of, tool_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

_MOST_PROBLEMS = 5


class _NoValueError(ValueError):
    """An answer holds nothing that could fit a schema or not."""


@dataclass(frozen=True, slots=True)
class Structure:
    """What the answer to one call must fit. It travels as a bound argument, in copies and pickles.

    Args:
        schema: A pydantic or TypedDict class, or a JSON schema; None for any JSON object.
        method: How it is asked for.
        repair: Whether whoever is asked after a misfit is told what was wrong with it.
        keep: Whether an answer that does not fit is better than an error, if nobody gives a better.

    Example:
        ```python
        Structure(Joke, "json_schema").fault(AIMessage("{}")).message  # 'setup: Field required'
        ```
    """

    schema: Schema | None
    method: Method
    repair: bool = False
    keep: bool = False

    def fault(self, message: AIMessage) -> Fault | None:
        """Say what is wrong with a whole answer; None if it fits."""
        if refusal := message.additional_kwargs.get("refusal"):
            return Fault(FaultKind.CONTENT_FILTER, f"the model refused: {refusal}"[:300])
        try:
            problem = self._problem(self._value(message))
        except _NoValueError as error:
            problem = str(error)
        if message.response_metadata.get("finish_reason") == "length" and self._is_cut(message):
            text = "the answer was cut off: max_tokens was used up"
            return Fault(FaultKind.INVALID, text, code="length")
        return Fault(FaultKind.INVALID, problem) if problem else None

    def _is_cut(self, message: AIMessage) -> bool:
        """Whether it lacks its end: LangChain's parsers would close the brackets without a word."""
        calls = getattr(message, "tool_calls", ())
        if self.method == "function_calling":
            said = [c.get("args") for c in message.invalid_tool_calls]
            return bool(said) or not calls
        try:
            json.loads(message.text)
        except ValueError:
            return True
        return False

    def _value(self, message: AIMessage) -> Any:
        if self.method == "function_calling":
            return _arguments(message, tool_of(self.schema))
        try:
            return JsonOutputParser().parse_result([ChatGeneration(message=message)])
        except OutputParserException:
            raise _NoValueError("the answer is no JSON") from None

    def _problem(self, value: Any) -> str | None:
        schema: Any = self.schema
        if not (isinstance(schema, type) and is_basemodel_subclass(schema)):
            return misfit(value, schema_of(schema))
        try:
            model: Any = schema
            validate = getattr(model, "model_validate", None) or model.parse_obj
            validate(value)
        except Exception as error:  # noqa: BLE001  # validators are the user's: any way to say no
            return _told(error)
        return None

    # -- the end of a stream, which no other target can mend any more ----------------------------

    def checked(self, messages: Iterator[AIMessage]) -> Iterator[AIMessage]:
        """Pass messages on, and raise at their end if together they do not fit.

        Raises:
            OutputParserException: Says what is wrong.
        """
        seen = []
        for message in messages:
            seen.append(message)
            yield message
        self._raise_if_unfit(seen)

    async def achecked(self, messages: AsyncIterator[AIMessage]) -> AsyncIterator[AIMessage]:
        """The same for an asynchronous stream."""
        seen = []
        async for message in messages:
            seen.append(message)
            yield message
        self._raise_if_unfit(seen)

    def _raise_if_unfit(self, seen: list[AIMessage]) -> None:
        whole = _sum(seen)
        if whole is not None and (fault := self.fault(whole)):
            raise OutputParserException(
                f"the answer does not fit {_name(self.schema)}: {fault.message}",
                llm_output=whole.text,
            )


def _arguments(message: AIMessage, name: str) -> Any:
    for call in message.tool_calls:
        if call["name"] == name:
            return call["args"]
    if message.invalid_tool_calls:
        raise _NoValueError(str(message.invalid_tool_calls[0]["error"]))
    raise _NoValueError(f"the tool {name!r} was not called")


def _sum(seen: list[AIMessage]) -> AIMessage | None:
    pieces = [piece for piece in seen if isinstance(piece, AIMessageChunk)]
    if len(pieces) < len(seen) or not pieces:
        return seen[-1] if seen else None
    return pieces[0] + pieces[1:] if len(pieces) > 1 else pieces[0]


def _name(schema: Any) -> str:
    named = schema.get("title") or schema.get("name") if isinstance(schema, dict) else None
    return str(getattr(schema, "__name__", None) or named or "the schema")


def _told(error: Exception) -> str:
    """Say what a validation found, without the values: they belong in no log."""
    errors: Any = getattr(error, "errors", None)
    if not callable(errors):
        return f"{type(error).__name__}: {error}"
    found: Any = errors()
    said = [f"{_path(one)}: {one.get('msg')}" for one in found[:_MOST_PROBLEMS]]
    if len(found) > _MOST_PROBLEMS:
        said.append(f"and {len(found) - _MOST_PROBLEMS} more")
    return "; ".join(said)


def _path(one: dict[str, Any]) -> str:
    return ".".join(map(str, one.get("loc") or ())) or "the answer"
