"""Reads the recorded exchanges, and says by simple means what each answer holds."""

from __future__ import annotations

import base64
import gzip
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Json = dict[str, Any]
Exchange = dict[str, Any]
"""A recorded request with its response, as the files have it."""

VARIABLE = "RESILIENT_RECORDINGS"
FOLDER = Path(
    os.environ.get(VARIABLE) or Path(__file__).parents[2] / ".." / "shared" / "recordings"
)
MISSING = f"no recordings: neither ../shared/recordings nor ${VARIABLE} is a folder"

OWN_ADDRESSES = (
    "https://api.openai.com/",
    "https://api.together.xyz/",
    "https://api.together.ai/",
)
NO_ANSWERS = {
    "azure-openai-1a605ba889fc": "an error, with status 200",
    "openai-eb22750d50ea": "an empty body",
    "openai-4adc3ba7049f": "no JSON",
}
"""Exchanges with a good status and no answer: each must become a fault."""

STORED = {
    *["id", "object", "created", "model", "choices", "usage", "system_fingerprint", "service_tier"]
}
"""Of a stored completion, what the completion itself said; the rest echoes its request."""


def own(exchange: Exchange, chunks: list[Json]) -> bool:
    """Whether OpenAI or Together itself answered; one gateway was recorded under OpenAI's name."""
    at_home = exchange["request"]["url"].startswith(OWN_ADDRESSES)
    return at_home and not str(chunks[0].get("id")).startswith("gen-")


def load() -> Iterator[Exchange]:
    """Every recorded exchange."""
    for file in sorted(FOLDER.glob("*.jsonl.gz")):
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            yield from map(json.loads, lines)


def request_of(exchange: Exchange) -> Json | None:
    """The request's JSON, or None where it is none."""
    body = exchange["request"]["body"]
    try:
        body = json.loads(body) if isinstance(body, str) else body
    except ValueError:
        return None
    return body if isinstance(body, dict) else None


def payloads(body: str) -> list[Json]:
    """The payloads of a response, whole or streamed, by a splitter that knows no subtleties."""
    try:
        return [json.loads(body)]
    except ValueError:
        pass
    results = []
    for event in body.replace("\r\n", "\n").split("\n\n"):
        lines = [line[5:].strip() for line in event.split("\n") if line.startswith("data:")]
        if lines and lines != ["[DONE]"]:
            results.append(json.loads("\n".join(lines)))
    return results


def answers(exchange: Exchange) -> list[list[Json]]:
    """The answers of an exchange that went well, each as its chunks.

    No answers where it is an error, or nothing that makes sense: that is for the tests of faults.
    """
    response = exchange["response"]
    body = response["body"]
    if response["status"] >= 300:
        return []
    if body.startswith('{"b64":'):  # how one recorder kept streams
        body = base64.b64decode(json.loads(body)["b64"]).decode()
    try:
        chunks = payloads(body)
    except ValueError:
        return []
    if chunks and chunks[0].get("object") == "list":  # OpenAI's stored completions, one an entry
        return [[{k: v for k, v in one.items() if k in STORED}] for one in chunks[0]["data"]]
    return [chunks] if any(isinstance(c.get("choices"), list) for c in chunks) else []


class Expected:
    """What one choice of an answer says, read naively: each kind of piece joined in order."""

    def __init__(self, chunks: Iterable[Json], index: int = 0) -> None:
        self.text = self.refusal = self.reasoning = ""
        self.calls: dict[int, list[str]] = {}
        self.finishes: list[str] = []
        self.logprobs: list[Any] = []
        self.usage: Json | None = None
        self.models: list[str | None] = []
        self.audio: Json | None = None
        self.function: dict[str, str] = {}
        self.annotations: list[Any] = []
        self.details: list[Any] = []
        self.seeds: list[int] = []
        self.head: Json = {}
        for chunk in chunks:
            self.usage = chunk.get("usage") or self.usage
            self.models.append(chunk.get("model"))
            for name in ("system_fingerprint", "service_tier", "warnings", "moderation"):
                self.head[name] = chunk.get(name) or self.head.get(name)
            self.head["id"] = self.head.get("id") or chunk.get("id")
            for choice in chunk.get("choices") or []:
                if (choice.get("index") or 0) == index:
                    self._add(choice)

    def _add(self, choice: Json) -> None:
        body = choice.get("delta") or choice.get("message") or {}
        self.text += body.get("content") or ""
        self.refusal += body.get("refusal") or ""
        self.reasoning += body.get("reasoning_content") or body.get("reasoning") or ""
        self.audio = body.get("audio") or self.audio
        self.annotations += body.get("annotations") or []
        self.details += body.get("reasoning_details") or []
        self.seeds += [choice["seed"]] if choice.get("seed") is not None else []
        for key, value in (body.get("function_call") or {}).items():
            self.function[key] = self.function.get(key, "") + (value or "")
        if choice.get("finish_reason"):
            self.finishes.append(choice["finish_reason"])
        if choice.get("logprobs") is not None:
            self.logprobs.append(choice["logprobs"])
        for position, call in enumerate(body.get("tool_calls") or []):
            whole = "message" in choice
            known = self.calls.setdefault(position if whole else call["index"], ["", "", ""])
            function = call.get("function") or {}
            known[0] = known[0] or call.get("id") or ""
            known[1] += function.get("name") or ""
            known[2] += function.get("arguments") or ""
