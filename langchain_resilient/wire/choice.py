"""One choice of an answer, folded from its deltas."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any

from langchain_resilient.wire.calls import ToolCalls

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_resilient.wire.reading import Delta


class Choice:
    """What one choice has said so far.

    Attributes:
        parts: The pieces of its text.
        tools: Its tool calls.
        finish_reason: Why it ended, `"eos"` read as `"stop"`; None while it has not.
        seed: Together's: what would make the model say the same again.
        whole: Whether it came as one complete message.
    """

    __slots__ = (
        "_audio",
        "_audio_data",
        "_function_call",
        "_reasoning",
        "_refusal",
        "annotations",
        "details",
        "finish_reason",
        "logprobs",
        "parts",
        "seed",
        "tools",
        "whole",
    )

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.tools: ToolCalls = ToolCalls()
        self.annotations: list[Any] = []
        self.details: list[dict[str, Any]] = []
        self.logprobs: dict[str, Any] | None = None
        self.finish_reason: str | None = None
        self.seed: int | None = None
        self.whole: bool = False
        self._reasoning: list[str] = []
        self._refusal: list[str] = []
        self._function_call: dict[str, str] | None = None
        self._audio: dict[str, Any] | None = None
        self._audio_data: list[str] = []

    @property
    def text(self) -> str:
        """Its visible text."""
        return "".join(self.parts)

    @property
    def ended(self) -> bool:
        """Whether the provider said that this is all; a whole message says so by being one."""
        return self.whole or self.finish_reason is not None

    def length(self) -> int:
        """Characters of its text and thoughts, and of the arguments of its tool calls."""
        said = sum(map(len, self.parts)) + sum(map(len, self._reasoning))
        return said + self.tools.length()

    def add(self, delta: Delta) -> None:
        """Fold in what one chunk added."""
        if delta.text:
            self.parts.append(delta.text)
        if delta.reasoning:
            self._reasoning.append(delta.reasoning)
        if delta.refusal:
            self._refusal.append(delta.refusal)
        for fragment in delta.calls:
            self.tools.add(fragment)
        if delta.finish_reason:
            self._finish(delta.finish_reason)
        if delta.logprobs:
            self.logprobs = self.logprobs or {}
            _merge_logprobs(self.logprobs, delta.logprobs)
        if delta.whole:
            self.whole = True
        if delta.seed is not None:
            self.seed = delta.seed
        if delta.annotations or delta.details or delta.function_call or delta.audio:
            self._add_rarities(delta)

    def _add_rarities(self, delta: Delta) -> None:
        self.annotations.extend(delta.annotations)
        if delta.details:
            _fold_details(self.details, delta.details)
        if delta.function_call:
            old = self._function_call or {"name": "", "arguments": ""}
            self._function_call = {k: old[k] + v for k, v in delta.function_call.items()}
        if delta.audio:
            self._add_audio(delta.audio)

    def _finish(self, reason: str) -> None:
        # Together may send `tool_calls`, `tool_calls`, then `stop` for one choice.
        if self.finish_reason is None or self.finish_reason == "stop":
            self.finish_reason = reason

    def _add_audio(self, audio: dict[str, Any]) -> None:
        new = {k: v for k, v in audio.items() if k != "data" and v is not None}
        old = self._audio or {}
        if isinstance(new.get("transcript"), str) and isinstance(old.get("transcript"), str):
            new["transcript"] = old["transcript"] + new["transcript"]
        self._audio = {**old, **new}
        if isinstance(audio.get("data"), str):
            self._audio_data.append(audio["data"])

    def extras(self) -> dict[str, Any]:
        """What stands in `additional_kwargs` of a finished message."""
        pieces: dict[str, Any] = {
            "refusal": "".join(self._refusal),
            "reasoning_content": "".join(self._reasoning),
        }
        return {k: v for k, v in pieces.items() if v} | self.late_extras()

    def late_extras(self) -> dict[str, Any]:
        """The part of `extras` that is whole only at the end, so that streams give it there."""
        found = {
            "function_call": self._function_call,
            "audio": self._spoken(),
            "annotations": self.annotations,
            "reasoning_details": self.details,
        }
        return {k: v for k, v in found.items() if v}

    def _spoken(self) -> dict[str, Any] | None:
        if self._audio is None or not self._audio_data:
            return self._audio
        return {**self._audio, "data": join_base64(self._audio_data)}


def _merge_logprobs(into: dict[str, Any], new: dict[str, Any]) -> None:
    """Append list to list, with the result that LangChain has when it adds chunks."""
    for name, values in new.items():
        if values is None:
            into.setdefault(name, None)
        elif into.get(name) is None:
            into[name] = list(values)
        else:
            into[name].extend(values)


def join_base64(pieces: list[str]) -> str:
    """Join base64 texts, each of which may be padded by itself."""
    if not any(piece.endswith("=") for piece in pieces[:-1]):
        return "".join(pieces)
    try:
        return base64.b64encode(b"".join(base64.b64decode(piece) for piece in pieces)).decode()
    except binascii.Error:
        return "".join(pieces)


def _fold_details(details: list[dict[str, Any]], new: Sequence[dict[str, Any]]) -> None:
    """Join what OpenRouter streams in pieces: it must be sent back as one block an index."""
    for piece in new:
        if not details or not _goes_on(details[-1], piece):
            details.append(dict(piece))
            continue
        last = details[-1]
        for name, value in piece.items():
            old = last.get(name)
            if name in {"text", "summary", "data"} and isinstance(old, str) and value:
                last[name] = old + str(value)
            elif value is not None:
                last[name] = value


def _goes_on(last: dict[str, Any], piece: dict[str, Any]) -> bool:
    known = piece.get("index") is not None
    same = all(last.get(k) == piece.get(k) for k in ("type", "index"))
    return known and same and not (piece.get("id") and last.get("id") not in (None, piece["id"]))
