"""Random fault schedules: a few here, a thousand with `make fuzz`."""

from __future__ import annotations

import pytest

from verification.simulation import fuzz


@pytest.mark.parametrize("first", range(0, 50, 10))
def test_the_invariants_hold_under_random_faults(first):
    """Ten seeds; replay one with `python -m verification.simulation replay --fuzz --seed N`."""
    fields = {seed: fuzz.check(seed) for seed in range(first, first + 10)}
    assert {seed: what for seed, what in fields.items() if what} == {}


@pytest.mark.timeout(30)
def test_requests_do_not_pass_a_token_on_to_each_other_for_ever():
    """As they did where a timer ran ahead of the clock that its request saw when it was woken."""
    assert fuzz.check(144) == []


def test_a_seed_makes_the_same_scenario_again():
    """Or a failure could not be replayed."""
    assert str(fuzz.scenario(11).targets) != str(fuzz.scenario(12).targets)
    assert _told(fuzz.scenario(11)) == _told(fuzz.scenario(11))


def _told(scenario) -> tuple:
    phases = tuple((t.name, t.phases, t.tail) for t in scenario.targets)
    return phases, scenario.rate, scenario.requests, scenario.cancels, scenario.rules.hedge


def test_the_scenarios_are_of_every_kind():
    """All effects, one to four targets, callers that go away, no hedging at all."""
    made = [fuzz.scenario(seed) for seed in range(200)]
    effects = {type(p.effect).__name__ for s in made for t in s.targets for p in t.phases}
    assert effects == {"Hang", "Slow", "Fail", "CutStream", "StallStream"}
    assert {len(s.targets) for s in made} == {1, 2, 3, 4}
    assert any(s.cancels for s in made)
    assert any(s.rules.hedge is None for s in made)


def test_a_crash_of_the_engine_is_a_failure(monkeypatch):
    """Not the end of the fuzzing."""

    def crash(*_: object, **__: object) -> None:
        raise RuntimeError("planned")

    monkeypatch.setattr(fuzz, "run", crash)
    assert fuzz.check(0) == ["crash: RuntimeError('planned')"]
