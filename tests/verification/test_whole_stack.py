"""Random mixtures of faults, by seed: every condition of `verdict` holds in each."""

from __future__ import annotations

import pytest

from verification.whole_stack.mixture import mixture
from verification.whole_stack.verdict import problems
from verification.whole_stack.world import play


@pytest.mark.parametrize("seed", range(50))
def test_every_caller_is_served_whatever_the_other_targets_do(seed):
    """Right text, in time, nothing left behind, no hint ignored, hedges within budget."""
    assert problems(play(mixture(seed))) == []


@pytest.mark.parametrize("seed", range(50, 53))
def test_so_it_is_on_httpx(seed):
    """The other transport keeps the same promises."""
    assert problems(play(mixture(seed), "httpx")) == []
