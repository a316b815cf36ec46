"""Generates the reference of all options from the code: names, types, defaults, units, meanings."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic_core import PydanticUndefined

from docs.docstrings import aliases, attributes, bullets, description, section
from docs.tables import code, table
from langchain_resilient import (
    Health,
    Hedge,
    ResilientChatModel,
    Retry,
    Shared,
    SpendCap,
    Target,
    TimeLimits,
    configuration,
    options,
    policies,
    sampling,
)
from langchain_resilient.batch.mixin import AMAP_CONCURRENCY, BATCH_CONCURRENCY, BatchingChatModel
from langchain_resilient.configuration import Configuration
from langchain_resilient.sampling import Sampling
from langchain_resilient.service import config as service
from langchain_resilient.service.config import ServiceConfig

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic import BaseModel

CLASSES: tuple[type[BaseModel], ...] = (
    Configuration, Sampling, Target, Hedge, TimeLimits, Retry, Health, SpendCap, Shared,
    ServiceConfig,
)  # fmt: skip
"""The classes whose fields are the options, in the order of the page."""

_NAMED_DEFAULTS = ((policies.ALL_FAULTS, "every kind"),)
"""Defaults that are too long for a cell."""

_ALIASES = {
    k: v
    for m in (configuration, options, policies, sampling, service)
    for k, v in aliases(m).items()
}

_UNITS = (
    # The first match wins: what the name or the type says comes before what the meaning says.
    (r"name:requests_per_minute", "requests/minute"),
    (r"name:tokens_per_minute", "tokens/minute"),
    (r"name:min_tokens_per_second", "tokens/second"),
    (r"name:.*_bytes", "bytes"),
    (r"type:.*Seconds", "seconds"),
    (r"type:.*SpendCap|name:(dollars|max_extra_cost)", "US dollars"),
    (r"meaning:.*[Dd]ollars per million tokens", "US dollars per million tokens"),
    (r"meaning:(.*in seconds|Seconds )", "seconds"),
    (r"meaning:.*share of requests", "share of requests"),
    (r"meaning:.*(in tokens|tokens it takes)", "tokens"),
)


@dataclass(frozen=True, slots=True)
class Option:
    """One option, as the page shows it.

    Attributes:
        name: As a user writes it.
        type: As in the code, with aliases expanded.
        default: As code; `required` without one.
        unit: Its unit; empty if it has none.
        meaning: The docstring under the field.
    """

    name: str
    type: str
    default: str
    unit: str
    meaning: str


def options_of(cls: type[BaseModel]) -> list[Option]:
    """Return the fields of a class; a `Target`'s sampling fields are listed with `Sampling`."""
    fields = attributes(cls)
    return [
        _option(name, cls, fields[name].annotation, fields[name].meaning)
        for name in cls.model_fields
        if cls is Sampling or name not in Sampling.model_fields
    ]


def _option(name: str, cls: type[BaseModel], annotation: str, meaning: str) -> Option:
    unit = _unit(name, annotation, meaning)
    return Option(name, _expanded(annotation), _default(cls.model_fields[name]), unit, meaning)


def _unit(name: str, annotation: str, meaning: str) -> str:
    facts = f"name:{name}\ntype:{annotation}\nmeaning:{meaning}"
    return next((unit for rule, unit in _UNITS if re.search(f"(?m)^({rule})", facts)), "")


def _expanded(annotation: str) -> str:
    """Expand aliases: a reader does not know what `Seconds` is."""
    for name in re.findall(r"\b[A-Z]\w+\b", annotation):
        if name in _ALIASES:
            annotation = re.sub(rf"\b{name}\b", _bare(_ALIASES[name]), annotation)
    return (
        _bare(annotation)
        .replace("Runnable[Any, Any]", "Runnable")
        .replace("dict[str, Any]", "dict")
    )


def _bare(alias: str) -> str:
    annotated = re.match(r"Annotated\[(.*?), \w+\(.*\)\]$", alias)
    return annotated[1] if annotated else alias


def _default(field: Any) -> str:
    if field.default_factory is not None:
        made = field.default_factory()
        return repr(made) if made == {} else f"{field.default_factory.__name__}()"
    if field.default is PydanticUndefined:
        return "required"
    for value, name in _NAMED_DEFAULTS:
        if field.default is value:
            return name
    return repr(field.default)


def batch_options() -> list[Option]:
    """Return the keywords of all batch methods."""
    meanings = section(BatchingChatModel.amap, "Args") | bullets(BatchingChatModel)
    parameters = inspect.signature(BatchingChatModel.amap).parameters.values()
    keywords = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    return [
        Option(p.name, _keyword_type(p), _keyword_default(p), "", meanings[p.name])
        for p in keywords
    ]


def _keyword_type(parameter: inspect.Parameter) -> str:
    expanded = {
        "Progress": "bool | Callable[[BatchProgress], object]",
        "JournalOption": "Journal | str | PathLike | None",
        "JournalMatchOption": "JournalMatch | None",
        "ReportOption": "Callable[[BatchReport], object] | None",
    }
    return expanded.get(str(parameter.annotation), str(parameter.annotation))


def _keyword_default(parameter: inspect.Parameter) -> str:
    if parameter.name == "max_concurrency":
        return f"{BATCH_CONCURRENCY}; amap: {AMAP_CONCURRENCY}"
    return repr(parameter.default)


def structured_options() -> list[Option]:
    """Return the keywords of `with_structured_output`."""
    method = ResilientChatModel.with_structured_output
    meanings = section(method, "Args")
    return [
        Option(p.name, str(p.annotation), repr(p.default), "", meanings[p.name])
        for p in inspect.signature(method).parameters.values()
        if p.name in meanings and p.kind is not p.VAR_KEYWORD
    ]


def page() -> str:
    """Return the reference as Markdown."""
    parts = [_part(_title(cls), _about(cls), options_of(cls)) for cls in CLASSES]
    parts += [
        _part("Batch methods", "Keywords of `batch`, `abatch`, `batch_as_completed`, "
              "`abatch_as_completed` and `amap`, besides LangChain's own. `max_concurrency` is "
              "part of the config for all but `amap`.", batch_options()),
        _part("`with_structured_output`", "", structured_options()),
    ]  # fmt: skip
    return "\n".join(parts)


def _title(cls: type[BaseModel]) -> str:
    titles: dict[type, str] = {Configuration: "`ResilientChatModel`", Sampling: "Sampling fields"}
    return titles.get(cls, f"`{cls.__name__}`")


def _about(cls: type[BaseModel]) -> str:
    text = description(cls)
    if cls is Sampling:
        return f"{text} They may be set on the model, on a `Target`, or on one call."
    if cls is Target:
        return f"{text} It also takes every sampling field."
    return text


def _part(title: str, about: str, rows: Iterable[Option]) -> str:
    head = ("option", "default", "unit", "type and meaning")
    cells = [
        (code(o.name), code(o.default), o.unit, f"{code(o.type)}<br>{o.meaning}") for o in rows
    ]
    return f"## {title}\n\n{about}\n\n{table(head, cells)}"
