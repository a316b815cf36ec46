"""Rows of tables as prompts, answers as columns of tables, and chains taken apart for both."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Any, cast

from langchain_core.messages import AIMessage, convert_to_messages
from langchain_core.prompts import BasePromptTemplate, ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableBinding, RunnableSequence
from pydantic import BaseModel

from langchain_resilient.batch.mixin import BatchingChatModel
from langchain_resilient.runtime.keywords import refuse_misspelt

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from langchain_core.language_models import LanguageModelInput


ANSWER_COLUMNS = ("answer", "error", "usage", "receipt")
"""What each row gets: the text, or what went wrong; the tokens; what was tried, as JSON."""

TOOL_CALLS, PARSED = "tool_calls", "parsed"
"""Columns of models with tools and of chains that parse: as JSON."""

USAGE_FIELDS = ("input_tokens", "output_tokens", "total_tokens")


# -- rows to prompts ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RowPrompts:
    """Says how a row becomes a prompt, and what else it says.

    Args:
        prompt: The column of prompts: texts, or lists of messages as dicts.
        messages: Instead, the column of messages: lists of dicts, or their JSON.
        template: Instead, a text with fields such as `"Translate {text}"`, which a row's columns
            fill; or a prompt template of LangChain; or the name of a column of such texts.
        options: The column of more arguments of a row's call: dicts, or their JSON.
        id: The column that names a row, for the journal; see `RowJournal`.

    Raises:
        ValueError: If there is both a template and a column of messages.
    """

    prompt: str = "prompt"
    messages: str | None = None
    template: str | BasePromptTemplate[Any] | None = None
    options: str | None = None
    id: str | None = None

    def __post_init__(self) -> None:
        if self.template is not None and self.messages is not None:
            msg = "give template= or messages=, not both"
            raise ValueError(msg)

    @property
    def columns(self) -> set[str] | None:
        """The columns that are read; None for all, where only a row's template says which."""
        names = {name for name in (self.options, self.id) if name is not None}
        if self.template is None:
            return names | {self.messages or self.prompt}
        if self._template_column() is not None:
            return None
        return names | set(_as_template(self.template).input_variables)

    def check_columns(self, present: Iterable[str]) -> None:
        """Check that a table has what is read of it.

        Raises:
            ValueError: Names what is missing, and what there is.
        """
        present = list(present)
        wanted = self.columns
        if wanted is None:
            names = {self._template_column(), self.options, self.id}
            wanted = {name for name in names if name is not None}
        if missing := sorted(wanted.difference(present)):
            names_of = ", ".join(map(repr, missing))
            msg = f"the rows have no column {names_of}; they have {', '.join(present) or 'none'}"
            raise ValueError(msg)

    def _template_column(self) -> str | None:
        template = self.template
        return template if isinstance(template, str) and "{" not in template else None

    def prompt_of(self, row: Mapping[str, Any]) -> LanguageModelInput:
        """Make the prompt of a row.

        Raises:
            ValueError: If it has none; says why.
        """
        if self.template is not None:
            column = self._template_column()
            return _filled(self.template if column is None else _text(row, column), row)
        name = self.messages or self.prompt
        value = row[name]
        if self.messages is not None and isinstance(value, str):
            value = _from_json(value, name)
        if isinstance(value, list | tuple) and value:
            return convert_to_messages([_message(one) for one in value])
        if self.messages is not None:
            msg = f"{name!r} holds no messages"
            raise ValueError(msg)
        return _text(row, name)

    def options_of(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of a row's own call.

        Raises:
            ValueError: If they are none.
            TypeError: If one is misspelt, or belongs to the whole batch.
        """
        value = None if self.options is None else row[self.options]
        if isinstance(value, str) and self.options is not None:
            value = _from_json(value, self.options)
        if value is None:
            return {}
        if not isinstance(value, dict):
            msg = f"{self.options!r} must hold a dict of arguments, or its JSON"
            raise ValueError(msg)  # noqa: TRY004  # it becomes the row's error
        options = _without_none(value)
        refuse_misspelt(options)
        return cast("dict[str, Any]", options)

    def id_of(self, row: Mapping[str, Any]) -> str | None:
        """Return what names a row; None if nothing does.

        Raises:
            ValueError: If its column is empty there.
        """
        if self.id is None:
            return None
        if row[self.id] is None:
            msg = f"{self.id!r} is empty"
            raise ValueError(msg)
        return str(row[self.id])


def _text(row: Mapping[str, Any], column: str) -> str:
    value = row.get(column)
    if not isinstance(value, str) or not value.strip():
        msg = f"{column!r} holds no text"
        raise ValueError(msg)
    return value


def _from_json(text: str, column: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        msg = f"{column!r} is not JSON: {error}"
        raise ValueError(msg) from None


def _as_template(template: str | BasePromptTemplate[Any]) -> BasePromptTemplate[Any]:
    if isinstance(template, str):
        return ChatPromptTemplate.from_messages([("human", template)])
    return template


def _filled(template: str | BasePromptTemplate[Any], row: Mapping[str, Any]) -> LanguageModelInput:
    made = _as_template(template)
    for name in made.input_variables:
        if row.get(name) is None:
            msg = f"{name!r} is empty, which the template needs"
            raise ValueError(msg)
    return cast("LanguageModelInput", made.invoke({n: row[n] for n in made.input_variables}))


def _message(value: Any) -> Any:
    """Take out what a table put in: a field that any row has, all rows have, if only as None."""
    if not isinstance(value, dict):
        return value
    message = _without_none(value)
    message.setdefault("content", "")
    return message


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_none(x) for name, x in value.items() if x is not None}
    if isinstance(value, list):
        return [_without_none(x) for x in value]
    return value


# -- answers to columns ---------------------------------------------------------------------------


def columns_of(
    result: AIMessage | Exception, after: Runnable[Any, Any] | None = None
) -> dict[str, Any]:
    """Make a row's columns of an answer or an error: texts and numbers, as Parquet has them.

    Args:
        result: What the call gave.
        after: What follows the model in its chain; what it gives is `parsed`.
    """
    columns: dict[str, Any] = dict.fromkeys((*ANSWER_COLUMNS, TOOL_CALLS, PARSED))
    if isinstance(result, Exception):
        receipt = getattr(result, "receipt", None)
        columns["error"] = f"{type(result).__name__}: {result}"
        columns["receipt"] = None if receipt is None else json.dumps(receipt.as_dict())
        return _sound(columns)
    columns["answer"] = str(result.text)
    if result.usage_metadata:
        usage: dict[str, Any] = dict(result.usage_metadata)
        columns["usage"] = {name: usage.get(name) for name in USAGE_FIELDS}
    if (receipt := result.response_metadata.get("resilience")) is not None:
        columns["receipt"] = json.dumps(receipt, default=str)
    if result.tool_calls:
        columns[TOOL_CALLS] = json.dumps(result.tool_calls, default=str)
    if after is not None:
        try:
            columns[PARSED] = _as_json(after.invoke(result))
        except Exception as error:  # noqa: BLE001  # a parser's: of this row only
            columns["error"] = f"{type(error).__name__}: {error}"
    return _sound(columns)


def _as_json(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, BaseModel):
        return value.model_dump_json()
    return json.dumps(value, default=str)


def _sound(columns: dict[str, Any]) -> dict[str, Any]:
    """Replace halves of surrogate pairs, which no UTF-8 column can hold."""
    return {
        name: x.encode(errors="replace").decode() if isinstance(x, str) else x
        for name, x in columns.items()
    }


def free_names(present: Sequence[str], added: Sequence[str]) -> list[str]:
    """Rename columns of a table that have names of added ones: `answer` becomes `input_answer`."""
    names: list[str] = []
    for name in present:
        while name in added or name in names:
            name = f"input_{name}"  # noqa: PLW2901  # until it is free
        names.append(name)
    return names


# -- chains ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ModelParts:
    """A chain around one model, taken apart.

    Attributes:
        model: The model.
        kwargs: What is bound to it: tools, a schema, parameters.
        config: The config that is bound to it.
        before: What makes its prompt of a row; None for nothing.
        after: What is done with its answer; None for nothing.
    """

    model: BatchingChatModel
    kwargs: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    before: Runnable[Any, Any] | None = None
    after: Runnable[Any, Any] | None = None


def parts_of(llm: Runnable[Any, Any]) -> ModelParts:
    """Take a chain apart: prompts, one model with what is bound to it, parsers.

    Raises:
        TypeError: If there is not exactly one `ResilientChatModel` in it.
    """
    steps = llm.steps if isinstance(llm, RunnableSequence) else [llm]
    models = [(n, parts) for n, step in enumerate(steps) if (parts := _bound(step)) is not None]
    if len(models) != 1:
        kind = type(llm).__name__
        msg = (
            "llm must be a ResilientChatModel, one with tools or a schema bound, or a chain of "
            f"prompts, one such model and parsers (not include_raw=True); this {kind} is not"
        )
        raise TypeError(msg)
    index, (model, kwargs, config) = models[0]
    before, after = steps[:index], steps[index + 1 :]
    return ModelParts(
        model,
        kwargs,
        config,
        reduce(or_, before) if before else None,
        reduce(or_, after) if after else None,
    )


def with_model(llm: Runnable[Any, Any], model: BatchingChatModel) -> Runnable[Any, Any]:
    """Return a chain like another one, around another model."""
    if isinstance(llm, BatchingChatModel):
        return model
    if isinstance(llm, RunnableBinding):
        return llm.model_copy(update={"bound": with_model(llm.bound, model)})
    if isinstance(llm, RunnableSequence):
        return RunnableSequence(*(with_model(step, model) for step in llm.steps))
    return llm


def _bound(step: Any) -> tuple[BatchingChatModel, dict[str, Any], dict[str, Any]] | None:
    if isinstance(step, BatchingChatModel):
        return step, {}, {}
    if isinstance(step, RunnableBinding) and (inner := _bound(step.bound)) is not None:
        model, kwargs, config = inner
        return model, {**kwargs, **step.kwargs}, {**config, **step.config}
    return None
