"""A Redis server for these tests; they skip where it cannot be started."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from langchain_resilient.runtime.shared_state import reset
from verification.kit.redis_server import MISSING, RedisServer, installed

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    if not installed():
        pytest.skip(MISSING)
    with RedisServer() as server:
        yield server


@pytest.fixture
def redis_client(redis_server):
    import redis

    client = redis.Redis.from_url(redis_server.url, decode_responses=True, protocol=2)
    client.flushall()
    yield client
    client.close()


@pytest.fixture(autouse=True)
def _alone():
    """Links are closed, and what was learned is forgotten, after each test."""
    reset()
    yield
    reset()
