"""The command `serve` as an operator runs it: a process, its flags, and its end."""

from __future__ import annotations

import gc
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import httpx
import pytest

pytest.importorskip("starlette", reason="needs the extra `serve`")
pytest.importorskip("uvicorn", reason="needs the extra `serve`")
pytest.importorskip("prometheus_client", reason="needs the extra `serve`")

from langchain_resilient.cli import main
from langchain_resilient.service.config import ServiceConfig
from langchain_resilient.service.run import serve
from langchain_resilient.testing import ProviderSimulator, Stall, answer_to
from tests.helpers import process
from tests.service.serving import model
from tests.service.test_app import CHAT, until

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def sim() -> Iterator[ProviderSimulator]:
    with ProviderSimulator() as sim:
        yield sim


def start(sim: ProviderSimulator, *args: str):
    """Run the command over the simulator; its first lines tell where it is."""
    environ = {
        **os.environ,
        "OPENAI_BASE_URL": sim.base_url("openai"),
        "OPENAI_API_KEY": "sk-upstream",
        "KEY": "sk-client",
        "LANGCHAIN_RESILIENT_MODEL_LISTS": "off",
    }
    command = (sys.executable, "-m", "langchain_resilient", "serve", "--port", "0", *args)
    return process(*command, env=environ, stderr=subprocess.PIPE, text=True)


def first_lines(server: subprocess.Popen[str]) -> tuple[str, str]:
    """What it says until it listens, and where it does."""
    lines = ""
    for line in server.stderr:
        lines += line
        if found := re.search(r"running on (http://[\d.]+:\d+)", line):
            return lines, found[1]
    raise AssertionError(lines)


@pytest.mark.parametrize("config", ["flag", "file"])
def test_a_port_that_is_taken_is_one_sentence(tmp_path, capsys, config):
    """Code 2, before anything is started."""
    file = tmp_path / "serve.toml"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        file.write_text(f"[service]\nport = {port}\n")
        flags = ["--port", str(port)] if config == "flag" else ["--config", str(file)]
        assert main(["serve", "-t", "text:hi", "--forget", *flags]) == 2
    assert capsys.readouterr().err.strip() == (
        f"langchain-resilient: nothing can be served at 127.0.0.1:{port}: address already in use; "
        "see --host and --port"
    )


def test_an_address_that_is_not_here_is_one_sentence(capsys):
    """As the system says it."""
    assert main(["serve", "-t", "text:hi", "--forget", "--host", "192.0.2.1", "--open-to-all"]) == 2
    assert "nothing can be served at 192.0.2.1:8000: " in capsys.readouterr().err


def test_answers_under_way_end_before_the_process(sim, tmp_path, monkeypatch):
    """SIGTERM takes no new requests, waits for the streams, and exits with 0; flags go first.

    A warning is one line of the log, in its own form.
    """
    monkeypatch.delenv("TOGETHER_API_KEY", raising=False)
    sim.script("openai:m", then=Stall(after=2, seconds=1.0))
    file = tmp_path / "serve.toml"
    file.write_text('[service]\nname = "ours"\n[model]\ntargets = ["openai:other"]\n')
    chain = ("-t", "openai:m", "-t", "together:m")
    text = ""
    with start(sim, "--config", str(file), *chain, "--client-key", "env:KEY") as server:
        lines, url = first_lines(server)
        threading.Thread(target=server.stderr.read, daemon=True).start()
        body = {**CHAT, "model": "ours", "stream": True}
        headers = {"authorization": "Bearer sk-client"}
        with httpx.stream(
            "POST", f"{url}/v1/chat/completions", json=body, headers=headers, timeout=20
        ) as response:
            pieces = response.iter_text()
            text += next(pieces)
            server.send_signal(signal.SIGTERM)
            until(lambda: refuses(url))
            text += "".join(pieces)
        assert server.wait(20) == 0
    assert text.endswith("data: [DONE]\n\n")
    (told,) = [line for line in lines.splitlines() if "together:m is skipped" in line]
    assert told.startswith("WARNING langchain_resilient: together:m is skipped: TOGETHER_API_KEY")
    said = "".join(re.findall(r'"content":"((?:[^"\\]|\\.)*)"', text)).replace('\\"', '"')
    assert said == answer_to("Hello")


def refuses(url: str) -> bool:
    try:
        return not httpx.get(f"{url}/healthz")
    except httpx.ConnectError:
        return True


def test_no_answer_holds_the_end_up_for_ever(sim, tmp_path):
    """After `drain_seconds` its connection is closed; SIGINT is the same."""
    sim.script("openai:m", then=Stall(after=2))
    file = tmp_path / "serve.toml"
    file.write_text('[service]\ndrain_seconds = 1\n[model]\ntargets = ["openai:m"]\n')
    with start(sim, "-c", str(file)) as server:
        _, url = first_lines(server)
        threading.Thread(target=server.stderr.read, daemon=True).start()
        body = {**CHAT, "stream": True}
        stream = httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=20)
        with stream as response:
            pieces = response.iter_text()
            next(pieces)
            server.send_signal(signal.SIGINT)
            with pytest.raises(httpx.RemoteProtocolError):
                list(pieces)
        assert server.wait(20) in (0, 130)
    until(lambda: sim.aborted == 1)


async def test_what_lasts_is_out_of_garbage_collection(sim, monkeypatch):
    """Once all is imported and connected: it would stand still for it."""
    servers = []

    def run(server) -> None:
        servers.append(server)

    monkeypatch.setattr("uvicorn.Server.run", run)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    serve(model(sim), ServiceConfig(port=0))
    gc.unfreeze()  # what the tests have frozen
    before = gc.get_freeze_count()
    app = servers[0].config.app
    try:
        async with app.router.lifespan_context(app):
            assert gc.get_freeze_count() > before + 10_000
    finally:
        gc.unfreeze()


def test_without_the_extra_the_command_says_how_to_get_it(sim):
    """In one line."""
    script = (
        "import sys; sys.modules['uvicorn'] = None\n"
        "from langchain_resilient.cli import main\n"
        "sys.exit(main(['serve', '-t', 'openai:m']))"
    )
    environ = {**os.environ, "OPENAI_API_KEY": "k"}
    outcome = subprocess.run(
        [sys.executable, "-c", script],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert outcome.returncode == 2
    assert 'pip install "langchain-resilient[serve]"' in outcome.stderr
    assert outcome.stderr.count("\n") == 1


def test_the_command_line_loads_none_of_it(sim):
    """Neither does the package."""
    script = (
        "import sys, langchain_resilient.cli\n"
        "print({'uvicorn', 'starlette', 'prometheus_client'} & sys.modules.keys())"
    )
    outcome = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert outcome.stdout.strip() == "set()"
