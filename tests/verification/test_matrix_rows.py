"""The rows have everything that the simulator can do; who adds to it adds a row."""

from __future__ import annotations

import dataclasses
from functools import cache
from inspect import signature
from itertools import product
from typing import Any, cast, get_args, get_type_hints

import pytest

from langchain_resilient import testing
from langchain_resilient.testing import Step
from langchain_resilient.testing.answers import ReplyOptions
from langchain_resilient.testing.steps import STEPS
from verification.kit.scripted_targets import DIALECTS
from verification.matrix.cells import PLACES, cover
from verification.matrix.rows import ROWS, WAYS

LEFT_OUT: dict[tuple[type, str], str] = {
    (ReplyOptions, "tool_calls"): "tools that the caller has are called by the model itself",
    (ReplyOptions, "refusal"): "a refusal is a weak answer: see tests/streaming",
    (ReplyOptions, "overlap"): "how a continuation is glued: see verification/streams",
    (ReplyOptions, "words"): "how long an answer is, is no fault",
}
"""Options that need no row, each with the reason."""

NO_FAULT = {"Lacks": "another way is asked for: see tests/runtime/test_structured_output.py"}
"""Steps that need no row, each with the reason."""


@cache
def played() -> list[Step]:
    """All steps of all rows, those inside others too."""
    return [step for row in ROWS.values() for step in _inside(row.step)]


def _inside(step: Step) -> list[Step]:
    values = list(vars(step).values())
    values += [one for pair in getattr(step, "phases", ()) for one in pair]
    return [
        step,
        *(inner for value in values if isinstance(value, Step) for inner in _inside(value)),
    ]


def options() -> list[tuple[type, str]]:
    """Every option, with the class that brought it in: a refusal's hints are the same for all."""
    items = {
        (next(c for c in step.__mro__ if field.name in vars(c).get("__annotations__", ())), field)
        for name, step in STEPS.items()
        if name not in NO_FAULT
        for field in dataclasses.fields(cast("Any", step))
    }
    pairs = {(owner, field.name) for owner, field in items}
    return sorted(pairs - set(LEFT_OUT), key=str)


@pytest.mark.parametrize("name", [name for name in STEPS if name not in NO_FAULT])
def test_every_step_of_the_simulator_has_a_row(name):
    """A fault that the simulator learns is tried in every way, at every place."""
    assert any(type(step) is STEPS[name] for step in played())


@pytest.mark.parametrize(("owner", "option"), options())
def test_every_option_of_every_step_has_a_row(owner, option):
    """Somewhere it has another value than the usual one."""
    values = [
        (getattr(step, option), signature(type(step)).parameters[option].default)
        for step in played()
        if isinstance(step, owner) and option in signature(type(step)).parameters
    ]
    assert any(value != usual for value, usual in values)


def choices() -> list[tuple[type, str, Any]]:
    results = []
    for owner, option in options():
        hint = get_type_hints(owner, localns=vars(testing)).get(option)
        results += [(owner, option, value) for value in get_args(hint) if isinstance(value, str)]
    return results


@pytest.mark.parametrize(("owner", "option", "value"), choices())
def test_every_choice_that_a_step_offers_has_a_row(owner, option, value):
    """Every shape of a body, every end of a connection."""
    assert any(getattr(step, option) == value for step in played() if isinstance(step, owner))


def test_no_two_rows_have_one_name():
    """Else one would drop out of the table unnoticed."""
    from verification.matrix.rows import BREAKING, REFUSING, REPLYING

    assert len(ROWS) == len(BREAKING) + len(REFUSING) + len(REPLYING)


def test_the_daily_part_has_every_row():
    """Each fault happens every day."""
    assert {cell.row for cell in cover()} == set(ROWS.values())


def test_the_daily_part_has_every_way_at_every_place_in_both_dialects():
    """In combination, with some fault or other."""
    met = {(cell.way, cell.place.name, cell.dialect) for cell in cover()}
    assert met == set(product(WAYS, PLACES, DIALECTS))
