"""The fixtures that users' tests get, in a run of pytest of its own."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

CONFTEST = 'pytest_plugins = ["langchain_resilient.testing.pytest_plugin"]\n'

TESTS = """
import os

from langchain_resilient import ResilientChatModel, Target
from langchain_resilient.testing import Reply, answer_to

seen = []


def test_one(provider_simulator):
    seen.append(provider_simulator)
    url = provider_simulator.base_url("openai")
    llm = ResilientChatModel(targets=[Target("openai:m", base_url=url, api_key="k")])
    assert llm.invoke("Hello").text == answer_to("Hello")


def test_another_gets_its_own_and_the_last_one_is_over(provider_simulator):
    assert provider_simulator is not seen[0]
    assert not provider_simulator.requests
    assert not seen[0].open_sockets


def test_an_application_that_makes_its_models_itself(simulated_providers):
    simulated_providers.script("together:*", then=Reply("from Together"))
    assert ResilientChatModel(targets=["openai:m"]).invoke("Hello").text == answer_to("Hello")
    assert ResilientChatModel(targets=["together:m"]).invoke("Hello").text == "from Together"
    assert [r.target for r in simulated_providers.requests] == ["openai:m", "together:m"]


def test_the_environment_is_as_before():
    assert os.environ["OPENAI_API_BASE"] == "https://gateway.test/v1"
    assert "OPENAI_BASE_URL" not in os.environ
"""


def test_the_fixtures(tmp_path: Path, monkeypatch):
    """Each test has a simulator of its own; an environment that was set elsewhere comes back."""
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_mine.py").write_text(TESTS)
    monkeypatch.setenv("OPENAI_API_BASE", "https://gateway.test/v1")
    for name in ("OPENAI_BASE_URL", "PYTEST_ADDOPTS"):
        monkeypatch.delenv(name, raising=False)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    run = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False
    )
    assert run.returncode == 0, run.stdout
    assert "4 passed" in run.stdout
