"""The command line, as a script would use it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from langchain_resilient import FaultKind, cli, terminal
from langchain_resilient.faults import TRAITS
from langchain_resilient.simulation.latency import HeavyTail, uniform
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


TERMINAL = Path(terminal.__file__)
PACKAGE = TERMINAL.parent


@pytest.fixture
def sim(monkeypatch) -> Iterator[ProviderSimulator]:
    """A simulator at the environment's base URLs, as a script would set them."""
    with ProviderSimulator() as simulator:
        monkeypatch.setenv("OPENAI_BASE_URL", simulator.base_url("openai"))
        monkeypatch.setenv("TOGETHER_BASE_URL", simulator.base_url("together"))
        monkeypatch.setenv("OPENAI_API_KEY", "sk-canary-123456")
        monkeypatch.setenv("TOGETHER_API_KEY", "canary-654321")
        yield simulator


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
    output = json.loads(capsys.readouterr().out)
    assert (output["text"], output["model"], output["receipt"]["winner"]) == ("hi", "m", "openai:m")
    assert output["usage"]["output_tokens"] > 0


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
    ("args", "message"),
    [
        (["ask", "-t", "nobody:m", "x"], "unknown provider 'nobody'"),
        (["ask", "-t", "gpt-4", "x"], "provider:model"),
        (["ask", "-t", "openai:m", "--temperature", "7", "x"], "temperature: "),
        (["ask", "-t", "openai:m", "--timeout", "-1", "x"], "timeout: "),
        (["ask", "-t", "openai:m", " "], "no prompt"),
        (["targets", "-t", "nobody:m"], "unknown provider"),
    ],
)
def test_wrong_use_is_code_2_and_one_clear_line(sim, capsys, args, message):
    """It names the argument and what is accepted."""
    assert run(*args) == cli.WRONG
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_without_a_key_it_says_what_to_set(capsys, monkeypatch):
    """And does not show a traceback."""
    for name in ("OPENAI_API_KEY", "TOGETHER_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    assert run("ask", "x") == cli.WRONG
    assert "OPENAI_API_KEY or TOGETHER_API_KEY" in capsys.readouterr().err


# -- what a terminal does to it -------------------------------------------------------------------


@pytest.fixture
def stdin(monkeypatch, tmp_path):
    """Makes standard input a real pipe, or a file of which so much has been read."""
    with ExitStack() as opened:

        def give(text: bytes, *, read: int | None = None) -> None:
            if read is None:
                out, into = os.pipe()
                os.write(into, text)
                os.close(into)
                file = opened.enter_context(os.fdopen(out))
            else:
                (tmp_path / "stdin").write_bytes(text)
                file = opened.enter_context((tmp_path / "stdin").open())
                os.lseek(file.fileno(), read, os.SEEK_SET)  # as `read` of a shell leaves it
            monkeypatch.setattr("sys.stdin", file)

        yield give


@pytest.mark.parametrize(
    ("words", "read", "prompt"),
    [
        (["Say exactly: a"], None, "Say exactly: a\n\npiped \u00e9\n"),
        (["Say exactly:", "a"], 0, "Say exactly: a\n\npiped \u00e9\n"),
        (["Say exactly: a", "-"], None, "Say exactly: a\n\npiped \u00e9\n"),
        (["Say exactly: a", "-"], 2, "Say exactly: a\n\nped \u00e9\n"),
        ([], None, "piped \u00e9\n"),
        (["-"], 0, "piped \u00e9\n"),
        (["Say exactly: a"], 2, "Say exactly: a"),
        (["Say exactly: a", "--no-stdin"], None, "Say exactly: a"),
        (["Say exactly: a", "-n"], 0, "Say exactly: a"),
    ],
    ids=["pipe", "file", "dash", "rest", "only", "dash only", "loop", "no stdin", "n"],
)
def test_what_is_piped_in_follows_the_prompt(sim, stdin, words, read, prompt):
    """`echo text | ask "summarise"`; but not the rest of the lines that a loop reads."""
    stdin(b"piped \xc3\xa9\n", read=read)
    assert run("ask", "-q", "-t", "openai:m", *words) == cli.OK
    (request,) = sim.requests
    assert request.body["messages"][-1]["content"] == prompt


def test_a_loop_keeps_its_input(sim, stdin):
    """What an `ask` does not use is there for whoever reads next."""
    stdin(b"one\ntwo\n", read=4)
    assert run("ask", "-q", "-t", "openai:m", "Say exactly: a") == cli.OK
    assert sys.stdin.read() == "two\n"


def test_no_prompt_and_no_input_is_a_hint(stdin, capsys):
    """Also where nothing may be read."""
    stdin(b"text")
    assert run("ask", "-t", "text:hi", "--no-stdin") == cli.WRONG
    assert "no prompt: give one, or pipe it in" in capsys.readouterr().err


def test_input_that_is_no_text_is_code_2(stdin, capsys):
    """One line, which says where."""
    stdin(b"ab\xff")
    assert run("ask", "-t", "text:hi") == cli.WRONG
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "langchain-resilient: standard input is not UTF-8, at byte 2\n"


def test_a_terminal_that_knows_only_ascii_gets_what_it_can_show(monkeypatch):
    """And JSON with escapes, which lose nothing."""

    def printed(*args: str) -> bytes:
        out = io.BytesIO()
        monkeypatch.setattr("sys.stdout", io.TextIOWrapper(out, "ascii"))
        assert run("ask", "-q", "-n", "-t", "text:caf\u00e9", *args) == cli.OK
        return out.getvalue()

    assert printed("hello") == b"caf?\n"
    assert json.loads(printed("--json", "hello"))["text"] == "caf\u00e9"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")  # noqa: PTH110
def test_a_full_disk_is_a_sentence():
    """No traceback, not at the interpreter's end either."""
    command = [sys.executable, "-m", "langchain_resilient", "ask", "-q", "-t", "text:hi", "hello"]
    with open("/dev/full", "wb") as full:  # noqa: PTH123  # a device
        done = subprocess.run(
            command, check=False, stdout=full, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
            timeout=60,
        )  # fmt: skip
    assert done.returncode == cli.FAILED
    assert done.stderr.decode().splitlines() == [
        "langchain-resilient: the output cannot be written: No space left on device"
    ]


def test_the_last_resorts_line_stands_on_its_own(sim, capsys):
    """After the text, whose line has not ended yet."""
    sim.script("openai:m", then=InvalidKey())
    assert run("ask", "-t", "openai:m", "--last-resort", "sorry", "hello") == cli.OK
    out, err = capsys.readouterr()
    assert out == "sorry\n"
    lines = [line for line in err.splitlines() if line]
    assert lines[0].startswith("langchain-resilient: answered by the last resort: ")
    assert lines[1].startswith("[text answered in ")


# -- where targets are, and a file of settings ----------------------------------------------------


def test_a_server_of_ones_own_is_given_by_its_address(capsys, monkeypatch):
    """With the key in a variable that is named, or without one."""
    with ProviderSimulator() as simulator:
        simulator.script("openai:mine", then=Reply("here"))
        monkeypatch.setenv("MY_KEY", "sk-mine-123")
        monkeypatch.setenv("OPENAI_API_KEY", "sk-theirs-123")
        url = simulator.base_url("openai")
        own = ("-q", "-t", "openai:mine", "--base-url", url)
        assert run("ask", *own, "--api-key-env", "MY_KEY", "hello") == cli.OK
        assert run("ask", *own, "hello") == cli.OK
        assert simulator.count() == 2
        assert run("targets", *own[1:]) == cli.OK
    out, err = capsys.readouterr()
    assert out.startswith("here\nhere\nopenai:mine")
    assert url in out
    assert "123" not in out.replace(url, "") + err


@pytest.mark.parametrize("suffix", ["toml", "json"])
def test_a_file_has_the_fields_of_the_model(sim, capsys, tmp_path, suffix):
    """Options of the command line go before it."""
    sim.script("openai:m", then=Reply("hi"))
    path = tmp_path / f"chain.{suffix}"
    if suffix == "json":
        fields = {"targets": ["openai:m"], "max_tokens": 5, "temperature": 0.5, "hedge": None}
        path.write_text(json.dumps(fields))
    else:
        path.write_text(
            "max_tokens = 5\ntemperature = 0.5\n[hedge]\nbudget = 0.1\n"
            '[[targets]]\nprovider = "openai"\nmodel = "m"\n'
        )
    command = ("ask", "-q", "--config", str(path), "--temperature", "0.25", "hello")
    assert run(*command) == cli.OK
    assert capsys.readouterr() == ("hi\n", "")
    body = sim.requests[-1].body
    assert (body["model"], body["temperature"]) == ("m", 0.25)
    assert 5 in (body.get("max_tokens"), body.get("max_completion_tokens"))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--config", "none.toml"), "there is no file none.toml"),
        (("--config", "bad.toml"), "bad.toml: "),
        (
            ("--config", "unknown.json"),
            "targts: Extra inputs are not permitted: did you mean targets?",
        ),
        (("--config", "list.json"), "list.json holds no table of fields"),
        (
            ("-t", "openai:m", "--base-url", "http://localhost:99999/v1"),
            "names a port that is none",
        ),
        (("--base-url", "http://localhost:1/v1"), "need a --target"),
        (("-t", "openai:m", "--api-key-env", "NOT_SET_AT_ALL"), "NOT_SET_AT_ALL is not set"),
    ],
)
def test_a_wrong_file_or_address_is_one_sentence(capsys, tmp_path, monkeypatch, args, message):
    """With exit code 2."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary-123456")
    (tmp_path / "bad.toml").write_text("a = = 1")
    (tmp_path / "unknown.json").write_text('{"targts": []}')
    (tmp_path / "list.json").write_text("[]")
    assert run("ask", "-q", *args, "hello") == cli.WRONG
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_a_file_for_the_service_serves_too(sim, capsys, tmp_path, monkeypatch):
    """Its table `[model]`, with variables of the environment and the word for None."""
    monkeypatch.setenv("MINE", "openai:m")
    sim.script("openai:m", then=Reply("hi"))
    path = tmp_path / "serve.toml"
    path.write_text('[service]\nport = 80\n[model]\ntargets = ["${MINE}"]\nhedge = "none"\n')
    assert run("ask", "-q", "--config", str(path), "hello") == cli.OK
    assert run("targets", "--config", str(path)) == cli.OK
    assert capsys.readouterr().out.startswith("hi\nopenai:m")
    monkeypatch.delenv("MINE")
    assert run("ask", "-q", "--config", str(path), "hello") == cli.WRONG
    assert "serve.toml.targets[0]: the environment variable MINE is not set" in (
        capsys.readouterr().err
    )


def test_advice_is_for_the_command_line(capsys, monkeypatch):
    """Not for Python."""
    for name in ("OPENAI_API_KEY", "TOGETHER_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    assert run("ask", "hello") == cli.WRONG
    err = capsys.readouterr().err
    assert "--target local" in err
    assert "--last-resort local" in err
    assert "ResilientChatModel" not in err
    assert "api_key=" not in err


def test_advice_of_errors_and_warnings_is_for_the_command_line_too(capsys):
    """A server that is not there, and a provider that nobody knows."""
    told = (
        "check base_url, the network. Its deadline (timeout=); max_retries=1 makes it fail at once"
    )
    terminal.show_warning(UserWarning(told))
    assert run("ask", "-n", "-t", "opnai:m", "hello") == cli.WRONG
    advice = TRAITS[FaultKind.CONNECTION].advice
    cli._print_error(f"all targets failed\nWhat to do: {advice}.")
    err = capsys.readouterr().err
    assert "check --base-url, the network. Its deadline (--timeout)\n" in err
    assert "What to do: check the network and --base-url.\n" in err
    assert "--target openai:model --base-url URL --api-key-env NAME\n" in err
    for word in ("base_url", "max_retries", "timeout=", "register"):
        assert word not in err


def test_the_words_that_are_replaced_are_those_of_the_messages():
    """Else the command line would speak Python again."""
    texts = " ".join(path.read_text() for path in PACKAGE.rglob("*.py") if path != TERMINAL)
    said = re.sub(r"[\"\']\n\s*f?[\"\']", "", texts)  # one text over several lines
    assert [ours for ours, _ in terminal._IN_OPTIONS if ours not in said] == []


@pytest.mark.parametrize("command", [("ask", "-n", "hello"), ("targets",)])
def test_a_misspelt_field_of_a_file_is_told_by_every_command(capsys, tmp_path, command):
    """By `targets` too, which needs few of them."""
    path = tmp_path / "chain.toml"
    path.write_text('targets = ["text:hi"]\n[hedge]\ndealy = 1\n')
    assert run(*command, "--config", str(path)) == cli.WRONG
    assert capsys.readouterr().err == (
        "langchain-resilient: hedge.dealy: Extra inputs are not permitted: did you mean delay?\n"
    )


def test_a_warning_is_one_line(tmp_path):
    """In a process of its own: it is told once a process, and logged as well."""
    environ = {k: v for k, v in os.environ.items() if k not in ("OPENAI_API_KEY", "PYTHONWARNINGS")}
    environ["LANGCHAIN_RESILIENT_REMEMBER"] = ""
    command = (sys.executable, "-m", "langchain_resilient")
    asked = subprocess.run(
        [*command, "ask", "-q", "-t", "text:hi", "-t", "openai:m", "hello"],
        capture_output=True, text=True, timeout=100, check=False, env=environ, cwd=tmp_path,
    )  # fmt: skip
    assert asked.stdout == "hi\n"
    assert asked.stderr == (
        "langchain-resilient: openai:m is skipped: OPENAI_API_KEY is not set and no api_key was "
        "given\n"
    )


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
    assert {r["base_url_from"] for r in rows} == {"OPENAI_BASE_URL", "TOGETHER_BASE_URL"}
    assert f"at {sim.base_url('openai')} (from OPENAI_BASE_URL)" in out
    assert "canary" not in out + shown


@pytest.mark.parametrize("key_set", [True, False])
def test_targets_says_that_a_key_is_not_sent_to_another_server(
    capsys, monkeypatch, tmp_path, key_set
):
    """Whether the address is in an option or a file; and what to do."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    if key_set:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-canary-123456")
    monkeypatch.setenv("MY_KEY", "sk-canary-654321")
    url = "http://localhost:8000/v1"
    path = tmp_path / "chain.toml"
    path.write_text(f'[[targets]]\nprovider = "openai"\nmodel = "m"\nbase_url = "{url}"\n')
    no_key = (
        f"openai:m  is sent no key, at {url} (OPENAI_API_KEY is not sent there; if that server "
        "wants a key, name its variable with --api-key-env, or give api_key in the --config file)\n"
    )
    for place in (("-t", "openai:m", "--base-url", url), ("--config", str(path))):
        assert run("targets", *place) == cli.OK
        assert capsys.readouterr().out == no_key
        assert run("targets", *place, "--api-key-env", "MY_KEY") == cli.OK
        assert capsys.readouterr().out == f"openai:m  has a key of its own, at {url}\n"
        assert run("targets", *place, "--json") == cli.OK
        (row,) = json.loads(capsys.readouterr().out)
        assert (row["key"], row["has_key"], row["kept_back"]) == (None, False, "OPENAI_API_KEY")
    assert run("targets", "-t", "ollama:m", "--base-url", url) == cli.OK
    assert capsys.readouterr().out == f"ollama:m  needs no key, at {url}\n"


def test_targets_check_tells_what_lives_and_what_follows(sim, capsys, monkeypatch):
    """By each provider's own list; a provider that does not answer is said to."""
    monkeypatch.delenv("TOGETHER_API_KEY")
    sim.list_models("openai:a", shutdown_date="2099-01-14")
    sim.list_models("openai:b", shutdown_date="2020-01-14")
    targets = ["-t", "openai:a", "-t", "openai:b", "-t", "openai:c", "-t", "together:d"]
    assert run("targets", "--check", *targets) == cli.OK
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition("; ")[2] for line in lines] == [
        "a lives, until 2099-01-14",
        "b is gone, until 2020-01-14",
        "c is not listed",
        "",
    ]
    assert "TOGETHER_API_KEY is not set" in lines[3]
    assert run("targets", "--check", "--json", "-t", "openai:b") == cli.FAILED
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["asked"], row["alive"], row["shutdown_date"]) == ("b", False, "2020-01-14")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1")
    assert run("targets", "--check", *targets[:2]) == cli.FAILED
    assert "no list of models: ConnectError" in capsys.readouterr().out


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
    asking = subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, timeout=100, check=False
    )
    assert asking.stderr == ""


# -- simulate -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trace(tmp_path_factory) -> str:
    """1,000 latencies of two targets with the reference distribution."""
    latency = HeavyTail()
    rows = [
        ",".join(str(latency.at(uniform(9, target, n, 0))) for target in range(2))
        for n in range(1_000)
    ]
    path = tmp_path_factory.mktemp("recorded") / "latencies.csv"
    path.write_text("openai:a,together:b\n" + "\n".join(rows) + "\n")
    return str(path)


def simulate(trace: str, *args: str) -> int:
    return cli.main(["simulate", "--trace", trace, "--requests", "2000", *args])


FEW = ("--requests", "400")
"""Where no percentile is looked at."""


@pytest.fixture(scope="module")
def simulated(trace):
    """Run with --json and read it; the same options once only."""

    @cache
    def function(*args: str) -> dict:
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            assert simulate(trace, "--json", *args) == cli.OK
        return json.loads(out.getvalue())

    return function


def test_the_policy_lies_between_no_hedging_and_the_best_possible(simulated):
    """At p99, for a little extra load."""
    result = simulated()
    p99 = {row: result[row]["p99"] for row in ("policy", "no_hedging", "best_possible")}
    assert p99["best_possible"] <= p99["policy"] < p99["no_hedging"]
    assert 0 < result["policy"]["extra_load"] < 0.06


def test_a_percentile_that_is_never_reached_is_null(simulated):
    """0.3 % of the requests hang: without hedging there is no p99.9."""
    result = simulated()
    assert result["no_hedging"]["p99.9"] is None
    assert result["no_hedging"]["unanswered"] > 0
    assert result["policy"]["unanswered"] == 0


def test_the_same_seed_gives_the_same(simulated):
    """And another one does not."""
    assert simulated("--seed", "0") == simulated()
    assert simulated("--seed", "6")["trace"] != simulated()["trace"]


def test_a_bigger_budget_sends_more_and_waits_less(simulated):
    """Twenty percent instead of two."""
    small, big = simulated("--budget", "0.02")["policy"], simulated("--budget", "0.2")["policy"]
    assert big["extra_load"] > 3 * small["extra_load"]
    assert big["p99"] < small["p99"]


def test_a_fixed_delay_is_kept_to(simulated):
    """With a delay beyond the deadline nothing is hedged."""
    assert simulated("--delay", "50", "--timeout", "10", *FEW)["policy"]["extra_load"] < 0.01


def test_the_cost_counts_every_send_at_its_price(simulated):
    """Here a request costs a dollar there and nothing here."""
    result = simulated("--price", "openai:a=0", "--price", "together:b=1", *FEW)
    sends = result["targets"]["together:b"] / result["requests"]
    assert result["policy"]["dollars_per_request"] == pytest.approx(sends)
    assert result["no_hedging"]["dollars_per_request"] == 0


def test_a_target_may_be_asked_alone(simulated):
    """A lone target is not hedged with itself: nothing is sent twice."""
    result = simulated("-t", "together:b", *FEW)
    assert list(result["targets"]) == ["together:b"]
    assert result["policy"]["p99"] == pytest.approx(result["no_hedging"]["p99"])
    assert result["policy"]["extra_load"] == pytest.approx(0.0, abs=0.01)


def test_the_table_is_for_people(trace, capsys):
    """What was read, then a line each for the policy, no hedging and the best possible."""
    prices = ("--price", "openai:a=0.001", "--price", "together:b=0.002")
    assert simulate(trace, *prices) == cli.OK
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("openai:a: 1000 latencies, ")
    assert lines[4].split() == ["p50", "p95", "p99", "p99.9", "unanswered", "extra", "load",
                                "$/request"]  # fmt: skip
    assert [line[:14].strip() for line in lines[5:]] == ["policy", "no hedging", "best possible"]
    assert "0.001000" in lines[6]
    assert "never" in lines[6]


@pytest.fixture(scope="module")
def sized_trace(tmp_path_factory) -> str:
    """Two targets whose times are of the reference distribution, times what the prompt adds."""
    latency, rows = HeavyTail(), []
    for n in range(2_000):
        tokens = (300, 300, 300, 300, 300, 300, 300, 13_200, 13_200, 47_600)[n % 10]
        for target, name in enumerate(("openai:a", "together:b")):
            seconds = latency.at(uniform(9, target, n, 0)) * (1 + tokens / 4_000)
            rows.append(f"{name},{seconds},{tokens},low")
    path = tmp_path_factory.mktemp("recorded") / "sizes.csv"
    path.write_text("target,seconds,tokens,effort\n" + "\n".join(rows) + "\n")
    return str(path)


_SIZED_ROWS = ("policy", "sizes unknown", "no hedging", "best one delay")


def test_the_report_says_what_knowing_the_sizes_is_worth(sized_trace, capsys):
    """Hedges go to late requests, not to long ones; and they cost no more tokens than promised."""
    args = ["simulate", "--trace", sized_trace, "--requests", "4000"]
    assert cli.main([*args, "--timeout", "300", "--json"]) == cli.OK
    result = json.loads(capsys.readouterr().out)
    short = result["p99_by_length"]["shorter half"]
    assert short["policy"] <= 1.15 * short["best_one_delay"]
    assert "best_possible" not in result  # the bound knows no sizes: the policy may beat it
    assert result["best_one_delay"]["extra_load"] == result["policy"]["extra_load"]
    assert short["policy"] < 0.6 * short["sizes_unknown"]
    assert result["extra_tokens"]["policy"] < 0.06
    assert result["extra_tokens"]["sizes_unknown"] > 0.1
    assert cli.main(["simulate", "--trace", sized_trace, "--requests", "300"]) == cli.OK
    lines = capsys.readouterr().out.splitlines()
    (head,) = [i for i, line in enumerate(lines) if line.startswith("p99 by length")]
    assert lines[head].endswith("shorter half     next 40 %  longest 10 %  extra tokens")
    assert [line[:14].strip() for line in lines[head + 1 :]] == [*_SIZED_ROWS]
    assert [line[:14].strip() for line in lines[4 : head - 1]] == ["", *_SIZED_ROWS]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("-t", "nobody"), "no latency of nobody; there are openai:a, together:b"),
        (("--budget", "7"), "budget: Input should be less than or equal to 1"),
        (("--rate", "0"), "--rate must be at least 0.001, --requests at least 1"),
        (("--requests", "0"), "--rate must be at least 0.001, --requests at least 1"),
        (("--timeout", "nan"), "--timeout must be over 0 and at most 3600 seconds"),
        (("--price", "openai:a=1"), "together:b has none"),
        (("--price", "x=1"), "for x, which is no target"),
    ],
)
def test_a_wrong_option_is_explained(trace, capsys, args, message):
    """On standard error, in one line, with the exit code for it."""
    assert simulate(trace, *args) == cli.WRONG
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err


@pytest.mark.parametrize("price", ["openai:a", "openai:a=cheap", "=1", "openai:a=-1"])
def test_a_price_that_is_none_is_refused(trace, capsys, price):
    """By the parser."""
    with pytest.raises(SystemExit):
        simulate(trace, "--price", price)
    assert "is not of the form TARGET=DOLLARS" in capsys.readouterr().err


def test_a_missing_file_is_named(capsys, tmp_path):
    """As the system says it."""
    assert simulate(str(tmp_path / "none.csv")) == cli.WRONG
    assert "none.csv" in capsys.readouterr().err


def test_a_wrong_cell_is_named_with_its_place(capsys, tmp_path):
    """File, line and column."""
    path = tmp_path / "bad.csv"
    path.write_text("target,seconds\na,1\na,soon\n")
    assert simulate(str(path)) == cli.WRONG
    assert 'bad.csv, line 3, column "seconds"' in capsys.readouterr().err


def test_without_the_extra_it_says_how_to_install_it(trace, capsys, monkeypatch):
    """Virtual time needs a library that is not installed by default."""
    monkeypatch.setitem(sys.modules, "async_solipsism", None)
    assert simulate(trace) == cli.WRONG
    assert 'pip install "langchain-resilient[simulate]"' in capsys.readouterr().err
