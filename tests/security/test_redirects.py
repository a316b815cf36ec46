"""A key goes to the server that it was given for, and to no other."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from langchain_resilient import (
    FaultKind,
    InsecureConnectionWarning,
    ResilientChatModel,
    ResilientError,
    Target,
)
from langchain_resilient.providers import sdk
from tests.security.canary import leaks, new_key

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY = new_key()
DIALECTS = ("openai", "together")
OK = "HTTP/1.1 200 OK"


class Witness:
    """A server on loopback that keeps the heads that it was sent, and always says the same."""

    def __init__(self, line: str, *headers: str) -> None:
        self.heads: list[bytes] = []
        lines = [line, "content-length: 0", "connection: close", *headers, "", ""]
        self._answer = "\r\n".join(lines).encode()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            with contextlib.suppress(OSError):
                connection, _ = self._listener.accept()
                with connection:
                    connection.settimeout(2.0)
                    head = connection.recv(65536)
                    if not head:
                        return
                    self.heads.append(head)
                    connection.sendall(self._answer)

    def close(self) -> None:
        """An empty request ends it."""
        socket.create_connection(("127.0.0.1", self.port)).close()
        self._thread.join(5.0)
        self._listener.close()


@pytest.fixture
def witness() -> Iterator[Any]:
    """Makes witnesses, and closes them."""
    with contextlib.ExitStack() as stack:

        def make(line: str, *headers: str) -> Witness:
            server = Witness(line, *headers)
            stack.callback(server.close)
            return server

        yield make


@pytest.fixture(params=["aiohttp", "httpx"], autouse=True)
def transport(request, monkeypatch) -> str:
    """Each test with both."""
    monkeypatch.setenv("LANGCHAIN_RESILIENT_TRANSPORT", request.param)
    return request.param


def fail(dialect: str, base_url: str, **fields: Any) -> ResilientError:
    fields = {"api_key": KEY, **fields}
    target = Target(f"{dialect}:m", base_url=base_url, **fields)
    llm = ResilientChatModel(targets=[target], max_retries=0, timeout=5.0, hedge=None)
    with pytest.raises(ResilientError) as raised:
        llm.invoke("hello")
    return raised.value


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_redirect_is_a_fault_and_is_not_followed(witness, dialect, status, host):
    """Not to another port, not to another name: neither the key nor other headers go along."""
    other = witness(OK)
    first = witness(f"HTTP/1.1 {status} Moved", f"location: http://{host}:{other.port}/v1")
    error = fail(dialect, f"http://127.0.0.1:{first.port}/v1", default_headers={"api-key": KEY})
    assert other.heads == []
    assert [fault.kind for _, fault in error.receipt.faults] == [FaultKind.CONNECTION]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_netrc_file_replaces_no_key(witness, monkeypatch, tmp_path, dialect):
    """Neither is what it holds sent anywhere."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login bob password of-the-netrc\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    server = witness("HTTP/1.1 500 No")
    fail(dialect, f"http://127.0.0.1:{server.port}/v1")
    (head,) = server.heads
    assert f"authorization: bearer {KEY}".lower().encode() in head.lower()
    assert head.lower().count(b"authorization:") == 1


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_proxy_never_sees_the_key_of_an_https_target(witness, monkeypatch, dialect, transport):
    """It is asked for a tunnel, and only what goes through that would hold it."""
    proxy = witness("HTTP/1.1 502 No")
    monkeypatch.setenv("HTTPS_PROXY", f"http://bob:of-the-proxy@127.0.0.1:{proxy.port}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    # Clients are shared by all tests that ask the same host.
    host = f"{transport}.example.test"
    error = fail(dialect, f"https://{host}/v1", default_headers={"api-key": KEY})
    (head,) = proxy.heads
    assert head.startswith(f"CONNECT {host}:443 ".encode())
    assert leaks(KEY, head) == []
    assert "of-the-proxy" not in str(error)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("secret", ["https://user:{}@host/v1", "https://host/v1?key={}"])
def test_a_base_url_of_the_environment_must_hold_no_key(monkeypatch, dialect, secret):
    """What says so names the variable, and does not repeat the key."""
    name = f"{dialect.upper()}_BASE_URL"
    monkeypatch.setenv(name, secret.format(KEY))
    with pytest.raises(ValueError, match=name) as raised:
        ResilientChatModel(targets=[f"{dialect}:m"], api_key=KEY).invoke("hello")
    assert leaks(KEY, repr(raised.value), repr(raised.value.__cause__)) == []


@pytest.mark.parametrize(
    ("url", "warns"),
    [
        ("http://models.example.test/v1", True),
        ("http://10.0.0.7:8000/v1", True),
        ("https://models.example.test/v1", False),
        ("http://localhost:8000/v1", False),
        ("http://127.0.0.1:8000/v1", False),
        ("http://[::1]:8000/v1", False),
    ],
)
def test_a_key_that_would_go_unencrypted_is_warned_of(recwarn, url, warns):
    """Once for each server, unless that is this machine."""
    sdk._warn_unencrypted.cache_clear()
    for _ in range(2):
        ResilientChatModel(targets=[Target("openai:m", base_url=url, api_key=KEY)]).stats()
    results = [one for one in recwarn if one.category is InsecureConnectionWarning]
    assert len(results) == int(warns)
    assert leaks(KEY, *(str(one.message) for one in results)) == []


def test_a_server_without_a_key_may_be_asked_unencrypted(recwarn):
    """Servers at home take "none"."""
    sdk._warn_unencrypted.cache_clear()
    target = Target("openai:m", base_url="http://10.0.0.8/v1", api_key="none")
    ResilientChatModel(targets=[target]).stats()
    assert not [one for one in recwarn if one.category is InsecureConnectionWarning]
