"""Writes the reference of all options out of the code: names, types, defaults, units, meanings."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from docs.reading import aliases, attributes, bullets, section, story
from docs.tables import code, table
from langchain_resilient import (
    Health,
    Hedge,
    ResilientChatModel,
    Retry,
    SpendCap,
    Target,
    TimeLimits,
    configuration,
    options,
)
from langchain_resilient.batch.mixin import AMAP_CONCURRENCY, BATCH_CONCURRENCY, BatchingChatModel
from langchain_resilient.configuration import Configuration
from langchain_resilient.options import Sampling

if TYPE_CHECKING:
    from collections.abc import Iterable

CLASSES: tuple[type[BaseModel], ...] = (
    Configuration, Sampling, Target, Hedge, TimeLimits, Retry, Health, SpendCap,
)  # fmt: skip
"""Whose fields are the options, in the order of the page."""

_NAMED = ((options.ALL_FAULTS, "every kind"), (options.DEFAULT_CHAIN, "DEFAULT_CHAIN"))
"""Defaults that are too long for a cell."""

_ALIASES = {k: v for m in (configuration, options) for k, v in aliases(m).items()}

_UNITS = (
    # What the name or the type says goes before what the meaning says.
    (r"name:requests_per_minute", "requests/minute"),
    (r"name:tokens_per_minute", "tokens/minute"),
    (r"name:min_tokens_per_second", "tokens/second"),
    (r"type:.*Seconds", "seconds"),
    (r"type:.*SpendCap|name:(dollars|max_extra_cost)", "US dollars"),
    (r"meaning:.*[Dd]ollars per million tokens", "US dollars per million tokens"),
    (r"meaning:.*in seconds", "seconds"),
    (r"meaning:.*share of requests", "share of requests"),
    (r"meaning:.*(in tokens|tokens it takes)", "tokens"),
)


@dataclass(frozen=True, slots=True)
class Option:
    """One option, as the page shows it.

    Attributes:
        name: As a user writes it.
        type: As it stands in the code, with short names written out.
        default: As code; `required` without one.
        unit: Of what it counts; empty where it counts nothing.
        meaning: The docstring under the field.
    """

    name: str
    type: str
    default: str
    unit: str
    meaning: str


def options_of(cls: type[BaseModel]) -> list[Option]:
    """The fields of a configuration class; a `Target`'s sampling fields stand with `Sampling`."""
    written = attributes(cls)
    return [
        _option(name, cls, written[name].annotation, written[name].meaning)
        for name in cls.model_fields
        if cls is Sampling or name not in Sampling.model_fields
    ]


def _option(name: str, cls: type[BaseModel], annotation: str, meaning: str) -> Option:
    unit = _unit(name, annotation, meaning)
    return Option(name, _spelt(annotation), _default(cls.model_fields[name]), unit, meaning)


def _unit(name: str, annotation: str, meaning: str) -> str:
    told = f"name:{name}\ntype:{annotation}\nmeaning:{meaning}"
    return next((unit for rule, unit in _UNITS if re.search(f"(?m)^({rule})", told)), "")


def _spelt(annotation: str) -> str:
    """Write short names out: a reader does not know what `Seconds` is."""
    for name in re.findall(r"\b[A-Z]\w+\b", annotation):
        if name in _ALIASES:
            annotation = re.sub(rf"\b{name}\b", _bare(_ALIASES[name]), annotation)
    return annotation.replace("Runnable[Any, Any]", "Runnable").replace("dict[str, Any]", "dict")


def _bare(alias: str) -> str:
    annotated = re.match(r"Annotated\[(.*), \w+\(.*\)\]$", alias)
    return annotated[1] if annotated else alias


def _default(field: Any) -> str:
    if field.default_factory is not None:
        return repr(field.default_factory())
    if field.default is PydanticUndefined:
        return "required"
    for value, name in _NAMED:
        if field.default is value:
            return name
    if isinstance(field.default, BaseModel):
        return f"{type(field.default).__name__}()"
    return repr(field.default)


def batch_options() -> list[Option]:
    """The keywords of all batch methods."""
    said = section(BatchingChatModel.amap, "Args") | bullets(BatchingChatModel)
    found = inspect.signature(BatchingChatModel.amap).parameters.values()
    keywords = [p for p in found if p.kind is p.KEYWORD_ONLY]
    return [
        Option(p.name, _spelt_keyword(p), _keyword_default(p), "", said[p.name]) for p in keywords
    ]


def _spelt_keyword(parameter: inspect.Parameter) -> str:
    longer = {
        "Progress": "bool | Callable[[BatchProgress], object]",
        "JournalOption": "Journal | str | PathLike | None",
        "ReportOption": "Callable[[BatchReport], object] | None",
    }
    return longer.get(str(parameter.annotation), str(parameter.annotation))


def _keyword_default(parameter: inspect.Parameter) -> str:
    if parameter.name == "max_concurrency":
        return f"{BATCH_CONCURRENCY}; amap: {AMAP_CONCURRENCY}"
    return repr(parameter.default)


def structured_options() -> list[Option]:
    """The keywords of `with_structured_output`."""
    method = ResilientChatModel.with_structured_output
    said = section(method, "Args")
    return [
        Option(p.name, str(p.annotation), repr(p.default), "", said[p.name])
        for p in inspect.signature(method).parameters.values()
        if p.name in said and p.kind is not p.VAR_KEYWORD
    ]


def page() -> str:
    """Write all of it."""
    parts = [_part(_title(cls), _about(cls), options_of(cls)) for cls in CLASSES]
    parts += [
        _part("Batch methods", "Keywords of `batch`, `abatch`, `batch_as_completed`, "
              "`abatch_as_completed` and `amap`, beside LangChain's own. `max_concurrency` stands "
              "in the config for all but `amap`.", batch_options()),
        _part("`with_structured_output`", "", structured_options()),
    ]  # fmt: skip
    return "\n".join(parts)


def _title(cls: type[BaseModel]) -> str:
    titles: dict[type, str] = {Configuration: "`ResilientChatModel`", Sampling: "Sampling fields"}
    return titles.get(cls, f"`{cls.__name__}`")


def _about(cls: type[BaseModel]) -> str:
    told = story(cls)
    if cls is Sampling:
        return f"{told} They may be set on the model, on a `Target`, or on one call."
    if cls is Target:
        return f"{told} It also takes every sampling field."
    return told


def _part(title: str, about: str, rows: Iterable[Option]) -> str:
    head = ("option", "default", "unit", "type and meaning")
    cells = [
        (code(o.name), code(o.default), o.unit, f"{code(o.type)}<br>{o.meaning}") for o in rows
    ]
    return f"## {title}\n\n{about}\n\n{table(head, cells)}"
