"""The comparison with ChatOpenAI: it holds for a few calls, and would notice a difference."""

from __future__ import annotations

import pytest

from verification.peers.__main__ import PAGE, main
from verification.peers.cases import CASES
from verification.peers.comparing import Difference
from verification.peers.reasons import REASONS, page, unexplained

pytest.importorskip("langchain_openai")

FEW = ["a question", "a finished tool call", "tools", "max_tokens", "429", "401", "cut by length"]


def test_every_difference_of_a_few_calls_has_a_reason(capsys: pytest.CaptureFixture[str]):
    """`make peers` compares the rest, and ChatTogether."""
    arguments = [word for name in FEW for word in ("--case", name)]
    assert main(["--peer", "openai", *arguments]) == 0, capsys.readouterr().out
    assert f"{len(FEW)} calls of openai" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("field", "theirs", "ours"),
    [
        ("body.temperature", 0.5, None),
        ("body.messages", ["a"], ["b"]),
        ("message.content", "a", "b"),
        ("message.usage_metadata.output_tokens", 3, 4),
        ("error.ModelRateLimitError", True, None),
    ],
)
def test_any_other_difference_would_be_told(field, theirs, ours):
    """No reason is so wide that it hides another fault."""
    for case in ("a question", "tools", "429"):
        difference = Difference("openai", case, "invoke", field, theirs, ours)
        assert unexplained([difference]) == [difference]


def test_the_names_of_calls_are_their_own():
    """A failure is replayed by its name."""
    assert len({case.name for case in CASES}) == len(CASES)


def test_the_page_of_the_docs_is_that_of_the_reasons():
    """`python -m verification.peers --write` writes it."""
    assert PAGE.read_text(encoding="utf-8") == page()
    assert all(reason.differs in page() and reason.why in page() for reason in REASONS)
