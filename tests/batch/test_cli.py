"""`langchain-resilient batch` and `journal`, as a script would use them."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from langchain_resilient import ResilientChatModel, cli
from langchain_resilient.batch import lane_batch
from langchain_resilient.batch.files import OrderedWriter, answer_line
from langchain_resilient.testing import Backlog, InvalidKey, ProviderSimulator, Reply, Uniform
from tests.helpers import process

if TYPE_CHECKING:
    from collections.abc import Iterator

CANARY = "canary-0123456789"


@pytest.fixture
def sim(monkeypatch, tmp_path) -> Iterator[ProviderSimulator]:
    """A simulator at the environment's base URL, and an empty directory to work in."""
    with ProviderSimulator() as simulator:
        monkeypatch.setenv("OPENAI_BASE_URL", simulator.base_url("openai"))
        monkeypatch.setenv("OPENAI_API_KEY", f"sk-{CANARY}")
        monkeypatch.chdir(tmp_path)
        yield simulator


def batch(*args: str) -> int:
    return cli.main(["batch", *args, "-t", "openai:m"])


def say(*texts: str) -> list[str]:
    return [f"Say exactly: {text}" for text in texts]


def write(path, *rows) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def read(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# -- what goes in and comes out -------------------------------------------------------------------


def test_answers_stand_in_the_order_of_the_prompts(sim, tmp_path):
    """However long each takes; the other fields come with them."""
    sim.script("*", then=Reply(first_text=Uniform(0, 0.1)))
    rows = [{"id": n, "prompt": p} for n, p in enumerate(say(*map(str, range(40))))]
    write(tmp_path / "in.jsonl", *rows)
    assert batch("in.jsonl", "-o", "out.jsonl") == 0
    answers = [(row["id"], row["answer"]) for row in read(tmp_path / "out.jsonl")]
    assert answers == [(n, str(n)) for n in range(40)]


def test_each_kind_of_row(sim, tmp_path):
    """A string, a prompt, messages; empty lines do not count."""
    hello = {"role": "user", "content": "Say exactly: c"}
    write(tmp_path / "in.jsonl", *say("a"), {"prompt": say("b")[0]}, {"messages": [hello], "x": 1})
    with (tmp_path / "in.jsonl").open("a") as file:
        file.write("\n\n")
    assert batch("in.jsonl", "-o", "out.jsonl") == 0
    rows = read(tmp_path / "out.jsonl")
    assert [row["answer"] for row in rows] == ["a", "b", "c"]
    assert rows[0].keys() == {"answer", "target", "usage"}
    assert rows[0]["target"] == "openai:m"
    assert rows[2]["x"] == 1


def test_a_field_with_the_name_of_ours_is_kept_under_another():
    """Data sets often have an `answer` to compare with."""
    row = answer_line({"answer": 1, "input_answer": 2}, {"answer": "a"})
    assert json.loads(row) == {"input_answer": 1, "input_input_answer": 2, "answer": "a"}


def test_half_of_a_surrogate_pair_does_not_break_the_output():
    """UTF-8 cannot say it, JSON can."""
    assert json.loads(answer_line({}, {"answer": "\ud83d"})) == {"answer": "\ud83d"}


def test_plain_lines(sim, tmp_path, capsys):
    """One prompt a line, to standard output, without a journal."""
    (tmp_path / "in.txt").write_text("Say exactly: a\r\n\nSay exactly: b")
    assert batch("in.txt") == 0
    out = [json.loads(line)["answer"] for line in capsys.readouterr().out.splitlines()]
    assert out == ["a", "b"]
    assert [p.name for p in tmp_path.iterdir()] == ["in.txt"]


@pytest.mark.parametrize(
    "text", ["Say exactly: a\nSay exactly: b\n", '{"prompt": "Say exactly: a"}\n"Say exactly: b"\n']
)
def test_standard_input(sim, monkeypatch, capsys, text):
    """JSON lines if it begins with a brace, else plain lines."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    assert batch("-") == 0
    out = [json.loads(line)["answer"] for line in capsys.readouterr().out.splitlines()]
    assert out == ["a", "b"]


def test_csv(sim, tmp_path):
    """A column of prompts, line ends inside cells, a byte order mark; other columns are kept."""
    with (tmp_path / "in.csv").open("w", encoding="utf-8-sig", newline="") as file:
        table = csv.writer(file)
        table.writerows([["id", "ask"], ["1", "Say exactly: a,b"], ["2\n2", 'Say exactly: "c" d']])
    assert batch("in.csv", "-o", "out.jsonl", "--column", "ask") == 0
    answers = [(row["id"], row["answer"]) for row in read(tmp_path / "out.jsonl")]
    assert answers == [("1", "a,b"), ("2\n2", '"c" d')]


def test_the_system_message_goes_before_each_prompt(sim, tmp_path):
    """But for rows that have their own."""
    own = [{"role": "system", "content": "own"}, {"role": "user", "content": "b"}]
    write(tmp_path / "in.jsonl", "a", {"messages": own})
    assert batch("in.jsonl", "--system", "given", "--max-concurrency", "1") == 0
    systems = [seen.body["messages"][0]["content"] for seen in sim.requests]
    assert systems == ["given", "own"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("in.jsonl", '"a"\n{"prompt": 1}\n', "in.jsonl:2: the row has a prompt that is no text"),
        ("in.jsonl", '"a"\n\n{"x": 1}\n', 'in.jsonl:3: the row must be a string, {"prompt"'),
        ("in.jsonl", '"a"\n"b', "in.jsonl:2: the row is not JSON"),
        ("in.jsonl", '{"messages": [{"role": "x", "content": ""}]}', "in.jsonl:1: the row has mes"),
        ("in.jsonl", '{"messages": []}', "in.jsonl:1: the row has messages that are no list"),
        ("in.txt", b"a\n\xff\n", "in.txt:2: the row is not UTF-8"),
        ("in.csv", "a,b\n1,2\n", "has no column 'prompt': choose with --column from a, b"),
        ("in.csv", "a,a\n1,2\n", "in.csv:1: the row names a column twice"),
        ("in.csv", 'prompt,b\n"1\n1",2\n3\n', "in.csv:4: the row has 1 columns"),
        ("in.csv", 'prompt\n"1', "in.csv:2: the row is not CSV"),
    ],
)
def test_a_bad_row_is_named_before_anything_is_sent(  # noqa: PLR0917
    sim, tmp_path, capsys, name, text, message
):
    """With the file and the line."""
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    assert batch(name, "-o", "out.jsonl") == cli.WRONG
    assert message in capsys.readouterr().err
    assert sim.count() == 0
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["missing.txt"], "missing.txt"),
        (["in.txt", "-o", "in.txt"], "must be different files"),
        (["in.txt", "-o", "out.csv"], "answers are JSON lines"),
        (["in.txt", "-o", "out.xlsx"], "answers are JSON lines"),
        (["in.xlsx"], "in.xlsx is a xlsx file, not text: save it as .csv or .jsonl"),
        (["in.txt", "-o", "no/out.jsonl"], "there is no folder no for out.jsonl"),
        (["in.txt", "--journal", "j", "--no-journal"], "exclude each other"),
        (["in.txt", "--journal", "in.txt.old"], "is not a journal"),
        (["in.txt", "--timeout", "-1"], "timeout"),
    ],
)
def test_a_wrong_command_is_explained(sim, tmp_path, capsys, args, message):
    """In a line, with exit code 2."""
    (tmp_path / "in.txt").write_text("a\n")
    (tmp_path / "in.txt.old").write_text("my notes\n")
    assert batch(*args) == cli.WRONG
    assert message in capsys.readouterr().err
    assert sim.count() == 0


# -- going on -------------------------------------------------------------------------------------


def test_the_same_command_sends_only_what_is_missing(sim, tmp_path, capsys):
    """And says how much it had."""
    write(tmp_path / "in.jsonl", *say("a", "b"))
    assert batch("in.jsonl", "-o", "out.jsonl") == 0
    write(tmp_path / "in.jsonl", *say("a", "b", "c"))
    capsys.readouterr()
    assert batch("in.jsonl", "-o", "out.jsonl") == 0
    assert sim.count() == 3
    assert "3 of 3 prompts answered (2 restored from out.jsonl.journal)" in capsys.readouterr().err
    assert [row["answer"] for row in read(tmp_path / "out.jsonl")] == ["a", "b", "c"]


def test_a_changed_parameter_sends_everything_again_if_that_is_wanted(sim, tmp_path, caplog):
    """And changed back, nothing; else what was answered stays answered, with a notice."""
    write(tmp_path / "in.jsonl", *say("a", "b"))
    cold, exact = ("--temperature", "0"), ("--journal-match", "exact")
    for args, count in (((), 2), (cold, 2), ((*cold, *exact), 4), (exact, 4)):
        assert batch("in.jsonl", "-o", "out.jsonl", *args) == 0
        assert sim.count() == count
    notices = [one.getMessage() for one in caplog.records if "journal_match=" in one.getMessage()]
    assert len(notices) == 2


def test_a_prompt_at_the_top_sends_one_and_the_export_has_one_row_for_each(sim, tmp_path, capsys):
    """In the order of the file as it is now."""
    write(tmp_path / "in.jsonl", *say(*"abcdef"))
    assert batch("in.jsonl", "-o", "out.jsonl") == 0
    write(tmp_path / "in.jsonl", *say(*"nabXdef"))
    assert batch("in.jsonl", "-o", "out.jsonl") == 0
    assert sim.count() == 8
    assert [row["answer"] for row in read(tmp_path / "out.jsonl")] == list("nabXdef")
    for args, rows in (((), "nabXdef"), (("--all",), "cnabXdef")):
        capsys.readouterr()
        assert cli.main(["journal", "export", "out.jsonl.journal", *args]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [json.loads(line)["answer"] for line in lines] == list(rows)
    assert cli.main(["journal", "export", "out.jsonl.journal", "-o", "out.csv"]) == 0
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["prompt"] for row in table] == say(*"nabXdef")
    assert [row["answer"] for row in table] == list("nabXdef")
    assert cli.main(["journal", "export", "out.jsonl.journal", "-o", "out.xlsx"]) == 2
    assert "call it .jsonl or .csv, not out.xlsx" in capsys.readouterr().err


def test_failed_prompts_are_listed_and_sent_again(sim, tmp_path, capsys):
    """On stderr with their lines, in the output as errors, in the journal to look at."""
    sim.script("*", Reply("a"), then=InvalidKey())
    write(tmp_path / "in.jsonl", "one", {"prompt": "two", "id": 2})
    args = ("in.jsonl", "-o", "out.jsonl", "--timeout", "5", "--max-concurrency", "1")
    assert batch(*args) == cli.FAILED
    err = capsys.readouterr().err
    assert "in.jsonl:2: AuthenticationFailedError: all targets failed" in err
    assert "1 of 2 prompts answered, 1 failed" in err
    good, bad = read(tmp_path / "out.jsonl")
    assert good["answer"] == "a"
    assert bad["id"] == 2
    assert bad["error"].startswith("AuthenticationFailedError: ")
    assert cli.main(["journal", "show", "--failed", "out.jsonl.journal"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("2 items, 1 answered, 1 failed\n  openai:m: 1 answers, ")
    assert "\n1: AuthenticationFailedError: all targets failed" in shown
    sim.reset()
    assert batch(*args) == 0
    assert sim.count() == 1
    assert all("answer" in row for row in read(tmp_path / "out.jsonl"))


def test_no_key_is_in_any_file(sim, tmp_path):
    """Not even where a provider repeats it in an error."""
    sim.script("*", Reply("a"), then=InvalidKey())
    write(tmp_path / "in.jsonl", "one", "two")
    assert batch("in.jsonl", "-o", "out.jsonl", "--timeout", "5") == cli.FAILED
    files = [path for path in tmp_path.iterdir() if path.is_file()]
    assert len(files) == 3
    assert not [path.name for path in files if CANARY.encode() in path.read_bytes()]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.skipif(sys.platform == "win32", reason="signals are other there")
@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_batch_keeps_what_is_done(sim, tmp_path, number):
    """No traceback, no output that looks whole; the same command goes on."""
    sim.script("*", *[Reply()] * 5, then=Reply(first_text=60))
    write(tmp_path / "in.jsonl", *say(*"abcdefgh"))
    command = ["-m", "langchain_resilient", "batch", "in.jsonl", "-o", "out.jsonl"]
    with process(
        sys.executable, *command, "-t", "openai:m", "--max-concurrency", "1",
        stderr=subprocess.PIPE, text=True, env=dict(os.environ),
    ) as batching:  # fmt: skip
        until = time.monotonic() + 80  # an interpreter starts slowly on a busy machine
        while sim.count() < 6 and time.monotonic() < until:
            time.sleep(0.01)
        batching.send_signal(number)
        _, err = batching.communicate(timeout=20)
    assert batching.returncode == cli.INTERRUPTED
    assert err.startswith("langchain-resilient: interrupted: 5 of 8 prompts answered in ")
    assert err.endswith("; the same command sends only what is missing\n")
    assert not (tmp_path / "out.jsonl").exists()
    assert len(read(tmp_path / "out.jsonl.part")) == 5
    sim.reset()
    assert batch("in.jsonl", "-o", "out.jsonl") == 0
    assert sim.count() == 3
    assert [row["answer"] for row in read(tmp_path / "out.jsonl")] == list("abcdefgh")


def test_a_disk_that_fills_up_stops_the_batch_and_costs_nothing(sim, tmp_path, capsys, monkeypatch):
    """What was answered is kept; with room again the same command goes on."""
    from langchain_resilient.batch.journal import JournalFile

    write(tmp_path / "in.jsonl", *say(*"abcd"), say("e" * 50_000)[0], *say(*"fg"))
    args = ("in.jsonl", "-o", "out.jsonl", "--max-concurrency", "1")
    prepare = JournalFile.__init__

    def small(self, *given, **more):
        prepare(self, *given, **more)
        self._writer.execute("PRAGMA max_page_count = 10")

    with monkeypatch.context() as patched:
        patched.setattr(JournalFile, "__init__", small)
        assert batch(*args) == cli.WRONG
    err = capsys.readouterr().err
    assert "stopped: 4 of 7 prompts answered in " in err
    assert "the journal out.jsonl.journal has no room to grow: make room on its disk" in err
    assert not (tmp_path / "out.jsonl").exists()
    sim.reset()
    assert batch(*args) == 0
    assert sim.count() == 3
    assert len(read(tmp_path / "out.jsonl")) == 7


@pytest.mark.usefixtures("interruptible")
def test_what_stopped_in_the_middle_counts_the_journals_answers(sim, tmp_path, capsys):
    """The summary, the journal and the next run agree; what was cancelled did not fail."""
    sim.script("*", Reply(first_text=60), *[Reply()] * 5, then=Reply(first_text=60))
    write(tmp_path / "in.jsonl", *say(*"abcdefgh"))
    stopper = threading.Thread(target=_interrupt_after, args=(sim, 7), daemon=True)
    stopper.start()
    assert batch("in.jsonl", "-o", "out.jsonl", "--max-concurrency", "2") == cli.INTERRUPTED
    assert "interrupted: 5 of 8 prompts answered in " in capsys.readouterr().err
    assert cli.main(["journal", "show", "--failed", "out.jsonl.journal"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("7 items, 5 answered, 0 failed, 2 under way when it was interrupted\n")
    assert "cancelled" not in out
    sim.reset()
    assert batch("in.jsonl", "-o", "out.jsonl") == 0
    assert "8 of 8 prompts answered (5 restored from" in capsys.readouterr().err


def _interrupt_after(sim: ProviderSimulator, requests: int) -> None:
    until = time.monotonic() + 60
    while sim.count() < requests and time.monotonic() < until:
        time.sleep(0.005)
    os.kill(os.getpid(), signal.SIGINT)


def test_a_file_that_is_replaced_is_said_to_be(sim, tmp_path, capsys):
    """Unless its journal says that it is of this very batch."""
    write(tmp_path / "in.jsonl", *say("a"))
    (tmp_path / "out.jsonl").write_text("mine")
    assert batch("in.jsonl", "-o", "out.jsonl") == 0
    words = "out.jsonl exists and is replaced when all answers are there"
    assert words in capsys.readouterr().err
    assert batch("in.jsonl", "-o", "out.jsonl") == 0
    assert words not in capsys.readouterr().err
    assert batch("in.jsonl", "-o", "out.jsonl", "--no-journal") == 0
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("in.jsonl", "-o", "no/where/out.jsonl"), "there is no folder no/where for out.jsonl"),
        (("in.jsonl", "-o", "no/out.jsonl", "--no-journal"), "there is no folder no for out.jsonl"),
        (("in.jsonl", "-o", "out.jsonl", "--journal", "no/j"), "there is no folder no for j"),
        (("in.jsonl", "-o", "folder"), "folder is a folder: name a file in it"),
        (("folder", "-o", "out.jsonl"), "folder is a folder: name a file of prompts"),
    ],
    ids=["output", "no journal", "journal", "output folder", "prompts folder"],
)
def test_a_place_that_cannot_be_written_is_said_before_anything_is_sent(
    sim, tmp_path, capsys, args, message
):
    """Not after all answers are paid for."""
    write(tmp_path / "in.jsonl", *say("a"))
    (tmp_path / "folder").mkdir()
    assert batch(*args) == cli.WRONG
    assert capsys.readouterr().err.startswith(f"langchain-resilient: {message}")
    assert sim.count() == 0


def test_two_runs_do_not_write_one_output(sim, tmp_path, capsys):
    """The second says who is in the way."""
    from langchain_resilient.batch.files import AnswerFile

    write(tmp_path / "in.jsonl", "a")
    with AnswerFile("out.jsonl"):
        assert batch("in.jsonl", "-o", "out.jsonl") == cli.WRONG
    assert "is being written by another run" in capsys.readouterr().err


# -- order ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_bytes", [0, 10, 1000])
def test_lines_go_out_in_order_as_soon_as_they_may(max_bytes):
    """Whether those that wait fit into memory or not."""
    order = OrderedWriter(max_bytes)
    lines = [b"%d" % number * (number + 1) for number in range(6)]
    put = [order.put(number, lines[number]) for number in (2, 1, 0, 5, 3, 4)]
    order.close()
    assert put == [[], [], lines[:3], [], [lines[3]], lines[4:]]


# -- journals -------------------------------------------------------------------------------------


@pytest.fixture
def journal(sim, tmp_path) -> str:
    """The journal of a batch of two."""
    write(tmp_path / "in.jsonl", *say("a", "b\nc"))
    assert batch("in.jsonl", "-o", "out.jsonl") == 0
    return "out.jsonl.journal"


def test_show_as_json(journal, capsys):
    """For scripts."""
    capsys.readouterr()
    assert cli.main(["journal", "show", "--json", "--failed", journal]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["items"], summary["done"], summary["failed"], summary["failures"]) == (
        2,
        2,
        0,
        [],
    )
    assert summary["targets"][0]["target"] == "openai:m"
    assert summary["first"] <= summary["last"]


def test_show_counts_answers_to_changed_questions(journal, capsys):
    """They are still there."""
    again = ("--temperature", "0", "--journal-match", "exact")
    assert batch("in.jsonl", "-o", "out.jsonl", *again) == 0
    capsys.readouterr()
    assert cli.main(["journal", "show", journal]) == 0
    line = capsys.readouterr().out.splitlines()[0]
    assert line == (
        "2 items, 2 answered, 0 failed; 2 more answers to what was changed or removed since"
    )


@pytest.mark.parametrize("output", [[], ["-o", "x.jsonl"]])
def test_export_as_json_lines(journal, capsys, tmp_path, output):
    """With the text, and with the whole message."""
    capsys.readouterr()
    assert cli.main(["journal", "export", journal, *output]) == 0
    text = (tmp_path / "x.jsonl").read_text() if output else capsys.readouterr().out
    rows = [json.loads(line) for line in text.splitlines()]
    assert [(row["position"], row["answer"]) for row in rows] == [(0, "a"), (1, "b\nc")]
    assert rows[0]["message"]["response_metadata"]["resilience"]["winner"] == "openai:m"


def test_export_as_csv(journal, tmp_path):
    """By the name of the output."""
    assert cli.main(["journal", "export", journal, "-o", "x.csv"]) == 0
    with (tmp_path / "x.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["position"], row["answer"], row["error"]) for row in rows] == [
        ("0", "a", ""),
        ("1", "b\nc", ""),
    ]


@pytest.mark.parametrize("action", ["show", "export"])
def test_what_is_no_journal_cannot_be_shown(tmp_path, capsys, action):
    """A missing file, an empty one, notes."""
    (tmp_path / "notes").write_text("my notes")
    (tmp_path / "empty").touch()
    for name in ("notes", "empty", "missing"):
        assert cli.main(["journal", action, str(tmp_path / name)]) == cli.WRONG
        assert name in capsys.readouterr().err
    assert (tmp_path / "empty").stat().st_size == 0
    assert not (tmp_path / "missing").exists()


# -- the lane of providers' batches ---------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch) -> None:
    """Looks at batches at once: these tests run in real time."""
    monkeypatch.setattr(lane_batch, "POLL_SECONDS", (0.05, 0.05))


def test_a_file_by_the_batch_lane(sim, tmp_path, capsys, quick):
    """The answers stand in the order of the prompts, and the batch is shown as done."""
    sim.backlog("*", Backlog(seconds=0.2, start=0, finalizing=0))
    write(tmp_path / "in.jsonl", *say(*map(str, range(30))))
    assert batch("in.jsonl", "-o", "out.jsonl", "--lane", "batch", "--within", "6h") == 0
    assert [row["answer"] for row in read(tmp_path / "out.jsonl")] == [str(n) for n in range(30)]
    assert [b.total for b in sim.batches] == [29]
    capsys.readouterr()
    assert cli.main(["lane", "show", "out.jsonl.journal"]) == 0
    assert "29 prompts, done" in capsys.readouterr().out


def test_an_interrupted_lane_is_shown_cancelled_and_used(sim, tmp_path, capsys, quick):
    """Its batch goes on; `lane cancel` ends it, and the same command takes what was done."""
    sim.backlog("*", Backlog(seconds=4, start=0, finalizing=0, cancelling=0))
    prompts = say(*map(str, range(30)))
    llm = ResilientChatModel(targets=["openai:m"])

    async def leave() -> None:
        running = asyncio.ensure_future(llm.abatch(prompts, lane="batch", journal="j.db"))
        for _ in range(500):
            await asyncio.sleep(0.02)
            if sim.batches and sim.batches[0].done >= 3:
                break
        running.cancel()
        await asyncio.wait([running])
        await llm.aclose()

    asyncio.run(leave())
    assert cli.main(["lane", "show", "j.db", "--json"]) == 0
    [shown] = json.loads(capsys.readouterr().out)
    assert (shown["status"], shown["prompts"], shown["waiting"]) == ("running", 29, 29)
    assert 0 < shown["share"] < 1
    assert cli.main(["lane", "cancel", "j.db"]) == 0
    assert "cancelled" in capsys.readouterr().out
    done = sim.batches[0].done
    before = sim.count()
    answers = llm.batch(prompts, lane="batch", journal="j.db")
    llm.close()
    assert [answer.text for answer in answers] == [str(n) for n in range(30)]
    assert len(sim.batches) == 1
    assert sim.count() - before == 29 - done


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["in.jsonl", "--lane", "batch"], "--lane needs a journal"),
        (["in.jsonl", "-o", "o.jsonl", "--within", "6h"], "--within is for --lane"),
        (["in.jsonl", "-o", "o.jsonl", "--lane", "batch", "--within", "soon"], "within must be"),
    ],
)
def test_a_wrong_lane_is_explained(sim, tmp_path, capsys, args, message):
    """Before anything is sent."""
    write(tmp_path / "in.jsonl", *say("a"))
    assert batch(*args) == 2
    assert message in capsys.readouterr().err
    assert sim.count() == 0


def test_a_journal_without_batches(sim, tmp_path, capsys):
    """Says so."""
    write(tmp_path / "in.jsonl", *say("a"))
    assert batch("in.jsonl", "-o", "out.jsonl") == 0
    capsys.readouterr()
    assert cli.main(["lane", "show", "out.jsonl.journal"]) == 0
    assert capsys.readouterr().out == "no batches\n"
