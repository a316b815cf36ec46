"""HAProxy (Debian and others): what stands before every provider, when it has something to say."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from langchain_resilient import FaultKind as K
from langchain_resilient import ResilientChatModel, Target
from langchain_resilient import testing as t
from langchain_resilient.testing import ProviderSimulator, answer_to
from verification.judges import install
from verification.judges.checks import DIALECTS, Check
from verification.judges.server import free_ports, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping


PAGE = "<html><body><h1>We will be back soon</h1></body></html>"

_SILENT = "timeout server 150ms"
"""HAProxy gives up a server that says nothing for so long; before we ask another."""


@dataclass(frozen=True)
class Scene:
    """One thing that HAProxy does.

    Attributes:
        name: Of the frontend, and of the model that is asked through it.
        asked: What it is, in a few words.
        frontend: Its lines of configuration.
        backend: The lines of its backend, beside the server.
        dead: Whether its server listens nowhere.
        server: Options of the server's line.
        step: What the provider behind it does.
        kinds: The fault that the receipt must name; none: the attempt is only late, and loses.
        says: HAProxy's own words for it in its log: a status, or a termination state
            (configuration manual, 8.5: "Session state at disconnection").
        calls: How many calls before the one that is looked at; they must be answered.
        full: Whether another call holds the only place meanwhile.
    """

    name: str
    asked: str
    frontend: tuple[str, ...] = ()
    backend: tuple[str, ...] = ()
    dead: bool = False
    server: str = ""
    step: t.Step = field(default_factory=t.Reply)
    kinds: frozenset[K] = frozenset()
    says: str = ""
    calls: int = 0
    full: bool = False


def _kinds(*kinds: K) -> frozenset[K]:
    return frozenset(kinds)


_HTML = f"content-type text/html string '{PAGE}'"
_TRICKLE = t.Reply(chunk_gap=0.02)

SCENES = (
    Scene("dead", "503 page: no server behind it", dead=True, kinds=_kinds(K.SERVER), says="503"),
    Scene("garbled", "502 page: what the server says is no HTTP", kinds=_kinds(K.SERVER),
          step=t.Raw(b"this is no HTTP\r\n\r\n"), says="502"),
    Scene("hangup", "the server resets before its answer", step=t.Reset(),
          kinds=_kinds(K.SERVER, K.CONNECTION), says="SH"),
    Scene("timeout", "504 page: the server is silent", backend=(_SILENT,),
          step=t.NoAnswer(), kinds=_kinds(K.SERVER), says="504"),
    Scene("maintenance", "a maintenance page with status 200", says="200", kinds=_kinds(K.BROKEN),
          frontend=(f"http-request return status 200 {_HTML}",)),
    Scene("unavailable", "a maintenance page with status 503", says="503", kinds=_kinds(K.SERVER),
          frontend=(f"http-request return status 503 {_HTML}",)),
    Scene("forbidden", "403 page: denied", says="403", kinds=_kinds(K.CONNECTION),
          frontend=("http-request deny deny_status 403",)),
    Scene("limited", "429 page: over its rate, 3 requests in 10 s", says="429", calls=3,
          kinds=_kinds(K.RATE_LIMIT), frontend=(
              "stick-table type ip size 1k expire 10s store http_req_rate(10s)",
              "http-request track-sc0 src",
              "http-request deny deny_status 429 if { sc_http_req_rate(0) gt 3 }")),
    Scene("tarpit", "tarpit: held for 10 s", ("timeout tarpit 10s", "http-request tarpit")),
    Scene("shortpit", "tarpit of 0.1 s, then a 500 page", says="500", kinds=_kinds(K.SERVER),
          frontend=("timeout tarpit 100ms", "http-request tarpit")),
    Scene("dropped", "silent-drop: no answer, no FIN", ("http-request silent-drop",)),
    Scene("rejected", "closed as soon as it is connected", ("tcp-request connection reject",),
          kinds=_kinds(K.CONNECTION)),
    Scene("refused", "closed in the place of an answer", ("http-request reject",),
          kinds=_kinds(K.CONNECTION), says="PR"),
    Scene("reset", "RST in the place of an answer", ("option nolinger", "http-request reject"),
          kinds=_kinds(K.CONNECTION), says="PR"),
    Scene("cut", "the stream is cut in the middle: the server stalled",
          backend=(_SILENT,), step=t.Stall(after=5, reply=_TRICKLE),
          kinds=_kinds(K.BROKEN, K.CONNECTION), says="sD"),
    Scene("torn", "the stream is cut in the middle: the server reset it",
          step=t.Reset(after=5, reply=_TRICKLE), kinds=_kinds(K.BROKEN, K.CONNECTION), says="SD"),
    Scene("queued", "503 page: too long in its queue", server="maxconn 1", full=True,
          backend=("timeout queue 100ms", "timeout server 500ms"), step=t.NoAnswer(),
          kinds=_kinds(K.SERVER), says="sQ"),
)  # fmt: skip
"""What must cost no more than the fallback's own time, and be named rightly."""

SOUND = (
    Scene("plain", "nothing: it only stands between"),
    Scene("closing", "Connection: close after every answer", ("option httpclose",)),
    Scene("gzip", "answers and streams compressed", (
        "filter compression", "compression algo gzip",
        "compression type text/event-stream application/json")),
    Scene("idle", "idle connections closed after 30 ms, each call about then",
          ("timeout http-keep-alive 30ms",)),
)  # fmt: skip
"""What must cost nothing at all: the only target answers."""


def configuration(scenes: Mapping[Scene, int], simulator: int, nowhere: int) -> str:
    """Write HAProxy's configuration file.

    Args:
        scenes: Each with the port of its frontend.
        simulator: The simulator's port.
        nowhere: A port on which nobody listens.
    """
    parts = [_COMMON]
    for scene, port in scenes.items():
        behind = nowhere if scene.dead else simulator
        parts.append(
            "\n    ".join(
                (
                    f"frontend {scene.name}",
                    f"bind 127.0.0.1:{port}",
                    *scene.frontend,
                    f"default_backend {scene.name}",
                )
            )
        )
        parts.append(
            "\n    ".join(
                (
                    f"backend {scene.name}",
                    *scene.backend,
                    f"server only 127.0.0.1:{behind} {scene.server}".rstrip(),
                )
            )
        )
    return "\n\n".join(parts) + "\n"


_COMMON = """global
    log stdout format raw local0
    maxconn 200

defaults
    mode http
    log global
    log-format "%f %ST %ts"
    option dontlognull
    option http-no-delay
    retries 0
    timeout connect 2s
    timeout client 20s
    timeout server 20s
    timeout http-request 20s"""


LATE = 0.5
"""Seconds after which the fallback is asked beside a primary that says nothing."""

IN_TIME = 2.0
"""Seconds within which the answer is there, whatever HAProxy does; its tarpit holds for ten."""

_PROMPT = "Why is the sky blue?"
_REUSES = 60
_IDLE = 0.030
_LOGGED = 2.0
_FREE = 15.0  # HAProxy may still wait for the server of a client that has left
_TICK = 0.01


class Haproxy:
    """A running HAProxy with all its frontends before a simulator.

    Args:
        sim: Behind it, and the fallback beside it.
        ports: Of the scenes.
        log: What HAProxy writes.
    """

    def __init__(self, sim: ProviderSimulator, ports: dict[Scene, int], log: Path) -> None:
        self.sim = sim
        self._ports = ports
        self._log = log

    def base_url(self, scene: Scene, dialect: str) -> str:
        """Where the SDK of a dialect finds a scene."""
        direct = self.sim.base_url(dialect)
        return direct.replace(f":{self.sim.port}", f":{self._ports[scene]}")

    def said(self, scene: Scene) -> list[str]:
        """Each request of a scene as HAProxy saw it end: `status state`."""
        lines = [line.split() for line in self._log.read_text("utf-8").splitlines()]
        return [" ".join(words[1:]) for words in lines if words[:1] == [scene.name]]

    def seen(self) -> int:
        """Count the requests that ended since it started."""
        return sum(len(self.said(scene)) for scene in self._ports)


@contextmanager
def started() -> Iterator[Haproxy]:
    """Start it before a simulator, and end both.

    Raises:
        MissingError: If it is not installed.
    """
    command, scenes = install.haproxy(), (*SCENES, *SOUND)
    for sdk in DIALECTS:
        import_module(sdk)  # On a busy machine that takes seconds, which are not HAProxy's.
    nowhere, *ports = free_ports(1 + len(scenes))
    by_scene = dict(zip(scenes, ports, strict=True))
    with ProviderSimulator() as sim, TemporaryDirectory() as folder:
        file, log = Path(folder, "haproxy.cfg"), Path(folder, "log")
        file.write_text(configuration(by_scene, sim.port, nowhere), "utf-8")
        with (
            log.open("w", encoding="utf-8") as output,
            serving([*command, "-db", "-f", str(file)], by_scene[SOUND[0]], output),
        ):
            yield Haproxy(sim, by_scene, log)


def checks(judge: Haproxy) -> list[Check]:
    """Make the checks of all scenes, for both dialects."""
    plain, *_ = SOUND
    made = [  # the first calls of a process import the SDKs
        Check(f"{dialect}: {plain.asked}", lambda d=dialect: endure(judge, plain, d))
        for dialect in DIALECTS
    ]
    made += [
        Check(f"{dialect}: {scene.asked}", lambda s=scene, d=dialect: play(judge, s, d))
        for dialect in DIALECTS
        for scene in SCENES
    ]
    for dialect in DIALECTS:
        made += [
            Check(f"{dialect}: {scene.asked}", lambda s=scene, d=dialect: endure(judge, s, d))
            for scene in SOUND[1:-1]
        ]
        made.append(
            Check(f"{dialect}: {SOUND[-1].asked}", lambda d=dialect: race_idle(judge, SOUND[-1], d))
        )
    return made


async def play(judge: Haproxy, scene: Scene, dialect: str) -> str:
    """Let a scene happen to the primary: ainvoke and astream get the fallback's answer in time.

    Returns:
        What that proved.
    """
    proved = []
    for way in (_invoke, _stream):
        llm = _chain(judge, scene, dialect)
        judge.sim.script(f"{dialect}:{scene.name}", then=scene.step)
        for _ in range(scene.calls):
            await llm.ainvoke(_PROMPT)
        async with _full(judge, scene, dialect):
            began = time.monotonic()
            text, receipt = await way(llm)
            seconds = time.monotonic() - began
        assert text == answer_to(_PROMPT), text
        assert receipt["winner"].endswith(":back"), receipt
        assert seconds < IN_TIME, f"it took {seconds:.1f} s"
        proved.append(f"{way.__name__[1:]} {seconds:.2f} s, {_named(scene, receipt)}")
    words = await _words(judge, scene)
    return f"answered by the fallback: {'; '.join(proved)}. HAProxy's log: {words}"


async def endure(judge: Haproxy, scene: Scene, dialect: str) -> str:
    """Ask through a HAProxy that does no harm, with no other target: nothing is asked twice.

    Returns:
        What that proved.
    """
    name = f"{dialect}:{scene.name}"
    judge.sim.script(name, then=scene.step)
    llm, before = _alone(judge, scene, dialect), judge.sim.count(name)
    for way in (_invoke, _stream, _invoke):
        text, receipt = await way(llm)
        assert text == getattr(scene.step, "text", None) or answer_to(_PROMPT), text
        assert len(receipt["attempts"]) == 1, receipt
    assert judge.sim.count(name) - before == 3
    return "three calls, three requests, the whole text each time"


async def race_idle(judge: Haproxy, scene: Scene, dialect: str) -> str:
    """Use a connection again just when HAProxy may be closing it: every call is answered.

    Returns:
        What that proved.
    """
    judge.sim.script(f"{dialect}:{scene.name}", then=scene.step)
    llm, pauses, faults = _alone(judge, scene, dialect), random.Random(0), []
    for number in range(_REUSES):
        text, receipt = await (_invoke, _stream)[number % 2](llm)
        assert text == answer_to(_PROMPT)
        faults += [a["fault"] for a in receipt["attempts"] if "fault" in a]
        await asyncio.sleep(pauses.uniform(0.8, 1.2) * _IDLE)
    assert set(faults) <= {"connection"}, faults
    return f"{_REUSES} of {_REUSES} calls answered; {len(faults)} met a closed connection"


def _chain(judge: Haproxy, scene: Scene, dialect: str) -> ResilientChatModel:
    other = DIALECTS[1 - DIALECTS.index(dialect)]
    back = Target(f"{other}:back", base_url=judge.sim.base_url(other), api_key="sk-judge")
    return _model(_target(judge, scene, dialect), back, hedge=LATE)


def _alone(judge: Haproxy, scene: Scene, dialect: str) -> ResilientChatModel:
    return _model(_target(judge, scene, dialect), hedge=None)


def _target(judge: Haproxy, scene: Scene, dialect: str) -> Target:
    url = judge.base_url(scene, dialect)
    return Target(f"{dialect}:{scene.name}", base_url=url, api_key="sk-judge")


def _model(*targets: Target, **fields: Any) -> ResilientChatModel:
    return ResilientChatModel(targets=targets, share_learning=False, timeout=20, **fields)


async def _invoke(llm: ResilientChatModel) -> tuple[str, dict[str, Any]]:
    answer = await llm.ainvoke(_PROMPT)
    return answer.text, answer.response_metadata["resilience"]


async def _stream(llm: ResilientChatModel) -> tuple[str, dict[str, Any]]:
    chunks = [chunk async for chunk in llm.astream(_PROMPT)]
    return "".join(c.text for c in chunks), chunks[-1].response_metadata["resilience"]


@asynccontextmanager
async def _full(judge: Haproxy, scene: Scene, dialect: str) -> AsyncIterator[None]:
    """Hold the scene's only place, if it is to be full."""
    if not scene.full:
        yield
        return
    name = f"{dialect}:{scene.name}"
    before = judge.sim.count(name)
    holder = asyncio.create_task(_alone(judge, scene, dialect).ainvoke(_PROMPT))
    try:
        await judge.sim.await_requests(before + 1, _FREE, pattern=name)
        yield
    finally:
        holder.cancel()
        await asyncio.wait([holder])


def _named(scene: Scene, receipt: dict[str, Any]) -> str:
    """Check how the receipt names what happened to the primary."""
    first = receipt["attempts"][0]
    if not scene.kinds:
        assert first["outcome"] == "lost", first
        return "lost to the hedge"
    assert first.get("fault") in scene.kinds, first
    return f"{first['fault']} {first.get('status', '')}".strip()


async def _words(judge: Haproxy, scene: Scene) -> str:
    """Read HAProxy's own account, which it writes when a request has ended."""
    until = time.monotonic() + _LOGGED
    while not any(scene.says in text for text in judge.said(scene)) and time.monotonic() < until:
        if not scene.says:
            return "it writes of it when it is over"
        await asyncio.sleep(_TICK)
    text = judge.said(scene)
    assert any(scene.says in one for one in text), f"{scene.says} is not in its log: {text}"
    return text[-1]
