"""Generates the reference of the simulator and its steps from their docstrings."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

from docs.docstrings import description, section
from docs.tables import code, table
from langchain_resilient import testing
from langchain_resilient.testing import ProviderSimulator, Step, delays


def steps() -> list[type]:
    """Return every public step that a script may contain."""
    public = [getattr(testing, name) for name in testing.__all__]
    return [s for s in public if inspect.isclass(s) and issubclass(s, Step) and s is not Step]


def distributions() -> list[type]:
    """Return every public distribution of delays."""
    public = [getattr(testing, name) for name in testing.__all__]
    return [d for d in public if inspect.isclass(d) and d.__module__ == delays.__name__]


def page() -> str:
    """Return the reference as Markdown."""
    return "\n".join(
        [
            "## `ProviderSimulator`\n",
            _arguments(ProviderSimulator),
            table(("method or property", "what it does"), _methods()),
            "## Steps\n",
            table(("step", "what happens", "fields"), [_step(step) for step in steps()]),
            "## Delays\n",
            "Wherever a step takes seconds, it also takes one of these:\n",
            table(("delay", "meaning"), [(code(d.__name__), _short(d)) for d in distributions()]),
            "## Batches\n",
            *(_values(shown) for shown in (testing.Backlog, testing.BatchRecord)),
        ]
    )


def _values(shown: Any) -> str:
    rows = [(code(name), meaning) for name, meaning in section(shown, "Attributes").items()]
    return f"`{shown.__name__}`: {_short(shown)}\n\n" + table(("field", "meaning"), rows)


def _step(step: Any) -> tuple[str, str, str]:
    meanings: dict[str, str] = {}
    for base in reversed(step.__mro__):
        meanings |= section(base, "Attributes") if base is not object else {}
    inherited = _inherited(step)
    names = [name for name in _field_names(step) if name in meanings and name not in inherited]
    fields = [f"`{name}`: {meanings[name]}" for name in names]
    shared = [f"those of {code(base.__name__)}" for base in _BASES if _inherits(step, base)]
    return code(step.__name__), _short(step), "; ".join(fields + shared)


_BASES: tuple[Any, ...] = (testing.Refusal,)
"""Whose fields many steps have: they are described in its own row only."""


def _inherits(step: Any, base: Any) -> bool:
    return issubclass(step, base) and step is not base


def _inherited(step: Any) -> set[str]:
    return {name for base in _BASES if _inherits(step, base) for name in _field_names(base)}


def _field_names(step: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(step) if field.name != "reply"]


def _short(thing: Any) -> str:
    return " ".join(description(thing).split("\n\n")[0].split())


def _arguments(thing: Any) -> str:
    rows = [(code(name), meaning) for name, meaning in section(thing, "Args").items()]
    return table(("argument", "meaning"), rows)


def _methods() -> list[tuple[str, str]]:
    members = inspect.getmembers(
        ProviderSimulator, lambda member: inspect.isfunction(member) or isinstance(member, property)
    )
    return [(code(name), _short(x)) for name, x in members if not name.startswith("_")]
