"""The command's exit status; what the judges say comes from `make judges`."""

from __future__ import annotations

import pytest

from verification.judges import __main__ as command
from verification.judges.install import MissingError


def missing() -> bool:
    """Never to be had."""
    msg = "install it"
    raise MissingError(msg)


@pytest.mark.parametrize(
    ("judge", "options", "status"),
    [
        (lambda: True, [], 0),
        (lambda: False, [], 1),
        (missing, [], 2),
        (missing, ["--allow-missing"], 0),
    ],
    ids=["for us", "against us", "missing", "missing, allowed"],
)
def test_the_exit_status_says_what_was_judged(monkeypatch, judge, options, status):
    """A judge that is missing is no judge in our favour."""
    judge.__doc__ = judge.__doc__ or "One."
    monkeypatch.setattr(command, "JUDGES", {"llmock": judge})
    assert command.main(["llmock", *options]) == status


def test_a_missing_judge_is_told(monkeypatch, capsys):
    """With what to do about it."""
    monkeypatch.setattr(command, "JUDGES", {"llmock": missing})
    command.main([])
    assert "not judged: install it" in capsys.readouterr().out
