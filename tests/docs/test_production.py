"""The service of "Production" under real servers: breaks, clients that leave, forks, shutdown."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time

import pytest

from langchain_resilient.testing import (
    BadRequest,
    Cut,
    NoAnswer,
    ProviderSimulator,
    Reply,
    Status,
    answer_to,
)
from tests.conftest import ROOT
from tests.docs.pages import blocks
from tests.docs.running import environment

pytest.importorskip("fastapi", reason="fastapi is not installed: pip install --group test")
pytest.importorskip("uvicorn", reason="uvicorn is not installed: pip install --group test")

PAGE = ROOT / "docs/production.md"
QUESTION = "Why is the sky blue?"
SECONDS = 30
"""The longest that anything may take that should be there at once."""


def wait_until(holds, what):
    """Poll what happens in another process."""
    until = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < until, what
        time.sleep(0.01)


class Service:
    """A server process of the page's, by the page's command, and its simulated providers."""

    def __init__(self, folder, sim, server, **changes):
        self.sim = sim
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
        (code,) = [b.code for b in blocks(PAGE) if b.code.startswith("# service.py")]
        (folder / "service.py").write_text(code)
        bash = "\n".join(b.code for b in blocks(PAGE) if b.language == "bash").replace("\\\n", "")
        (line,) = [line for line in bash.splitlines() if line.startswith(f"{server} ")]
        for old, new in changes.items():
            assert old in line
            line = line.replace(old, new)
        where = {"uvicorn": ["--port", str(self.port)], "gunicorn": ["-b", f":{self.port}"]}
        self.log = (folder / f"{server}.log").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", *shlex.split(line), *where[server]],
            cwd=folder, env={**os.environ, **environment(sim), "PYTHONPATH": f"{ROOT}"},
            stdout=self.log, stderr=subprocess.STDOUT,
        )  # fmt: skip
        wait_until(self.answers, "the server did not start")

    def answers(self):
        """Whether it is there."""
        assert self.process.poll() is None, self.said()
        with contextlib.suppress(ConnectionRefusedError):
            return self.get("/healthz")["targets"] is not None

    def said(self):
        self.log.seek(0)
        return self.log.read()

    def get(self, path):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        with contextlib.closing(connection):
            connection.request("GET", path)
            return json.load(connection.getresponse())

    @contextlib.contextmanager
    def ask(self, path):
        """Send the question; what is still to come is dropped at the end of the block."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        with contextlib.closing(connection):
            body = json.dumps({"text": QUESTION})
            connection.request("POST", path, body, {"content-type": "application/json"})
            yield connection

    def answer(self):
        with self.ask("/answer") as connection:
            response = connection.getresponse()
            return response.status, json.load(response)

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(SECONDS)
        self.log.close()


def events(response):
    """The events of a stream, as pairs of name and data."""
    name = ""
    for line in response:
        field, _, value = line.decode().strip().partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            yield name, json.loads(value)


def shown(response):
    """What the page's script shows at the end, and the names of what is no text."""
    text, others = "", []
    for name, data in events(response):
        if name == "text":
            text += data
        else:
            others.append(name)
        if name == "replace":
            text = ""
    return text, others


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with ProviderSimulator() as sim:
        one = Service(tmp_path_factory.mktemp("service"), sim, "uvicorn", **{"--workers 4": ""})
        try:
            assert one.answer() == (200, {"text": answer_to(QUESTION)})  # and SDKs are loaded
            yield one
        finally:
            one.stop()


@pytest.fixture(autouse=True)
def _fresh(request):
    if "service" in request.fixturenames:
        request.getfixturevalue("service").sim.reset()


def test_a_stream_that_breaks_is_replaced(service):
    """The client clears its text at one event, and shows one whole answer."""
    service.sim.script("openai:*", Cut(after=9))
    with service.ask("/stream") as connection:
        assert shown(connection.getresponse()) == (answer_to(QUESTION), ["replace", "done"])


def test_a_stream_is_told_to_proxies_as_one(service):
    """Its type and headers."""
    with service.ask("/stream") as connection:
        headers = connection.getresponse().headers
    assert headers["content-type"].startswith("text/event-stream")
    assert (headers["cache-control"], headers["x-accel-buffering"]) == ("no-cache", "no")


def test_an_error_of_a_stream_is_an_event(service):
    """With the name of the exception."""
    service.sim.script("*", then=BadRequest())
    with service.ask("/stream") as connection:
        assert [*events(connection.getresponse())] == [("error", "RequestRejectedError")]


def test_errors_have_the_status_that_fits(service):
    """A wrong request is the client's, a chain that fails is ours."""
    service.sim.script("*", then=BadRequest())
    assert service.answer() == (400, {"error": "RequestRejectedError"})


@pytest.mark.parametrize("path", ["/stream", "/answer"])
def test_a_client_that_leaves_before_the_first_word_stops_its_provider(service, path):
    """Though there is nothing to send, by which a server would notice."""
    service.sim.script("*", then=NoAnswer())
    with service.ask(path):
        wait_until(lambda: service.sim.in_flight, "nothing was asked")
    service.sim.wait_idle()
    assert service.sim.aborted == service.sim.count() == 1


@pytest.mark.parametrize("path", ["/stream", "/answer"])
def test_a_client_that_leaves_in_the_middle_stops_its_provider(service, path):
    """No other target is asked in its place."""
    service.sim.script("*", then=Reply(rate=20))
    with service.ask(path) as connection:
        if path == "/stream":
            assert next(events(connection.getresponse()))[0] == "text"
        else:
            wait_until(lambda: service.sim.in_flight, "nothing was asked")
    service.sim.wait_idle()
    assert service.sim.aborted == service.sim.count() == 1


def test_health_names_each_target_and_asks_none(service):
    """With the worker's process."""
    health = service.get("/healthz")
    assert health["worker"] == service.process.pid
    assert health["targets"] == {
        "openai:gpt-6.1-sol": "ok",
        "together:openai/gpt-oss-120b": "ok",
    }
    assert service.sim.count() == 0


def test_a_failing_chain_is_no_failing_process(service):
    """503 for the answer, while the health route says which account is out.

    The last of these tests: the worker remembers it for minutes.
    """
    service.sim.script("*", then=Status(401))
    assert service.answer() == (503, {"error": "AuthenticationFailedError"})
    assert set(service.get("/healthz")["targets"].values()) == {"account out"}


@pytest.mark.parametrize("server", ["uvicorn", "gunicorn"])
def test_a_shutdown_cuts_nobody_off(server, tmp_path):
    """With workers, one of them in the middle of an answer; those of gunicorn were forked."""
    if server == "gunicorn":
        pytest.importorskip("gunicorn", reason="gunicorn is not installed")
        pytest.importorskip("uvicorn_worker", reason="uvicorn-worker is not installed")
    with ProviderSimulator() as sim:
        service = Service(tmp_path, sim, server, **{"--workers 4": "--workers 2"})
        try:
            sim.script("*", then=Reply(rate=200))
            with service.ask("/stream") as connection:
                response = connection.getresponse()
                first = next(events(response))[1]
                service.process.send_signal(signal.SIGTERM)
                rest, others = shown(response)
            assert (first + rest, others) == (answer_to(QUESTION), ["done"])
            assert service.process.wait(SECONDS) == 0, service.said()
            wait_until(lambda: not sim.open_sockets, "connections stayed open")
        finally:
            service.stop()
