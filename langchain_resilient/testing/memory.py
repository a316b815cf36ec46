"""What the desk keeps between requests, so that the same bytes are read and answered only once."""

from __future__ import annotations

import json
from collections import OrderedDict
from hashlib import blake2s
from typing import TYPE_CHECKING, Any

from langchain_resilient.testing.validation import find_problem

if TYPE_CHECKING:
    from langchain_resilient.testing.dialects.base import Dialect
    from langchain_resilient.testing.problems import Problem
    from langchain_resilient.testing.steps.reply import Reply

_READINGS = 512
_LONGEST = 16_384  # bytes of a body worth keeping
CACHED_FROM = 1024
"""Prompts of so many tokens are cached by OpenAI."""
_CACHED_PREFIX = 4096  # characters, about so many tokens
_CACHED_BLOCK = 128  # tokens


class Reading:
    """A request body, read once.

    Attributes:
        body: The JSON; empty if it is none.
        model: The model asked, or "".
        stream: Whether a stream is wanted.
        problem: What the provider would refuse it for; `unreadable` if it is no JSON object.
        step: The reply that `rendered` was made for.
        rendered: The whole response to it, and the pieces that it says.
    """

    __slots__ = ("body", "model", "problem", "rendered", "step", "stream", "unreadable")

    def __init__(self, dialect: Dialect, data: bytes) -> None:
        self.body = _json_object(data)
        model = self.body.get("model")
        self.model: str = model if isinstance(model, str) else ""
        self.stream: bool = self.body.get("stream") is True
        self.unreadable: bool = not self.body
        self.problem: Problem | None = None
        if self.model:
            self.problem = find_problem(dialect.name, self.body)
        self.step: Reply | None = None
        self.rendered: tuple[bytes, list[str]] = (b"", [])


class Memory:
    """Keeps the last readings, and which long prompts were seen before."""

    def __init__(self) -> None:
        self._readings: OrderedDict[tuple[str, bytes], Reading] = OrderedDict()
        self._prompts: OrderedDict[bytes, None] = OrderedDict()

    def read(self, dialect: Dialect, data: bytes) -> Reading:
        """Read a request body."""
        known = (dialect.name, data)
        reading = self._readings.get(known)
        if reading is None:
            reading = Reading(dialect, data)
            if len(data) <= _LONGEST:
                self._readings[known] = reading
                if len(self._readings) > _READINGS:
                    self._readings.popitem(last=False)
        return reading

    def cached_tokens(self, target: str, messages: Any, prompt_tokens: int) -> int:
        """Return how many tokens of a prompt the provider has in its cache, and put it there."""
        text = str(messages)
        if len(text) < _CACHED_PREFIX:
            return 0
        digest = blake2s(f"{target}:{text[:_CACHED_PREFIX]}".encode(), digest_size=16).digest()
        known = digest in self._prompts
        self._prompts[digest] = None
        if len(self._prompts) > _READINGS:
            self._prompts.popitem(last=False)
        return prompt_tokens // _CACHED_BLOCK * _CACHED_BLOCK if known else 0


def _json_object(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
        if b"\\u" in data:
            json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair is no text
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
