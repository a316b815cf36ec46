"""The command line, as a script would use it."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from langchain_resilient import cli
from langchain_resilient.testing import (
    BadRequest,
    Cut,
    InvalidKey,
    NoAnswer,
    ProviderSimulator,
    Reply,
)
from tests.helpers import process

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def sim(monkeypatch) -> Iterator[ProviderSimulator]:
    """A simulator at the environment's base URLs, as a script would set them."""
    with ProviderSimulator() as found:
        monkeypatch.setenv("OPENAI_BASE_URL", found.base_url("openai"))
        monkeypatch.setenv("TOGETHER_BASE_URL", found.base_url("together"))
        monkeypatch.setenv("OPENAI_API_KEY", "sk-canary-123456")
        monkeypatch.setenv("TOGETHER_API_KEY", "canary-654321")
        yield found


def run(*args: str) -> int:
    return cli.main(list(args))


@pytest.mark.parametrize("mode", [[], ["--no-stream"]])
def test_ask_prints_the_text_and_one_line_of_receipt(sim, capsys, mode):
    """Text on stdout, the receipt on stderr."""
    sim.script("openai:m", then=Reply("Because of scattering."))
    assert run("ask", "-t", "openai:m", *mode, "why?") == cli.OK
    out, err = capsys.readouterr()
    assert out == "Because of scattering.\n"
    assert err.startswith("[openai:m answered in ")
    assert err.count("\n") == 1


def test_ask_reads_standard_input(sim, capsys, monkeypatch):
    """As in a pipe."""
    monkeypatch.setattr("sys.stdin", io.StringIO("Say exactly: piped"))
    assert run("ask", "-t", "openai:m", "-q") == cli.OK
    assert capsys.readouterr() == ("piped\n", "")


def test_ask_as_json(sim, capsys):
    """Text, model, usage and receipt in one object."""
    sim.script("openai:m", then=Reply("hi"))
    assert run("ask", "-t", "openai:m", "--json", "hello") == cli.OK
    told = json.loads(capsys.readouterr().out)
    assert (told["text"], told["model"], told["receipt"]["winner"]) == ("hi", "m", "openai:m")
    assert told["usage"]["output_tokens"] > 0


@pytest.mark.parametrize(
    ("step", "timeout", "code"),
    [
        (InvalidKey(), "30", cli.FAILED),
        (NoAnswer(), "0.5", cli.DEADLINE),
        (BadRequest(), "30", cli.REFUSED),
        (Cut(after=2), "3", cli.BROKEN),
    ],
)
def test_exit_codes_that_scripts_can_use(sim, capsys, step, timeout, code):
    """Each kind of failure has its own, and its story stands on stderr."""
    sim.script("*", then=step)
    targets = ["-t", "openai:m", "-t", "together:m"]
    assert run("ask", *targets, "--timeout", timeout, "hello") == code
    err = capsys.readouterr().err
    assert err.startswith("langchain-resilient: ")
    assert "canary" not in err


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["ask", "-t", "nobody:m", "x"], "unknown provider 'nobody'"),
        (["ask", "-t", "gpt-4", "x"], "provider:model"),
        (["ask", "-t", "openai:m", "--temperature", "7", "x"], "temperature: "),
        (["ask", "-t", "openai:m", "--timeout", "-1", "x"], "timeout: "),
        (["ask", "-t", "openai:m", " "], "no prompt"),
        (["targets", "-t", "nobody:m"], "unknown provider"),
    ],
)
def test_wrong_use_is_code_2_and_one_clear_line(sim, capsys, args, said):
    """It names the argument and what is accepted."""
    assert run(*args) == cli.WRONG
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_without_a_key_it_says_what_to_set(capsys, monkeypatch):
    """And does not show a traceback."""
    for name in ("OPENAI_API_KEY", "TOGETHER_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    assert run("ask", "x") == cli.WRONG
    assert "OPENAI_API_KEY or TOGETHER_API_KEY" in capsys.readouterr().err


def test_targets_shows_which_keys_are_there_and_never_a_key(sim, capsys, monkeypatch):
    """In words and as JSON."""
    monkeypatch.delenv("TOGETHER_API_KEY")
    assert run("targets") == cli.OK
    out = capsys.readouterr().out
    assert "OPENAI_API_KEY is set" in out
    assert "TOGETHER_API_KEY is not set" in out
    assert run("targets", "--json") == cli.OK
    rows = json.loads(shown := capsys.readouterr().out)
    assert [r["ready"] for r in rows] == [True, False, True, False]
    assert "canary" not in out + shown


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_ends_cleanly_with_130(sim):
    """No traceback, and the upstream sees the request go."""
    sim.script("openai:m", then=Reply(rate=5))
    command = (sys.executable, "-m", "langchain_resilient", "ask", "-t", "openai:m", "hello")
    with process(
        *command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ.copy(),
    ) as asking:
        assert asking.stdout.read(3)
        asking.send_signal(signal.SIGINT)
        _, err = asking.communicate(timeout=20)
    assert asking.returncode == cli.INTERRUPTED
    assert "Traceback" not in err
    until = time.monotonic() + 5
    while not sim.aborted and time.monotonic() < until:
        time.sleep(0.01)
    assert sim.aborted == 1


def test_a_closed_pipe_is_no_error(sim):
    """`ask | head -c 1`."""
    sim.script("openai:m", then=Reply(rate=50))
    command = f"{sys.executable} -m langchain_resilient ask -q -t openai:m hello | head -c 1"
    found = subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, timeout=100, check=False
    )
    assert found.stderr == ""
