"""The picture that `stats().plot()` draws."""

from __future__ import annotations

import dataclasses
import io
import subprocess
import sys

import pytest

from langchain_resilient import (
    AttemptKind,
    AttemptRecord,
    BatchReport,
    Hedge,
    Outcome,
    Receipt,
    Stats,
)
from langchain_resilient.errors import MissingExtraError
from langchain_resilient.observability.recorder import Recorder
from langchain_resilient.observability.stats import TargetStats
from langchain_resilient.testing import ProviderSimulator
from verification.kit.scripted_targets import chain

A, B = "openai:a", "together:b"


def stats(delays=None):
    """A takes 0.1 s to 1 s; B was closed after 0.5 s each time but once."""
    recorder = Recorder()
    for tenth in range(1, 11):
        won = AttemptRecord(A, AttemptKind.PRIMARY, 0.0, tenth / 10, 1.0, Outcome.WON)
        lost = AttemptRecord(B, AttemptKind.HEDGE, 0.0, None, 0.5, Outcome.LOST)
        recorder.add(Receipt((won, lost), A, 1.0))
    spoke = AttemptRecord(B, AttemptKind.PRIMARY, 0.0, 0.3, 0.4, Outcome.WON)
    recorder.add(Receipt((spoke,), B, 0.4))
    return recorder.snapshot({}, 0.0, lambda _: None, delays)


def axes(details):
    return details.plot().axes[0]


def curves(details):
    return {
        line.get_label().split()[0]: line
        for line in axes(details).lines
        if len(line.get_xdata()) > 2
    }


def test_a_curve_for_each_target_that_has_spoken():
    """In seconds, from nobody to everybody."""
    line = curves(stats())[A]
    assert line.get_xdata()[-1] == pytest.approx(1.0, rel=0.02)
    assert (line.get_ydata()[0], line.get_ydata()[-1]) == (0.0, pytest.approx(1.0))


def test_who_was_closed_early_has_not_spoken():
    """One in eleven did; of the others nobody knows."""
    curve = stats()[B].curve
    assert curve == ((pytest.approx(0.3, rel=0.02), pytest.approx(1 / 11)),)


def test_the_hedge_delay_is_drawn_in():
    """At its second, and named."""
    labels = {line.get_label().strip(): line for line in axes(stats({A: 0.25})).lines}
    assert list(labels["hedged after 250 ms"].get_xdata()) == [0.25, 0.25]


def test_the_statistics_know_the_hedge_delay():
    """A fixed one, the cold one, or none where nobody could be asked instead."""
    with ProviderSimulator() as sim:
        fixed = chain(sim, A, B, hedge=Hedge(delay=0.7)).stats()
        cold = chain(sim, A, B, hedge=Hedge(cold=1.5)).stats()
        alone = chain(sim, A).stats()
    assert (fixed[A].hedge_delay, cold[B].hedge_delay, alone[A].hedge_delay) == (0.7, 1.5, None)


def test_what_a_prompts_length_costs_has_a_part_of_its_own():
    """A point for each request, and the fitted line; only where prompts differ in length."""
    assert len(stats().plot().axes) == 1
    lengths = tuple((tokens, 0.5 * (1 + tokens / 4_000)) for tokens in (300, 4_000, 40_000))
    curve = ((0.5, 0.5), (5.0, 1.0))
    sized = Stats(targets=(TargetStats(A, doubling_tokens=4_000, lengths=lengths, curve=curve),))
    _, right = sized.plot().axes
    (line,) = right.lines
    assert line.get_label() == "4,000 tokens double it"
    assert list(line.get_xdata()) == [300, 4_000, 40_000]
    assert list(line.get_ydata()) == pytest.approx([seconds for _, seconds in lengths])
    assert len(right.collections[0].get_offsets()) == 3


@pytest.mark.parametrize("model", ["m", "a-maker/with-a-very-long-name-of-a-model-to-show"])
def test_the_legend_lies_on_nothing(model):
    """Neither on a curve nor on an axis, however long the names are; it names each target."""
    name = f"together:{model}"
    curve = ((0.1, 0.3), (0.5, 0.5), (5.0, 1.0))
    lengths = tuple((tokens, 0.5 * (1 + tokens / 4_000)) for tokens in (300, 4_000, 40_000))
    rows = TargetStats(name, doubling_tokens=4_000, lengths=lengths, curve=curve, hedge_delay=0.3)
    figure = Stats(targets=(rows, dataclasses.replace(rows, name="openai:a"))).plot()
    figure.draw_without_rendering()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert [one for one in figure.axes if one.get_tightbbox().overlaps(box)] == []
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1
    assert f"{name}  (0 requests)" in [text.get_text() for text in legend.get_texts()]


def test_nothing_at_all_can_be_drawn():
    """It says so."""
    assert [text.get_text() for text in axes(Stats()).texts][-1] == "no target has spoken yet"


def test_it_can_be_saved():
    """As a picture of the size that was asked for."""
    file = io.BytesIO()
    stats().plot(5, 3).savefig(file, format="png", dpi=100)
    width, height = (int.from_bytes(file.getvalue()[at : at + 4]) for at in (16, 20))
    assert (width, height) == (500, 300)


def test_the_curve_is_not_printed():
    """It is for plots."""
    figures = stats()
    assert "curve" not in figures[A].as_dict()
    assert "curve" not in repr(figures[A])


def test_without_matplotlib_the_error_says_what_to_install():
    """And the statistics are there all the same."""
    code = """
import sys
sys.modules["matplotlib"] = sys.modules["matplotlib.figure"] = None
from langchain_resilient import Stats
try:
    Stats().plot()
except ImportError as error:
    print(error)
"""
    outcome = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert 'pip install "langchain-resilient[plot]"' in outcome.stdout


def test_a_notebook_shows_it_by_itself():
    """As a picture, without pyplot or an inline backend."""
    from IPython.core.formatters import DisplayFormatter

    figure = stats().plot(width=4, height=3)
    data, _ = DisplayFormatter().format(figure)
    assert data["image/png"].startswith(b"\x89PNG")


def test_without_pandas_the_table_says_what_to_install(monkeypatch):
    """Of the statistics and of a batch's report."""
    monkeypatch.setitem(sys.modules, "pandas", None)
    for figures in (stats(), BatchReport(targets=stats().targets)):
        with pytest.raises(MissingExtraError, match="pip install pandas"):
            figures.to_pandas()


def test_a_table_has_one_row_a_target_and_a_column_for_each_figure():
    """Nested figures too; the totals are beside it."""
    pytest.importorskip("pandas", reason="pandas is not installed")
    report = BatchReport(done=11, targets=stats().targets)
    for table in (stats().to_pandas(), report.to_pandas()):
        assert list(table.index) == [A, B]
        assert list(table["requests"]) == [10, 11]
        assert list(table["wins"]) == [10, 1]
        assert table.loc[A, "first_text.p50"] == pytest.approx(0.5, rel=0.02)
        assert "curve" not in table.columns
        assert list(table["kinds.hedge"]) == [0, 10]
        assert table["kinds.primary"].dtype == int
        assert {str(kind) for kind in table.drop(columns="health").dtypes} == {"int64", "float64"}
    assert report.to_pandas().attrs["done"] == 11
    assert len(BatchReport().to_pandas()) == 0


@pytest.mark.parametrize(("kind", "needs"), [("csv", "pandas"), ("excel", "openpyxl")])
def test_a_table_can_be_written_to_a_file_and_read_again(tmp_path, kind, needs):
    """By the methods of pandas."""
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    pytest.importorskip(needs, reason=f"{needs} is not installed")
    table = BatchReport(done=11, targets=stats().targets).to_pandas().assign(health="ok")
    path = tmp_path / f"report.{'xlsx' if kind == 'excel' else kind}"
    getattr(table, f"to_{kind}")(path)
    read = getattr(pandas, f"read_{kind}")(path, index_col="name")
    pandas.testing.assert_frame_equal(read, table, check_dtype=False)
