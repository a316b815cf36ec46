"""The calendar may jump by days: nothing that is decided goes by it."""

from __future__ import annotations

import ast
import asyncio
import time
from email.utils import formatdate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import langchain_resilient
from langchain_resilient import FaultKind, ResilientChatModel, SpendCap, SpendCapError, Target
from langchain_resilient.batch.journal import Journal
from langchain_resilient.testing import InvalidKey, ProviderSimulator, Reply, Status

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(langchain_resilient.__file__).parent
DAY = 86_400.0
NOW = 1_800_000_000.0

CALENDAR = {"time", "time_ns", "now", "utcnow", "today", "localtime", "gmtime", "ctime"}
ALLOWED = {
    ("batch/journal.py", "time.time"): "when an answer was recorded, for people who read journals",
    ("batch/journal_file.py", "time.time"): "the same for a journal that is moved to a new form",
    ("batch/lane.py", "time.time"): "when a provider's batch began: another process may go on",
    ("batch/segments.py", "time.time_ns"): "names of segments, which say their order",
    ("fleet/limits.py", "time.time"): "a number that no earlier process of the same id has used",
    ("fleet/money.py", "time.time"): "the same",
    ("runtime/memory.py", "time.time"): "how old is what an earlier process has learned",
    ("service/app.py", "time.time"): "since when a model is served, as OpenAI's lists say it",
    ("service/calls.py", "time.time"): "an answer's `created`, as OpenAI's clients expect it",
    ("observability/otel.py", "time_ns"): "spans are dated by the calendar; lengths are monotonic",
    ("prices.py", "time"): "which list price is in force; a purse's windows are monotonic",
    ("providers/model_lists.py", "time.gmtime"): "whether a model's announced last day is over",
    ("providers/model_lists.py", "time.time"): "how old a list is that an earlier process kept",
    ("testing/simulator.py", "time.time"): "the simulated server's own Date",
}
"""Who asks what day it is, and why no deadline hangs on it."""


def _readings() -> Iterator[tuple[str, str]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        tree = ast.parse(path.read_text())
        taken = {
            alias.asname or alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module in ("time", "datetime")
            for alias in node.names
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr in CALENDAR:
                owner = ast.unparse(node.value)
                if owner in ("time", "datetime", "datetime.datetime", "date", "datetime.date"):
                    yield name, f"{owner}.{node.attr}"
            elif isinstance(node, ast.Call) and ast.unparse(node.func) in CALENDAR & taken:
                yield name, ast.unparse(node.func)


def test_whoever_asks_for_the_calendar_is_named_with_a_reason():
    """Everything else goes by the event loop's clock, or by `time.monotonic`."""
    assert set(_readings()) == set(ALLOWED)


@pytest.fixture(params=[-DAY, DAY], ids=["a day back", "a day on"])
def jump(request, monkeypatch) -> Any:
    """Sets this machine's calendar to another day, once it is called."""
    calendar, monotonic = time.time, time.monotonic
    assert calendar is not monotonic

    def jump() -> None:
        monkeypatch.setattr(time, "time", lambda: calendar() + request.param)

    return jump


def model(sim: ProviderSimulator, *names: str, **fields: Any) -> ResilientChatModel:
    url = sim.base_url("openai")
    chain = [Target(f"openai:{name}", base_url=url, api_key=f"key-of-{name}") for name in names]
    return ResilientChatModel(targets=chain, **{"hedge": None, "timeout": 10.0, **fields})


async def _with_a_jump(llm: ResilientChatModel, jump: Any) -> str:
    """Let the calendar jump while the answer is under way."""
    task = asyncio.create_task(llm.ainvoke("hello"))
    await asyncio.sleep(0.1)
    jump()
    return str((await task).content)


def test_a_jump_fires_no_deadline(sim, jump):
    """An answer under way is waited for, and its hint and its limits count on."""
    sim.script("*", then=Reply("in time", first_text=0.3))
    assert asyncio.run(_with_a_jump(model(sim, "m", timeout=5.0), jump)) == "in time"


def test_a_jump_changes_no_hint(sim, jump):
    """A target that said "in 0.3 s" is asked again then."""
    sim.script("*", Status(429, retry_after=0.3), then=Reply("again"))
    began = time.monotonic()
    assert asyncio.run(_with_a_jump(model(sim, "m"), jump)) == "again"
    assert 0.3 <= time.monotonic() - began < 8.0


@pytest.mark.parametrize("wrong", [-5 * 3600.0, 5 * 3600.0])
@pytest.mark.parametrize("header", ["retry-after", "x-ratelimit-reset"])
def test_a_date_is_read_by_the_servers_clock(sim, monkeypatch, wrong, header):
    """A point in time one second after its Date is one second, whatever our own clock says."""
    monkeypatch.setattr(time, "time", lambda: NOW + wrong)
    value = formatdate(NOW + 1, usegmt=True) if header == "retry-after" else str(int(NOW) + 1)
    hint = {"date": formatdate(NOW, usegmt=True), header: value}
    sim.script("*", Status(429, headers=hint), then=Reply("again"))
    answer = model(sim, "m").invoke("hello")
    first, second = answer.response_metadata["resilience"]["attempts"]
    assert 0.9 <= second["started"] - first["ended"] < 8.0


def test_a_jump_lets_no_refused_account_back_in(sim, jump):
    """Five minutes are five minutes."""
    sim.script("openai:a", then=InvalidKey())
    llm = model(sim, "a", "b")
    llm.invoke("hello")
    jump()
    llm.invoke("hello")
    assert sim.count("openai:a") == 1


def test_a_jump_opens_no_spend_cap(sim, jump):
    """Its window is measured by the process's own clock."""
    target = Target("openai:m", base_url=sim.base_url("openai"), api_key="k", price=(1000, 1000))
    llm = ResilientChatModel(targets=[target], spend_cap=SpendCap(0.05, per="hour"))
    llm.invoke("hello")
    jump()
    with pytest.raises(SpendCapError):
        llm.invoke("hello")


def test_a_jump_loses_nothing_in_a_journal(sim, jump, tmp_path):
    """Its dates are for people: what was answered is found, whatever the day."""
    llm = model(sim, "m")
    path = tmp_path / "run.db"
    llm.batch(["one", "two"], journal=path)
    jump()
    llm.batch(["one", "two", "three"], journal=path)
    assert sim.count() == 3


async def test_a_journal_is_dated_by_the_calendar(jump, tmp_path):
    """So a jump shows there, and nowhere else."""
    jump()
    async with Journal(tmp_path / "run.db") as journal:
        await journal.record_failure(0, "key", ValueError("no"))
        (row,) = journal._open_file().select("SELECT recorded FROM items")
    assert abs(row["recorded"] - time.time()) < 60


def test_an_account_is_out_for_a_kind_of_fault_that_says_so(sim):
    """The test above means something: the fault was of that kind."""
    sim.script("openai:a", then=InvalidKey())
    attempts = model(sim, "a", "b").invoke("hello").response_metadata["resilience"]["attempts"]
    assert attempts[0]["fault"].startswith(FaultKind.AUTH)
