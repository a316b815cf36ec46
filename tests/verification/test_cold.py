"""The measure of what a pause does to the code after it."""

from __future__ import annotations

import pytest

from verification.service.cold import PAUSE, milliseconds_after, told


class Machine:
    """A clock that goes on by a microsecond when read, and a work that is slow when cold."""

    def __init__(self) -> None:
        self.now = self.warm_until = 0.0

    def clock(self) -> float:
        self.now += 1e-6
        return self.now

    def work(self) -> None:
        self.now += 0.001 if self.now <= self.warm_until else 0.004
        self.warm_until = self.now + 0.005


@pytest.mark.parametrize(("pause", "expected"), [(0, 1), (0.002, 1), (PAUSE, 4)])
def test_what_is_measured_comes_after_the_pause(pause, expected):
    machine = Machine()

    found = milliseconds_after(pause, rounds=9, work=machine.work, clock=machine.clock)

    assert found == pytest.approx(expected, rel=0.01)
    assert machine.now > 8 * pause


def test_the_line_tells_both_and_how_many_times(monkeypatch):
    figures = {0: 0.125, PAUSE: 0.5}
    monkeypatch.setattr("verification.service.cold.milliseconds_after", figures.get)

    assert told() == (
        "this machine: a piece of Python takes 0.12 ms in a loop and 0.50 ms after pauses of "
        "10 ms, 4.0 x"
    )
