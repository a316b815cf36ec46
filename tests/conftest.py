"""What all tests share: where cassettes lie, and what is kept out of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from langchain_resilient import registry, spend

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _nothing_remembered() -> None:
    """Ports come back: what one test taught the process about an address is no news of the next."""
    registry.forget()
    spend.forget()


@pytest.fixture(scope="module")
def vcr_config() -> dict[str, Any]:
    """Match without the host, which is the simulator's port of the day."""
    return {
        "filter_headers": ["authorization", "user-agent", "x-stainless-arch", "x-stainless-os",
                           "x-stainless-runtime-version", "x-stainless-package-version"],
        "match_on": ["method", "path", "body"],
        "allow_playback_repeats": True,
        "decode_compressed_response": True,
    }  # fmt: skip


@pytest.fixture(scope="module")
def vcr_cassette_dir(request: pytest.FixtureRequest) -> str:
    """One folder a test module, in the root's `cassettes/`."""
    return str(ROOT / "cassettes" / request.module.__name__.rpartition(".")[2])
