"""What a recorder makes of receipts, and how that is shown."""

from __future__ import annotations

import json
import re
import threading
from enum import StrEnum
from html.parser import HTMLParser

import pytest

from langchain_resilient import (
    AttemptKind,
    AttemptRecord,
    Fault,
    FaultKind,
    Outcome,
    Receipt,
    Stats,
)
from langchain_resilient.engine.time_model import RequestProfile, TimeModel
from langchain_resilient.observability.recorder import Recorder
from langchain_resilient.observability.stats import Quantiles, TargetStats
from langchain_resilient.prices import Price

A, B = "openai:a", "together:maker/a-model-with-a-name-that-is-long"
PRICE = Price(10e-6, 20e-6, cached_input=5e-6, written_input=10e-6)
PRICES = {A: PRICE, B: PRICE}.get


def attempt(target=A, kind=AttemptKind.PRIMARY, outcome=Outcome.WON, **fields):
    times = {"started": 0.0, "first_text": 0.5, "ended": 1.0, **fields}
    return AttemptRecord(target, kind, outcome=outcome, **times)


def lost(target=A, kind=AttemptKind.PRIMARY, **fields):
    return attempt(target, kind, Outcome.LOST, **{"first_text": None, **fields})


def failed(kind, status=None, target=A, **fields):
    fault = Fault(kind, "no", status)
    return attempt(target, outcome=Outcome.FAILED, fault=fault, **{"first_text": None, **fields})


def receipt(*attempts, seconds=1.0):
    winner = next((a.target for a in attempts if a.outcome is Outcome.WON), None)
    return Receipt(attempts, winner, seconds)


def stats(*receipts, states=None, price=PRICES, **fields):
    recorder = Recorder()
    for one in receipts:
        recorder.add(one, **fields)
    return recorder.snapshot(states or {}, 7.0, price)


HEDGED = receipt(
    lost(A, ended=1.5),
    attempt(B, AttemptKind.HEDGE, started=1.0, first_text=1.4, ended=2.0),
    seconds=2.0,
)


# -- counts -----------------------------------------------------------------------------------


def test_a_call_and_its_answer_are_counted():
    """For the model and for the target."""
    figures = stats(receipt(attempt()), receipt(attempt()))
    assert (figures.calls, figures.answered, figures.failed, figures.extra_sends) == (2, 2, 0, 0)
    assert (figures[A].requests, figures[A].wins, dict(figures[A].kinds)) == (2, 2, {"primary": 2})


def test_a_hedge_is_counted_where_it_was_sent():
    """With its win, and as an extra send."""
    figures = stats(HEDGED, receipt(attempt()))
    assert (figures.hedge_share, figures.extra_sends) == (0.5, 1)
    assert (figures[B].hedges, figures[B].hedge_wins, figures[B].wins) == (1, 1, 1)
    assert (figures[A].requests, figures[A].wins, figures[A].hedges) == (2, 1, 0)


def test_faults_are_counted_by_kind():
    """The most frequent first."""
    figures = stats(
        receipt(failed(FaultKind.SERVER), attempt(B)),
        receipt(failed(FaultKind.RATE_LIMIT), attempt(B)),
        receipt(failed(FaultKind.RATE_LIMIT), attempt(B)),
    )
    assert list(figures[A].faults.items()) == [("rate_limit", 2), ("server", 1)]


def test_a_call_without_an_answer_has_failed():
    """Unless its caller went away."""
    gone = receipt(attempt(outcome=Outcome.CANCELLED))
    assert stats(gone).failed == 1
    figures = stats(gone, cancelled=True)
    assert (figures.calls, figures.answered, figures.failed, figures.cancelled) == (1, 0, 0, 1)


def test_what_its_caller_left_is_cancelled_though_a_target_had_begun_to_answer():
    """A stream that was abandoned, a call that was cancelled: neither has an answer or a time."""
    left = Receipt((attempt(outcome=Outcome.CANCELLED),), A, 1.0)
    figures = stats(left, cancelled=True)
    assert (figures.calls, figures.answered, figures.failed, figures.cancelled) == (1, 0, 0, 1)
    assert figures.seconds.p50 is None


def test_a_call_that_asked_nobody_is_counted():
    """It is no negative extra send."""
    figures = stats(receipt())
    assert (figures.calls, figures.failed, figures.extra_sends) == (1, 1, 0)


def test_answers_of_the_last_resort_are_counted():
    """As answers too."""
    figures = stats(receipt(failed(FaultKind.SERVER), attempt("text", AttemptKind.LAST_RESORT)))
    assert (figures.answered, figures.last_resort) == (1, 1)


def test_a_kind_from_the_future_is_counted_under_its_name():
    """It is an extra send like any other."""
    later = StrEnum("later", {"ECHO": "echo"})
    figures = stats(receipt(attempt(), lost(B, later.ECHO)))
    assert (dict(figures[B].kinds), figures.extra_sends) == ({"echo": 1}, 1)


def test_a_shadow_that_goes_on_has_not_spoken_yet():
    """It is an extra send, and its time so far is a lower bound."""
    shadow = attempt(B, AttemptKind.SHADOW, Outcome.OPEN, first_text=None)
    figures = stats(receipt(attempt(), shadow), receipt(attempt(B)))
    assert (figures.extra_sends, figures[B].wins, figures[B].hedges) == (1, 1, 0)
    assert figures[B].first_text.p95 is None


def test_no_thread_loses_a_call():
    """Four of them add at the same time, while another looks."""
    recorder, one = Recorder(), receipt(attempt(), lost(B))

    def add():
        for _ in range(2000):
            recorder.add(one)

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        seen = recorder.snapshot({}, 0.0, PRICES)
        assert seen.calls == sum(t.wins for t in seen.targets)
    assert recorder.snapshot({}, 0.0, PRICES)[B].requests == 8000


# -- times ------------------------------------------------------------------------------------


def test_times_are_counted_from_sending():
    """To the first text and to the end; the call's own from its beginning."""
    figures = stats(HEDGED)
    assert figures[B].first_text.p50 == pytest.approx(0.4, rel=0.02)
    assert figures[B].whole.p99 == pytest.approx(1.0, rel=0.02)
    assert figures.seconds.p95 == pytest.approx(2.0, rel=0.02)


@pytest.mark.parametrize(
    "slow",
    [
        lost(ended=5.0),
        attempt(outcome=Outcome.CANCELLED, first_text=None, ended=5.0),
        failed(FaultKind.TIMEOUT, ended=5.0),
    ],
)
def test_who_was_closed_early_did_not_take_so_long_but_longer(slow):
    """Half the requests to the target: there is no p95, and the p50 is that of the others."""
    figures = stats(receipt(attempt()), receipt(slow, attempt(B)))
    assert figures[A].first_text.p50 == pytest.approx(0.5, rel=0.02)
    assert figures[A].first_text.p95 is None
    assert figures[A].whole.p95 is None


def test_a_refusal_is_no_time():
    """A target that refuses at once is not a fast one."""
    figures = stats(receipt(failed(FaultKind.RATE_LIMIT, 429, ended=0.001), attempt(B)))
    assert figures[A].first_text.p50 is None


# -- money ------------------------------------------------------------------------------------


def test_tokens_and_dollars_of_a_winner():
    """Cached ones at their own price; nothing of it is wasted."""
    figures = stats(receipt(attempt(input_tokens=1000, output_tokens=100, cached_tokens=400)))
    assert (figures[A].input_tokens, figures[A].output_tokens) == (1000, 100)
    assert (figures[A].spent, figures[A].wasted) == pytest.approx((0.010, 0.0))


def test_what_a_loser_cost_is_wasted():
    """Its prompt was the winner's."""
    figures = stats(receipt(lost(output_tokens=10), attempt(B, input_tokens=1000, output_tokens=0)))
    assert (figures[A].spent, figures[A].wasted) == pytest.approx((0.0102, 0.0102))
    assert (figures.spent, figures.wasted) == pytest.approx((0.0202, 0.0102))


def test_a_refusal_costs_nothing():
    """Nor does it count as tokens."""
    figures = stats(receipt(failed(FaultKind.SERVER, 503), attempt(B, input_tokens=1000)))
    assert (figures[A].spent, figures[A].input_tokens) == (0.0, 0)


def test_an_unknown_price_is_no_sum_of_zero():
    """The total is that of the others."""
    figures = stats(receipt(attempt("x", input_tokens=1000)), receipt(attempt(input_tokens=1000)))
    assert figures["x"].spent is None
    assert figures.spent == pytest.approx(0.01)


def test_long_prompts_together_are_no_long_prompt():
    """Tiers are for one prompt, not for the sum of many."""
    tiered = Price(1e-6, 0.0, 1e-6, 1e-6, tiers=((1500, Price(9e-6, 0.0, 9e-6, 9e-6)),))
    calls = [receipt(attempt(input_tokens=1000)) for _ in range(10)]
    assert stats(*calls, price={A: tiered}.get).spent == pytest.approx(0.01)


def test_fees_and_cache_writes_are_counted():
    """Two calls at a dollar each, and two tokens written at three."""
    price = Price(1.0, 0.0, cached_input=1.0, written_input=3.0, request=1.0)
    one = receipt(attempt(input_tokens=1, written_tokens=1))
    assert stats(one, one, price={A: price}.get).spent == 2 * 1.0 + 2 * 3.0


def test_what_a_purse_has_counted_goes_first():
    """It knows how long each prompt was."""
    figures = stats(receipt(lost(), attempt(B, input_tokens=1000)), costs=(0.5, 2.0))
    assert (figures.spent, figures.wasted) == (2.5, 0.5)


# -- the targets' states ----------------------------------------------------------------------


class State:
    """As the engine's."""

    def __init__(self, health):
        self._health = health
        self.first_texts = TimeModel()

    def health(self, now):
        return f"{self._health} at {now:g}"

    @property
    def speed(self):
        return self

    def learned_delay(self, now):
        return now / 2


def test_targets_stand_in_the_order_of_the_chain():
    """Also those that were never asked; others follow."""
    figures = stats(receipt(attempt("other")), states={B: None, A: State("tripped")})
    assert [t.name for t in figures.targets] == [B, A, "other"]
    assert (figures[A].health, figures[A].learned_delay) == ("tripped at 7", 3.5)
    assert (figures[B].health, figures[B].learned_delay) == (None, None)


def test_what_a_prompts_length_costs_is_told_once_it_is_known():
    """As long as all are alike, nothing can be said of it."""
    state = State("ok")
    for number in range(40):
        state.first_texts.add(0.5, float(number), RequestProfile(300, "low"))
    assert stats(receipt(attempt()), states={A: state})[A].doubling_tokens is None
    for number in range(40, 400):
        tokens, effort = (300, 13_200)[number % 2], ("low", "high")[number % 3 == 0]
        seconds = (1 + tokens / 4_000) * (0.5 if effort == "low" else 1.5)
        state.first_texts.add(seconds, float(number), RequestProfile(tokens, effort))
    figures = stats(receipt(attempt()), states={A: state})
    assert figures[A].doubling_tokens == pytest.approx(4_000, rel=0.15)
    assert figures[A].efforts == {"low": 1.0, "high": pytest.approx(3.0, rel=0.1)}
    assert figures[A].as_dict()["doubling_tokens"] == figures[A].doubling_tokens
    assert "lengths" not in figures[A].as_dict()
    last = str(figures).splitlines()[-1]
    assert last.startswith(f"{A}: a prompt of {figures[A].doubling_tokens:,} tokens takes twice")
    assert "high effort 3." in last
    assert "doubled by tokens" in figures._repr_html_()


def test_an_unknown_target_is_told_which_there_are():
    """As any mapping would not."""
    with pytest.raises(KeyError, match="no target 'x'; there are openai:a"):
        _ = stats(receipt(attempt()))["x"]


# -- how it is shown --------------------------------------------------------------------------

FULL = (
    HEDGED,
    receipt(failed(FaultKind.RATE_LIMIT, 429), attempt(B, input_tokens=1000, output_tokens=10)),
)
STATES = {A: State("limited"), B: None, "<script>": None}


def test_it_is_plain_json():
    """Nothing is lost on the way, and all names are words."""
    fields = stats(*FULL, states=STATES).as_dict()
    assert json.loads(json.dumps(fields)) == fields
    assert fields["targets"][0]["faults"] == {"rate_limit": 1}
    assert fields["seconds"].keys() == {"p50", "p95", "p99"}


def test_a_line_for_each_target():
    """After one for the model."""
    figures = stats(*FULL, states=STATES)
    lines = [repr(figures), *map(repr, figures.targets)]
    assert len(lines) == 4
    assert lines[0].startswith("2 calls, 2 answered, p50 ")
    assert lines[1] == f"{A} (limited at 7): 2 requests, 0 wins, 1 faults"
    assert lines[2].startswith(f"{B}: 2 requests, 2 wins, first text p50 0.4")


def test_the_table_of_a_terminal_stands_in_columns():
    """And is no wider than a screen."""
    lines = str(stats(*FULL, states=STATES)).splitlines()
    heads, rule, *rows = lines[2:7]
    assert len(rows) == 3
    for start in (i for i, c in enumerate(rule) if c == " "):
        assert all(row.ljust(len(rule))[start] == " " for row in [heads, *rows])
    assert max(map(len, lines)) <= 120


TABLE = """\
3 calls, 2 answered, 1 failed, p50 1.00 s p99 3.00 s, hedges 10.0%, extra sends 2, $0.50 spent, \
$0.12 of it wasted

target                            health       requests  wins  first text s         whole s  spent
--------------------------------  -----------  --------  ----  ------------  --------------  -----
openai:a                          ok                 10     8   0.50/0.75/?  1.00/2.00/3.00  $0.50
together:maker/…ame-that-is-long  account out         0     0
xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx                      0     0

times: p50/p95/p99"""


def test_the_table_of_a_terminal():
    """Numbers to the right, words to the left; long names lose their middle, others nothing."""
    first, whole = Quantiles(0.5, 0.75), Quantiles(1.0, 2.0, 3.0)
    figures = Stats(
        calls=3,
        answered=2,
        failed=1,
        seconds=whole,
        hedge_share=0.1,
        extra_sends=2,
        spent=0.5,
        wasted=0.125,
        targets=(
            TargetStats(A, "ok", requests=10, wins=8, first_text=first, whole=whole, spent=0.5),
            TargetStats(B, "account out"),
            TargetStats("x" * 32),
        ),
    )
    # The last column, for faults, is empty here.
    lines = [
        line.removesuffix("  faults").removesuffix("  ------") for line in str(figures).splitlines()
    ]
    assert "\n".join(lines) == TABLE


class Cells(HTMLParser):
    """Collects the cells of a table and checks that every tag is closed."""

    def __init__(self):
        super().__init__()
        self.open, self.rows = [], []

    def handle_starttag(self, tag, attrs):
        if tag == "br":
            return
        self.open.append(tag)
        if tag == "tr":
            self.rows.append(0)
        if tag in ("td", "th"):
            self.rows[-1] += int(dict(attrs).get("colspan", 1))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_table_of_a_notebook_is_whole():
    """A row for each target under as many heads, which stand under the names of their groups."""
    page = Cells()
    page.feed(stats(*FULL, states=STATES)._repr_html_())
    assert page.open == []
    assert len(page.rows) == 2 + 3
    assert len(set(page.rows)) == 1


def test_the_table_of_a_notebook_is_escaped():
    """A target may be called anything."""
    page = stats(*FULL, states=STATES)._repr_html_()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_nothing_at_all_can_be_shown():
    """Before the first call."""
    figures = stats()
    assert repr(figures) == "0 calls, 0 answered, hedges 0.0%, extra sends 0"
    assert str(figures)
    assert figures._repr_html_()


def test_the_table_of_a_notebook_has_one_figure_a_column_bars_and_a_word_for_health():
    """In no colour that a dark page hides: text has the page's own."""
    page = stats(*FULL, states=STATES)._repr_html_()
    for head in ("first text, s", "whole answer, s", "p50", "p95", "p99"):
        assert f">{head}</th>" in page
    assert page.count("logarithmic scale") == 1
    assert re.search(r"width: \d+\.\d%; background: #", page)
    assert re.search(r"●</span> limited at 7<", page)
    assert not re.search(r"<script|<style|color: (black|white)|background: white", page)


def test_the_totals_of_a_notebook_are_figures_with_names_and_a_bar():
    """What did not happen is not shown."""
    figures = Stats(
        calls=1300,
        answered=1280,
        failed=20,
        cached=7,
        breaks={"continued": 2},
        seconds=Quantiles(2.1, 4.9, 9.6),
        spent=23.24,
        wasted=1.54,
    )
    page = re.sub(r"<[^>]*>", "|", figures._repr_html_())
    words = [word.strip() for word in page.split("|") if word.strip(" ●")]
    assert words == [
        "calls", "1,300", "answered", "1,280", "98.5%", "failed", "20", "from the cache", "7",
        "streams continued", "2", "time to the answer", "2.10 s", "p99 9.60 s",
        "hedges", "0.0%", "0 extra sends", "spent", "$23.24", "$1.54 wasted",
    ]  # fmt: skip
    assert 'title="failed: 20" style="flex: 20 ' in figures._repr_html_()
    assert "cancelled" not in page


@pytest.mark.parametrize("times", [(None, None, None), (0.0, 0.0, 0.0), (0.5, None, None),
                                   (2.0, 2.0, 2.0), (0.001, 60.0, 600.0)], ids=str)  # fmt: skip
def test_bars_of_any_times_stay_within_their_room(times):
    """One target alone, or a fast one beside a slow one."""
    rows = (
        TargetStats("a", first_text=Quantiles(*times)),
        TargetStats("b", first_text=Quantiles(0.5, 0.6, 0.7)),
    )
    for targets in (rows[:1], rows):
        page = Stats(targets=targets)._repr_html_()
        for row in page.split("<tr")[3:]:
            widths = [float(width) for width in re.findall(r" width: (-?[\d.]+)%", row)]
            assert all(width >= 0 for width in widths)
            assert sum(widths) <= 102.1
