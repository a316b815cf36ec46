"""The README's Python is run, or where it needs a key or another package, at least compiled."""

from __future__ import annotations

import re

import pytest

from tests.conftest import ROOT

BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
NEEDS_MORE = ('openai:gpt-4o", "together', "langchain_anthropic")


def test_there_are_examples():
    """So that the next test cannot pass by finding none."""
    assert len(BLOCKS) >= 4
    assert sum(any(word in block for word in NEEDS_MORE) for block in BLOCKS) == 2


@pytest.mark.parametrize("block", BLOCKS, ids=lambda b: b.split("\n")[0][:40])
def test_the_readmes_python_runs(block, capsys):
    """Word for word."""
    code = compile(block, "README.md", "exec")
    if not any(word in block for word in NEEDS_MORE):
        exec(code, {"__name__": "readme"})  # noqa: S102  # our own README


def test_the_ten_line_provider_answers():
    """The example of a new provider does what it says."""
    (block,) = [b for b in BLOCKS if "@register" in b]
    names: dict[str, object] = {}
    exec(block, names)  # noqa: S102  # our own README
    assert names["llm"].invoke("hello").text == "hello"
