"""Which models of a provider live: what its list says, and what requests found out.

The list (`GET /v1/models`) is asked for in the background after an answer has begun, at most daily,
and kept in the cache folder, beside the models that requests found gone.
"""

from __future__ import annotations

import asyncio
import atexit
import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakSet

from langchain_resilient.models import Retirement
from langchain_resilient.providers.connection import tls_context

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

DAY = 86_400.0
"""Seconds for which a list, or a model's absence, is believed."""

FetchList = Callable[[], Awaitable[list["ListedModel"]]]
"""Asks for a provider's list, over the client that requests use."""

LIST_SECONDS = 10.0
"""How long a list may take."""

_SAVE_SECONDS = 1.0
"""So long after a model was found gone that is written down."""

_FRESH_SECONDS = 60.0
"""A list of this age is not asked for again when a model is found gone."""

MAX_LIST_BYTES = 8_000_000
"""A longer list is not read."""

_NOT_FOR_CHAT = re.compile(
    r"audio|image|realtime|transcri|tts|search|codex|instruct$|embed|moderation|whisper|dall|sora|"
    r"live|guard|rerank|vision-preview|computer-use|cyber|rosalind|-pro\b|research|^ft:|omni|"
    r"preview|experimental|davinci|babbage|translate",
    re.IGNORECASE,
)


# -- one provider's list ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ListedModel:
    """A model in a provider's list.

    Attributes:
        name: Its id.
        created: When it was made, in seconds since 1970; 0 where that is not said.
        kind: What it is for, where the provider says (`"chat"`).
        end: When it is shut down; None where that is not known.
    """

    name: str
    created: float = 0.0
    kind: str = ""
    end: Retirement | None = None


def parse_list(body: Any) -> list[ListedModel]:
    """Read a provider's answer to `GET /v1/models`; entries that make no sense are left out."""
    entries = body.get("data", body.get("models")) if isinstance(body, dict) else body
    if not isinstance(entries, list):
        msg = "the answer is no list of models"
        raise ValueError(msg)  # noqa: TRY004  # of a value that came over the wire
    return [
        _parse_entry(entry)
        for entry in entries
        if isinstance(entry, dict)
        and isinstance(entry.get("id"), str)
        and entry.get("active") is not False
    ]


def _parse_entry(entry: dict[str, Any]) -> ListedModel:
    dates = (entry.get(k) for k in ("shutdown_date", "deprecation", "expiration_date"))
    date = next((d[:10] for d in dates if isinstance(d, str) and _DATE.match(d)), None)
    follower = entry.get("deprecation_replacement_model")
    created = entry.get("created")
    return ListedModel(
        # Google's ids begin with the word `models/`, which requests may leave out.
        entry["id"].removeprefix("models/"),
        float(created) if isinstance(created, int | float) else 0.0,
        kind if isinstance(kind := entry.get("type"), str) else "",
        Retirement(date, follower if isinstance(follower, str) else "") if date else None,
    )


_DATE = re.compile(r"\d{4}-\d\d-\d\d")


def fetch_list(
    httpx: Any, url: str, headers: dict[str, str], proxy: str | None
) -> list[ListedModel]:
    """Ask a provider for its models. Blocks: for a thread of its own.

    Raises:
        Exception: The transport's, or a ValueError for what is no list.
    """
    body = b""
    with (
        httpx.Client(
            timeout=LIST_SECONDS,
            follow_redirects=False,  # a redirect could carry the key to another host
            verify=tls_context(httpx) if url.startswith("https:") else False,
            proxy=proxy,
            trust_env=False,
        ) as client,
        client.stream("GET", url, headers=headers) as response,
    ):
        _check_status(response)
        for piece in response.iter_bytes():
            body = _longer(body, piece)
    return parse_list(json.loads(body))


async def fetch_list_async(client: Any, url: str, headers: dict[str, str]) -> list[ListedModel]:
    """Do the same over an open asynchronous client.

    Raises:
        Exception: The transport's, or a ValueError for what is no list.
    """
    body = b""
    async with client.stream("GET", url, headers=headers, timeout=LIST_SECONDS) as response:
        _check_status(response)
        async for piece in response.aiter_bytes():
            body = _longer(body, piece)
    return parse_list(json.loads(body))


def _check_status(response: Any) -> None:
    if response.status_code != 200:  # noqa: PLR2004
        msg = f"the list of models was refused with {response.status_code}"
        raise ValueError(msg)


def _longer(body: bytes, piece: bytes) -> bytes:
    if len(body) + len(piece) > MAX_LIST_BYTES:
        msg = f"the list of models is longer than {MAX_LIST_BYTES:,} bytes"
        raise ValueError(msg)
    return body + piece


# -- what is known of one account's models ---------------------------------------------------------


class Follower(Protocol):
    """Who wants to know of a fresh list."""

    def choose(self) -> None:
        """Choose the model to ask anew."""
        ...

    def warn(self) -> None:
        """Warn of the model's end, if it has one."""
        ...


@dataclass(eq=False)
class ModelDirectory:
    """What is known of the models that one account has at one server.

    Attributes:
        path: Where it is kept; None for nowhere.
        listed: The provider's list, by id; empty if it was never had.
        asked: When it was asked for, in seconds since 1970.
        gone: When requests found models gone.
        families: Whose targets these are.
        received: When the list was received, by this process's clock; 0 for by an earlier process.
        pending: The request for it that is under way on an event loop.
        unsaved: Whether something is yet to be kept.
    """

    path: Path | None = None
    listed: dict[str, ListedModel] = field(default_factory=dict)
    asked: float = 0.0
    gone: dict[str, float] = field(default_factory=dict)
    families: WeakSet[Follower] = field(default_factory=WeakSet)
    received: float = 0.0
    pending: asyncio.Task[None] | None = None
    unsaved: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def is_gone(self, model: str) -> bool:
        """Whether a request found it gone within a day, or its last day is over."""
        found = self.gone.get(model)
        if found is not None and time.time() - found < DAY:
            return True
        entry = self.listed.get(model)
        return entry is not None and entry.end is not None and entry.end.date <= today()

    def record_gone(self, model: str) -> None:
        """Remember that a model is gone."""
        self.gone[model] = time.time()
        if not self.unsaved:
            self.unsaved = True
            # A disk may be slow, even a thread takes milliseconds to start, and someone waits.
            asyncio.get_running_loop().call_later(_SAVE_SECONDS, self._save_in_thread)

    def _save_in_thread(self) -> None:
        threading.Thread(target=self.save, daemon=True).start()

    def record_list(self, models: Iterable[ListedModel]) -> None:
        """Take a fresh list in; families move away from what is over, and warn of what will be."""
        self.listed = {model.name: model for model in models}
        self.asked = time.time()
        self.received = time.monotonic()
        self.save()
        for family in tuple(self.families):
            family.choose()
            family.warn()

    @property
    def is_fresh(self) -> bool:
        """Whether the list was received a moment ago: what it lacks does not live."""
        return bool(self.received) and time.monotonic() - self.received < _FRESH_SECONDS

    def request_list(self, fetch: FetchList) -> asyncio.Task[None]:
        """Ask for a fresh list on the running loop, beside whatever else is done."""
        pending = self.pending
        if (
            pending is None
            or pending.done()
            or pending.get_loop() is not asyncio.get_running_loop()
        ):
            pending = self.pending = asyncio.create_task(self._receive(fetch))
        return pending

    async def _receive(self, fetch: FetchList) -> None:
        with suppress(Exception):  # without the list, requests tell what lives
            self.record_list(await fetch())

    def newest(self, tried: Iterable[str]) -> str | None:
        """Find the newest chat model of the list that is not gone; None if there is none."""
        left = [
            model
            for model in self.listed.values()
            if model.name not in tried
            and not self.is_gone(model.name)
            and (model.kind == "chat" or (not model.kind and not _NOT_FOR_CHAT.search(model.name)))
        ]
        return max(left, key=lambda model: (model.created, model.name)).name if left else None

    def is_due(self) -> bool:
        """Whether the list is older than a day; then the next one to ask waits a day."""
        with self._lock:
            due = time.time() - self.asked >= DAY
            if due:
                self.asked = time.time()
        return due

    # -- on disk --

    def load(self) -> None:
        """Read what an earlier process has kept."""
        if self.path is None:
            return
        with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
            kept = json.loads(self.path.read_bytes())
            listed = {
                name: ListedModel(name, created, kind, Retirement(*end) if end else None)
                for name, (created, kind, end) in kept["models"].items()
            }
            gone = {str(name): float(at) for name, at in kept["gone"].items()}
            self.listed, self.asked, self.gone = listed, float(kept["asked"]), gone

    def save(self) -> None:
        """Keep it for later processes; a disk that cannot is no reason to fail."""
        self.unsaved = False
        if self.path is None:
            return
        now = time.time()
        kept = {
            "asked": self.asked,
            "models": {m.name: (m.created, m.kind, m.end) for m in [*self.listed.values()]},
            "gone": {name: at for name, at in [*self.gone.items()] if now - at < DAY},
        }
        with self._lock, suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            draft = self.path.with_suffix(f".{os.getpid()}")
            draft.write_text(json.dumps(kept))
            draft.replace(self.path)


def today() -> str:
    """The day, as `YYYY-MM-DD`."""
    return time.strftime("%Y-%m-%d", time.gmtime())


MAX_KEPT = 500
"""Accounts whose models are known in memory: a service may get a key with each request."""

_directories: dict[tuple[str, str | None], ModelDirectory] = {}
_lock = threading.Lock()


def directory_for(url: str, key: str | None, *, keep: bool = True) -> ModelDirectory:
    """Find what is known of an account's models; reads the cache folder once per process.

    Args:
        url: The address of its list.
        key: The account's key: what one may not use, another may.
        keep: Whether it is kept on disk.
    """
    with _lock:
        directory = _directories.get((url, key))
        if directory is None:
            directory = ModelDirectory(_path(url, key) if keep else None)
            directory.load()
            _let_go_of_the_oldest()
            _directories[(url, key)] = directory
    return directory


def _let_go_of_the_oldest() -> None:
    if len(_directories) >= MAX_KEPT:
        oldest = _directories.pop(next(iter(_directories)))
        if oldest.unsaved:
            oldest.save()


def _path(url: str, key: str | None) -> Path:
    from langchain_resilient.providers.local.weights import cache_folder  # noqa: PLC0415

    # Nothing can be told from it but that two of them differ.
    name = hashlib.sha256(f"{url}\n{key}".encode()).hexdigest()[:24]
    return cache_folder() / "models" / f"{name}.json"


def _save_at_exit() -> None:
    for directory in tuple(_directories.values()):
        if directory.unsaved:
            directory.save()


atexit.register(_save_at_exit)


def forget() -> None:
    """Forget all of it, for tests; what is on disk stays."""
    with _lock:
        _directories.clear()


# -- in the background -----------------------------------------------------------------------------

OFF = "LANGCHAIN_RESILIENT_MODEL_LISTS"
"""The environment variable that stops the background requests, with the value `off`."""


def refresh_in_background(
    directory: ModelDirectory, fetch: Callable[[], Sequence[ListedModel]]
) -> None:
    """Ask for the list in a thread, if it is older than a day, and again each day."""
    if os.environ.get(OFF, "").lower() in ("off", "0", "false", "no"):
        return
    if directory.is_due():
        threading.Thread(
            target=_refresh, args=(directory, fetch), name="model-lists", daemon=True
        ).start()


def _refresh(directory: ModelDirectory, fetch: Callable[[], Sequence[ListedModel]]) -> None:
    # A list that cannot be had is no news: requests tell what lives.
    with suppress(Exception):
        directory.record_list(fetch())
    again = threading.Timer(DAY, refresh_in_background, args=(directory, fetch))
    again.daemon = True
    again.start()
