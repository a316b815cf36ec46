"""The journal: nothing that was reported is ever lost, and nothing else is in it."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from contextlib import ExitStack, closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage

from langchain_resilient import (
    JournalDamagedError,
    JournalError,
    JournalFullError,
    JournalLockedError,
    JournalReadOnlyError,
    NotAJournalError,
)
from langchain_resilient.batch import journal_file
from langchain_resilient.batch.journal import Journal, decode_message, encode_message
from langchain_resilient.batch.journal_keys import RequestKeys
from langchain_resilient.batch.report import Money
from tests.helpers import process

KEY = RequestKeys("0" * 64, "a" * 64)
OTHER = RequestKeys("1" * 64, "b" * 64)
ANOTHER_MODEL = KEY._replace(exact="c" * 64)


@pytest.fixture
def path(tmp_path):
    """Where a journal may lie."""
    return tmp_path / "run.db"


async def record(path, *answers: str, key: RequestKeys = KEY) -> None:
    async with Journal(path) as journal:
        for index, text in enumerate(answers):
            await journal.record(index, key, AIMessage(text))


async def texts(path, count: int, key: RequestKeys = KEY) -> list[str | None]:
    async with Journal(path) as journal:
        results = [journal.look_up(index, key) for index in range(count)]
        return [message.text if message else None for message in results]


def statement(path, text: str) -> None:
    """Change the file behind the journal's back."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(text)


# -- messages -------------------------------------------------------------------------------------

ANY_TEXT = st.text(st.characters(exclude_categories=()))  # halves of surrogate pairs too
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=8,
)
OBJECT = st.dictionaries(ANY_TEXT, JSON, max_size=3)
CALL = st.fixed_dictionaries(
    {"name": ANY_TEXT, "args": OBJECT, "id": st.none() | ANY_TEXT, "type": st.just("tool_call")}
)
BAD_CALL = st.fixed_dictionaries(
    {
        "name": ANY_TEXT,
        "args": ANY_TEXT,
        "id": ANY_TEXT,
        "error": st.none() | ANY_TEXT,
        "type": st.just("invalid_tool_call"),
    }
)
BLOCK = st.builds(lambda text, more: {**more, "type": "text", "text": text}, ANY_TEXT, OBJECT)
COUNT = st.integers(0, 10**9)
USAGE = st.fixed_dictionaries(
    {"input_tokens": COUNT, "output_tokens": COUNT, "total_tokens": COUNT},
    optional={"input_token_details": st.fixed_dictionaries({"cache_read": COUNT})},
)
MESSAGE = st.builds(
    AIMessage,
    content=ANY_TEXT | st.lists(ANY_TEXT | BLOCK, max_size=3),
    tool_calls=st.lists(CALL, max_size=2),
    invalid_tool_calls=st.lists(BAD_CALL, max_size=2),
    usage_metadata=st.none() | USAGE,
    response_metadata=OBJECT,
    additional_kwargs=OBJECT.filter(lambda found: "tool_calls" not in found),
    id=st.none() | ANY_TEXT,
    name=st.none() | ANY_TEXT,
)


@settings(max_examples=200, deadline=None)
@given(MESSAGE)
def test_a_message_comes_back_as_it_was(message):
    """Blocks, tool calls, usage and metadata, whatever text is in them."""
    assert decode_message(encode_message(message)) == message


def test_what_json_cannot_say_becomes_a_string():
    """An answer is not refused for a date in its metadata."""
    message = AIMessage("a", response_metadata={"data": b"x", "kind": int})
    assert decode_message(encode_message(message)).response_metadata == {
        "data": "b'x'",
        "kind": "<class 'int'>",
    }


# -- what it keeps --------------------------------------------------------------------------------


async def test_an_answer_is_there_after_a_new_start(path):
    """For the same question only."""
    await record(path, "a", "b")
    assert await texts(path, 3) == ["a", "b", None]
    assert await texts(path, 2, OTHER) == [None, None]


def prompts(text: str) -> list[RequestKeys]:
    """The keys of prompts that have one letter each."""
    return [RequestKeys(letter * 64, letter.upper() * 64) for letter in text]


async def run(path, text: str, upto: int | None = None, **options) -> str:
    """Do what a batch does; returns the prompts that were sent."""
    sent = ""
    async with Journal(path, **options) as journal:
        for index, keys in enumerate(prompts(text)[:upto]):
            if journal.look_up(index, keys) is None:
                sent += keys.prompt[0]
                await journal.record(index, keys, AIMessage(keys.prompt[0]), Money(1.0, 0.25))
        journal.complete = upto is None
    return sent


def current(path, columns: str = "answer") -> list:
    statement = f"SELECT {columns} FROM current ORDER BY position"  # noqa: S608  # our own names
    with closing(journal_file.JournalFile(path, lock_timeout=1.0)) as file:
        rows = [tuple(row) for row in file.current(statement)]
    return [decode_message(row[0]).text for row in rows] if columns == "answer" else rows


@pytest.mark.parametrize(
    ("edited", "sent"),
    [
        ("nabcd", "n"),
        ("abncd", "n"),
        ("abcdn", "n"),
        ("dcba", ""),
        ("bd", ""),
        ("aabcd", "a"),
        ("abcda", "a"),
        ("anacd", "na"),
    ],
)
async def test_only_what_is_new_is_sent(path, edited, sent):
    """Wherever it stands; a second one of a kind is new too."""
    assert await run(path, "abcd") == "abcd"
    assert await run(path, edited) == sent
    assert await run(path, edited) == ""
    assert await run(path, "abcd") == ""


async def test_equal_prompts_have_an_answer_each(path):
    """The first, the second and the third; in another run too."""
    keys = prompts("aba" + "a")
    async with Journal(path) as journal:
        for index, one in enumerate(keys):
            await journal.record(index, one, AIMessage(f"{one.prompt[0]}{index}"))
    async with Journal(path) as journal:
        found = [journal.look_up(index, one) for index, one in enumerate(prompts("aaabb"))]
    assert [one and one.text for one in found] == ["a0", "a2", "a3", "b1", None]


async def test_an_answer_of_another_model_is_used_unless_exactly_the_same_is_wanted(path):
    """Adding a target asks for nothing again."""
    await record(path, "a")
    async with Journal(path) as journal:
        assert journal.look_up(0, ANOTHER_MODEL) == AIMessage("a")
    async with Journal(path, match="exact") as journal:
        assert journal.look_up(0, ANOTHER_MODEL) is None
        await journal.record(0, ANOTHER_MODEL, AIMessage("c"))
    async with Journal(path) as journal:
        assert journal.look_up(0, KEY) == AIMessage("a")
    async with Journal(path) as journal:
        assert journal.look_up(0, ANOTHER_MODEL) == AIMessage("c")


@pytest.mark.parametrize(
    ("match", "restored", "words"),
    [("prompt", 2, "2 answers were found by their prompts and used; 1 of them"),
     ("exact", 1, "1 answers were found and used; 1 more")],
)  # fmt: skip
async def test_an_answer_of_another_model_is_noticed(path, caplog, match, restored, words):
    """Counted, and told once with the way to have it otherwise."""
    await record(path, "a", "b")
    with caplog.at_level(logging.WARNING, logger="langchain_resilient"):
        async with Journal(path, match=match) as journal:
            journal.look_up(0, KEY)
            journal.look_up(1, ANOTHER_MODEL)
            journal.look_up(2, OTHER)
        assert (journal.restored, journal.differing) == (restored, 1)
    (line,) = [one.getMessage() for one in caplog.records]
    assert words in line
    assert "journal_match=" in line


async def test_nothing_is_said_of_what_was_resumed_as_it_was(path, caplog):
    """Not even where new prompts were added."""
    await run(path, "ab")
    with caplog.at_level(logging.WARNING, logger="langchain_resilient"):
        await run(path, "xaby")
    assert not caplog.records


def test_another_way_to_match_is_refused(path):
    """With the two that there are."""
    with pytest.raises(ValueError, match=r"'prompt' or 'exact', not 'fuzzy'"):
        Journal(path, match="fuzzy")


# -- what is current ------------------------------------------------------------------------------


@pytest.mark.parametrize("later", ["nabcd", "axcd", "dcba", "ab", "aabcdd"])
async def test_current_are_the_rows_of_the_last_run_in_its_order(path, later):
    """One for each prompt; what was edited or removed is not among them."""
    await run(path, "abcd")
    await run(path, later)
    assert current(path) == list(later)
    assert [row[0] for row in current(path, "position")] == list(range(len(later)))


async def test_of_a_run_that_was_stopped_the_rest_is_that_of_the_one_before(path):
    """Its answers are as good as they were."""
    await run(path, "abcd")
    await run(path, "abcd", upto=2)
    assert current(path) == list("abcd")
    await run(path, "axcd", upto=2)
    assert current(path) == list("axcd")
    await run(path, "axcd")
    assert current(path) == list("axcd")


async def test_answers_of_two_models_are_one_row(path):
    """The one of the last run."""
    await record(path, "a")
    async with Journal(path, match="exact") as journal:
        await journal.record(0, ANOTHER_MODEL, AIMessage("c"))
        journal.complete = True
    assert current(path) == ["c"]


# -- money ----------------------------------------------------------------------------------------


async def test_what_earlier_runs_paid_is_known(path):
    """For the prompts that are asked now, whether they were answered or not."""
    await run(path, "abc")
    async with Journal(path) as journal:
        await journal.record_failure(3, prompts("d")[0], ValueError(), Money(0.5, 0.5))
        journal.record_cancelled(4, prompts("e")[0], Money(0.125, 0.125))
    async with Journal(path) as journal:
        for index, keys in enumerate(prompts("abdef")):
            journal.look_up(index, keys)
        assert journal.earlier == Money(2.625, 1.125)


async def test_what_a_prompt_cost_is_added_up(path):
    """A failure and the answer after it; an answer that came too late is wasted whole."""
    async with Journal(path) as journal:
        await journal.record_failure(0, KEY, ValueError(), Money(0.5, 0.5))
        await journal.record(0, KEY, AIMessage("a"), Money(1.0, 0.25))
        await journal.record(0, KEY, AIMessage("b"), Money(2.0, 0.0))
        await journal.record(1, OTHER, AIMessage("unpriced"))
    assert current(path, "spent, wasted") == [(3.5, 2.75), (None, None)]


# -- journals of version 1 ------------------------------------------------------------------------

_VERSION_1 = """
CREATE TABLE items (position INTEGER NOT NULL, key TEXT NOT NULL, answer TEXT, error TEXT,
  target TEXT, input_tokens INTEGER, output_tokens INTEGER, recorded REAL NOT NULL,
  PRIMARY KEY (position, key), CHECK ((answer IS NULL) <> (error IS NULL)));
PRAGMA application_id = 1279480394;
PRAGMA user_version = 1;
"""


async def test_a_journal_of_version_1_goes_on(path):
    """Its answers are found by their exact keys, its newest row at a position is current."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(_VERSION_1)
        for position, key, text, recorded in [(0, "A", "a", 1), (1, "A", "b", 2), (1, "X", "x", 1)]:
            connection.execute(
                "INSERT INTO items VALUES (?, ?, ?, NULL, 'one', 1, 2, ?)",
                (position, key * 64, encode_message(AIMessage(text)), recorded),
            )
    keys = RequestKeys("new" * 20, "A" * 64)
    assert current(path) == ["a", "b"]
    assert await texts(path, 3, keys) == ["a", "b", None]
    await record(path, "a", "b", "c", key=keys)
    assert await texts(path, 3, keys) == ["a", "b", "c"]


async def test_a_journal_of_version_2_goes_on_and_keeps_prompts_from_now_on(path):
    """Rows of before have no prompt in words until they are asked for again."""
    await record(path, "a", "b")
    for change in ("ALTER TABLE items DROP COLUMN text", "PRAGMA user_version = 2"):
        statement(path, change)
    assert await texts(path, 2) == ["a", "b"]
    await record(path, "c", key=RequestKeys("9" * 64, "9" * 64, "What is c?"))
    with closing(sqlite3.connect(path)) as connection:
        said = connection.execute("SELECT text FROM items ORDER BY recorded").fetchall()
    assert said == [(None,), (None,), ("What is c?",)]


# -- what it keeps, whatever happens --------------------------------------------------------------


async def test_the_answer_to_the_old_question_is_kept(path):
    """Who changes a prompt back finds it again."""
    await record(path, "a")
    await record(path, "b", key=OTHER)
    assert await texts(path, 1) + await texts(path, 1, OTHER) == ["a", "b"]


async def test_the_first_answer_stays(path):
    """What was reported once is not replaced."""
    await record(path, "first")
    await record(path, "second")
    assert await texts(path, 1) == ["first"]


async def test_a_failure_is_no_answer_and_an_answer_replaces_it(path):
    """A failed item is sent again."""
    async with Journal(path) as journal:
        await journal.record_failure(0, KEY, ValueError("oh \ud800"))
        assert journal.look_up(0, KEY) is None
        await journal.record(0, KEY, AIMessage("a"))
        await journal.record_failure(0, KEY, ValueError("late"))
    assert await texts(path, 1) == ["a"]


async def test_many_records_share_a_transaction(path, monkeypatch):
    """One fsync each would be hundreds a second, not thousands.

    The disk is as slow as a disk: the first transaction lasts until all records wait.
    """
    sizes = []
    write = journal_file.JournalFile.write
    all_wait = threading.Event()

    def counted(file, items):
        all_wait.wait(10.0)
        items = list(items)
        sizes.append(len(items))
        write(file, items)

    monkeypatch.setattr(journal_file.JournalFile, "write", counted)
    async with Journal(path) as journal:
        records = [asyncio.create_task(journal.record(i, KEY, AIMessage("a"))) for i in range(2000)]
        asyncio.get_running_loop().call_later(0.0, all_wait.set)
        await asyncio.gather(*records)
    assert sum(sizes) == 2000
    assert len(sizes) < 50


async def test_a_transaction_reaches_the_disk_before_it_is_reported(path):
    """`synchronous` is FULL and the log is written ahead."""
    async with Journal(path) as journal:
        writer = journal._file._writer
        assert writer.execute("PRAGMA synchronous").fetchone() == (2,)
        assert writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)


async def test_the_files_are_the_users_alone(path):
    """With the log and the shared memory beside the file, whatever the umask."""
    before = os.umask(0)
    try:
        async with Journal(path) as journal:
            await journal.record(0, KEY, AIMessage("a"))
            modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in path.parent.iterdir()}
    finally:
        os.umask(before)
    assert modes == {"run.db": 0o600, "run.db-wal": 0o600, "run.db-shm": 0o600}


# -- opening and closing --------------------------------------------------------------------------


async def test_closing_writes_what_waits_and_ends_the_thread(path):
    """Nobody who records loses an answer by a close."""
    journal = Journal(path)
    await journal.open()
    waiting = [asyncio.create_task(journal.record(i, KEY, AIMessage("a"))) for i in range(50)]
    await asyncio.sleep(0)
    await journal.aclose()
    await asyncio.gather(*waiting)
    assert await texts(path, 50) == ["a"] * 50
    assert not [thread for thread in threading.enumerate() if thread.name == "journal"]


async def test_a_cancelled_record_is_written_all_the_same(path):
    """The answer is paid for."""
    async with Journal(path) as journal:
        waiting = asyncio.create_task(journal.record(0, KEY, AIMessage("a")))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert await texts(path, 1) == ["a"]


async def test_a_closed_journal_says_so(path):
    """Before it is opened and after; closing twice does nothing."""
    journal = Journal(path)
    await journal.aclose()
    with pytest.raises(RuntimeError, match="not open"):
        journal.look_up(0, KEY)
    await journal.open()
    with pytest.raises(RuntimeError, match="already open"):
        await journal.open()
    await journal.aclose()
    await journal.aclose()
    with pytest.raises(RuntimeError, match="not open"):
        await journal.record(0, KEY, AIMessage("a"))


async def test_a_journal_can_be_opened_after_it_could_not(path):
    """As when its directory was made meanwhile."""
    journal = Journal(path.parent / "new" / "run.db")
    with pytest.raises(JournalReadOnlyError):
        await journal.open()
    (path.parent / "new").mkdir()
    async with journal:
        await journal.record(0, KEY, AIMessage("a"))
        assert journal.look_up(0, KEY) == AIMessage("a")


async def test_opening_can_be_cancelled(path):
    """The file is let go of all the same."""
    opening = asyncio.create_task(Journal(path).open())
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    for thread in threading.enumerate():
        if thread.name == "journal":
            await asyncio.to_thread(thread.join, 10)
    assert sorted(p.name for p in path.parent.iterdir()) == ["run.db"]


# -- files that are no good -----------------------------------------------------------------------


def newer(path):
    asyncio.run(record(path, "a"))
    statement(path, f"PRAGMA user_version = {journal_file.VERSION + 1}")


@pytest.mark.parametrize(
    ("spoil", "kind", "words"),
    [
        (lambda p: p.write_text("Dear diary, " * 99), NotAJournalError, "is not a journal"),
        (lambda p: statement(p, "CREATE TABLE t (a)"), NotAJournalError, "another SQLite"),
        (newer, NotAJournalError, "update langchain-resilient"),
        (lambda p: p.symlink_to("nowhere"), JournalReadOnlyError, "cannot be opened"),
    ],
)
def test_what_is_no_journal_is_refused_and_left_alone(path, spoil, kind, words):
    """With its name, and what to do."""
    spoil(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(kind, match=words) as caught:
        asyncio.run(texts(path, 1))
    assert str(path) in str(caught.value)
    assert caught.value.path == str(path)
    assert (path.read_bytes() if path.is_file() else None) == before


def test_an_empty_file_becomes_a_journal(path):
    """As `mktemp` makes one."""
    path.touch()
    asyncio.run(record(path, "a"))
    assert asyncio.run(texts(path, 1)) == ["a"]


async def test_a_damaged_answer_is_told_by_its_position(path):
    """The others are still there."""
    await record(path, "a", "b")
    statement(path, "UPDATE items SET answer = '[1' WHERE position = 0")
    async with Journal(path) as journal:
        with pytest.raises(JournalDamagedError, match="position 0"):
            journal.look_up(0, KEY)
        assert journal.look_up(1, KEY) == AIMessage("b")


async def test_damaged_pages_are_told(path):
    """SQLite finds them; the message says how to save the rest."""
    await record(path, *("a" * 500 for _ in range(200)))
    data = path.read_bytes()
    path.write_bytes(data[:4096] + b"\xff" * (len(data) - 4096))
    with pytest.raises(JournalDamagedError, match=r"sqlite3 FILE \.recover"):
        await texts(path, 200)


async def test_a_locked_journal_waits_then_says_so_and_goes_on(path):
    """Another program that writes for long is no reason to lose anything."""
    async with Journal(path, lock_timeout=0.05) as journal:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(JournalLockedError, match="locked by another program"):
                await journal.record(0, KEY, AIMessage("a"))
            other.execute("ROLLBACK")
        await journal.record(0, KEY, AIMessage("a"))
    assert await texts(path, 1) == ["a"]


_AS_NOBODY = """
import asyncio, os, sys
from langchain_resilient.batch.journal import Journal
from langchain_resilient.errors import JournalReadOnlyError
if os.getuid() == 0:
    os.setuid(65534)
try:
    asyncio.run(Journal(sys.argv[1]).open())
except JournalReadOnlyError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="permissions are other there")
def test_a_journal_without_permission_to_write_is_told(path):
    """Whether the file is there or not."""
    asyncio.run(record(path, "a"))
    path.chmod(0o444)
    path.parent.chmod(0o555)
    for folder in path.parents[:3]:  # pytest's own are closed to others
        folder.chmod(folder.stat().st_mode | 0o555)
    results = [
        subprocess.run(
            [sys.executable, "-c", _AS_NOBODY, name],
            capture_output=True, text=True, check=False, timeout=60,
        ).stdout
        for name in (path, path.with_name("new.db"))
    ]  # fmt: skip
    path.parent.chmod(0o755)
    assert (
        "cannot be written: check the permissions" in results[0] or "cannot be opened" in results[0]
    )
    assert "cannot be opened" in results[1]


async def test_a_full_disk_costs_only_what_does_not_fit(path):
    """What was recorded stays; with room again recording goes on."""
    async with Journal(path) as journal:
        await journal.record(0, KEY, AIMessage("a"))
        writer = journal._file._writer
        (pages,) = writer.execute("PRAGMA page_count").fetchone()
        writer.execute(f"PRAGMA max_page_count = {pages + 2}")
        with pytest.raises(JournalFullError, match="make room") as caught:
            await journal.record(1, KEY, AIMessage("b" * 100_000))
        assert str(path) in str(caught.value)
        assert journal.look_up(0, KEY) == AIMessage("a")
        writer.execute("PRAGMA max_page_count = 100000")
        await journal.record(1, KEY, AIMessage("b" * 100_000))
    assert await texts(path, 2) == ["a", "b" * 100_000]


class _FailingDisk:
    """A connection whose first commit fails as SQLite tells of a failed fsync."""

    def __init__(self, connection):
        self._connection = connection
        self.failed = False

    def execute(self, text, *values):
        if text == "COMMIT" and not self.failed:
            self.failed = True
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
            error.sqlite_errorname = "SQLITE_IOERR_FSYNC"
            raise error
        return self._connection.execute(text, *values)

    def __getattr__(self, name):
        return getattr(self._connection, name)


async def test_a_failed_fsync_is_told_and_its_answers_are_not_reported(path):
    """The next one may work."""
    async with Journal(path) as journal:
        await journal.record(0, KEY, AIMessage("a"))
        journal._file._writer = _FailingDisk(journal._file._writer)
        with pytest.raises(JournalError, match=r"SQLITE_IOERR_FSYNC.*check its disk"):
            await journal.record(1, KEY, AIMessage("b"))
        assert journal.look_up(1, KEY) is None
        await journal.record(1, KEY, AIMessage("c"))
    assert await texts(path, 2) == ["a", "c"]


# -- sudden ends ----------------------------------------------------------------------------------

ANSWERS = 30


@pytest.fixture
async def crashed(path):
    """A journal as it lies on the disk of a process that was killed."""
    async with Journal(path) as journal:
        for index in range(ANSWERS):
            await journal.record(index, KEY, AIMessage(f"answer {index}"))
        copy = path.with_name("crashed.db")
        shutil.copy(path, copy)
        shutil.copy(f"{path}-wal", f"{copy}-wal")
    return copy


def fill(path) -> tuple[int, list[str | None]]:
    """Do what a batch does with it: how many were there, and what is there after."""

    async def run():
        async with Journal(path) as journal:
            known = [journal.look_up(i, KEY) for i in range(ANSWERS)]
            missing = [i for i, message in enumerate(known) if message is None]
            # What is left is what was recorded first: no hole.
            assert missing == list(range(ANSWERS - len(missing), ANSWERS))
            for index in missing:
                await journal.record(index, KEY, AIMessage(f"answer {index}"))
            return journal.restored

    return asyncio.run(run()), asyncio.run(texts(path, ANSWERS))


def test_a_log_that_was_cut_anywhere_costs_only_what_is_cut(crashed, tmp_path):
    """Power loss: what is whole is found, the rest is asked again, and the file is sound."""
    log = crashed.with_name("crashed.db-wal").read_bytes()
    restored = []
    for size in [*range(0, len(log), len(log) // 97), len(log) - 1, len(log)]:
        copy = tmp_path / f"cut{size}.db"
        shutil.copy(crashed, copy)
        copy.with_name(f"{copy.name}-wal").write_bytes(log[:size])
        count, result = fill(copy)
        assert result == [f"answer {i}" for i in range(ANSWERS)]
        restored.append(count)
    assert restored == sorted(restored)
    assert restored[0] == 0
    assert restored[-2:] == [ANSWERS - 1, ANSWERS]


def test_a_log_with_a_torn_page_costs_only_what_follows(crashed, tmp_path):
    """Power loss in the middle of a sector."""
    log = bytearray(crashed.with_name("crashed.db-wal").read_bytes())
    log[len(log) // 2] ^= 0xFF
    crashed.with_name("crashed.db-wal").write_bytes(log)
    count, result = fill(crashed)
    assert 0 < count < ANSWERS
    assert result == [f"answer {i}" for i in range(ANSWERS)]


_WRITER = """
import asyncio, json, sys
from langchain_core.messages import AIMessage
from langchain_resilient.batch.journal import Journal
from langchain_resilient.batch.journal_keys import RequestKeys

async def main(path, name):
    async with Journal(path) as journal:
        async def one(i):
            keys = RequestKeys(f"{i:064}", "x" * 64)
            if journal.look_up(i, keys) is None:
                await journal.record(i, keys, AIMessage(f"{name} {i}"))
        # Each begins at another place, so that they meet.
        for i in range(400):
            mine = 400 + 400 * int(name) + i
            await asyncio.gather(one((i + 100 * int(name)) % 400), one(mine))

asyncio.run(main(*sys.argv[1:]))
"""


def test_four_processes_share_a_journal(path):
    """None loses an answer, and the file stays sound."""
    with ExitStack() as running:
        writers = [
            running.enter_context(
                process(
                    sys.executable, "-c", _WRITER, str(path), str(name),
                    stderr=subprocess.PIPE, text=True,
                )
            )
            for name in range(4)
        ]  # fmt: skip
        assert [writer.communicate(timeout=60)[1] for writer in writers] == [""] * 4

    async def read() -> list[str]:
        async with Journal(path) as journal:
            keys = [RequestKeys(f"{i:064}", "x" * 64) for i in range(2000)]
            return [journal.look_up(i, one).text for i, one in enumerate(keys)]

    outcome = asyncio.run(read())
    shared, own = outcome[:400], outcome[400:]
    assert own == [f"{i // 400 - 1} {i}" for i in range(400, 2000)]
    assert [text.partition(" ")[2] for text in shared] == [str(i) for i in range(400)]
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
