"""A process's one connection to what its fleet shares, and the one thread that uses it.

Nobody waits for the thread: it asks for its parts (limits, health, money) when they are due, and
tells them what came back. No answer within the timeout, a refused connection, a server that is full
or of another version: then the parts go on alone, with one warning, and the server is tried again
once a second.
"""

from __future__ import annotations

import atexit
import logging
import os
import re
import socket
import threading
import time
from contextlib import suppress
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote, urlsplit
from uuid import uuid4

from langchain_resilient import notices
from langchain_resilient.errors import MissingExtraError, SharedStateWarning

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_resilient.fleet.options import Shared


logger: logging.Logger = logging.getLogger("langchain_resilient")

RETRY_SECONDS = 1.0
"""Seconds between two tries of a server that is away."""

PATIENT_SECONDS = 2.0
"""Seconds that the server may take where a person asks what it holds."""

FORMAT = 1
"""The version of what is kept on the server: a part of the names of keys that may not be mixed."""


class Part(Protocol):
    """What is shared, as the link sees it. All times are of the engine's clock."""

    script: str
    """The name of the script that serves it, without `.lua`."""

    def due_at(self) -> float:
        """When to ask the server next; `inf` while there is nothing to ask."""

    def keys(self, prefix: str) -> list[str]:
        """The keys of the script; all in one slot of a cluster."""

    def request(self, now: float) -> list[Any]:
        """The arguments of the script, after the name of this process."""

    def granted(self, reply: Sequence[Any], now: float, member: str) -> None:
        """Take the reply to what was asked as this member."""

    def lost(self, now: float) -> None:
        """Go on alone."""

    def forked(self) -> None:
        """Give up what belongs to the parent process."""


class VersionMismatchError(Exception):
    """Another version of this package keeps its state in this namespace."""


class Link:
    """The connection of this process to one namespace of one server; made by `link_of`.

    Args:
        shared: Where.

    Attributes:
        member: This process's name among the fleet's: another after a fork.
        away: Why the server is not used now; empty while it is.
        closing: Whether this is the end of the process.
        operations: How many scripts were run.
        round_trips: Seconds that the last ones took, at most 1,000.
    """

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        self.prefix = f"lcr{FORMAT}:{shared.namespace}"
        self.member = _member()
        self.away = ""
        self.operations = 0
        self._is_cluster = "+cluster:" in shared.address
        self._parts: list[Part] = []
        self._lock = threading.Lock()
        self._serving = threading.Lock()
        self._due = threading.Event()
        self._thread: threading.Thread | None = None
        self._client: Any = None
        self._scripts: dict[str, Any] = {}
        self._retry_at = -inf
        self._warned = False
        self.closing = False

    def wake(self) -> None:
        """Look soon what is due."""
        if self._thread is None:
            self._start()
        self._due.set()

    def add(self, part: Part) -> None:
        """Serve a part from now on."""
        with self._lock:
            self._parts.append(part)
        self.wake()

    def _start(self) -> None:
        with self._lock:
            if self._thread is None and not self.closing:
                self._thread = threading.Thread(
                    target=self._run, name="langchain-resilient-fleet", daemon=True
                )
                with suppress(RuntimeError):  # no thread starts at the interpreter's end
                    self._thread.start()

    def check(self) -> None:
        """Connect now.

        Raises:
            ConnectionError: If the server cannot be used; says why.
        """
        try:
            self.client().ping()
        except Exception as error:  # noqa: BLE001  # whatever it is, it says why
            self._client = None
            msg = f"the shared state at {self.shared} cannot be used: {_reason(error)}"
            raise ConnectionError(msg) from None  # whose text may name the user

    def client(self) -> Any:
        """The connection; it is made on first use."""
        if self._client is None:
            self._client = connect(self.shared)
            self._scripts = {}
        return self._client

    def ask_now(self, part: Part) -> None:
        """Ask for one part, and wait for that: at most for the timeout.

        Whatever is wrong with the server is left to the thread; what the part raises is raised.
        """
        with self._serving:
            now = time.monotonic()
            if self.away:
                return
            try:
                (reply,) = self._ask([part], now)
            except Exception as error:  # noqa: BLE001  # nothing of it may cost a call
                self._lose(error)
                part.lost(now)
                return
            part.granted(reply, time.monotonic(), self.member)

    def counts(self) -> list[str]:
        """What the processes have counted in the last day, this one too.

        Raises:
            ConnectionError: If the server cannot be used; says why.
        """
        for part in self._all():
            if part.script == "health":
                self.ask_now(part)
        client = None
        try:
            client = connect(patient(self.shared))
            held = client.hvals(f"{self.prefix}:{{health}}:counts")
        except Exception as error:  # noqa: BLE001  # whatever it is, it says why
            msg = f"the shared state at {self.shared} cannot be used: {_reason(error)}"
            raise ConnectionError(msg) from None  # whose text may name the user
        finally:
            if client is not None:
                with suppress(Exception):
                    client.close()
        return [str(text) for text in held]

    def flush(self) -> None:
        """Send what is still to be reported, and close: at the end of the process."""
        self.closing = True
        self._due.set()
        if self._thread is not None and not self.away:
            with suppress(Exception):
                self._serve(time.monotonic(), everything=True)
        client, self._client = self._client, None
        if client is not None:
            with suppress(Exception):
                client.close()

    def forked(self) -> None:
        """Begin anew in a child process: connection, thread and leases are the parent's."""
        self.member = _member()
        self._client, self._thread = None, None
        self._lock, self._due = threading.Lock(), threading.Event()
        self._serving = threading.Lock()
        for part in self._parts:
            part.forked()

    # -- the thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self.closing:
            now = time.monotonic()
            due = min([part.due_at() for part in self._all()], default=inf)
            if self.away:
                due = min(due, self._retry_at)
            if due > now:
                self._due.wait(None if due == inf else due - now)
            self._due.clear()
            try:
                self._serve(time.monotonic())
            except Exception:  # a defect of ours must not stop the fleet
                logger.exception("the shared state of %s", self.shared)
                time.sleep(RETRY_SECONDS)

    def _all(self) -> list[Part]:
        with self._lock:
            return list(self._parts)

    def _serve(self, now: float, *, everything: bool = False) -> None:
        with self._serving:
            self._serve_parts(now, everything)

    def _serve_parts(self, now: float, everything: bool) -> None:
        parts = self._all()
        if self.away and now < self._retry_at:
            for part in parts:
                if part.due_at() <= now:
                    part.lost(now)
            return
        due = [part for part in parts if everything or self.away or part.due_at() <= now]
        if not due:
            return
        try:
            replies = self._ask(due, now)
        except Exception as error:  # noqa: BLE001  # nothing of it may cost a call
            self._lose(error)
            for part in due:
                part.lost(time.monotonic())
            return
        if self.away:
            logger.warning("the shared state at %s is back", self.shared)
            self.away = ""
        now = time.monotonic()
        for part, reply in zip(due, replies, strict=True):
            part.granted(reply, now, self.member)

    def _ask(self, parts: Sequence[Part], now: float) -> list[Any]:
        from redis.exceptions import NoScriptError  # noqa: PLC0415  # an extra

        calls = [
            (part.script, part.keys(self.prefix), [self.member, *part.request(now)])
            for part in parts
        ]
        try:
            replies = self._evaluate(calls)
        except NoScriptError:  # the server was restarted
            self._scripts = {}
            replies = self._evaluate(calls)
        self.operations += len(calls)
        return replies

    def _evaluate(self, calls: Sequence[tuple[str, list[str], list[Any]]]) -> list[Any]:
        client = self.client()
        for name in {name for name, _, _ in calls} - self._scripts.keys():
            self._scripts[name] = client.script_load(_source(name))
        # A cluster's keys may be at several servers, and redis-py sends no scripts to them at once.
        together = len(calls) > 1 and not self._is_cluster
        pipeline = client.pipeline(transaction=False) if together else client
        replies = [
            pipeline.evalsha(self._scripts[name], len(keys), *keys, *args)
            for name, keys, args in calls
        ]
        replies = pipeline.execute() if together else replies
        for reply in replies:
            if reply[0] == "-1":
                msg = f"its state is of version {float(reply[2]):.0f}, not {FORMAT}"
                raise VersionMismatchError(msg)
        return list(replies)

    def _lose(self, error: Exception) -> None:
        self._retry_at = time.monotonic() + RETRY_SECONDS
        client, self._client = self._client, None
        if client is not None:
            with suppress(Exception):
                client.close()
        reason = _reason(error)
        if not self._warned:
            self._warned = True
            notices.warn(
                f"the shared state at {self.shared} cannot be used ({reason}): until it can, this "
                "process keeps to its share of the limits",
                SharedStateWarning,
            )
        elif not self.away:
            logger.warning("the shared state at %s is away: %s", self.shared, reason)
        self.away = reason


def _member() -> str:
    """A name for this process that no other has: host, process id, chance."""
    host = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())[:24]
    return f"{host}.{os.getpid()}.{uuid4().hex[:8]}"


def _reason(error: Exception) -> str:
    """Say what went wrong, without what may be secret: some texts of redis-py name the user."""
    text = str(error).partition("\n")[0].partition(" : <")[0]  # which is a client's repr
    return type(error).__name__ if "://" in text or not text else text


def _source(name: str) -> str:
    return (Path(__file__).parent / f"{name}.lua").read_text(encoding="utf-8")


def patient(shared: Shared) -> Shared:
    """The same server for questions that a person asks: no call waits for them."""
    return shared.model_copy(update={"timeout": max(PATIENT_SECONDS, shared.timeout)})


def _package() -> Any:
    """redis-py.

    Raises:
        MissingExtraError: If it is not installed.
    """
    try:
        import redis  # noqa: PLC0415  # an extra
    except ImportError as error:
        msg = 'a shared state needs an extra: pip install "langchain-resilient[shared]"'
        raise MissingExtraError(msg) from error
    return redis


def connect(shared: Shared) -> Any:
    """Make a client of redis-py: no retries of its own, and never without a timeout.

    Raises:
        MissingExtraError: If redis-py is not installed.
    """
    redis = _package()
    from redis.backoff import NoBackoff  # noqa: PLC0415  # an extra
    from redis.retry import Retry  # noqa: PLC0415

    options: dict[str, Any] = {
        "socket_timeout": shared.timeout,
        "socket_connect_timeout": shared.timeout,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
        "decode_responses": True,
    }
    url = shared.url.get_secret_value()
    scheme, _, rest = url.partition("://")
    scheme = {"valkey": "redis", "valkeys": "rediss"}.get(scheme, scheme)
    if scheme.endswith("+cluster"):
        from redis.cluster import RedisCluster  # noqa: PLC0415

        plain = f"{scheme.removesuffix('+cluster')}://{rest}"
        return RedisCluster.from_url(plain, **options, dynamic_startup_nodes=True)
    if scheme.endswith("+sentinel"):
        return _sentinel(url, options)
    return redis.Redis.from_url(f"{scheme}://{rest}", **options)


def _sentinel(url: str, options: dict[str, Any]) -> Any:
    from redis.sentinel import Sentinel  # noqa: PLC0415

    parts = urlsplit(url)
    userinfo, _, hosts = parts.netloc.rpartition("@")
    user, _, password = userinfo.partition(":")
    master, _, database = parts.path.strip("/").partition("/")
    addresses = [
        (host.strip("[]"), int(port or 26379))
        for host, _, port in (address.rpartition(":") if ":" in address else (address, "", "")
                              for address in hosts.split(","))
    ]  # fmt: skip
    login = {"username": unquote(user) or None, "password": unquote(password) or None}
    if parts.scheme.startswith("rediss"):
        options = options | {"ssl": True}
    sentinel: Any = Sentinel(  # type: ignore[no-untyped-call]
        addresses, sentinel_kwargs=options, **(options | login)
    )
    return sentinel.master_for(master, db=int(database or 0))


_links: dict[Shared, Link] = {}
_lock = threading.Lock()


def link_of(shared: Shared) -> Link:
    """The process's one link to a namespace of a server.

    Raises:
        MissingExtraError: If redis-py is not installed.
        ConnectionError: If the server is required and cannot be reached.
    """
    with _lock:
        link = _links.get(shared)
        if link is None:
            link = Link(shared)
            if shared.required:
                link.check()
            else:
                _package()  # the thread connects, but that it can must be known now
            _links[shared] = link
    return link


def forget_links() -> None:
    """Close all links: for tests."""
    with _lock:
        links = list(_links.values())
        _links.clear()
    for link in links:
        link.flush()


def _after_fork() -> None:
    global _lock  # noqa: PLW0603
    _lock = threading.Lock()
    for link in _links.values():
        link.forked()


@atexit.register
def _at_exit() -> None:
    for link in tuple(_links.values()):
        link.flush()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
