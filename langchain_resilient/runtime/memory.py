"""What was learned of targets, kept in a file for later processes (`remember=path`).

The file holds times, sizes and the state of health, by target. It holds no prompt, no answer and no
key. Several processes may use it at once: each adds what it has seen to what is there, under a
lock, and replaces the file in one step. What is old counts less and less, and is dropped.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import os
import threading
import time
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from pydantic_core import from_json, to_json

from langchain_resilient import notices
from langchain_resilient.engine.target_speed import HELD_SECONDS
from langchain_resilient.engine.time_model import SMALLEST, RequestProfile, Sample, is_plausible
from langchain_resilient.errors import MemoryFileWarning

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from langchain_resilient.engine.target_speed import TargetSpeed
    from langchain_resilient.engine.target_state import TargetState
    from langchain_resilient.engine.time_model import TimeModel

VERSION = 1
"""Of the file's form. A file of another version is left alone."""

MAX_SAMPLES = 256
"""The most samples that the file keeps of a target, of first texts and of whole answers each."""

DAY = 86_400.0
"""Seconds."""

HALF_LIFE = DAY
"""Seconds after which half of the samples are believed: providers differ from day to day."""

MAX_AGE = 7 * DAY
"""Seconds after which a sample is dropped."""

HEALTH_AGE = 600.0
"""Seconds for which a target that was out, or under suspicion, is taken to be so still."""

SAVE_SECONDS = 30.0
"""Seconds between two saves of a process that goes on."""

_OWN = b'{"version":'
"""How the file begins, damaged or not; whatever begins otherwise is somebody else's."""

_LOCK_SECONDS = 2.0
"""Seconds that a save waits for those of other processes."""

_SAVING_SECONDS = 5.0
"""Seconds that a save waits for another one of this process."""

_KINDS = ("first_texts", "answers")

_CLOCKS_APART = 60.0
"""Seconds that another clock may be ahead; a later time is of one that was wrong."""

_Row = tuple[float, float, int, str | None, int, bool]
"""A sample in the file: seconds since 1970, seconds it took, tokens of the prompt, reasoning
effort, tokens of the answer, whether it is only a lower bound."""


class Memory:
    """One file of what was learned, and the targets of this process that are written to it.

    Never raises for the file's sake: a file that cannot be read or written is warned of, once.

    Args:
        path: The file; it may not exist yet.
        wall_clock: Seconds since 1970.

    Example:
        ```python
        memory = memory_at(Path("learned.json"))
        memory.watch(state, "openai:gpt-6.1-sol", None, now=loop.time(), trip_after=5)
        memory.save(loop.time(), final=True)
        ```
    """

    def __init__(self, path: Path, wall_clock: Callable[[], float] = time.time) -> None:
        self.path = path
        self._wall_clock = wall_clock
        self._watched: dict[str, _Watched] = {}
        self._saved_at = 0.0
        self._usable = True
        self._damage_told = False
        self._make_locks()

    def _make_locks(self) -> None:
        self._lock = threading.Lock()
        self._saving = threading.Lock()

    def begin_in_child(self) -> None:
        """Begin anew after a fork: a thread that is not there may hold a lock of ours.

        What was seen before the fork is the parent's to write.
        """
        self._make_locks()
        for watched in self._watched.values():
            watched.written_to = time.monotonic()

    def watch(
        self, state: TargetState, name: str, url: str | None, *, now: float, trip_after: int
    ) -> None:
        """Give a target what the file knows of it, unless it has learned by itself, and keep it.

        Args:
            state: The target's; the same one may be given again.
            name: The target's.
            url: Its server's. The file holds a fingerprint of it.
            now: The engine's clock.
            trip_after: See `Health.trip_after`; 0 where no target is left out.
        """
        identity = f"{name} {hashlib.sha256((url or '').encode()).hexdigest()[:8]}"
        with self._lock:
            watched = self._watched.get(identity)
            if watched is not None and watched.state is state:
                return
            watched = self._watched[identity] = _Watched(state, now)
        entry = self._read().get(identity)
        if isinstance(entry, dict) and not any(times.count for times in _models(state.speed)):
            age = self._wall_clock() - now
            for kind, times in zip(_KINDS, _models(state.speed), strict=True):
                rows = faded(_rows(entry.get(kind)), self._wall_clock())
                # By a clock that is ahead they may be of later; but what is new is of this process.
                times.restore([_sample(row, min(now, row[0] - age)) for row in rows])
            self._restore_health(state, entry.get("health"), now, trip_after)
            watched.was_out = state.circuit_breaker.tripped

    def _restore_health(self, state: TargetState, health: Any, now: float, trip_after: int) -> None:
        if not trip_after or not isinstance(health, dict):
            return
        at, score = _number(health.get("at")), _number(health.get("score"))
        wall_now = self._wall_clock()
        if at is not None and _is_recent(at, wall_now, HEALTH_AGE):
            state.circuit_breaker.restore(
                now,
                trip_after,
                tripped=health.get("tripped") is True,
                evidence=max(0.0, score or 0.0),
                sick_at=now - (wall_now - at),
                good_probes=int(_number(health.get("good_probes")) or 0),
            )

    def note(self, now: float) -> None:
        """Save in a thread, if the last time is some while ago: a disk may be slow.

        Args:
            now: The engine's clock.
        """
        if now - self._saved_at < SAVE_SECONDS:
            return
        self._saved_at = now
        with contextlib.suppress(RuntimeError):  # no thread starts at the interpreter's end
            threading.Thread(target=self.save, args=(now,), daemon=True).start()

    def save(self, now: float, *, final: bool = False) -> None:
        """Add what was learned since the last time to the file.

        Args:
            now: The engine's clock.
            final: Whether the process ends: then samples count too that are still held back.
        """
        # One after the other: else the process would end while a thread still writes what is no
        # news any more. A disk that hangs holds up no end, though.
        if not self._saving.acquire(timeout=_SAVING_SECONDS):
            return
        try:
            if self._usable:
                self._save(now, final=final)
        finally:
            self._saving.release()

    def _save(self, now: float, *, final: bool) -> None:
        with self._lock:
            news = {
                name: entry
                for name, watched in self._watched.items()
                if (entry := watched.news(now, final=final)) is not None
            }
        if not news:
            return
        offset = self._wall_clock() - now
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with FileLock(f"{self.path}.lock", timeout=_LOCK_SECONDS, mode=0o600):
                targets = self._read()
                if self._usable:
                    for name, entry in news.items():
                        targets[name] = self._merged(targets.get(name), entry, offset)
                    self._write({"version": VERSION, "targets": self._recent(targets)})
        except (OSError, Timeout) as error:
            self._give_up(f"cannot be written ({error}): nothing is remembered")

    def _merged(self, entry: Any, news: dict[str, Any], offset: float) -> dict[str, Any]:
        """An entry with the news of this process, whose times become seconds since 1970."""
        kept = entry if isinstance(entry, dict) else {}
        merged: dict[str, Any] = {}
        wall_now = self._wall_clock()
        for kind in _KINDS:
            since, samples = news[kind]
            rows = [row for row in _rows(kept.get(kind)) if row[0] >= since + offset]
            rows = [row for row in rows if _is_recent(row[0], wall_now)]
            rows += [_row(sample, sample.at + offset) for sample in samples]
            merged[kind] = sorted(rows, key=lambda row: row[0])[-MAX_SAMPLES:]
        health = {**news["health"]}
        # What is out is out from its last bad sign on, however often others have found it so.
        sick_at = health.pop("sick_at") + offset
        health["at"] = round(min(wall_now, sick_at) if health["tripped"] else wall_now, 3)
        merged["health"] = health
        return merged

    def _recent(self, targets: dict[str, Any]) -> dict[str, Any]:
        """The targets that were asked lately."""
        wall_now = self._wall_clock()
        return {
            name: entry
            for name, entry in targets.items()
            if isinstance(entry, dict)
            and isinstance(health := entry.get("health"), dict)
            and (at := _number(health.get("at"))) is not None
            and _is_recent(at, wall_now)
        }

    def _read(self) -> dict[str, Any]:
        """The file's targets; empty if there is none, or none that can be read."""
        try:
            data = self.path.read_bytes()
            if data and not data.startswith(_OWN):
                self._give_up("is no file of `remember=`: it is left alone")
                return {}
            content = from_json(data)
            if (version := content["version"]) != VERSION:
                self._give_up(f"is of version {version!r}, not {VERSION}: it is left alone")
                return {}
            targets = content["targets"]
            if isinstance(targets, dict):
                return targets
        except FileNotFoundError:
            return {}
        except OSError as error:
            self._give_up(f"cannot be read ({error}): nothing is remembered")
            return {}
        except (ValueError, KeyError, TypeError, RecursionError):
            pass
        if not self._damage_told:  # each target reads the file
            self._damage_told = True
            _warn(f"{self.path} is damaged: what it remembered is lost, and it is written anew")
        return {}

    def _write(self, content: dict[str, Any]) -> None:
        draft = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                # Not `json.dump`, which encodes in Python: calls under way would wait meanwhile.
                file.write(to_json(content))
            draft.replace(self.path)
        except OSError:
            draft.unlink(missing_ok=True)
            raise

    def _give_up(self, reason: str) -> None:
        self._usable = False
        _warn(f"{self.path} {reason}")


class _Watched:
    """A target that is written to the file, and up to when it has been.

    Args:
        state: The target's.
        now: The engine's clock.

    Attributes:
        state: As given.
        written_to: Up to when, by the engine's clock.
        was_out: Whether the file says that it is out.
    """

    def __init__(self, state: TargetState, now: float) -> None:
        self.state = state
        self._models = _models(state.speed)
        self._since = [-float("inf")] * len(_KINDS)  # what the file has from before is forgotten
        self.written_to = now
        self.was_out = False

    def news(self, now: float, *, final: bool) -> dict[str, Any] | None:
        """What there is to write; None if nothing happened."""
        speed, breaker = self.state.speed, self.state.circuit_breaker
        models = _models(speed)
        for i, model in enumerate(models):
            if model is not self._models[i]:  # other times than before are usual now
                self._since[i] = min((s.at for s in model.samples()), default=now)
        self._models = models
        held = speed.held() if final else ([], [])
        until = now if final else now - HELD_SECONDS
        entry: dict[str, Any] = {
            "health": {
                "score": round(breaker.score, 3),
                "tripped": breaker.tripped,
                "good_probes": breaker.good_probes,
                "sick_at": breaker.sick_at,
            }
        }
        count = 0
        for i, (kind, model) in enumerate(zip(_KINDS, models, strict=True)):
            samples = [*model.samples(), *held[i]]
            samples = [s for s in samples if self.written_to < s.at <= until]
            count += len(samples)
            entry[kind] = (self._since[i], samples)
        if not count and not breaker.tripped and not breaker.score and not self.was_out:
            return None
        self.was_out = breaker.tripped
        self.written_to = max(self.written_to, until)
        return entry


def faded(rows: Iterable[_Row], wall_now: float) -> list[_Row]:
    """Choose what is still believed: the newest, half as many for each day that went by.

    Args:
        rows: Of one target; in any order.
        wall_now: Seconds since 1970.
    """
    recent = [row for row in rows if _is_recent(row[0], wall_now)]
    recent.sort(key=lambda row: row[0])  # an effort may be None, which is not less than another
    if not recent:
        return []
    age = max(0.0, wall_now - recent[-1][0])
    return recent[-ceil(MAX_SAMPLES * 0.5 ** (age / HALF_LIFE)) :]


def _is_recent(at: float, wall_now: float, age: float = MAX_AGE) -> bool:
    return -_CLOCKS_APART <= wall_now - at <= age


def _models(speed: TargetSpeed) -> tuple[TimeModel, TimeModel]:
    return speed.first_texts, speed.answers


def _rows(rows: Any) -> list[_Row]:
    """The rows of the file that make sense."""
    return [row for given in rows if (row := _checked(given))] if isinstance(rows, list) else []


def _checked(row: Any) -> _Row | None:
    try:
        at, seconds, prompt, effort, answer, censored = row
        good = is_plausible(at, seconds, prompt, answer)
    except (TypeError, ValueError):
        return None
    if not good or not (effort is None or isinstance(effort, str)):
        return None
    # What came at once is 0 in the file, which has four decimals; the model takes logarithms.
    return float(at), max(SMALLEST, seconds), int(prompt), effort, int(answer), bool(censored)


def _row(sample: Sample, at: float) -> _Row:
    profile = sample.profile
    return (
        round(at, 2),
        round(sample.seconds, 4),
        profile.prompt_tokens,
        profile.effort,
        profile.answer_tokens,
        sample.censored,
    )


def _sample(row: _Row, at: float) -> Sample:
    return Sample(row[1], at, RequestProfile(row[2], row[3], row[4]), row[5])


def _number(value: Any) -> float | None:
    usable = isinstance(value, int | float) and is_plausible(value)
    return float(value) if usable else None


def _warn(message: str) -> None:
    notices.warn(message, MemoryFileWarning)


_memories: dict[Path, Memory] = {}
_lock = threading.Lock()


def memory_at(path: Path) -> Memory:
    """Find this process's memory in a file: all models that name the same one share it."""
    path = Path(os.path.abspath(path.expanduser()))  # noqa: PTH100  # links may change meanwhile
    with _lock:
        return _memories.setdefault(path, Memory(path))


def _save_at_exit() -> None:
    for memory in tuple(_memories.values()):
        memory.save(time.monotonic(), final=True)


atexit.register(_save_at_exit)


def _after_fork() -> None:
    global _lock  # noqa: PLW0603  # the child's own
    _lock = threading.Lock()
    for memory in _memories.values():
        memory.begin_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
