"""The reference names everything that is public, says what it means, and in which unit."""

from __future__ import annotations

import re
import sys

import pytest
from langchain_core.language_models import BaseChatModel

import langchain_resilient
from docs import cli, generate, options, simulator
from docs import errors as errors_page
from langchain_resilient import FaultKind, ResilientChatModel, testing
from langchain_resilient.faults import TRAITS
from tests.conftest import ROOT
from tests.docs.pages import PAGES

ALL = [(cls.__name__, one) for cls in options.CLASSES for one in options.options_of(cls)]
MEASURED = re.compile(
    r"time(out)?$|delay|pause|gap|window|connect|first_text|answer|cold|_per_|price|cost|dollars|"
    r"spend_cap|max_tokens"
)
POLICIES = {"time_limits"}  # their own fields have units


@pytest.mark.parametrize("page", generate.PARTS)
def test_what_is_generated_is_that_of_the_code(page):
    """Else `python -m docs.generate` writes it anew; who reads pages on GitHub sees it too."""
    if page == "cli.md" and sys.version_info >= (3, 13):
        pytest.skip("argparse writes options otherwise from Python 3.13 on")
    assert (ROOT / "docs" / page).read_text(encoding="utf-8") == generate.generated(page)


def test_no_page_needs_a_build_to_be_whole():
    """GitHub shows an `include` as a block of code."""
    assert [page.name for page in PAGES if "```{include}" in page.read_text()] == []


@pytest.mark.parametrize(("owner", "option"), ALL, ids=lambda x: getattr(x, "name", x))
def test_an_option_says_what_it_means(owner, option):
    """The docstring under the field, where the field is."""
    assert option.meaning.endswith(".")


@pytest.mark.parametrize(("owner", "option"), ALL, ids=lambda x: getattr(x, "name", x))
def test_a_time_a_rate_and_money_have_units(owner, option):
    """Whatever is called or typed like one."""
    measured = MEASURED.search(option.name) or "Seconds" in option.type
    if measured and option.name not in POLICIES:
        assert option.unit


@pytest.mark.parametrize("option", [*options.batch_options(), *options.structured_options()])
def test_a_keyword_says_what_it_means(option):
    """Those of methods come out of their docstrings."""
    assert option.meaning
    assert "See the class" not in option.meaning


def test_every_field_of_the_model_is_there():
    """All but those that any LangChain chat model has."""
    named = {one.name for _, one in ALL}
    own = set(ResilientChatModel.model_fields) - set(BaseChatModel.model_fields)
    assert own <= named


def test_every_policy_that_is_public_is_there():
    """A class of options that is exported and not listed would be missed."""
    public = [getattr(langchain_resilient, name) for name in langchain_resilient.__all__]
    fielded = {one for one in public if hasattr(one, "model_fields")} - {ResilientChatModel}
    assert fielded <= set(options.CLASSES)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_options_that_a_page_speaks_of_exist(page):
    """Also those in its prose, such as `Hedge(pause=)`."""
    fields = {
        cls.__name__: {*cls.model_fields, *getattr(cls, "_other_names", ())}
        for cls in options.CLASSES
    }
    for owner, inside in re.findall(rf"\b({'|'.join(fields)})\(([^()]*)\)", page.read_text()):
        assert set(re.findall(r"(\w+)=(?!=)", inside)) <= fields[owner]


def test_types_are_written_out():
    """No name of a type that only the code knows."""
    written = " ".join(one.type for _, one in ALL)
    for name in ("Seconds", "Dollars", "HedgeField", "FallbackOn", "StopWords", "LastResort"):
        assert name not in written


def test_every_exception_is_in_the_table_and_in_the_drawing():
    """The drawing at the top of `errors.py` is made by hand."""
    public = {name for name in langchain_resilient.__all__ if name.endswith(("Error", "Warning"))}
    assert {one.__name__ for one in errors_page.exceptions()} == public
    for name in public:
        assert name in errors_page.tree()


def test_every_kind_of_fault_is_explained():
    """What happened and, but for a target that only must be asked plainly, what follows."""
    page = errors_page.page()
    for kind in FaultKind:
        (row,) = re.findall(rf"^\| `{kind.value}` \|(.+)\|$", page, re.MULTILINE)
        assert row.split("|")[0].strip()


def test_every_advice_is_for_a_kind_of_fault():
    """And is shown."""
    page = errors_page.page()
    assert all(traits.advice in page for traits in TRAITS.values())


def test_every_command_is_shown_with_its_help():
    """Commands of commands too."""
    page = cli.page()
    for name in ("ask", "batch", "journal show", "journal export", "targets", "simulate", "demo"):
        assert f"## `langchain-resilient {name}`" in page


def test_every_public_step_and_delay_is_shown():
    """With its first sentence."""
    page = simulator.page()
    known = [*simulator.steps(), *simulator.distributions()]
    assert all(f"| `{one.__name__}` |" in page for one in known)
    values = {"Backlog", "BatchRecord"}
    assert all(f"`{name}`: " in page for name in values)
    others = values | {
              "Delay", "Exchange", "HttpDate", "ProviderSimulator", "RecordedRequest", "Refusal",
              "Step", "ToolCall", "answer_to", "load_script", "Distribution"}  # fmt: skip
    assert {one.__name__ for one in known} | others >= set(testing.__all__)


def test_fields_that_many_steps_inherit_are_described_once():
    """With a word where they belong."""
    page = simulator.page()
    assert page.count("`should_retry`") == 1
    (row,) = [line for line in page.splitlines() if line.startswith("| `RateLimited` |")]
    assert "`of`:" in row
    assert "those of `Refusal`" in row
