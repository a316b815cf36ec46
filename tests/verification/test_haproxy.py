"""HAProxy before the primary, where it is installed; `make judges` asks more, and other judges."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from verification.judges import haproxy
from verification.judges.checks import DIALECTS
from verification.judges.haproxy import SCENES, SOUND, Scene
from verification.judges.install import MissingError
from verification.kit.leftovers import remaining, sockets

if TYPE_CHECKING:
    from collections.abc import Iterator

    from verification.judges.haproxy import Haproxy


@pytest.fixture(scope="module")
def judge() -> Iterator[Haproxy]:
    try:
        with haproxy.started() as proxy:
            yield proxy
    except MissingError as error:
        pytest.skip(str(error))


def _name(scene: Scene) -> str:
    return scene.name


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("scene", SCENES, ids=_name)
async def test_the_fallback_answers_in_time_and_the_receipt_says_why(judge, scene, dialect):
    """Whatever HAProxy does in the place of the primary."""
    before = sockets()
    assert "answered by the fallback" in await haproxy.play(judge, scene, dialect)
    assert not await remaining({judge.sim.port}, before)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("scene", SOUND[:-1], ids=_name)
async def test_a_harmless_haproxy_costs_no_second_request(judge, scene, dialect):
    """Closed connections and compression are no faults."""
    assert "three requests" in await haproxy.endure(judge, scene, dialect)


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_calls_that_meet_the_close_of_an_idle_connection_are_answered(judge, dialect):
    """The only target is asked again."""
    assert "60 of 60 calls answered" in await haproxy.race_idle(judge, SOUND[-1], dialect)
