"""`langchain-resilient simulate`, as a user would call it."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from functools import cache

import pytest

from langchain_resilient import cli
from langchain_resilient.simulation.latency import HeavyTail, uniform


@pytest.fixture(scope="module")
def trace(tmp_path_factory) -> str:
    """1,000 latencies of two targets with the reference distribution."""
    one = HeavyTail()
    rows = [
        ",".join(str(one.at(uniform(9, place, n, 0))) for place in range(2)) for n in range(1_000)
    ]
    path = tmp_path_factory.mktemp("recorded") / "latencies.csv"
    path.write_text("openai:a,together:b\n" + "\n".join(rows) + "\n")
    return str(path)


def run(trace: str, *args: str) -> int:
    return cli.main(["simulate", "--trace", trace, "--requests", "2000", *args])


@pytest.fixture(scope="module")
def told(trace):
    """Run with --json and read it; the same options once only."""

    @cache
    def function(*args: str) -> dict:
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            assert run(trace, "--json", *args) == cli.OK
        return json.loads(out.getvalue())

    return function


def test_the_policy_lies_between_no_hedging_and_the_best_possible(told):
    """At p99, for a little extra load."""
    found = told()
    p99 = {row: found[row]["p99"] for row in ("policy", "no_hedging", "best_possible")}
    assert p99["best_possible"] <= p99["policy"] < p99["no_hedging"]
    assert 0 < found["policy"]["extra_load"] < 0.06


def test_a_percentile_that_is_never_reached_is_null(told):
    """0.3 % of the requests hang: without hedging there is no p99.9."""
    found = told()
    assert found["no_hedging"]["p99.9"] is None
    assert found["no_hedging"]["unanswered"] > 0
    assert found["policy"]["unanswered"] == 0


def test_the_same_seed_tells_the_same(told):
    """And another one does not."""
    assert told("--seed", "0") == told()
    assert told("--seed", "6")["trace"] != told()["trace"]


def test_a_bigger_budget_sends_more_and_waits_less(told):
    """Twenty percent instead of two."""
    small, big = told("--budget", "0.02")["policy"], told("--budget", "0.2")["policy"]
    assert big["extra_load"] > 3 * small["extra_load"]
    assert big["p99"] < small["p99"]


def test_a_fixed_delay_is_kept_to(told):
    """With a delay beyond the deadline nothing is hedged."""
    assert told("--delay", "50", "--timeout", "10")["policy"]["extra_load"] < 0.01


def test_the_cost_counts_every_send_at_its_price(told):
    """Here a request costs a dollar there and nothing here."""
    found = told("--price", "openai:a=0", "--price", "together:b=1")
    sends = found["targets"]["together:b"] / found["requests"]
    assert found["policy"]["dollars_per_request"] == pytest.approx(sends)
    assert found["no_hedging"]["dollars_per_request"] == 0


def test_a_target_may_be_asked_alone(told):
    """Then hedges go to it too."""
    found = told("-t", "together:b")
    assert list(found["targets"]) == ["together:b"]
    assert found["policy"]["p99"] < found["no_hedging"]["p99"]


def test_the_table_is_for_people(trace, capsys):
    """What was read, then a line each for the policy, no hedging and the best possible."""
    prices = ("--price", "openai:a=0.001", "--price", "together:b=0.002")
    assert run(trace, *prices) == cli.OK
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("openai:a: 1000 latencies, ")
    assert lines[4].split() == ["p50", "p95", "p99", "p99.9", "unanswered", "extra", "load",
                                "$/request"]  # fmt: skip
    assert [line[:14].strip() for line in lines[5:]] == ["policy", "no hedging", "best possible"]
    assert "0.001000" in lines[6]
    assert "never" in lines[6]


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
    assert run(trace, *args) == cli.WRONG
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err


@pytest.mark.parametrize("price", ["openai:a", "openai:a=cheap", "=1", "openai:a=-1"])
def test_a_price_that_is_none_is_refused(trace, capsys, price):
    """By the parser."""
    with pytest.raises(SystemExit):
        run(trace, "--price", price)
    assert "is not of the form TARGET=DOLLARS" in capsys.readouterr().err


def test_a_missing_file_is_named(capsys, tmp_path):
    """As the system says it."""
    assert run(str(tmp_path / "none.csv")) == cli.WRONG
    assert "none.csv" in capsys.readouterr().err


def test_a_wrong_cell_is_named_with_its_place(capsys, tmp_path):
    """File, line and column."""
    path = tmp_path / "bad.csv"
    path.write_text("target,seconds\na,1\na,soon\n")
    assert run(str(path)) == cli.WRONG
    assert 'bad.csv, line 3, column "seconds"' in capsys.readouterr().err


def test_without_the_extra_it_says_how_to_install_it(trace, capsys, monkeypatch):
    """Virtual time needs a library that is not installed by default."""
    monkeypatch.setitem(sys.modules, "async_solipsism", None)
    assert run(trace) == cli.WRONG
    assert 'pip install "langchain-resilient[simulate]"' in capsys.readouterr().err
