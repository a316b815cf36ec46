"""How cassettes lie on disk: gzipped JSON, the same bytes for the same exchanges."""

from __future__ import annotations

import base64
import gzip
import hashlib
import inspect
import json
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import UUID

from vcr.persisters.filesystem import CassetteNotFoundError
from vcr.request import Request

from langchain_resilient.providers.openai import OpenAIProvider
from langchain_resilient.providers.together import TogetherProvider

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
    results = []
    for request, response in pairs:
        asked = json.dumps(request, sort_keys=True)
        repeats[asked] += 1
        name = hashlib.sha256(f"{asked}{repeats[asked]}".encode()).hexdigest()[:16]
        results.append({"request": request, "response": _response(response, f"recorded-{name}")})
    return results


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
    fields = {}
    for name, value in sorted(headers.items()):
        if name.lower() in kept:
            values = value if isinstance(value, list) else [value]
            fields[name.lower()] = [scrub(str(one)) for one in values]
    return fields


def readable(text: str) -> str:
    """Return a text with its base64 decoded as well: a secret may be wrapped in a data URI."""
    wrapped = re.findall(r"base64,([A-Za-z0-9+/]{40,}={0,2})", text)
    return text + "".join(base64.b64decode(one).decode("latin-1") for one in wrapped)


FOLDER = Path(__file__).parents[2] / "cassettes"
ENDING = "json.gz"
EMBEDDED_URL = "http://embedded.test/v1"
PUBLIC_URLS = {"openai": OpenAIProvider.public_url, "together": TogetherProvider.public_url}


class Store:
    """vcrpy's persister. It cleans what it saves, so nothing else is ever written."""

    @staticmethod
    def load_cassette(cassette_path: str, serializer: Any) -> tuple[list[Any], list[Any]]:
        """Read a cassette; vcrpy calls it with any path."""
        path = Path(cassette_path)
        if not path.is_file():
            raise CassetteNotFoundError
        exchanges = read(path)
        requests = [Request(**exchange["request"]) for exchange in exchanges]
        responses = [exchange["response"] for exchange in exchanges]
        for response in responses:
            response["body"]["string"] = response["body"]["string"].encode()
        return requests, responses

    @staticmethod
    def save_cassette(cassette_path: str, cassette_dict: dict[str, Any], serializer: Any) -> None:
        """Write a cassette."""
        path = Path(cassette_path)
        path.parent.mkdir(parents=True, exist_ok=True)
        exchanges = clean(cassette_dict["requests"], cassette_dict["responses"])
        text = json.dumps(exchanges, ensure_ascii=False, indent=1, sort_keys=True)
        path.write_bytes(gzip.compress(text.encode(), mtime=0))


def read(path: Path) -> list[dict[str, Any]]:
    """Read the exchanges of a cassette."""
    exchanges: list[dict[str, Any]] = json.loads(gzip.decompress(path.read_bytes()))
    return exchanges


def at_home(request: Any) -> Any:
    """Give a request the address that it would have had: ports of servers on loopback change."""
    url = urlsplit(request.uri)
    if url.hostname == "127.0.0.1":
        dialect = url.path.split("/")[1]
        request.uri = PUBLIC_URLS.get(dialect, EMBEDDED_URL + url.path.removeprefix("/v1"))
    return request


def same_json(one: Any, other: Any) -> None:
    """Match two requests by what their bodies mean."""
    assert _meaning(one.body) == _meaning(other.body)


def _meaning(body: Any) -> Any:
    try:
        return _without_ids(json.loads(body), {})
    except (TypeError, ValueError):
        return body


def _without_ids(value: Any, ids: dict[str, int]) -> Any:
    """Take out of a body what differs from run to run, and from one Python to the next."""
    if isinstance(value, list):
        return [_without_ids(inner, ids) for inner in value]
    if not isinstance(value, dict):
        return value
    known = {key: _without_ids(inner, ids) for key, inner in value.items()}
    if isinstance(text := value.get("description"), str):
        # Python 3.13 takes the indentation out of docstrings, from which tools are described.
        known["description"] = inspect.cleandoc(text)
    for key in ("id", "tool_call_id"):
        # LangChain's few-shot examples make new ids each time: what counts is which are the same.
        if isinstance(id_ := value.get(key), str):
            known[key] = ids.setdefault(id_, len(ids))
    return known
