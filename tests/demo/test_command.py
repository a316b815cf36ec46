"""`langchain-resilient demo`, as a script and a person would use it."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys

import pytest
from rich.console import Console

from langchain_resilient import cli
from langchain_resilient.demo import baseline
from langchain_resilient.demo.screen import picture
from langchain_resilient.demo.stage import Show
from tests.helpers import process

LEAST = ("--seconds", "4", "--rate", "3")


def test_plain_lines_end_with_the_comparison(capsys):
    """Each side got each request, and each request has an end."""
    assert cli.main(["demo", "--no-live", *LEAST]) == cli.OK
    out = capsys.readouterr().out
    rows = {line.split("  ")[0]: line.split()[-2:] for line in out.splitlines()}
    assert rows["requests"] == ["12", "12"]
    ends = zip(rows["answered, whole"], rows["failed or not whole"], strict=True)
    assert [int(answered) + int(failed) for answered, failed in ends] == [12, 12]
    assert int(rows["answered, whole"][0]) > 0
    assert "with_fallbacks" in out


@pytest.mark.parametrize("wrong", [("--seconds", "1"), ("--rate", "0"), ("--rate", "nan")])
def test_senseless_options_are_told(capsys, wrong):
    """Before anything starts."""
    assert cli.main(["demo", "--no-live", *wrong]) == cli.WRONG
    assert wrong[0] in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_ends_it_with_the_summary():
    """No traceback, 130."""
    program = (sys.executable, "-m", "langchain_resilient", "demo", "--no-live")
    with process(
        *program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    ) as show:
        for line in show.stdout:
            if "waiting" in line:
                show.send_signal(signal.SIGINT)
                break
        out, err = show.communicate(timeout=60)
    assert show.returncode == cli.INTERRUPTED
    assert "answered, whole" in out
    assert err == ""


@pytest.mark.parametrize(("width", "height"), [(100, 30), (120, 40)])
def test_the_picture_fits_the_terminal(width, height):
    """Before the show begins, too."""
    console = Console(width=width, height=height, file=io.StringIO(), record=True)
    console.print(picture(Show(length=120, rate=4, seed=0), width, height))
    lines = console.export_text().splitlines()
    assert len(lines) == height
    assert max(map(len, lines)) <= width
    assert "openai:gpt-6.1-sol" in "\n".join(lines)


async def test_without_langchain_openai_the_baseline_uses_the_plain_sdk(monkeypatch):
    """And the footer says so. Which of its calls meets a fault is a matter of real time."""
    monkeypatch.setitem(sys.modules, "langchain_openai", None)
    monkeypatch.setattr(baseline, "find_spec", lambda _: None)
    show = Show(length=4, rate=1, seed=0)
    await show.run()
    assert "answered" in {call.fate for call in show.theirs.score.calls}
    assert "OpenAI SDK" in baseline.recipe()
