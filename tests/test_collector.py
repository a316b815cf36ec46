"""Whoever leaves something behind is told: in its own test, its module, or at the end.

`tests/conftest.py` hides from the collector what is there before the first test. Here is shown, in
a pytest of its own, that it hides no leak.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT

LEAKY = {
    "test_each.py": """
        import asyncio, gc, socket
        from verification.kit.virtual_time import virtual_time

        class Ring:
            "Only the collector can free it."

            def __init__(self, held):
                self.held, self.ring = held, self

        BEFORE = [Ring(socket.socket())]

        async def never():
            pass

        def test_clean():
            pass

        @virtual_time
        async def test_task():
            task = asyncio.get_running_loop().create_task(asyncio.sleep(99))

        @virtual_time
        async def test_coroutine():
            Ring(never())

        @virtual_time
        async def test_socket():
            Ring(socket.socket())

        def test_hidden():
            BEFORE.clear()
    """,
    "test_module.py": """
        import socket

        def test_in_passing():
            ring = [socket.socket()]
            ring.append(ring)

        def test_last_of_it():
            pass
    """,
    "test_rest.py": """
        def test_last():
            pass
    """,
}
"""Files of tests, each of which leaks what its name says."""


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory):
    """What pytest says of each of the tests above."""
    folder = tmp_path_factory.mktemp("leaky")
    for name, text in LEAKY.items():
        (folder / name).write_text(re.sub(r"^ {8}", "", text, flags=re.MULTILINE))
    options = ["-c", str(ROOT / "pyproject.toml"), "-p", "tests.conftest", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", "-rA", "--color=no", *options, str(folder)]
    # What a narrow terminal would cut off is read here.
    environment = {**os.environ, "COLUMNS": "200"}
    run = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100, check=False
    )  # fmt: skip
    matches = re.findall(
        r"^(PASSED|FAILED|ERROR) \S*::(\w+)(?: - (.*))?$", run.stdout, re.MULTILINE
    )
    return {(status, test): why for status, test, why in matches}


@pytest.mark.parametrize("what", ["task", "coroutine", "socket"])
def test_a_leak_fails_its_own_test(verdicts, what):
    """In virtual time nothing is left for the next."""
    assert ("FAILED", f"test_{what}") in verdicts


def test_any_other_leak_fails_its_module(verdicts):
    """At the end of the module, whether or not the collector came by before."""
    assert ("ERROR", "test_last_of_it") in verdicts or ("FAILED", "test_in_passing") in verdicts


def test_what_was_hidden_is_looked_at_in_the_end(verdicts):
    """It was there before the first test, and dropped without being closed."""
    assert ("ERROR", "test_last") in verdicts


def test_who_leaks_nothing_is_not_blamed(verdicts):
    """Or every test could fail, and this would not be told from it."""
    assert ("PASSED", "test_clean") in verdicts
    assert ("ERROR", "test_clean") not in verdicts
