"""The pages build without a warning, offline."""

from __future__ import annotations

import subprocess
import sys
from html.parser import HTMLParser

import pytest

from tests.conftest import ROOT

pytest.importorskip("sphinx", reason="Sphinx is not installed: pip install --group docs")
pytest.importorskip("myst_parser", reason="myst-parser is not installed: pip install --group docs")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("html")
    subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html",
         "-d", folder / "doctrees", ROOT / "docs", folder / "html"],
        check=True, cwd=ROOT, timeout=110,
    )  # fmt: skip
    return folder / "html"


def test_every_page_is_built(built):
    """A warning, such as a link that leads nowhere, would have failed the build."""
    pages = {page.stem for page in (ROOT / "docs").glob("*.md")}
    assert {page.stem for page in built.glob("*.html")} >= pages


class _Loaded(HTMLParser):
    """Collects what a browser loads by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        given = dict(attrs)
        if tag in {"script", "img"}:
            self.urls.append(given.get("src") or "")
        elif tag == "link" and given.get("rel") in {"stylesheet", "preload", "icon"}:
            self.urls.append(given.get("href") or "")


def test_nothing_is_loaded_from_elsewhere(built):
    """No fonts, scripts or pictures of other hosts: the pages read well without network."""
    loaded = _Loaded()
    for page in built.glob("*.html"):
        loaded.feed(page.read_text())
    assert loaded.urls
    assert [url for url in loaded.urls if "//" in url] == []
