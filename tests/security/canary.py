"""Keys that are planted, and the search for them in whatever leaves."""

from __future__ import annotations

import base64
import json
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from langchain_resilient.testing import Step

if TYPE_CHECKING:
    from langchain_resilient.testing import Exchange


def new_key(prefix: str = "sk-proj-") -> str:
    """A key that nobody has seen before; with `/` and `+`, so that its encodings differ."""
    return f"{prefix}canary/{secrets.token_hex(8)}+{secrets.token_hex(4)}"


def forms(key: str) -> dict[str, bytes]:
    """How a key may be written: as it is, and in the encodings that pass for no change."""
    escaped = "".join(f"\\u{ord(c):04x}" for c in key)
    fields = {
        "plain": key,
        "quoted for a URL": quote(key, safe=""),
        "JSON with escapes": escaped,
        "JSON with an escaped slash": json.dumps(key)[1:-1].replace("/", r"\/"),
    }
    # Three texts, since what stands before it shifts it by 0, 1 or 2 bytes.
    for shift in range(3):
        encoded = base64.b64encode(b"\0" * shift + key.encode()).decode()
        fields[f"base64, shifted by {shift}"] = encoded[4:-4]
    return {name: text.encode() for name, text in fields.items()}


def leaks(key: str, *left: object) -> list[str]:
    """Name the forms in which a key stands in what left; texts, bytes, or anything's repr."""
    data = b"\n".join(
        one if isinstance(one, bytes) else str(one).encode("utf-8", "surrogateescape")
        for one in left
    )
    return [name for name, form in forms(key).items() if form in data]


@dataclass(frozen=True, repr=False)
class Echo(Step):
    """A server that says the key it was given back to whoever asked.

    Attributes:
        key: The key.
        where: In which part of its answer.
        status: Of its answer.
    """

    key: str
    where: str
    status: int = 401

    async def play(self, exchange: Exchange) -> None:
        """Say it."""
        key = self.key
        kind, headers = "application/json", {}
        body = "{}"
        if self.where == "error":
            text = f"Incorrect API key provided: {key}. See ..."
            error = {"message": text, "type": "auth", "param": key, "code": f"bad {key}"}
            body = json.dumps({"error": error, key: key})
        elif self.where == "escapes":
            body = '{"error":{"message":"no ' + "".join(f"\\u{ord(c):04x}" for c in key) + '"}}'
        elif self.where == "html":
            kind, body = "text/html", f"<html><body>Who is <b>{key}</b>?</body></html>"
        elif self.where == "text":
            kind, body = "text/plain", f"upstream connect error for {key}"
        elif self.where == "header":
            headers = {"x-request-id": f"req {key}", "x-echo": key}
        elif self.where == "location":
            headers = {"location": f"http://127.0.0.1:9/v1?key={quote(key, safe='')}&k={key}"}
        elif self.where == "garbage":
            exchange.write(f"HTTP/1.1 200 OK\r\n{key}\r\n\r\n".encode())
            exchange.close()
            return
        elif self.where == "cut":
            exchange.write(f"HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\n{key}".encode())
            exchange.close()
            return
        exchange.respond(self.status, body.encode(), kind, headers)


@dataclass(frozen=True, repr=False)
class EchoInStream(Step):
    """A stream that begins well and then says the key.

    Attributes:
        key: The key.
        line: What follows the first piece, with `{key}` in it.
    """

    key: str
    line: str

    async def play(self, exchange: Exchange) -> None:
        """Begin, and say it."""
        first = {"choices": [{"index": 0, "delta": {"content": "Well, "}, "finish_reason": None}]}
        text = f"data: {json.dumps(first)}\n\n{self.line.replace('{key}', self.key)}\n\n"
        exchange.respond(200, text.encode(), "text/event-stream")


def echoes(key: str) -> dict[str, Step]:
    """Every way in which a server was thought to say a key back."""
    statuses = (400, 401, 429, 500)
    return {
        **{f"{w} {s}": Echo(key, w, s) for w in ("error", "html", "text") for s in statuses},
        "escapes 403": Echo(key, "escapes", 403),
        "header 401": Echo(key, "header", 401),
        **{f"location {s}": Echo(key, "location", s) for s in (301, 302, 303, 307, 308)},
        "garbage": Echo(key, "garbage"),
        "cut": Echo(key, "cut"),
        "error event": EchoInStream(key, 'event: error\ndata: {"error": {"message": "no {key}"}}'),
        "error object": EchoInStream(key, 'data: {"error": {"message": "{key}", "code": "{key}"}}'),
        "broken chunk": EchoInStream(key, 'data: {"choices": [{"delta": {"content": "{key}'),
        "page": EchoInStream(key, "<html><body>{key}</body></html>"),
    }
