"""A journal in a folder: what one process recorded others find; a torn line is no answer."""

from __future__ import annotations

import errno
import json
import os
import stat

import pytest
from langchain_core.messages import AIMessage

from langchain_resilient import (
    JournalFullError,
    JournalReadOnlyError,
    NotAJournalError,
    cli,
)
from langchain_resilient.batch import segments
from langchain_resilient.batch.journal import Journal
from langchain_resilient.batch.journal_file import BatchRow, PaidMark
from langchain_resilient.batch.journal_keys import RequestKeys
from langchain_resilient.batch.report import Money
from langchain_resilient.testing import ProviderSimulator
from verification.kit.scripted_targets import chain

KEY = RequestKeys("0" * 64, "a" * 64, "what was asked")
OTHER = RequestKeys("1" * 64, "b" * 64)


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    return path


def files(folder):
    return sorted(folder.glob("segment-*.jsonl"))


def text_of(journal, index, key):
    answer = journal.look_up(index, key)
    return answer and answer.text


async def record(folder, key, text, money=None):
    async with Journal(folder) as journal:
        await journal.record(0, key, AIMessage(text), money)


async def test_an_answer_is_there_after_a_new_start(folder):
    """With what it cost; failures are no answers."""
    await record(folder, KEY, "first", Money(0.5, 0.1))
    async with Journal(folder) as journal:
        await journal.record_failure(0, OTHER, ValueError("no"), Money(0.25, 0.25))
    async with Journal(folder) as journal:
        assert (text_of(journal, 0, KEY), text_of(journal, 1, OTHER)) == ("first", None)
        assert journal.earlier == Money(0.75, 0.35)


async def test_processes_find_each_others_answers(folder):
    """At once when they open it, later when they ask for news."""
    async with Journal(folder) as one, Journal(folder) as two:
        await one.record(0, KEY, AIMessage("of one"))
        assert text_of(two, 0, KEY) is None
        await two.refresh()
        assert text_of(two, 0, KEY) == "of one"
        async with Journal(folder) as three:
            assert text_of(three, 0, KEY) == "of one"
            await three.record(1, OTHER, AIMessage("of three"))
        await one.refresh()
        await one.refresh()
        assert text_of(one, 1, OTHER) == "of three"


async def test_equal_prompts_have_an_answer_each_and_the_first_stays(folder):
    """As in a file."""
    async with Journal(folder) as journal:
        await journal.record(0, KEY, AIMessage("a"))
        await journal.record(1, KEY, AIMessage("b"))
        await journal.record(1, KEY, AIMessage("too late"))
    async with Journal(folder) as journal:
        assert [text_of(journal, n, KEY) for n in range(3)] == ["a", "b", None]


@pytest.mark.parametrize("torn", [1, 10, "line"])
async def test_a_torn_last_line_is_no_answer(folder, torn, caplog):
    """Whatever is left of it: its writer was killed before it reported it."""
    await record(folder, KEY, "whole")
    async with Journal(folder) as journal:
        await journal.record(0, OTHER, AIMessage("torn"))
    path = files(folder)[1]
    *_, last = path.read_bytes().splitlines(keepends=True)
    keep = len(last) - 1 if torn == "line" else torn
    os.truncate(path, path.stat().st_size - len(last) + keep)
    async with Journal(folder) as journal:
        assert (text_of(journal, 0, KEY), text_of(journal, 1, OTHER)) == ("whole", None)
        await journal.record(1, OTHER, AIMessage("again"))
    async with Journal(folder) as journal:
        assert text_of(journal, 0, OTHER) == "again"
    assert not caplog.records


async def test_a_line_that_grows_is_read_when_it_is_whole(folder):
    """A reader that comes while it is being written waits for the rest."""
    await record(folder, KEY, "whole")
    path = files(folder)[0]
    data = path.read_bytes()
    os.truncate(path, len(data) - 5)
    async with Journal(folder) as journal:
        assert text_of(journal, 0, KEY) is None
        path.write_bytes(data)
        await journal.refresh()
        assert text_of(journal, 0, KEY) == "whole"


@pytest.mark.parametrize("line", ["\0\0\0", "[]", '{"prompt": "x"}', "7"])
async def test_a_damaged_line_costs_itself_only(folder, line, caplog):
    """The others are read, and it is said once."""
    async with Journal(folder) as journal:
        await journal.record(0, KEY, AIMessage("a"))
        await journal.record(1, OTHER, AIMessage("b"))
    path = files(folder)[0]
    lines = path.read_text().splitlines()
    lines[1] = line
    path.write_text("".join(f"{line}\n" for line in lines))
    async with Journal(folder) as journal:
        assert (text_of(journal, 0, KEY), text_of(journal, 1, OTHER)) == (None, "b")
    assert ["1 lines cannot be read" in r.getMessage() for r in caplog.records] == [True]


async def test_a_write_that_failed_ends_its_segment(folder, monkeypatch):
    """Half of a line may be there: what follows goes to a new file."""
    write, fail = os.write, [True]

    def full(file, data):
        if fail and b'"answer"' in bytes(data):
            fail.clear()
            write(file, data[:20])
            raise OSError(errno.ENOSPC, "no space")
        return write(file, data)

    monkeypatch.setattr(segments.os, "write", full)
    async with Journal(folder) as journal:
        with pytest.raises(JournalFullError, match="make room"):
            await journal.record(0, KEY, AIMessage("lost"))
        await journal.record(1, OTHER, AIMessage("kept"))
    async with Journal(folder) as journal:
        assert (text_of(journal, 0, KEY), text_of(journal, 1, OTHER)) == (None, "kept")


async def test_an_answer_reaches_the_disk_before_it_is_reported(folder, monkeypatch):
    """`fsync` comes after the write and before `record` returns."""
    seen = []
    monkeypatch.setattr(segments.os, "fsync", lambda file: seen.append(os.fstat(file).st_size))
    async with Journal(folder) as journal:
        before = len(seen)
        await journal.record(0, KEY, AIMessage("x"))
        assert seen[before:] == [files(folder)[0].stat().st_size]


async def test_files_are_the_users_alone_and_empty_ones_go(folder):
    """A process that had nothing to record leaves nothing."""
    (folder / "notes.jsonl").write_text("mine\n")
    async with Journal(folder):
        assert [stat.S_IMODE(path.stat().st_mode) for path in files(folder)] == [0o600]
    assert [path.name for path in folder.iterdir()] == ["notes.jsonl"]


async def test_batches_of_providers_are_known_too(folder):
    """What the lane writes down."""
    row = BatchRow("tag", "openai:m", "/v1/chat/completions", None, 1)
    async with Journal(folder) as journal:
        await journal.write_batch(row, ("name",))
        await journal.write_batch(row._replace(batch="id"))
    async with Journal(folder) as journal:
        assert journal.batches() == [row._replace(batch="id")]
        assert journal.batch_of("name") == ("tag", False)
        await journal.record(0, KEY, AIMessage("x"), paid=PaidMark("tag", "name"))
    async with Journal(folder) as journal:
        assert journal.batch_of("name") == ("tag", True)


async def test_a_later_version_is_refused(folder):
    """Rather than read wrongly."""
    await record(folder, KEY, "x")
    path = files(folder)[0]
    path.write_text(path.read_text().replace('{"journal": 3}', '{"journal": 99}'))
    with pytest.raises(NotAJournalError, match="version 99"):
        await Journal(folder).open()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
async def test_a_folder_that_cannot_be_written_is_told(folder):
    """With what to do."""
    folder.chmod(0o500)
    with pytest.raises(JournalReadOnlyError, match="permissions"):
        await Journal(folder).open()


async def test_the_commands_show_all_segments(folder, capsys):
    """One row for each prompt, in words."""
    await record(folder, KEY, "first")
    await record(folder, OTHER, "second")
    assert cli.main(["journal", "show", str(folder)]) == 0
    assert "2 items, 2 answered" in capsys.readouterr().out
    assert cli.main(["journal", "export", str(folder)]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(r.get("prompt"), r["answer"]) for r in rows] == [
        ("what was asked", "first"),
        (None, "second"),
    ]
    (folder / "empty").mkdir()
    assert cli.main(["journal", "show", str(folder / "empty")]) != 0
    assert "there is no journal in" in capsys.readouterr().err


def test_a_batch_takes_a_folder(folder):
    """The same call sends only what is missing."""
    with ProviderSimulator() as sim:
        llm = chain(sim, "openai:m")
        assert len(llm.batch(["a", "b", "a"], journal=folder)) == 3
        llm.batch(["c", "a", "b", "a"], journal=folder)
        assert sim.count() == 4
