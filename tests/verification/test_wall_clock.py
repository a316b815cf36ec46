"""The clock that the proofs of `kill -9` compare times with: it may be set while they run."""

from __future__ import annotations

import threading
import time

import pytest

from verification.kit.wall_clock import WallClock


class Clocks:
    """Two clocks that are set by hand."""

    def __init__(self) -> None:
        self.monotonic, self.distance = 100.0, 1000.0
        self.watched = WallClock(lambda: self.monotonic + self.distance, lambda: self.monotonic)

    def pass_seconds(self, seconds: float) -> None:
        """Let time pass; then the distance is looked at."""
        self.monotonic += seconds
        self.watched.look()


def test_a_moment_has_the_time_that_the_clock_showed_then():
    """Set forward by 40 seconds: what came before is not 40 seconds later than it was."""
    clocks = Clocks()
    clocks.pass_seconds(10)
    clocks.distance += 40
    clocks.pass_seconds(1)
    clocks.pass_seconds(10)
    assert clocks.watched.time_of(105) == 1105
    assert clocks.watched.time_of(115) == 1155


@pytest.mark.parametrize("step", [40.0, -40.0])
def test_between_two_looks_the_earlier_of_two_times_is_told(step: float):
    """It is not known when exactly the clock was set: nobody is accused for that."""
    clocks = Clocks()
    clocks.pass_seconds(10)
    clocks.distance += step
    clocks.pass_seconds(2)
    assert clocks.watched.time_of(111) == 1111 + min(0, step)
    assert clocks.watched.time_of(109) == 1109
    assert clocks.watched.time_of(113) == 1113 + step


def test_a_clock_that_runs_faster_is_followed():
    """A machine's time is corrected by running it faster for a while, too."""
    clocks = Clocks()
    for _ in range(1000):
        clocks.distance += 0.0005
        clocks.pass_seconds(1)
    assert clocks.watched.time_of(600) == pytest.approx(1600 + 0.25, abs=0.003)


def test_by_the_machines_own_clocks():
    """Its thread ends with the block."""
    threads = threading.active_count()
    with WallClock() as clock:
        told, wall = clock.time_of(time.monotonic()), time.time()
        assert threading.active_count() == threads + 1
    assert threading.active_count() == threads
    assert told == pytest.approx(wall, abs=0.5)
