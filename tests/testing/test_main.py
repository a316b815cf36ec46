"""The command line."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from langchain_resilient.testing.__main__ import main
from tests.helpers import process
from tests.testing.wire_client import PATHS, chat

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_and_ends_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    """It prints its addresses, plays the script, logs, and exits with 0 when told to stop."""
    script = tmp_path / "script.json"
    script.write_text(json.dumps({"openai:gpt-4": [{"step": "Status", "code": 503}]}))
    command = (sys.executable, "-m", "langchain_resilient.testing", "--script", str(script))
    with process(
        *command, "--verbose", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as serving:
        openai, together = serving.stdout.readline(), serving.stdout.readline()
        port = int(openai.split("127.0.0.1:")[1].split("/")[0])
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
            connection.request("POST", PATHS["openai"], json.dumps(chat()))
            assert connection.getresponse().status == 503
        serving.send_signal(number)
        out, error = serving.communicate(timeout=10)
    assert (serving.returncode, error) == (0, "")
    assert together == f"together  http://127.0.0.1:{port}/together\n"
    assert out.startswith("openai:gpt-4 plain Status 503 -> 503 in ")


@pytest.mark.parametrize("text", ["{nonsense", '{"gpt-4": []}', '{"*": [{"step": "Explode"}]}'])
def test_a_wrong_script_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    """With exit code 2, and without a traceback."""
    script = tmp_path / "script.json"
    script.write_text(text)
    assert main(["--script", str(script)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
