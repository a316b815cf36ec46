"""What all tests share: where cassettes lie, and what is kept out of them."""

from __future__ import annotations

import gc
import logging
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from langchain_resilient.providers import model_lists
from langchain_resilient.runtime import shared_state, spending

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _nothing_remembered() -> None:
    """Ports come back: what one test taught the process about an address is no news of the next."""
    shared_state.reset()
    spending.reset_ledgers()
    logging.getLogger("langchain_resilient").setLevel(logging.NOTSET)  # which a service sets


@pytest.fixture(autouse=True)
def _no_background_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody asks for lists of models behind a test's back, nor knows what others were told."""
    monkeypatch.setenv("LANGCHAIN_RESILIENT_MODEL_LISTS", "off")
    monkeypatch.setattr(model_lists, "_path", lambda *_: None)
    monkeypatch.setenv("LANGCHAIN_RESILIENT_REMEMBER", "")


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Let Ctrl-C work, here and in child processes, as it does in a terminal.

    `make test &`, nohup and cron start us with SIGINT ignored, and child processes inherit that.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session", autouse=True)
def _what_was_here_before() -> Iterator[None]:
    """Show the collector everything in the end."""
    yield
    gc.unfreeze()
    gc.collect()


@pytest.fixture(scope="module", autouse=True)
def _what_a_module_drops() -> Iterator[None]:
    """Whatever was dropped without being closed complains before the next module.

    What was here before, libraries most of all, is hidden from the collector, which many tests
    call: it takes 0.4 s to look through it.
    """
    gc.collect()
    gc.freeze()
    yield
    gc.collect()


def pytest_recording_configure(vcr: Any) -> None:
    """Cassettes are cleaned as they are written."""
    from verification.cassettes.store import ENDING, Store, same_json

    vcr.register_persister(Store)
    vcr.register_serializer(ENDING, None)  # the store needs none
    vcr.register_matcher("same_json", same_json)


@pytest.fixture
def vcr_config(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Match by what was asked, at the address that the provider itself has."""
    from verification.cassettes.store import ENDING, at_home

    return {
        "serializer": ENDING,
        "before_record_request": at_home,
        "match_on": ["method", "uri", "same_json"],
        # Elsewhere a request too many must fail, and a second answer be the second.
        "allow_playback_repeats": "benchmark" in request.fixturenames,
        "decode_compressed_response": True,
    }


@pytest.fixture
def vcr_cassette_dir(request: pytest.FixtureRequest) -> str:
    """One folder a dialect, in the root's `cassettes/`."""
    return str(ROOT / "cassettes" / getattr(request.cls, "dialect", "embedded"))


@pytest.fixture
def default_cassette_name(request: pytest.FixtureRequest) -> str:
    """One cassette a test, for all classes that run it."""
    return request.node.name


@pytest.fixture(autouse=True)
def _transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Cassettes of vcrpy before 9 lose the headers of aiohttp's responses."""
    if not request.node.get_closest_marker("vcr"):
        yield
        return
    from langchain_resilient.providers.connection import close_clients
    from langchain_resilient.runtime.background_loop import background_loop

    monkeypatch.setenv("LANGCHAIN_RESILIENT_TRANSPORT", "httpx")
    background_loop().run(close_clients())
    yield
    background_loop().run(close_clients())
