"""Whether an answer fits the schema that was asked for: the judge of structured output."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NoReturn

from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.output_parsers.openai_tools import JsonOutputKeyToolsParser, PydanticToolsParser
from langchain_core.outputs import ChatGeneration
from langchain_core.runnables import Runnable, RunnableGenerator, RunnableMap, RunnablePassthrough
from langchain_core.utils.pydantic import is_basemodel_subclass

from langchain_resilient.faults import Fault, FaultKind, is_callers_business
from langchain_resilient.wire.json_schema import Method, schema_mismatch
from langchain_resilient.wire.messages import assistant_blocks, safe_name
from langchain_resilient.wire.schemas import (
    VALUE,
    closed,
    is_json_schema,
    is_open,
    needs_wrapping,
    to_function,
    wrapped_class,
    wrapped_schema,
)
from langchain_resilient.wire.tool_calls import to_tool_choice

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from langchain_core.language_models import LanguageModelInput


Schema = dict[str, Any] | type
_METHODS = ("function_calling", "json_schema", "json_mode")


def structured_params(
    schema: Schema | None, method: Method, strict: bool | None = None
) -> dict[str, Any]:
    """Give the parameters that make a model answer in a schema: what `bind` takes.

    Args:
        schema: A pydantic class (of version 1 or 2), a TypedDict class, or a JSON schema; None only
            with `"json_mode"`, which cannot tell the model about it anyway.
        method: `"function_calling"` makes it the arguments of a tool that must be called, which the
            most models understand; `"json_schema"` and `"json_mode"` use `response_format`.
        strict: Whether the model must keep to the schema exactly. None: yes for pydantic classes
            with `"json_schema"`, else whatever the provider does by itself.

    Raises:
        ValueError: If the method is unknown, the schema is missing, or cannot be converted.

    Example:
        ```python
        llm.bind(**structured_params(Joke, "function_calling")) | structured_parser(Joke, ...)
        ```
    """
    _check(schema, method)
    traced = {"kwargs": {"method": method, "strict": strict}, "schema": _traced(schema)}
    params: dict[str, Any] = {"ls_structured_output_format": traced}
    if method != "function_calling":
        return {**params, "response_format": to_response_format(schema, method, strict)}
    asked, _ = _asked(schema, method)
    function = to_function(asked, strict)
    tools = [{"type": "function", "function": function}]
    choice = to_tool_choice(function["name"], tools)
    return {**params, "tools": tools, "tool_choice": choice, "parallel_tool_calls": False}


def _traced(schema: Schema | None) -> Any:
    """Give a schema in a form that LangChain can convert for its traces.

    It would convert a TypedDict class that holds itself without end.
    """
    named = _titled(schema)
    if not isinstance(named, type) or is_pydantic(named):
        return named
    function = to_function(named)
    return {
        "title": function["name"],
        "description": function.get("description", ""),
        **function["parameters"],
    }


def structured_parser(
    schema: Schema | None, method: Method, structure: OutputSpec | None = None
) -> Runnable[Any, Any]:
    """Make the parser for answers to such a request.

    It gives objects of a pydantic class, dicts for any other schema, and partial ones in a stream.

    Args:
        schema: The same as for `structured_params`.
        method: The same too.
        structure: The judge, if it made it already.

    Returns:
        A parser of messages. It raises `OutputParserException` where the model refused, and where
        the whole answer does not fit.
    """
    _check(schema, method)
    judge = structure or OutputSpec(schema, method)
    parser = _parser(schema, method)
    if judge.allows_calls:
        parser = _AnswerOrCalls(parser).as_runnable()
    return RunnableGenerator(judge.checked, judge.achecked) | parser


def _parser(schema: Any, method: Method) -> Runnable[Any, Any]:
    asked, is_wrapped = _asked(schema, method)
    parser: Runnable[Any, Any]
    if isinstance(asked, type) and is_basemodel_subclass(asked):
        if method == "function_calling":
            parser = PydanticToolsParser(tools=[asked], first_tool_only=True)
        else:
            parser = PydanticOutputParser(pydantic_object=asked)
    elif method == "function_calling":
        parser = JsonOutputKeyToolsParser(key_name=tool_of(schema), first_tool_only=True)
    else:
        parser = JsonOutputParser()
    return parser | RunnableGenerator(_unwrapped, _aunwrapped) if is_wrapped else parser


@dataclass(frozen=True, slots=True)
class _AnswerOrCalls:
    """A parser that gives None for an answer that calls tools instead."""

    parser: Runnable[Any, Any]

    def as_runnable(self) -> Runnable[Any, Any]:
        return RunnableGenerator(self.parse, self.aparse)

    def parse(self, messages: Iterator[AIMessage]) -> Iterator[Any]:
        seen: list[AIMessage] = []
        is_empty = True
        for value in self.parser.transform(_noting(messages, seen)):
            is_empty = False
            yield value
        if is_empty and any(map(_calls_tools, seen)):
            yield None

    async def aparse(self, messages: AsyncIterator[AIMessage]) -> AsyncIterator[Any]:
        seen: list[AIMessage] = []
        is_empty = True
        async for value in self.parser.atransform(_anoting(messages, seen)):
            is_empty = False
            yield value
        if is_empty and any(map(_calls_tools, seen)):
            yield None


def _noting(messages: Iterator[AIMessage], seen: list[AIMessage]) -> Iterator[AIMessage]:
    for message in messages:
        seen.append(message)
        yield message


async def _anoting(
    messages: AsyncIterator[AIMessage], seen: list[AIMessage]
) -> AsyncIterator[AIMessage]:
    async for message in messages:
        seen.append(message)
        yield message


def _calls_tools(message: AIMessage) -> bool:
    return bool(message.tool_calls or getattr(message, "tool_call_chunks", None))


def _unwrapped(values: Iterator[Any]) -> Iterator[Any]:
    for value in values:
        if _is_wrapper(value):
            yield _inner(value)


async def _aunwrapped(values: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for value in values:
        if _is_wrapper(value):
            yield _inner(value)


def _is_wrapper(value: Any) -> bool:
    return VALUE in value if isinstance(value, dict) else hasattr(value, VALUE)


def _inner(value: Any) -> Any:
    return value[VALUE] if isinstance(value, dict) else getattr(value, VALUE)


def tool_of(schema: Schema | None) -> str:
    """Name the tool that `"function_calling"` makes of a schema."""
    asked, _ = _asked(schema, "function_calling")
    name: str = to_function(asked)["name"]
    return name


def schema_of(schema: Schema | None, method: Method = "json_schema") -> Any:
    """Give the JSON schema that an answer must fit."""
    if schema is None:
        return {"type": "object"}
    if method == "json_mode" and isinstance(schema, dict):  # nothing was asked to be wrapped
        bare = _bare(_titled(schema))
        if needs_wrapping(bare):
            return bare
    return to_response_format(schema)["json_schema"].get("schema", {})


def with_raw(
    llm: Runnable[LanguageModelInput, AIMessage], parser: Runnable[Any, Any]
) -> Runnable[LanguageModelInput, dict[str, Any]]:
    """Make a chain that gives `{"raw", "parsed", "parsing_error"}` and never raises the last."""
    parsed = RunnablePassthrough.assign(
        parsed=itemgetter("raw") | parser, parsing_error=lambda _: None
    )
    unparsed = RunnablePassthrough.assign(parsed=lambda _: None)
    safe = parsed.with_fallbacks([unparsed], exception_key="parsing_error")
    return RunnableMap(raw=llm) | safe


def to_response_format(
    schema: Schema | None, method: Method = "json_schema", strict: bool | None = None
) -> dict[str, Any]:
    """Convert a schema to the request's `response_format`.

    Args:
        schema: Any of `structured_params`, or a `response_format` in OpenAI's own form.
        method: `"json_schema"` or `"json_mode"`.
        strict: As for `structured_params`.

    Raises:
        ValueError: If the schema cannot be converted, or says something else about `strict`.
    """
    if method == "json_mode":
        return {"type": "json_object"}
    asked, _ = _asked(schema, method)
    if (body := _ready(asked)) is not None:
        return {"type": "json_schema", "json_schema": _agreeing(body, strict)}
    function = to_function(asked)
    if strict is None:
        is_model = isinstance(asked, type) and is_basemodel_subclass(asked)
        strict = bool(function.get("strict", is_model))
    elif function.get("strict", strict) is not strict:
        _disagree(strict, not strict)
    body = function.pop("parameters", {"type": "object", "properties": {}})
    is_strict = strict and not is_open(body)
    schema_ = closed(body) if is_strict else body
    return {
        "type": "json_schema",
        "json_schema": {**function, "strict": is_strict, "schema": schema_},
    }


def _ready(schema: Any) -> dict[str, Any] | None:
    """Give the inner part of a `response_format` in OpenAI's own form; None if it is none."""
    if not isinstance(schema, dict):
        return None
    if schema.get("type") == "json_schema" and isinstance(schema.get("json_schema"), dict):
        inner: dict[str, Any] = schema["json_schema"]
        return inner
    return schema if "name" in schema and isinstance(schema.get("schema"), dict) else None


def _bare(named: Schema) -> Any:
    """Give the JSON schema inside a named one, with its name as the title."""
    if (body := _ready(named)) is None:
        return named
    bare = {**body["schema"], "title": safe_name(str(body.get("name") or "output"))}
    if body.get("description"):
        bare["description"] = body["description"]
    return bare


def _agreeing(body: dict[str, Any], strict: bool | None) -> dict[str, Any]:
    strict_field = body.get("strict")
    if strict is not None and strict_field is not None and strict_field is not strict:
        _disagree(strict, strict_field)
    return body if strict is None or strict_field is strict else {**body, "strict": strict}


def _disagree(strict: bool, given: object) -> NoReturn:
    raise ValueError(f"strict={strict} was given, but the schema itself says strict={given}")


def _asked(schema: Any, method: Method) -> tuple[Any, bool]:
    """Give the named schema that a model is asked for, and whether it wraps the caller's.

    Models answer with objects only, so any other value is asked for as the one property of one.
    """
    named = _titled(schema)
    if named is None or method == "json_mode":
        return named, False
    if (body := _ready(named)) is not None:
        named = _bare(named)
        if not needs_wrapping(named):
            return (named if method == "function_calling" else schema), False
    elif not needs_wrapping(named):
        return named, False
    function = to_function(named)
    name = safe_name(function["name"])
    if isinstance(named, type):
        return wrapped_class(named, name), True
    if body is not None and method == "json_schema":
        return {**body, "schema": wrapped_schema(body["schema"])}, True
    described = {"description": function["description"]} if function.get("description") else {}
    return {"title": name, **described, **wrapped_schema(function["parameters"])}, True


def _titled(schema: Any) -> Any:
    """Give a schema a name that a function may have; not all JSON schemas have one."""
    if isinstance(schema, dict) and isinstance(schema.get("function"), dict):
        schema = schema["function"]  # OpenAI's form of a tool
    if not isinstance(schema, dict) or _ready(schema) is not None:
        return schema
    for key in ("title", "name"):
        if isinstance(name := schema.get(key), str):
            return schema if safe_name(name) == name else {**schema, key: safe_name(name)}
    return {**schema, "title": "output"} if is_json_schema(schema) else schema


def _check(schema: Schema | None, method: str) -> None:
    if method not in _METHODS:
        raise ValueError(
            f"method={method!r} is unknown; it may be {', '.join(map(repr, _METHODS))}"
        )
    if schema is None and method != "json_mode":
        raise ValueError(f"schema=None is possible only with method='json_mode', not {method!r}")
    if not isinstance(schema, type | dict | None):
        raise ValueError(  # noqa: TRY004  # like all that is wrong with a schema
            f"schema={schema!r} is no schema; it may be a pydantic or TypedDict class, or a JSON "
            "schema as a dict. For a list of a class, give a RootModel of it"
        )


_MAX_PROBLEMS = 5


class _NoValueError(ValueError):
    """An answer holds nothing that could fit a schema or not."""


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """What the answer to one call must fit. It travels as a bound argument, in copies and pickles.

    Args:
        schema: A pydantic or TypedDict class, or a JSON schema; None for any JSON object.
        method: How it is asked for.
        repair: Whether whoever is asked after a misfit is told what was wrong with it.
        keep: Whether an answer that does not fit is better than an error, if nobody gives a better.
        allows_calls: Whether tools are offered beside it, so that a call of one is an answer too.

    Example:
        ```python
        OutputSpec(Joke, "json_schema").fault(AIMessage("{}")).message  # 'setup: Field required'
        ```
    """

    schema: Schema | None
    method: Method
    repair: bool = False
    keep: bool = False
    allows_calls: bool = False

    def fault(self, message: AIMessage) -> Fault | None:
        """Say what is wrong with a whole answer; None if it fits."""
        if self.allows_calls and message.tool_calls and not message.invalid_tool_calls:
            return None
        _, refusal, _ = assistant_blocks(message.content)
        if refusal := message.additional_kwargs.get("refusal") or refusal:
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
            unreadable = [c.get("args") for c in message.invalid_tool_calls]
            return bool(unreadable) or not calls
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

    def parsed(self, message: AIMessage) -> Any:
        """Give the object of the pydantic class that a fitting answer holds; None for a call."""
        if self.allows_calls and message.tool_calls:
            return None
        schema, is_wrapped = _asked(self.schema, self.method)
        made = _validated(schema, self._value(message))
        return _inner(made) if is_wrapped else made

    def _problem(self, value: Any) -> str | None:
        schema, _ = _asked(self.schema, self.method)
        if not is_pydantic(schema):
            return schema_mismatch(value, schema_of(self.schema, self.method))
        try:
            _validated(schema, value)
        except (Exception, asyncio.CancelledError) as error:
            if is_callers_business(error):
                raise
            # Validators are the user's: any other exception is a way to say no. The call itself is
            # only ever cancelled where it awaits something.
            return _describe_error(error)
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
        self.raise_if_unfit(seen)

    async def achecked(self, messages: AsyncIterator[AIMessage]) -> AsyncIterator[AIMessage]:
        """The same for an asynchronous stream."""
        seen = []
        async for message in messages:
            seen.append(message)
            yield message
        self.raise_if_unfit(seen)

    def raise_if_unfit(self, seen: list[AIMessage]) -> None:
        """Raise if an answer, or the sum of its chunks, does not fit.

        Raises:
            OutputParserException: Says what is wrong.
        """
        whole = _sum_chunks(seen)
        if whole is not None and (fault := self.fault(whole)):
            raise OutputParserException(
                f"the answer does not fit {_schema_name(self.schema)}: {fault.message}",
                llm_output=whole.text,
            )


def is_pydantic(schema: Any) -> bool:
    """Whether a schema is a pydantic class, of version 1 or 2, so that an answer becomes one."""
    return isinstance(schema, type) and is_basemodel_subclass(schema)


def _validated(model: Any, value: Any) -> Any:
    validate = getattr(model, "model_validate", None) or model.parse_obj
    return validate(value)


def _arguments(message: AIMessage, name: str) -> Any:
    for call in message.tool_calls:
        if call["name"] == name:
            return call["args"]
    if message.invalid_tool_calls:
        raise _NoValueError(str(message.invalid_tool_calls[0]["error"]))
    raise _NoValueError(f"the tool {name!r} was not called")


def _sum_chunks(seen: list[AIMessage]) -> AIMessage | None:
    pieces = [piece for piece in seen if isinstance(piece, AIMessageChunk)]
    if len(pieces) < len(seen) or not pieces:
        return seen[-1] if seen else None
    return pieces[0] + pieces[1:] if len(pieces) > 1 else pieces[0]


def _schema_name(schema: Any) -> str:
    named = schema.get("title") or schema.get("name") if isinstance(schema, dict) else None
    return str(getattr(schema, "__name__", None) or named or "the schema")


def _describe_error(error: BaseException) -> str:
    """Say what a validation found, without the values: they belong in no log."""
    errors: Any = getattr(error, "errors", None)
    if not callable(errors):
        return f"{type(error).__name__}: {error}"
    problems: Any = errors()
    lines = [
        f"{_error_path(problem)}: {problem.get('msg')}" for problem in problems[:_MAX_PROBLEMS]
    ]
    if len(problems) > _MAX_PROBLEMS:
        lines.append(f"and {len(problems) - _MAX_PROBLEMS} more")
    return "; ".join(lines)


def _error_path(problem: dict[str, Any]) -> str:
    return ".".join(map(str, problem.get("loc") or ())) or "the answer"
