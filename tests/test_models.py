"""The default chain lives, and will for 90 days."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from langchain_resilient import Target
from langchain_resilient.models import ANY_MODEL, DEFAULT_FAMILIES, RETIREMENTS
from langchain_resilient.options import default_chain
from langchain_resilient.prices import price_of

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "notebooks").glob("*.ipynb")),
]
NAMED = [(p, name) for p, ids in DEFAULT_FAMILIES for name in ids if name != ANY_MODEL]


@pytest.mark.parametrize(("provider", "name"), NAMED)
def test_no_default_ends_within_90_days(provider, name):
    """As far as its provider has announced; this one fails in time, with a calendar's help."""
    end = RETIREMENTS.get((provider, name))
    soon = datetime.now(UTC).date() + timedelta(days=90)
    assert end is None or date.fromisoformat(end.date) > soon, f"{name} ends on {end.date}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_people_read_names_living_ids(page):
    """Whoever copies an example gets an answer."""
    text = page.read_text(encoding="utf-8")
    ending = [
        name
        for _, name in RETIREMENTS
        if re.search(rf"(?<![\w./-]){re.escape(name)}(?![\w-]|\.\d)", text)
    ]
    assert ending == []


def test_two_providers_with_two_models_each():
    """Interleaved; no id serves two places, or both would die with it."""
    assert [t.provider for t in default_chain()] == ["openai", "together", "openai", "together"]
    assert len(set(NAMED)) == len(NAMED)
    assert all(t.successors[-1] == ANY_MODEL and len(t.successors) > 2 for t in default_chain())


def test_the_strong_model_costs_more_than_the_light_one():
    """What is called light is."""
    for strong, light in (default_chain()[0::2], default_chain()[1::2]):
        prices = [price_of(t.provider, t.model) for t in (strong, light)]
        assert prices[0].output > prices[1].output


def test_what_has_an_end_names_a_living_successor():
    """Nobody is sent from one grave to the next."""
    dates = {end.date for end in RETIREMENTS.values()}
    assert all(date.fromisoformat(day) for day in dates)
    for (provider, name), end in RETIREMENTS.items():
        assert (provider, end.successor) not in RETIREMENTS, name


@pytest.mark.parametrize(
    "fields",
    [
        {"spec": "openai:m", "successors": ["m"]},
        {"spec": "openai:m", "successors": ["n", "n"]},
        {"spec": "openai:m", "successors": [""]},
        {"spec": "local", "successors": ["n"]},
    ],
)
def test_successors_that_make_no_sense_are_refused(fields):
    """A model does not follow itself, and what has no API has no list of models."""
    with pytest.raises(ValueError, match="successors"):
        Target(fields["spec"], successors=fields["successors"])


def test_successors_change_the_answer_and_so_the_identity():
    """Caches and journals tell them apart; a target without them is as it always was."""
    assert "successors" not in Target("openai:m").identity()
    assert Target("openai:m", successors=["n"]).identity()["successors"] == ["n"]
