"""Parses one choice of one chunk into a `Delta`.

Every oddity of the wire is handled here and nowhere else, so the accumulated answer and the
streamed one cannot disagree. The answer itself (text, refusal, tool calls) is parsed strictly: a
wrong type is an error. Extras (reasoning, logprobs, citations) are left out where malformed.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from langchain_resilient.wire.finish_reasons import read_finish_reason
from langchain_resilient.wire.responses import ASKING, reasoning_text

if TYPE_CHECKING:
    from collections.abc import Sequence


MAX_CHOICES = 128
"""The most choices of one answer: OpenAI's limit of `n`, the highest of any API."""

MAX_CALLS = 1024
"""The most tool calls of one choice: eight times the number of tools that OpenAI takes."""


class BadChunkError(ValueError):
    """A chunk that no chat-completions server should send; its answer is broken."""


class ToolCallFragment(NamedTuple):
    """A piece of one tool call; `number` is None where the server sent no meaningful index.

    `extra` is what its provider wants back with the call, such as Gemini's signature of a thought.
    """

    number: int | None
    id: str | None
    name: str | None
    args: str | None
    extra: dict[str, Any] | None = None


class Delta:
    """What one choice of one chunk adds to an answer.

    Defaults are class attributes: only what a chunk holds is set, which keeps parsing cheap.

    Attributes:
        index: Which choice it adds to.
        whole: Whether it is a complete message, not a piece of one.
        text: Visible text.
        reasoning: Reasoning text, which is not part of the answer.
        reasoning_field: The name under which that came.
        extra: What the provider wants back with the message.
        refusal: Why the model will not answer.
        calls: Pieces of tool calls.
        function_call: A piece of a call in the dialect before tools.
        audio: A piece of spoken answer.
        annotations: Citations.
        details: OpenRouter's structured reasoning, which the next request must repeat.
        logprobs: Log probabilities, a list under each name.
        finish_reason: Why the model stopped; None while it goes on.
        seed: Together's: what would make the model say the same again.
        name: Who speaks, where a server says so.
        blocks: Content blocks of the Responses API; None where the answer came in another way.
        block: The number of the block that the text belongs to; None where it belongs to none.
    """

    index: int = 0
    whole: bool = False
    text: str = ""
    reasoning: str = ""
    reasoning_field: str = ""
    extra: dict[str, Any] | None = None
    refusal: str = ""
    calls: Sequence[ToolCallFragment] = ()
    function_call: dict[str, str] | None = None
    audio: dict[str, Any] | None = None
    annotations: Sequence[Any] = ()
    details: Sequence[dict[str, Any]] = ()
    logprobs: dict[str, Any] | None = None
    finish_reason: str | None = None
    seed: int | None = None
    name: str | None = None
    blocks: Sequence[dict[str, Any]] | None = None
    block: int | None = None

    @property
    def says(self) -> bool:
        """Whether it holds anything of an answer but tool calls, other than white space."""
        return bool(
            self.function_call
            or (self.text and not self.text.isspace())
            or (self.audio and (self.audio.get("data") or self.audio.get("transcript")))
            or (self.blocks and any(block.get("type") in ASKING for block in self.blocks))
        )


def choices_of(chunk: Any) -> list[Any]:
    """Return the choices of a chunk, none where it carries only usage or the like.

    Raises:
        BadChunkError: If it is not a dict, or its choices are not a list.
    """
    if not isinstance(chunk, dict):
        raise BadChunkError(f"a chunk is {_kind(chunk)}, not an object")
    choices = chunk.get("choices")
    if choices is None:
        return []
    if not isinstance(choices, list):
        raise BadChunkError(f"`choices` is {_kind(choices)}, not a list")
    if len(choices) > MAX_CHOICES:
        raise BadChunkError(f"a chunk has more than {MAX_CHOICES} choices")
    return choices


def parse_choice(choice: Any) -> Delta:
    """Read one choice, of a stream's chunk or of a whole completion.

    Raises:
        BadChunkError: If what belongs to the answer has the wrong type.

    Example:
        ```python
        parse_choice({"index": 0, "delta": {"content": "Hi"}, "finish_reason": None}).text  # 'Hi'
        ```
    """
    if not isinstance(choice, dict):
        raise BadChunkError(f"a choice is {_kind(choice)}, not an object")
    delta = Delta()
    body = choice.get("delta")
    if body is None and (body := choice.get("message")) is not None:
        delta.whole = True
    if choice.get("index"):
        delta.index = _index(choice["index"]) or 0
    if choice.get("finish_reason"):
        delta.finish_reason = read_finish_reason(choice["finish_reason"])
    if isinstance(seed := choice.get("seed"), int):
        delta.seed = seed
    if choice.get("logprobs") is not None:
        delta.logprobs = _logprobs(choice["logprobs"])
    if body:
        if not isinstance(body, dict):
            raise BadChunkError(f"a delta is {_kind(body)}, not an object")
        _read_body(body, delta)
    if choice.get("text") and (not body or body.get("content") is None):
        _read_text_beside(choice, delta)
    return delta


def _read_text_beside(choice: dict[str, Any], delta: Delta) -> None:
    # Together repeats the text beside the delta; legacy completions have it only there.
    if not (delta.calls or delta.reasoning):
        delta.text = _string(choice["text"], "text")


def _read_body(body: dict[str, Any], delta: Delta) -> None:
    if content := body.get("content"):
        delta.text, delta.reasoning = _content(content)
    if details := body.get("reasoning_details"):
        delta.details = [d for d in _list(details) if isinstance(d, dict)]
    if not delta.reasoning:
        delta.reasoning, delta.reasoning_field = _reasoning(body, delta.details)
    if refusal := body.get("refusal"):
        delta.refusal = _string(refusal, "refusal")
    if calls := body.get("tool_calls"):
        delta.calls = _fragments(calls, whole=delta.whole)
    if call := body.get("function_call"):
        delta.function_call = _function_call(call)
    if audio := body.get("audio"):
        delta.audio = _audio(audio)
    if annotations := body.get("annotations"):
        delta.annotations = _list(annotations)
    if not body.keys() <= _USUAL:
        _read_rare(body, delta)


_USUAL = frozenset({"role", "content", "refusal", "tool_calls", "function_call", "audio",
                    "annotations", "reasoning", "reasoning_content", "token_id"})  # fmt: skip
"""What an answer consists of; all else is rare."""


def _read_rare(body: dict[str, Any], delta: Delta) -> None:
    """Read what only some servers send, or goes with the answer and is none of it."""
    _read_blocks(body, delta)
    if isinstance(extra := body.get("extra_content"), dict):
        delta.extra = extra
    if isinstance(name := body.get("name"), str):
        delta.name = name


def _read_blocks(body: dict[str, Any], delta: Delta) -> None:
    """Read what `langchain_resilient.wire.responses` has put there."""
    if "block" in body:
        delta.block = body["block"]
    elif (blocks := body.get("blocks")) is not None:
        delta.blocks = blocks
        delta.reasoning = "".join(map(reasoning_text, blocks))


def _content(content: Any) -> tuple[str, str]:
    """Split content into text and thoughts; Mistral's reasoning models send a list of both."""
    if isinstance(content, str):
        return content, ""
    if isinstance(content, dict) and (content.keys() & {"text", "thinking"}):
        content = [content]  # one part, without the list around it
    if not isinstance(content, list):
        raise BadChunkError(f"`content` is {_kind(content)}, not a string")
    text, thoughts = [], []
    for part in content:
        if isinstance(part, str):
            text.append(part)
        elif isinstance(part, dict):
            text.append(_string(part.get("text"), "text"))
            thinking = part.get("thinking")
            thoughts.append(_content(thinking)[0] if thinking else "")
        else:
            raise BadChunkError(f"a part of `content` is {_kind(part)}, not an object")
    return "".join(text), "".join(thoughts)


def _reasoning(body: dict[str, Any], details: Sequence[dict[str, Any]]) -> tuple[str, str]:
    # Where several of the three are sent, they say the same.
    for name in ("reasoning_content", "reasoning"):
        text = body.get(name)
        if text and isinstance(text, str):
            return text, name
    pieces = [d.get("text") or d.get("summary") for d in details]
    return "".join(p for p in pieces if isinstance(p, str)), ""


def _fragments(calls: Any, *, whole: bool) -> list[ToolCallFragment]:
    if not isinstance(calls, list):
        raise BadChunkError(f"`tool_calls` is {_kind(calls)}, not a list")
    # In a whole message each entry is a call of its own, whatever its index says (Together: -1).
    if len(calls) > MAX_CALLS:
        raise BadChunkError(f"an answer has more than {MAX_CALLS} tool calls")
    fragments = [_fragment(call, index if whole else None) for index, call in enumerate(calls)]
    return [f for f in fragments if f.id or f.name or f.args or f.extra]


def _fragment(call: Any, number: int | None) -> ToolCallFragment:
    if not isinstance(call, dict):
        raise BadChunkError(f"a tool call is {_kind(call)}, not an object")
    function = call.get("function") or {}
    if not isinstance(function, dict):
        raise BadChunkError(f"`function` is {_kind(function)}, not an object")
    id_ = call.get("id")
    if id_ is not None and not isinstance(id_, str):
        id_ = str(id_)
    return ToolCallFragment(
        number=_index(call.get("index")) if number is None else number,
        id=None if not id_ or id_.strip().lower() in _NO_IDS else id_,
        name=_string(function.get("name"), "name") or None,
        args=_arguments(function.get("arguments")),
        extra=extra if isinstance(extra := call.get("extra_content"), dict) else None,
    )


_NO_IDS = frozenset({"", "null", "none", "nil", "undefined", "n/a", "string"})
"""What servers write as the id of a call where they mean that there is none."""


def _arguments(args: Any) -> str | None:
    if args is None or isinstance(args, str):
        return args
    if isinstance(args, dict):  # some local servers forget to encode them
        return json.dumps(args, ensure_ascii=False)
    raise BadChunkError(f"`arguments` is {_kind(args)}, not a string")


def _function_call(call: Any) -> dict[str, str] | None:
    if not isinstance(call, dict):
        raise BadChunkError(f"`function_call` is {_kind(call)}, not an object")
    name, args = _string(call.get("name"), "name"), _arguments(call.get("arguments")) or ""
    return {"name": name, "arguments": args} if name or args else None


def _audio(audio: Any) -> dict[str, Any] | None:
    known = isinstance(audio, dict) and any(audio.get(k) for k in ("id", "data", "transcript"))
    return audio if known else None


def _logprobs(logprobs: Any) -> dict[str, Any] | None:
    """Convert any shape to the one that can be merged: a list under each name."""
    if isinstance(logprobs, int | float) and not isinstance(logprobs, bool):
        known = abs(logprobs) < _MAX_FLOAT  # which NaN is not either
        return {"token_logprobs": [float(logprobs)]} if known else None
    if not isinstance(logprobs, dict) or all(v is None for v in logprobs.values()):
        return None
    return {
        str(name): value if value is None or isinstance(value, list) else [value]
        for name, value in logprobs.items()
    }


def _index(index: Any) -> int | None:
    """Read an index: Together sends floats, and some servers -1 for "unknown"."""
    if isinstance(index, bool) or not isinstance(index, int | float):
        return None
    # The comparison also turns away NaN.
    return int(index) if 0 <= index < _MAX_INDEX else None


_MAX_INDEX = 1_000_000
_MAX_FLOAT = 1e300


def _string(value: Any, name: str) -> str:
    if not value:
        return ""
    if not isinstance(value, str):
        raise BadChunkError(f"`{name}` is {_kind(value)}, not a string")
    return value


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _kind(value: Any) -> str:
    """Name the type, never the value: it may be private or endless."""
    return f"of type {type(value).__name__}"
