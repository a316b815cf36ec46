"""What HAProxy does to us: each scene is a frontend with its own port, before the simulator.

Primary target: through HAProxy. Fallback: the simulator directly, in the other dialect.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from langchain_resilient import testing as t
from langchain_resilient.faults import FaultKind as K

if TYPE_CHECKING:
    from collections.abc import Mapping

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
    Scene("forbidden", "403 page: denied", says="403", kinds=_kinds(K.AUTH),
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
