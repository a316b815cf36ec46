"""Each page's code runs and prints what the page shows; what a page points to exists."""

from __future__ import annotations

import re
import sys
from importlib.util import find_spec

import pytest

from langchain_resilient.models import RETIREMENTS
from tests.conftest import ROOT
from tests.docs import pages
from tests.docs.commands import check
from tests.docs.running import PageError, run

MAY_STAY = {
    "docs/fleet.md": 1, "docs/lane.md": 1, "docs/migrate_litellm.md": 1, "docs/service.md": 1,
}  # fmt: skip
"""Pages with blocks that are not run, and how many: no Redis, litellm or service is here, and no
time for a day."""
NEEDS = {"production": "fastapi"}
"""Pages whose code needs a package that an environment for development may lack."""


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: page.stem)
def test_a_page_runs(page):
    """From top to bottom, on a simulator."""
    if page.stem in NEEDS:
        pytest.importorskip(NEEDS[page.stem], reason="pip install --group test")
    tally = run(page)
    assert tally.compiled == MAY_STAY.get(str(page.relative_to(ROOT)), 0)
    if tally.skipped:
        needed = {b.needs for b in pages.blocks(page) if b.needs and find_spec(b.needs) is None}
        pytest.skip(f"all of it runs but blocks that need {', '.join(sorted(needed))}")


def test_most_pages_have_code():
    """The tests above must not pass because no block is found."""
    blocks = [block for page in pages.PAGES for block in pages.blocks(page)]
    assert sum(block.language == "python" for block in blocks) >= 60


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: page.stem)
def test_no_fence_is_missed(page):
    """A block that the executor cannot read would be shown and never run."""
    fences = re.findall(r"^ *```(python|console|bash)$", page.read_text(), re.MULTILINE)
    read = [b.language for b in pages.blocks(page) if b.language in {"python", "console", "bash"}]
    assert read == fences


def test_every_cookbook_recipe_runs():
    """Each heading of the cookbook has a block of Python or of the console under it."""
    recipes = re.split(r"^## ", (ROOT / "docs/cookbook.md").read_text(), flags=re.MULTILINE)[1:]
    assert len(recipes) >= 12
    for recipe in recipes:
        assert "```python" in recipe or "```console" in recipe


@pytest.mark.parametrize("page", pages.ROOT_PAGES[1:], ids=lambda page: page.stem)
def test_the_links_at_the_root_lead_somewhere(page):
    """Sphinx checks those of the pages in `docs/`, `tests/test_release.py` those of README.md."""
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_each_link_has_a_text():
    """Sphinx would put the page's title into an empty one; GitHub shows nothing."""
    texts = [*(ROOT / "docs").glob("*.md"), *(ROOT / "docs").glob("*.py"), *ROOT.glob("*.md")]
    assert len(texts) >= 30
    assert [path.name for path in texts if re.search(r"(?<!\w)\[\]\(\w", path.read_text())] == []


@pytest.mark.parametrize(("page", "least"), [("README.md", 10), ("docs/guarantees.md", 24)])
def test_each_claim_has_a_command_that_exists(page, least):
    """In its last column."""
    rows = re.findall(r"^\| .*\|$", (ROOT / page).read_text(), re.MULTILINE)
    cells = [re.findall(r"\| `((?:make|pytest|python) [^`]+)` \|", row) for row in rows]
    commands = [cell[0] for cell in cells if cell]
    assert len(commands) >= least
    for command in commands:
        check(command)


README = (ROOT / "README.md").read_text()
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("page", [*pages.PAGES, *NOTEBOOKS], ids=lambda page: page.stem)
def test_a_page_names_models_that_live(page):
    """Readers copy them: none has an announced end, and Together's have their maker's name."""
    named = re.findall(r"\b(openai|together):([\w./-]*\w)", page.read_text())
    assert [model for provider, model in named if (provider, model) in RETIREMENTS] == []
    invented = {"a", "b", "c", "x", "y", "first", "second", "third", "well"}  # of 04_chaos.ipynb
    assert {m for p, m in named if p == "together" and "/" not in m} <= invented


def test_code_fits_the_page():
    """Readers should not have to scroll sideways."""
    built = [page for page in pages.PAGES if page not in pages.ROOT_PAGES]
    python = [b for page in built for b in pages.blocks(page) if b.language == "python"]
    assert [b.place for b in python if max(map(len, b.code.splitlines())) > 96] == []


def test_what_the_readme_claims_has_its_figures_on_the_page():
    """Each command of its table stands in that of the guarantees too."""
    commands = re.findall(r"\| `((?:make|pytest|python) [^`]+)` \|$", README, re.MULTILINE)
    guarantees = (ROOT / "docs/guarantees.md").read_text()
    assert [command for command in commands if f"`{command}`" not in guarantees] == []


@pytest.mark.parametrize("page", ["README.md", "docs/index.md", "docs/quickstart.md"])
def test_the_first_example_needs_no_extra(page, monkeypatch, tmp_path):
    """It is what a newcomer tries right after `pip install langchain-resilient`."""
    for extra in ("xllamacpp", "tqdm", "genai_prices", "opentelemetry", "matplotlib"):
        monkeypatch.setitem(sys.modules, extra, None)
    text = (ROOT / page).read_text()
    first = re.search(r"```python\n.*?```\n(\n```output\n.*?```\n)?", text, re.DOTALL)
    assert run(page_with(first[0], tmp_path, monkeypatch)).python == 1


def page_with(text, folder, monkeypatch):
    monkeypatch.setattr(pages, "ROOT", folder)
    page = folder / "page.md"
    page.write_text(text)
    return page


@pytest.mark.parametrize(
    "text",
    [
        "```python\n1 / 0\n```\n",
        "```python\nprint(1)\n```\n\n```output\n2\n```\n",
        "```console\n$ echo 1\n2\n```\n",
        "```bash\nmake nonsense\n```\n",
        "<!-- not run: broken -->\n```python\nif\n```\n",
    ],
)
def test_a_page_that_is_wrong_fails(text, tmp_path, monkeypatch):
    """A block that raises, other output, an unknown command, a syntax error."""
    with pytest.raises(PageError, match=r"page\.md:\d"):
        run(page_with(text, tmp_path, monkeypatch))


@pytest.mark.parametrize(
    "line",
    [
        "langchain-resilient ask --nonsense x",
        "make nonsense",
        "pytest tests/nonsense.py",
        "python -m tests.nonsense",
        'pip install "langchain-resilient[nonsense]"',
        "nonsense",
        "echo 1 | nonsense",
    ],
)
def test_the_complaint_names_what_does_not_exist(line):
    """An option, a target, a path, a module, an extra or a command."""
    with pytest.raises(ValueError, match="nonsense"):
        check(line)
