"""Writes the reference of the simulator's steps out of their docstrings."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

from docs.reading import section, story
from docs.tables import code, table
from langchain_resilient import testing
from langchain_resilient.testing import delays
from langchain_resilient.testing.simulator import ProviderSimulator
from langchain_resilient.testing.steps.base import Step


def steps() -> list[type]:
    """Every public step that a script may hold, by name."""
    public = [getattr(testing, name) for name in testing.__all__]
    return [s for s in public if inspect.isclass(s) and issubclass(s, Step) and s is not Step]


def distributions() -> list[type]:
    """Every public distribution of delays."""
    public = [getattr(testing, name) for name in testing.__all__]
    return [d for d in public if inspect.isclass(d) and d.__module__ == delays.__name__]


def page() -> str:
    """Write all of it."""
    return "\n".join(
        [
            "## `ProviderSimulator`\n",
            _arguments(ProviderSimulator),
            table(("method or property", "what it does"), _methods()),
            "## Steps\n",
            table(("step", "what happens", "fields"), [_step(one) for one in steps()]),
            "## Delays\n",
            "Wherever a step takes seconds it takes one of these too:\n",
            table(("delay", "meaning"), [(code(d.__name__), _short(d)) for d in distributions()]),
        ]
    )


def _step(step: Any) -> tuple[str, str, str]:
    said: dict[str, str] = {}
    for base in reversed(step.__mro__):
        said |= section(base, "Attributes") if base is not object else {}
    own = [f.name for f in dataclasses.fields(step) if f.name in said and f.name != "reply"]
    return code(step.__name__), _short(step), "; ".join(f"`{n}`: {said[n]}" for n in own)


def _short(thing: Any) -> str:
    return " ".join(story(thing).split("\n\n")[0].split())


def _arguments(thing: Any) -> str:
    rows = [(code(name), said) for name, said in section(thing, "Args").items()]
    return table(("argument", "meaning"), rows)


def _methods() -> list[tuple[str, str]]:
    found = inspect.getmembers(ProviderSimulator, lambda x: inspect.isfunction(x) or _property(x))
    return [(code(name), _short(x)) for name, x in found if not name.startswith("_")]


def _property(thing: Any) -> bool:
    return isinstance(thing, property)
