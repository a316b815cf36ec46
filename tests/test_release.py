"""What a release shows of itself: the wheel, its metadata, links, classifiers, templates."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import requires

import pytest
import yaml
from packaging.requirements import Requirement

from tests.conftest import ROOT
from verification import wheel as wheels

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ADDRESS = PROJECT["urls"]["Repository"]
README = (ROOT / "README.md").read_text()
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())
TEMPLATES = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))
REASON = "hatchling is not installed: pip install --group test"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    pytest.importorskip("hatchling", reason=REASON)
    return wheels.build(tmp_path_factory.mktemp("wheel"))


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    """With `py.typed`, and no link in its description that works in the repository only."""
    assert wheels.faults(wheel) == []
    assert "langchain_resilient/py.typed" in wheels.names(wheel)


def test_the_metadata_says_where_things_are(wheel):
    """As package indexes show it."""
    metadata = wheels.metadata(wheel)
    urls = dict(line.split(", ") for line in metadata.get_all("Project-URL"))
    assert urls.keys() == {"Repository", "Documentation", "Changelog", "Issues"}
    assert all(url.startswith(ADDRESS) for url in urls.values())
    assert (metadata["License-Expression"], metadata["Requires-Python"]) == ("MIT", ">=3.11")
    assert metadata["Description-Content-Type"] == "text/markdown"


def test_a_wheel_without_types_would_be_found(wheel, tmp_path, monkeypatch):
    """Or one with a file too many."""
    monkeypatch.setattr(
        wheels, "names", lambda _: {"langchain_resilient/__init__.py", "tests/x.py"}
    )
    faults = wheels.faults(wheel)
    assert any("py.typed is missing" in fault for fault in faults)
    assert "tests/x.py does not belong there" in faults


def test_the_classifiers_exist_and_are_tested():
    """On the versions of Python that the workflow and `make pythons` run."""
    pytest.importorskip("trove_classifiers", reason=REASON)
    from trove_classifiers import classifiers

    assert set(PROJECT["classifiers"]) <= classifiers
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    matrix = WORKFLOW["jobs"]["test"]["strategy"]["matrix"]["python"]
    (pythons,) = re.findall(r"^PYTHONS \?= (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert named
    assert set(named) <= set(matrix) == set(pythons.split())
    assert f">={named[0]}" == PROJECT["requires-python"]


def test_the_workflow_runs_what_ci_runs():
    """One command, the same here and there."""
    steps = [step.get("run") for job in WORKFLOW["jobs"].values() for step in job["steps"]]
    assert ".ci/run" in steps
    assert (ROOT / ".ci/run").stat().st_mode & 0o111
    assert "make wheel" in steps
    assert WORKFLOW["permissions"] == {"contents": "read"}


def test_the_links_of_the_readme_are_whole_and_lead_somewhere():
    """A package index shows it too: none is relative, and each of ours is a file of the clone."""
    assert re.findall(r"\]\((?!https://)", README) == []
    defined = dict(re.findall(r"^\[([^\]]+)\]: (\S+)$", README, re.MULTILINE))
    text = README.partition("\n[Quickstart]: ")[0]
    explicit = set(re.findall(r"\]\[([^\]\n]+)\]", text))
    short = set(re.findall(r"\[([^\]\n]+)\](?!\[)", text)) & set(defined)
    assert explicit | short == set(defined)
    raw = ADDRESS.replace("github.com", "raw.githubusercontent.com")
    for url in defined.values():
        assert url.startswith((f"{ADDRESS}/blob/main/", f"{raw}/main/")), url
        path = url.removeprefix(f"{ADDRESS}/blob/main/").removeprefix(f"{raw}/main/")
        assert (ROOT / path).exists(), url


def test_what_readers_are_told_to_clone_is_the_repository():
    """And nobody else's."""
    cloned = re.findall(r"git clone (\S+)", README)
    assert set(cloned) == {ADDRESS}


def test_the_figures_of_the_readme_are_those_of_the_benchmark():
    """Row by row, as in `docs/benchmarks.md`."""
    page = (ROOT / "docs/benchmarks.md").read_text()
    section = README.partition("## What it changes")[2].partition("## Try")[0]
    rows = re.findall(r"^\| (.+?) \| (.+?) \| (.+?) \|$", section, re.MULTILINE)[1:]
    assert len(rows) == 5
    whole, streams = re.split(r"^\| streams ", page, flags=re.MULTILINE)
    for fault, theirs, ours in rows:
        table, name = (streams, "cut in the middle") if "stream" in fault else (whole, fault)
        (row,) = re.findall(rf"^\| {re.escape(name)} \| (.+) \|$", table, re.MULTILINE)
        cells = row.split(" | ")
        assert theirs in re.split(r" / ", cells[0])
        assert ours.partition(":")[0].strip("*") in re.split(r" / ", cells[-1].strip("*"))


def test_nothing_is_forced_that_an_extra_could_hold():
    """What is installed in any case is LangChain, both SDKs, and what these bring themselves."""
    frame = {"langchain-core": (), "openai": ("aiohttp",), "together": ("aiohttp",)}
    brought = set().union(*(_closure(name, extras) for name, extras in frame.items()))
    ours = {Requirement(text).name for text in PROJECT["dependencies"]}
    assert ours - set(frame) <= brought


def test_the_readme_names_what_together_brings():
    """Its command line's needs."""
    alone = _closure("together", ("aiohttp",)) - _closure("openai", ("aiohttp",))
    for name in ("cyclopts", "rich", "types-pyyaml"):
        assert name in alone
        assert f"`{name}`" in README


def test_every_extra_is_in_the_readme():
    """With what it is for."""
    named = re.findall(r"^\| `(\w+)` \| \S", README, re.MULTILINE)
    assert named
    assert set(named) == set(PROJECT["optional-dependencies"])


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.stem)
def test_an_issue_template_is_one(template):
    """As the repository's host reads it: names, and fields with a type, an id and a label."""
    form = yaml.safe_load(template.read_text())
    if template.stem == "config":
        assert all(link["url"].startswith(ADDRESS) for link in form["contact_links"])
        return
    assert form["name"]
    assert form["description"]
    fields = [part for part in form["body"] if part["type"] != "markdown"]
    assert len({field["id"] for field in fields}) == len(fields) > 0
    assert all(field["attributes"]["label"] for field in fields)


def _closure(name, extras=(), seen=frozenset()):
    """The names of all that an installed package requires, and what that requires."""
    seen = set(seen) | {name}
    for text in requires(name) or ():
        one = Requirement(text)
        other = one.name.lower().replace("_", "-")
        wanted = one.marker is None or any(one.marker.evaluate({"extra": e}) for e in ("", *extras))
        if wanted and other not in seen:
            seen |= _closure(other, one.extras, seen)
    return seen
