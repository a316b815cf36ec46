"""The proof's own proof; the figures come from `python -m verification.losers`."""

from __future__ import annotations

from dataclasses import replace

import pytest

from langchain_resilient.providers.local.weights import WeightsError
from langchain_resilient.testing import ProviderSimulator
from verification.losers import __main__ as command
from verification.losers.__main__ import Loss, lose
from verification.losers.llama import llama
from verification.losers.scenes import MAX_TOKENS, SCENES, Stage, closed_early

EARLY = next(scene for scene in SCENES if scene.play is closed_early)
GOOD = Loss(happened=True, closed=0.01, idle=0.1, decodes=3, later=0)


async def test_closing_a_stream_stops_llama_cpp() -> None:
    """A real server generates no more for a stream that its consumer closed early."""
    try:
        model = command.find_model()
    except (ImportError, WeightsError) as error:
        pytest.skip(str(error))
    with llama(model) as server, ProviderSimulator() as sim:
        loss = await lose(EARLY, Stage(server, sim, "openai", "aiohttp", 1))
    assert loss.happened
    assert not loss.later
    assert loss.decodes < MAX_TOKENS / 4


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(replace(GOOD, happened=False), id="it was not at work"),
        pytest.param(replace(GOOD, closed=1.0), id="its connection stayed open"),
        pytest.param(replace(GOOD, idle=1.0), id="it went on for a second"),
        pytest.param(replace(GOOD, later=1), id="it generated after it was idle"),
    ],
)
def test_what_is_no_good_loss(bad: Loss) -> None:
    """Each figure alone can fail the proof."""
    assert GOOD.good(EARLY)
    assert not bad.good(EARLY)


def test_no_llama_cpp(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without llama.cpp the command says what to install, and its exit status is 2."""
    monkeypatch.setattr(command, "find_spec", lambda _: None)
    assert command.main([]) == 2
    assert "langchain-resilient[local]" in capsys.readouterr().err
