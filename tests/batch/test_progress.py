"""Progress: quiet unless asked, and clean wherever it is shown."""

from __future__ import annotations

import io
import subprocess
import sys
import types
import warnings

import pytest

from langchain_resilient import BatchProgress
from langchain_resilient.batch.progress import (
    REDRAW_SECONDS,
    BarDisplay,
    CallbackDisplay,
    LineDisplay,
    ProgressMeter,
    as_display,
    progress_line,
)
from tests.batch.echo_model import EchoModel, prompts
from verification.kit.virtual_time import virtual_time


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


SOME = BatchProgress(
    total=10_000, done=1190, failed=10, restored=200, hedges=3, retries=4, tail_hedges=1,
    output_tokens=50_000, spent=0.12, seconds=10.0,
)  # fmt: skip


def test_a_line_tells_everything():
    """Counts, rates, what is rare, money, and how long it will take."""
    assert progress_line(SOME) == (
        "1,200/10,000 (12 %), 100.0/s, 10 failed, 200 restored, 4 hedges, 4 retries, "
        "5,000 tokens/s, $0.12 spent, 1:28 left"
    )


def test_a_line_tells_nothing_that_is_not_known():
    """No total, no percentage."""
    assert progress_line(BatchProgress(done=5, seconds=2.0)) == "5, 2.5/s"


@pytest.mark.parametrize(
    ("wanted", "stream", "kind"),
    [
        (False, Terminal(), type(None)),
        (True, Terminal(), BarDisplay),
        (True, io.StringIO(), LineDisplay),
        (print, Terminal(), CallbackDisplay),
    ],
)
def test_it_is_shown_as_suits_the_place(wanted, stream, kind):
    """A bar in a terminal, lines in a file, a call where a function is given."""
    assert type(as_display(wanted, stream)) is kind


def test_a_notebook_gets_a_bar(monkeypatch):
    """Though its stderr is no terminal."""
    shell = types.SimpleNamespace(config={"IPKernelApp": {}})
    module = types.SimpleNamespace(get_ipython=lambda: shell)
    monkeypatch.setitem(sys.modules, "IPython", module)
    assert isinstance(as_display(True, io.StringIO()), BarDisplay)


def test_a_missing_tqdm_is_named():
    """With the command that installs it."""
    code = (
        "import sys, io; sys.modules['tqdm'] = sys.modules['tqdm.auto'] = None\n"
        "from langchain_resilient.batch.progress import BarDisplay\n"
        "try: BarDisplay(io.StringIO())\n"
        "except ImportError as error: print(error)"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert "pip install 'langchain-resilient[progress]'" in process.stdout


def test_a_bar_shows_counts_and_details(monkeypatch):
    """And ends its line."""
    for name in ("COLUMNS", "LINES"):  # by which tqdm cuts what is written to no real terminal
        monkeypatch.delenv(name, raising=False)
    stream = Terminal()
    bar = BarDisplay(stream)
    bar.show(SOME)
    bar.close(BatchProgress(total=10_000, done=9990, failed=10, seconds=60.0))
    shown = stream.getvalue()
    assert "1200/10000" in shown
    assert "10 failed, 200 restored, 4 hedges, 4 retries, 5,000 tokens/s, $0.12 spent" in shown
    assert "10000/10000" in shown
    assert shown.endswith("\n")


def test_a_bar_starts_no_thread():
    """The monitor of tqdm would stay for ever."""
    code = (
        "import io, threading\n"
        "from langchain_resilient import BatchProgress\n"
        "from langchain_resilient.batch.progress import BarDisplay\n"
        "bar = BarDisplay(io.StringIO()); bar.show(BatchProgress(total=3))\n"
        "print(threading.active_count())"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert process.stdout.strip() == "1"


def _lines(*moments: tuple[float, int]) -> list[str]:
    stream = io.StringIO()
    lines = LineDisplay(stream)
    for seconds, done in moments:
        lines.show(BatchProgress(total=100, done=done, seconds=seconds))
    assert "\r" not in stream.getvalue()
    return stream.getvalue().splitlines()


def test_a_log_file_gets_a_line_every_ten_seconds():
    """Even if hardly anything happens."""
    assert len(_lines(*((t / 10, 1) for t in range(305)))) == 3


def test_a_log_file_gets_a_line_every_tenth():
    """But not two in a second."""
    assert len(_lines(*((t, t) for t in range(1, 31)))) == 3
    assert len(_lines(*((t / 1000, t) for t in range(1, 101)))) == 0


def test_the_meter_does_not_look_all_the_time():
    """Ten times a second, and at the end."""
    now, shown = [0.0], []
    meter = ProgressMeter(
        CallbackDisplay(shown.append), lambda: BatchProgress(seconds=now[0]), lambda: now[0]
    )
    for n in range(1000):
        now[0] = n / 1000
        meter.tick()
    assert len(shown) == pytest.approx(1 / REDRAW_SECONDS, abs=1)
    meter.close()
    assert shown[-1].seconds == now[0]


@virtual_time
async def test_a_batch_is_quiet_unless_asked(capsys):
    """Nothing on either stream."""
    await EchoModel().model().abatch(prompts(5))
    assert capsys.readouterr() == ("", "")


@virtual_time
async def test_a_batch_tells_how_far_it_is():
    """From nothing to everything, in virtual seconds."""
    seen: list[BatchProgress] = []
    echo = EchoModel(seconds=lambda _: 1.0)
    await echo.model().abatch(prompts(20), {"max_concurrency": 5}, progress=seen.append)
    assert (seen[0].total, seen[0].done, seen[0].seconds) == (20, 0, 0.0)
    assert (seen[-1].done, seen[-1].output_tokens) == (20, 40)
    assert seen[-1].rate == pytest.approx(5.0, rel=0.01)
    assert [one.done for one in seen] == sorted(one.done for one in seen)


@virtual_time
async def test_a_log_file_is_clean(capsys):
    """Under pytest stderr is no terminal."""
    await (
        EchoModel(seconds=lambda _: 4.0)
        .model()
        .abatch(prompts(20), {"max_concurrency": 2}, progress=True)
    )
    shown = capsys.readouterr().err
    assert "\r" not in shown
    assert shown.splitlines()[-1].startswith("20/20 (100 %)")


def test_a_notebook_without_ipywidgets_sees_no_warning(monkeypatch, tmp_path):
    """It gets a bar of text; tqdm complains as it is imported, with a path of the machine."""
    (tmp_path / "tqdm").mkdir()
    (tmp_path / "tqdm" / "__init__.py").touch()
    complaint = "import warnings\nwarnings.warn('no ipywidgets')\nclass tqdm: pass\n"
    (tmp_path / "tqdm" / "auto.py").write_text(complaint)
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "tqdm"]:
        monkeypatch.delitem(sys.modules, name)
    with warnings.catch_warnings(record=True) as caught:
        BarDisplay(io.StringIO())
    assert caught == []
