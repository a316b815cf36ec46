"""A client that was stopped by a signal, as a suspended laptop's is, wakes up to its answer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from langchain_resilient.testing import ProviderSimulator, Reply
from tests.helpers import process

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="it has no SIGSTOP")


def wait_until(true: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_an_answer_that_came_while_it_was_stopped_is_read(sim: ProviderSimulator):
    """Neither lost to the deadline that passed meanwhile, nor asked for a second time."""
    sim.script("*", then=Reply("it came meanwhile", latency=0.5))
    keys = {"OPENAI_API_KEY": "k", "TOGETHER_API_KEY": "k",
            "OPENAI_BASE_URL": sim.base_url("openai"),
            "TOGETHER_BASE_URL": sim.base_url("together")}  # fmt: skip
    chain = ("-t", "openai:m", "-t", "together:m", "--timeout", "2", "--hedge", "1")
    with process(
        sys.executable, "-m", "langchain_resilient", "ask", "-q", *chain, "hello",
        env={**os.environ, **keys}, stdout=subprocess.PIPE,
    ) as client:  # fmt: skip
        wait_until(lambda: sim.count() == 1)
        client.send_signal(signal.SIGSTOP)
        time.sleep(3.0)  # longer than the deadline
        client.send_signal(signal.SIGCONT)
        out, _ = client.communicate(timeout=60)
    assert (client.returncode, out) == (0, b"it came meanwhile\n")
    assert sim.count() == 1
