"""What of an exchange goes into a cassette: only what is named here, with every identity taken out.

Headers are kept by name, so that one nobody thought of cannot betray anything. In bodies, what
looks like a secret or names an account is replaced, and what differs from one recording to the next
(ids, times) is made the same.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import Counter
from typing import TYPE_CHECKING, Any
from uuid import UUID

if TYPE_CHECKING:
    from collections.abc import Iterator

REQUEST_HEADERS = {"accept", "content-type"}
RESPONSE_HEADERS = {"content-type", "retry-after", "retry-after-ms", "x-should-retry"}

SECRETS = {
    "an API key": r"\b(?:sk|pk|rk)-[A-Za-z0-9_-]{8,}",
    "a Together key": r"\b(?:tgp_v1_|key_)[A-Za-z0-9_-]{8,}",
    "a bearer token": r"(?i)\bbearer\s+[A-Za-z0-9._~+/-]{8,}",
    "an organisation": r"\borg-[A-Za-z0-9]{6,}",
    "a project": r"\bproj_[A-Za-z0-9]{6,}",
    "a user": r"\buser-[A-Za-z0-9]{6,}",
    "a request id": r"\breq_[A-Za-z0-9]{6,}",
    "a token of another service": r"\b(?:hf_|gh[pousr]_|xox[abp]-|AKIA)[A-Za-z0-9_-]{8,}",
    "a signed token": r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}",
    "an e-mail address": r"[\w.+-]+@[\w-]+\.(?:com|org|net|io|ai|dev)\b",
    "an address in a network": r"\b(?:127|10|192|172)\.\d{1,3}\.\d{1,3}\.\d{1,3}\b",
    "a folder of a person": r"(?:/home/|/root/|/Users/)[\w.-]+",
}
FORBIDDEN_HEADERS = (
    "authorization", "api-key", "x-api-key", "cookie", "set-cookie", "openai-organization",
    "openai-project", "x-request-id", "cf-ray", "cf-cache-status", "x-together-traceid", "date",
)  # fmt: skip

_SAME_EACH_TIME = (
    (re.compile(r'"created": ?\d+'), '"created":0'),
    (re.compile(r', ?"timings": ?\{[^{}]*\}'), ""),
    (re.compile(r', ?"obfuscation": ?"[^"]*"'), ""),
)
_UUID = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")


def found_in(text: str) -> list[str]:
    """Name the kinds of secrets that a text seems to hold."""
    return [kind for kind, pattern in SECRETS.items() if re.search(pattern, text)]


def scrub(text: str) -> str:
    """Replace everything in a text that looks like a secret or names an account."""
    for kind, pattern in SECRETS.items():
        text = re.sub(pattern, f"<{kind}>", text)
    return text


def clean(requests: list[Any], responses: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Turn vcrpy's pairs into plain JSON, in an order that does not depend on chance."""
    pairs = [
        (_request(request), response) for request, response in zip(requests, responses, strict=True)
    ]
    pairs.sort(key=lambda pair: json.dumps(pair[0], sort_keys=True))
    repeats: Counter[str] = Counter()
    found = []
    for request, response in pairs:
        asked = json.dumps(request, sort_keys=True)
        repeats[asked] += 1
        name = hashlib.sha256(f"{asked}{repeats[asked]}".encode()).hexdigest()[:16]
        found.append({"request": request, "response": _response(response, f"recorded-{name}")})
    return found


def _request(request: Any) -> dict[str, Any]:
    body = request.body or b""
    return {
        "method": request.method,
        "uri": scrub(request.uri),
        "headers": _headers(request.headers, REQUEST_HEADERS),
        "body": _same_uuids(scrub(body.decode() if isinstance(body, bytes) else body)),
    }


def _same_uuids(text: str) -> str:
    """Number the ids that LangChain makes by chance, in the order in which they come."""
    for number, known in enumerate(dict.fromkeys(_UUID.findall(text))):
        text = text.replace(known, str(UUID(int=number)))
    return text


def _response(response: dict[str, Any], name: str) -> dict[str, Any]:
    body = response["body"]["string"]
    text = body.decode() if isinstance(body, bytes) else body
    if known := next((one["id"] for one in payloads(text) if one.get("id")), None):
        text = re.sub(rf'("id": ?)"{re.escape(known)}"', rf'\1"{name}"', text)
    for pattern, constant in _SAME_EACH_TIME:
        text = pattern.sub(constant, text)
    return {
        "status": {"code": response["status"]["code"], "message": ""},
        "headers": _headers(response["headers"], RESPONSE_HEADERS),
        "body": {"string": scrub(text)},
    }


def payloads(text: str) -> Iterator[dict[str, Any]]:
    """Each JSON object of a body, whole or streamed."""
    for line in [text] if text.startswith("{") else text.split("\n"):
        data = line.removeprefix("data:").strip()
        if data.startswith("{"):
            yield json.loads(data)


def _headers(headers: Any, kept: set[str]) -> dict[str, list[str]]:
    found = {}
    for name, value in sorted(headers.items()):
        if name.lower() in kept:
            values = value if isinstance(value, list) else [value]
            found[name.lower()] = [scrub(str(one)) for one in values]
    return found


def readable(text: str) -> str:
    """Return a text with its base64 decoded as well: a secret may be wrapped in a data URI."""
    wrapped = re.findall(r"base64,([A-Za-z0-9+/]{40,}={0,2})", text)
    return text + "".join(base64.b64decode(one).decode("latin-1") for one in wrapped)
