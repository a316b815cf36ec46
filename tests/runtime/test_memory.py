"""What was learned survives the process: a small private file, shared by several."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langchain_resilient import MemoryFileWarning, cli
from langchain_resilient.engine.target_state import TargetState
from langchain_resilient.engine.time_model import RequestProfile
from langchain_resilient.runtime import memory as memory_module
from langchain_resilient.runtime import shared_state
from langchain_resilient.runtime.memory import DAY, HEALTH_AGE, MAX_SAMPLES, Memory, faded
from langchain_resilient.service import run as service
from langchain_resilient.testing import ProviderSimulator, Reply
from verification.kit.scripted_targets import CANARY, chain

if TYPE_CHECKING:
    from pathlib import Path

NAME, URL = "openai:m", "https://user:secret@host.example/v1"
SHORT, LONG = RequestProfile(300, "low"), RequestProfile(60_000, "low")


class Process:
    """One process that uses the file: with its own memory, its own clock and its own target."""

    def __init__(self, path: Path, *, wall: float = 1e9, clock: float = 100.0) -> None:
        self.clock = clock
        self.wall = wall
        self.state = TargetState(NAME, "openai")
        self.memory = Memory(path, lambda: self.wall)
        self.memory.watch(self.state, NAME, URL, now=clock, trip_after=5)

    def ask(self, seconds: float, profile: RequestProfile = SHORT, count: int = 1) -> None:
        """Requests that took so long, one after the other."""
        for _ in range(count):
            self.clock, self.wall = self.clock + seconds, self.wall + seconds
            self.state.record_first_text(
                seconds, self.clock, plain=False, late=False, profile=profile
            )

    def end(self) -> None:
        """Save as at the end of a process."""
        self.memory.save(self.clock, final=True)

    def usual(self, profile: RequestProfile = SHORT) -> float | None:
        """The 95th percentile, as far as it is known."""
        return self.state.speed.percentile(0.95, self.clock, plain=False, profile=profile)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "learned.json"


def test_the_next_process_knows_what_is_usual(path):
    """Short and long prompts, each for itself; clocks of two processes have nothing in common."""
    first = Process(path, clock=5_000.0)
    for _ in range(30):
        first.ask(0.5, SHORT)
        first.ask(4.0, LONG)
    first.end()
    second = Process(path, wall=first.wall + 5, clock=7.0)
    assert second.usual(SHORT) == pytest.approx(0.5, rel=0.25)
    assert second.usual(LONG) == pytest.approx(4.0, rel=0.25)


def test_a_process_without_a_file_knows_nothing(path):
    """Nor does it write one while nothing has happened."""
    first = Process(path)
    assert first.usual() is None
    first.end()
    assert not path.exists()


def test_single_calls_of_many_processes_add_up(path):
    """A command line asks once a process: also the samples that a running one would hold back."""
    wall = 1e9
    for _ in range(40):
        process = Process(path, wall=wall)
        process.ask(0.5)
        process.end()
        wall = process.wall + 60
    assert Process(path, wall=wall).usual() == pytest.approx(0.5, rel=0.1)


def test_nothing_is_written_twice(path):
    """What was read is not written again, nor what was saved before."""
    first = Process(path)
    first.ask(0.5, count=10)
    first.end()
    first.end()
    first.ask(0.5, count=1)
    first.end()
    second = Process(path, wall=first.wall + 1)
    second.ask(0.5)
    second.end()
    (entry,) = json.loads(path.read_text())["targets"].values()
    assert len(entry["first_texts"]) == 12


def test_what_a_clock_that_is_ahead_has_seen_is_not_written_twice(path):
    """For a process whose clock is behind it lies in the future, but it was not seen there."""
    ahead = Process(path, wall=1e9 + 30)
    ahead.ask(0.5, count=10)
    ahead.end()
    for _ in range(3):
        behind = Process(path, wall=1e9)
        assert len(behind.state.speed.first_texts.samples()) == 10
        behind.clock += 60
        behind.end()
    (entry,) = json.loads(path.read_text())["targets"].values()
    assert len(entry["first_texts"]) == 10


class SlowDisk:
    """Writes nothing until it may."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.writes, self.may_write = threading.Event(), threading.Event()
        self._to_json = memory_module.to_json
        monkeypatch.setattr(memory_module, "to_json", self.to_json)

    def to_json(self, content: dict[str, Any]) -> bytes:
        """As the memory encodes what it writes, but late."""
        self.writes.set()
        assert self.may_write.wait(30)
        return self._to_json(content)


def test_the_last_save_waits_for_one_that_is_under_way(path, monkeypatch):
    """What a thread still writes is no news any more: the process must not end before."""
    first = Process(path)
    first.ask(1.0, count=20)
    first.clock += 10  # nothing is held back any more
    disk = SlowDisk(monkeypatch)
    first.memory.note(first.clock)
    assert disk.writes.wait(30)
    threading.Timer(0.2, disk.may_write.set).start()
    first.end()
    (entry,) = json.loads(path.read_text())["targets"].values()
    assert len(entry["first_texts"]) == 20


def test_a_disk_that_hangs_holds_up_no_end(path, monkeypatch):
    """The last save waits only so long for another one."""
    monkeypatch.setattr(memory_module, "_SAVING_SECONDS", 0.05)
    first = Process(path)
    first.ask(1.0, count=20)
    disk = SlowDisk(monkeypatch)
    thread = threading.Thread(target=first.end)
    thread.start()
    assert disk.writes.wait(30)
    first.end()
    assert not path.exists()
    disk.may_write.set()
    thread.join(30)
    assert path.exists()


FORK = """
import os, sys, threading, time
from pathlib import Path
from langchain_resilient.engine.target_state import TargetState
from langchain_resilient.engine.time_model import RequestProfile
from langchain_resilient.runtime.memory import Memory, memory_at

def ask(at, count):
    for i in range(count):
        state.speed.first_texts.add(0.5, at + i / 1000, RequestProfile(300))

write = Memory._write
writing, go_on = threading.Event(), threading.Event()
Memory._write = lambda *args: (writing.set(), go_on.wait(30), write(*args))
memory, state, now = memory_at(Path(sys.argv[1])), TargetState("m", "openai"), time.monotonic()
memory.watch(state, "m", None, now=now - 60, trip_after=5)
ask(now - 50, 10)
memory.note(now)
assert writing.wait(30)
ask(now - 1, 10)
child = not os.fork()
go_on.set()
if not child:
    os.wait()
else:
    ask(time.monotonic(), 1)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork there")
def test_a_fork_while_a_thread_saves(path):
    """The child saves what is its own, and the parent the rest; nobody waits for nobody's lock."""
    command = [sys.executable, "-W", "ignore", "-c", FORK, path]
    subprocess.run(command, check=True, timeout=60)
    (entry,) = json.loads(path.read_text())["targets"].values()
    assert len(entry["first_texts"]) == 21


def test_without_a_thread_the_last_save_writes_all(path, monkeypatch):
    """None starts at the interpreter's end: that is no reason for a call to fail."""

    def refused(_: threading.Thread) -> None:
        msg = "can't create new thread at interpreter shutdown"
        raise RuntimeError(msg)

    first = Process(path)
    first.ask(0.5, count=10)
    monkeypatch.setattr(threading.Thread, "start", refused)
    first.memory.note(first.clock)
    first.end()
    (entry,) = json.loads(path.read_text())["targets"].values()
    assert len(entry["first_texts"]) == 10


def test_several_processes_at_once(path):
    """Threads that save at the same moment stand for them: no sample is lost."""
    processes = [Process(path) for _ in range(8)]
    for process in processes:
        process.ask(0.5, count=5)
    threads = [threading.Thread(target=process.end) for process in processes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (entry,) = json.loads(path.read_text())["targets"].values()
    assert len(entry["first_texts"]) == 40
    assert sorted(p.name for p in path.parent.iterdir()) in (
        ["learned.json"],
        ["learned.json", "learned.json.lock"],
    )


def test_the_file_stays_small(path):
    """However long a process runs, and however many targets were once asked."""
    first = Process(path)
    first.ask(0.123456789, LONG, count=3 * MAX_SAMPLES)
    first.end()
    (entry,) = json.loads(path.read_text())["targets"].values()
    assert len(entry["first_texts"]) == MAX_SAMPLES
    assert path.stat().st_size < 60 * MAX_SAMPLES
    content = json.loads(path.read_text())
    content["targets"]["retired"] = entry
    path.write_text(json.dumps(content, separators=(",", ":")))
    later = Process(path, wall=first.wall + 30 * DAY)
    later.ask(0.2)
    later.end()
    (entry,) = json.loads(path.read_text())["targets"].values()
    assert len(entry["first_texts"]) == 1


def test_what_is_old_is_believed_less():
    """Half as many samples for each day since the last; none after a week."""
    rows = [(1e9 + i, 0.5, 300, None, 0, False) for i in range(MAX_SAMPLES)]
    last = rows[-1][0]
    assert len(faded(rows, last)) == MAX_SAMPLES
    assert faded(rows, last + DAY) == rows[-MAX_SAMPLES // 2 :]
    assert len(faded(rows, last + 3 * DAY)) == MAX_SAMPLES // 8
    assert faded(rows, last + 8 * DAY) == []
    assert faded(rows, 1e9 - 3600) == [], "from the future: a clock was wrong"


def test_a_clock_that_was_ahead_blocks_nothing(path):
    """What it wrote makes room at once, not in a year; and a target it alone knew is dropped."""
    wrong = Process(path, wall=1e9 + 400 * DAY)
    wrong.ask(0.5, count=2 * MAX_SAMPLES)
    wrong.end()
    content = json.loads(path.read_text())
    (entry,) = content["targets"].values()
    content["targets"]["retired"] = entry
    path.write_text(json.dumps(content, separators=(",", ":")))
    right = Process(path)
    right.ask(0.2, count=40)
    right.end()
    (entry,) = json.loads(path.read_text())["targets"].values()
    assert len(entry["first_texts"]) == 40
    assert Process(path, wall=right.wall + 1).usual() == pytest.approx(0.2, rel=0.1)


def test_clocks_may_be_apart(path):
    """By a minute: what one that is ahead says of a target's health is believed, too."""
    ahead = Process(path, wall=1e9 + 50)
    for _ in range(6):
        ahead.state.record_late(ahead.clock, 5, started=ahead.clock - 5)
    ahead.end()
    behind = Process(path, wall=1e9)
    assert behind.state.circuit_breaker.tripped
    behind.ask(0.5)
    behind.end()
    (entry,) = json.loads(path.read_text())["targets"].values()
    assert len(entry["first_texts"]) == 1


def test_a_target_that_was_out_is_out_and_probed(path):
    """The next process does not wait for it; long after, it is asked as any other."""
    first = Process(path)
    first.ask(0.5, count=40)
    for _ in range(6):
        first.state.record_late(first.clock, 5, started=first.clock - 5)
    assert first.state.circuit_breaker.tripped
    first.end()
    second = Process(path, wall=first.wall + 2)
    assert second.state.circuit_breaker.tripped
    assert second.state.circuit_breaker.claim_probe(second.clock)
    for _ in range(3):
        second.state.record_probe(0.5, second.clock, plain=False, good=1.0)
    assert not second.state.circuit_breaker.tripped
    assert not Process(path, wall=first.wall + HEALTH_AGE + 1).state.circuit_breaker.tripped


def out(path: Path) -> Process:
    """A process whose target has tripped, and that has ended."""
    process = Process(path)
    process.ask(0.5, count=40)
    for _ in range(6):
        process.state.record_late(process.clock, 5, started=process.clock - 5)
    process.end()
    return process


def test_good_probes_add_up_over_processes(path):
    """A command that is run again and again makes one probe each time."""
    wall = out(path).wall
    found = []
    for _ in range(4):
        process = Process(path, wall=wall)
        found.append(process.state.circuit_breaker.tripped)
        if process.state.circuit_breaker.claim_probe(process.clock):
            process.state.record_probe(0.5, process.clock, plain=False, good=1.0)
        process.end()
        wall += 5
    assert found == [True, True, True, False]


def test_a_bad_probe_takes_the_good_ones_of_earlier_processes_back(path):
    wall = out(path).wall
    found = []
    for good in (True, True, False, True, True, True, True):
        process = Process(path, wall=wall)
        found.append(process.state.circuit_breaker.tripped)
        spoke = 0.5 if good else None
        process.state.record_probe(spoke, process.clock, plain=False, good=1.0)
        process.end()
        wall += 5
    assert found == [True] * 6 + [False]


@pytest.mark.parametrize("bad", [False, True])
def test_a_target_is_out_for_so_long_after_its_last_bad_sign(path, bad):
    """And not for ever, because each process of many finds it so and says so again."""
    first = out(path)
    for wall in range(60, int(HEALTH_AGE), 60):
        process = Process(path, wall=first.wall + wall)
        assert process.state.circuit_breaker.tripped
        if bad:
            process.state.record_probe(None, process.clock, plain=False, good=1.0)
        process.end()
    after = Process(path, wall=first.wall + HEALTH_AGE + 1)
    assert after.state.circuit_breaker.tripped == bad


def test_suspicion_adds_up_over_processes(path):
    """A command that is run again and again needs no more calls than a program that goes on."""
    wall = 1e9
    for _ in range(7):
        process = Process(path, wall=wall)
        process.state.record_late(process.clock, 5, started=process.clock - 5)
        process.end()
        wall += 5
    assert Process(path, wall=wall).state.circuit_breaker.tripped


def test_a_target_whose_normal_speed_changed(path):
    """What was usual before is forgotten in the file as well."""
    first = Process(path)
    first.ask(0.5, count=40)
    first.end()
    second = Process(path, wall=first.wall + 1)
    second.state.speed.relearn([(3.0, SHORT)] * 8, second.clock, plain=False)
    second.ask(3.0, count=60)
    second.end()
    assert Process(path, wall=second.wall + 1).usual() == pytest.approx(3.0, rel=0.1)


@pytest.mark.parametrize(
    "content",
    [
        "",
        '{"version":',
        '{"version":1}',
        '{"version":1,"targets":[]}',
        '{"version":1,"t":' + "[" * 100_000,
    ],
    ids=["empty", "cut", "without targets", "targets a list", "deep"],
)
def test_a_damaged_file_is_a_warning(path, content):
    """Never an error; and the next save mends it."""
    path.parent.mkdir()
    path.write_text(content)
    with pytest.warns(MemoryFileWarning, match="damaged"):
        first = Process(path)
    first.ask(0.5, count=40)
    with warnings.catch_warnings(record=True) as again:
        warnings.simplefilter("always")
        first.end()
    assert [w for w in again if w.category is MemoryFileWarning] == []
    assert Process(path, wall=first.wall).usual() is not None


@pytest.mark.parametrize(
    "content",
    [b"my prompts, one a line", b"[]", b"{}", b"null", b"SQLite format 3\x00", b"\x00\x01"],
    ids=["text", "list", "object", "null", "journal", "binary"],
)
def test_a_file_of_something_else_is_left_alone(path, content):
    """Whoever names the wrong file keeps what is in it, and reads why nothing is remembered."""
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.warns(MemoryFileWarning, match="no file of `remember=`"):
        process = Process(path)
    process.ask(0.5)
    process.end()
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "entry",
    [
        None,
        {"first_texts": 3},
        {"first_texts": [[1e9, "x", 3, None, 0, False], [1e9], None]},
        {"first_texts": [[1e9, float("nan"), 3, None, 0, False]]},
        {"first_texts": [[1e9, -1.0, 3, None, 0, False], [1e9, 1.0, -3, None, 0, False]]},
        {"health": {"at": 1e9, "tripped": 1, "score": "much"}},
        {"health": [1]},
    ],
    ids=["null", "number", "rows", "nan", "negative", "odd health", "health a list"],
)
def test_an_entry_that_makes_no_sense_is_nothing(path, entry):
    """Others in the file are read all the same."""
    good = Process(path)
    good.ask(0.5, count=40)
    good.end()
    content = json.loads(path.read_text())
    (name,) = content["targets"]
    kept = content["targets"][name]
    content["targets"] = {name: entry, "other": kept}
    path.write_text(json.dumps(content, separators=(",", ":")))
    process = Process(path, wall=good.wall)
    assert process.usual() is None
    assert not process.state.circuit_breaker.tripped
    process.ask(0.5)
    process.end()
    assert len(json.loads(path.read_text())["targets"]["other"]["first_texts"]) == 40


def test_a_target_that_answers_at_once(path):
    """Its times are 0 in the file, of which there is no logarithm: every later start failed."""
    first = Process(path)
    first.ask(0.00001, count=40)
    first.end()
    (entry,) = json.loads(path.read_text())["targets"].values()
    assert 0 in {row[1] for row in entry["first_texts"]}
    assert Process(path, wall=first.wall + 1).usual() == pytest.approx(0.001, rel=0.1)


_NUMBERS = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from([0, -0.0, 5e-324, 1e308, 1e9, 1e12]),
    st.sampled_from([10**400, -(10**400)]),
    st.none(),
)
_TIMES = st.booleans().flatmap(lambda good: st.floats(1e9, 1e9 + 60) if good else _NUMBERS)
_HEALTH = st.fixed_dictionaries(
    {"score": _NUMBERS, "tripped": st.booleans(), "at": _TIMES, "good_probes": _NUMBERS}
)


@settings(deadline=None, max_examples=50)
@given(
    rows=st.lists(
        st.tuples(
            _TIMES,
            _NUMBERS,
            _NUMBERS,
            st.sampled_from([None, "low", "max", ""]),
            _NUMBERS,
            st.booleans(),
        ),
        min_size=30,
        max_size=60,
    ),
    health=_HEALTH,
    other=_HEALTH,
)
def test_no_number_in_the_file_stops_a_start(tmp_path_factory, rows, health, other):
    """A file is never a reason to raise."""
    path = tmp_path_factory.mktemp("memory") / "learned.json"
    probe = Process(path)
    probe.ask(0.5, count=4)
    probe.end()
    (name,) = json.loads(path.read_text())["targets"]
    entry = {"first_texts": rows, "answers": rows[::-1], "health": health}
    targets = {name: entry, "other": {**entry, "health": other}}
    path.write_text(json.dumps({"version": 1, "targets": targets}, separators=(",", ":")))
    again = Process(path, wall=1e9 + 100)
    again.ask(0.5, count=40)
    again.end()
    last = Process(path, wall=again.wall + 1)
    assert all(usual is None or usual > 0 for usual in (again.usual(), last.usual()))


@pytest.mark.parametrize("place", ["row", "health.at", "health.score", "health.good_probes"])
def test_a_number_that_no_float_holds(path, place):
    """JSON has no bound for integers."""
    first = Process(path)
    first.ask(0.5, count=40)
    first.end()
    content = json.loads(path.read_text())
    (entry,) = content["targets"].values()
    if place == "row":
        entry["first_texts"][0][0] = 10**400
    else:
        entry["health"][place.partition(".")[2]] = 10**400
    path.write_text(json.dumps(content, separators=(",", ":")))
    second = Process(path, wall=first.wall + 1)
    assert second.usual() == pytest.approx(0.5, rel=0.1)
    second.ask(0.5)
    second.end()
    assert "0" * 400 not in path.read_text()


def test_samples_of_one_moment_with_and_without_an_effort(path):
    """They have no order but that of their times."""
    first = Process(path)
    for profile in (SHORT, RequestProfile(SHORT.prompt_tokens, None)):
        first.ask(0.00001, profile, count=40)
    first.end()
    assert Process(path, wall=first.wall + 1).usual() > 0


@pytest.mark.parametrize("version", [2, 10**400], ids=["next", "huge"])
def test_a_file_of_another_version_is_left_alone(path, version):
    """It belongs to a newer release that runs beside this one."""
    path.parent.mkdir()
    path.write_text(text := f'{{"version":{version},"whatever":1}}')
    with pytest.warns(MemoryFileWarning, match=f"version {version}"):
        process = Process(path)
    process.ask(0.5)
    process.end()
    assert path.read_text() == text


def test_a_folder_that_cannot_be_written(tmp_path):
    """One warning, and the calls go on."""
    (tmp_path / "file").write_text("")
    with pytest.warns(MemoryFileWarning, match="cannot be"):
        process = Process(tmp_path / "file" / "learned.json")
    process.ask(0.5)
    process.end()


@pytest.mark.skipif(sys.platform == "win32", reason="other rights there")
def test_the_file_is_private_and_tells_nothing(path):
    """No prompt, no key, not even where a server is."""
    process = Process(path)
    process.ask(0.5)
    process.end()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) & 0o077 == 0
    text = path.read_text()
    assert "secret" not in text
    assert "host.example" not in text


# -- with a model ---------------------------------------------------------------------------------


def test_a_model_remembers_when_it_is_closed(tmp_path):
    """And knows it when it is made again; without `remember=` nothing is written."""
    path = tmp_path / "learned.json"
    with ProviderSimulator() as sim:
        sim.script("openai:m", then=Reply("yes"))
        with chain(sim, "openai:m", remember=path) as llm:
            for _ in range(3):
                llm.invoke("A prompt nobody else should read")
        text = path.read_text()
        assert "prompt" not in text
        assert CANARY not in text
        shared_state.reset()
        memory_module._memories.clear()
        (route,) = chain(sim, "openai:m", remember=path)._ready().chain
        assert (
            len(route.state.speed.answers.samples() + route.state.speed.first_texts.samples()) == 3
        )
        path.unlink()
        with chain(sim, "openai:m") as plain:
            plain.invoke("hi")
    assert not path.exists()


ONE_CALL = """
import sys
from langchain_resilient import cli
sys.exit(cli.main(["ask", "-t", "openai:m", "-q", "hi"]))
"""


def test_the_command_line_remembers(tmp_path, monkeypatch):
    """By default, in the cache folder; not with --forget."""
    path = tmp_path / "learned.json"
    with ProviderSimulator() as sim:
        sim.script("openai:m", then=Reply("yes"))
        environment = {
            **os.environ,
            "OPENAI_BASE_URL": sim.base_url("openai"),
            "OPENAI_API_KEY": "sk-canary-123456",
            "LANGCHAIN_RESILIENT_REMEMBER": str(path),
        }
        subprocess.run([sys.executable, "-c", ONE_CALL], env=environment, check=True, timeout=60)
        (entry,) = json.loads(path.read_text())["targets"].values()
        assert len(entry["first_texts"]) == 1
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        memory_module._memories.clear()
        assert cli.main(["ask", "-t", "openai:m", "-q", "--forget", "hi"]) == cli.OK
    assert not memory_module._memories


def test_where_the_command_line_keeps_it(monkeypatch, tmp_path):
    """A file in the cache folder, unless the environment names another, or none."""
    monkeypatch.delenv("LANGCHAIN_RESILIENT_REMEMBER")
    monkeypatch.setenv("LANGCHAIN_RESILIENT_CACHE", str(tmp_path))
    assert cli._memory_file() == tmp_path / "learned.json"
    monkeypatch.setenv("LANGCHAIN_RESILIENT_REMEMBER", str(tmp_path / "mine"))
    assert cli._memory_file() == tmp_path / "mine"
    monkeypatch.setenv("LANGCHAIN_RESILIENT_REMEMBER", "")
    assert cli._memory_file() is None


@pytest.mark.parametrize("command", [["serve"], ["ask", "hi"]], ids=["serve", "ask"])
@pytest.mark.parametrize(
    ("flags", "kept"),
    [([], "file.json"), (["--remember", "flag.json"], "flag.json"), (["--forget"], None)],
    ids=["file", "flag", "forget"],
)
def test_a_configuration_file_says_where_and_a_flag_goes_first(
    monkeypatch, tmp_path, command, flags, kept
):
    """A service and a question alike; what the environment says is the default alone."""
    monkeypatch.setenv("LANGCHAIN_RESILIENT_REMEMBER", str(tmp_path / "default.json"))
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "c.toml"
    path.write_text('[model]\ntargets = ["text:hi"]\nremember = "file.json"\n')
    args = cli.parser().parse_args([*command, "--config", str(path), *flags])
    if command == ["serve"]:
        pytest.importorskip("starlette", reason="needs the extra `serve`")
        _, llm = service.configured(args, {}, partial(cli._settings, args))
    else:
        llm = cli._model(args)
    assert (None if llm.remember is None else str(llm.remember)) == kept
