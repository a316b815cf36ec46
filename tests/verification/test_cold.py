"""The measure of how cold a machine's caches get in a pause."""

from __future__ import annotations

import pytest

from verification.service.cold import LINES, PAUSE, nanoseconds_after, table_of_lines, told


class Machine:
    """A clock that goes on by a microsecond when read, and lines that are slow when cold.

    Attributes:
        read: How often all were.
    """

    def __init__(self) -> None:
        self.now = self.warm_until = 0.0
        self.read = 0

    def clock(self) -> float:
        self.now += 1e-6
        return self.now

    def lines(self) -> None:
        self.read += 1
        self.now += LINES * (40e-9 if self.now <= self.warm_until else 160e-9)
        self.warm_until = self.now + 0.004


@pytest.mark.parametrize(("pause", "expected"), [(0, 40), (0.002, 40), (PAUSE, 160)])
def test_what_is_measured_comes_after_the_pause(pause, expected):
    machine = Machine()

    found = nanoseconds_after(pause, rounds=9, read=machine.lines, clock=machine.clock)

    assert found == pytest.approx(expected, rel=0.02)
    assert machine.read == 9
    assert machine.now > 9 * pause


def test_every_line_is_read_once():
    """Each is found in the one before; after all of them the first would come again."""
    table = table_of_lines()
    found, at = [], 0
    for _ in range(LINES):
        at = table[at]
        found.append(at // 8)
    assert sorted(found) == list(range(LINES))
    assert at == 0
    assert nanoseconds_after(0, rounds=3) > 1


def test_the_line_tells_both(monkeypatch):
    figures = {0: 35.2, PAUSE: 150.4}
    monkeypatch.setattr("verification.service.cold.nanoseconds_after", figures.get)

    assert told() == (
        "this machine: Python reads a line of 256 KB in 35 ns in a loop, in 150 ns after 10 ms"
    )
