"""Accumulates the chunks of one attempt: its text, tool calls, usage, and whether it is complete.

Every attempt has an accumulator, losers included, so adding a plain piece of text takes only about
a microsecond, and nothing becomes a LangChain message before the winner is known.
"""

from __future__ import annotations

import base64
import binascii
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from langchain_resilient.faults import Fault, FaultKind
from langchain_resilient.wire import passthrough
from langchain_resilient.wire.chunk_parser import (
    MAX_CHOICES,
    BadChunkError,
    choices_of,
    parse_choice,
)
from langchain_resilient.wire.finish_reasons import Ending, ending_of, fault_of_reason
from langchain_resilient.wire.provider_state import CALLS_KEY
from langchain_resilient.wire.tool_call_assembler import ToolCallAssembler, fault_of_calls

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from langchain_core.messages import AIMessage
    from langchain_core.messages.ai import UsageMetadata

    from langchain_resilient.exchange import ChatRequest, Chunk
    from langchain_resilient.wire.chunk_parser import Delta
    from langchain_resilient.wire.responses import FinishedResponse


_MAX_TOKENS = 10**15
"""Tokens; a larger number, or NaN, is not a count, and would overflow a price.

Nor is a negative one, which would give money back.
"""


def token_count(usage: Mapping[str, Any] | None, *names: str) -> int | None:
    """Return the first of these that can be a count, in tokens; None where none can."""
    if not usage:
        return None
    for name in names:
        value = usage.get(name)
        if value is None:  # most providers give no details: that is the common case
            continue
        if value.__class__ is int and 0 <= value < _MAX_TOKENS:
            return value
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if is_number and 0 <= value < _MAX_TOKENS:
            return int(value)
    return None


_PRICED_TIERS = frozenset({"priority", "flex"})


def usage_metadata(
    usage: Mapping[str, Any] | None, tier: str | None = None
) -> UsageMetadata | None:
    """Convert what a provider sent as `usage`.

    Args:
        usage: Chat completions' token counts, or None.
        tier: The service tier that served the answer.

    Returns:
        LangChain's counts with the details that the provider gave, as `ChatOpenAI` gives them;
        those of a tier with a price of its own have its name. None where it counted nothing.

    Example:
        ```python
        usage_metadata({"prompt_tokens": 3, "completion_tokens": 2})["total_tokens"]  # 5
        ```
    """
    prompt, completion = (
        token_count(usage, "prompt_tokens"),
        token_count(usage, "completion_tokens"),
    )
    total = token_count(usage, "total_tokens")
    if usage is None or (prompt is None and completion is None and total is None):
        return None
    metadata: UsageMetadata = {
        "input_tokens": prompt or 0,
        "output_tokens": completion or 0,
        "total_tokens": total if total is not None else (prompt or 0) + (completion or 0),
    }
    given, made = _input_details(usage), _output_details(usage)
    if tier in _PRICED_TIERS:
        given = _of_tier(given, "cache_read", metadata["input_tokens"], tier)
        made = _of_tier(made, "reasoning", metadata["output_tokens"], tier)
    metadata["input_token_details"] = given  # type: ignore[typeddict-item]
    metadata["output_token_details"] = made  # type: ignore[typeddict-item]
    return metadata


def _of_tier(details: dict[str, int], apart: str, total: int, tier: str) -> dict[str, int]:
    """Name details by the tier that they were paid in, and give what is left of the total."""
    named = {name if name == "audio" else f"{tier}_{name}": n for name, n in details.items()}
    return {**named, tier: total - details.get(apart, 0)}


def cache_counts(usage: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """How many tokens of the prompt were read from the provider's cache, and written to it."""
    details = _dict(usage.get("prompt_tokens_details"))
    read = token_count(details, "cached_tokens")
    if read is None:  # Together and Kimi, DeepSeek, Anthropic's names behind gateways
        read = token_count(
            usage, "cached_tokens", "prompt_cache_hit_tokens", "cache_read_input_tokens"
        )
    written = token_count(details, "cache_write_tokens", "cache_creation_tokens")
    if written is None:
        written = token_count(usage, "cache_creation_input_tokens")
    return read, written


def _input_details(usage: Mapping[str, Any]) -> dict[str, int]:
    read, written = cache_counts(usage)
    audio = token_count(_dict(usage.get("prompt_tokens_details")), "audio_tokens")
    return _known(audio=audio, cache_creation=written, cache_read=read)


def _output_details(usage: Mapping[str, Any]) -> dict[str, int]:
    details = _dict(usage.get("completion_tokens_details"))
    reasoning = token_count(details, "reasoning_tokens")
    if reasoning is None:
        reasoning = token_count(usage, "reasoning_tokens")
    return _known(audio=token_count(details, "audio_tokens"), reasoning=reasoning)


def _known(**counts: int | None) -> dict[str, int]:
    return {name: value for name, value in counts.items() if value is not None}


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


class ChoiceAccumulator:
    """The content of one choice so far.

    Attributes:
        parts: The pieces of its text.
        tools: Its tool calls.
        extra: What its provider wants back with it.
        reasoning_field: The name under which its thoughts came; empty if none came.
        thinks_first: Whether its thoughts began before anything else that a reader sees.
        finish_reason: Why it ended, `"eos"` read as `"stop"`; None while it has not.
        name: Who speaks, where a server says so.
        seed: Together's seed, which reproduces the answer.
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
        "extra",
        "finish_reason",
        "logprobs",
        "name",
        "parts",
        "reasoning_field",
        "seed",
        "thinks_first",
        "tools",
        "whole",
    )

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.tools: ToolCallAssembler = ToolCallAssembler()
        self.annotations: list[Any] = []
        self.details: list[dict[str, Any]] = []
        self.logprobs: dict[str, Any] | None = None
        self.finish_reason: str | None = None
        self.name: str | None = None
        self.seed: int | None = None
        self.extra: dict[str, Any] | None = None
        self.reasoning_field: str = ""
        self.thinks_first: bool = False
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
        """Whether the provider has said that the choice is complete; a whole message always is."""
        return self.whole or self.finish_reason is not None

    @property
    def refusal(self) -> str:
        """Why the model will not answer."""
        return "".join(self._refusal)

    @property
    def empty(self) -> bool:
        """Whether nothing of an answer has come."""
        return not (self.parts or self.tools.calls or self._refusal or self._function_call)

    def length(self) -> int:
        """Characters of its text and thoughts, and of the arguments of its tool calls."""
        text_length = sum(map(len, self.parts)) + sum(map(len, self._reasoning))
        return text_length + self.tools.length()

    def add(self, delta: Delta) -> None:
        """Add what one chunk brought."""
        if delta.reasoning:
            self.thinks_first = self.thinks_first or (
                self.empty and not self._reasoning and not self.logprobs
            )
            self._reasoning.append(delta.reasoning)
            self.reasoning_field = delta.reasoning_field
        if delta.text:
            self.parts.append(delta.text)
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
        if delta.seed is not None or delta.name:
            self.seed = self.seed if delta.seed is None else delta.seed
            self.name = delta.name or self.name
        if delta.annotations or delta.details or delta.function_call or delta.audio or delta.extra:
            self._add_rare_content(delta)

    def _add_rare_content(self, delta: Delta) -> None:
        self.annotations.extend(delta.annotations)
        if delta.details:
            _fold_details(self.details, delta.details)
        if delta.function_call:
            old = self._function_call or {"name": "", "arguments": ""}
            self._function_call = {k: old[k] + v for k, v in delta.function_call.items()}
        if delta.audio:
            self._add_audio(delta.audio)
        if delta.extra:
            self.extra = {**(self.extra or {}), **delta.extra}

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
        """Return the `additional_kwargs` of the finished message."""
        pieces: dict[str, Any] = {
            "refusal": "".join(self._refusal),
            "reasoning_content": "".join(self._reasoning),
        }
        return {k: v for k, v in pieces.items() if v} | self.final_extras()

    def final_extras(self) -> dict[str, Any]:
        """Return the part of `extras` that is complete only at the end of a stream."""
        extras: dict[str, Any] = {
            "function_call": self._function_call,
            "audio": self._joined_audio(),
            "annotations": self.annotations,
            "reasoning_details": self.details,
        }
        if self.extra or self.tools.calls:
            extras["extra_content"] = self.extra
            extras[CALLS_KEY] = {call.id: call.extra for call in self.tools.calls if call.extra}
        return {k: v for k, v in extras.items() if v}

    def _joined_audio(self) -> dict[str, Any] | None:
        if self._audio is None or not self._audio_data:
            return self._audio
        return {**self._audio, "data": join_base64(self._audio_data)}


def _merge_logprobs(into: dict[str, Any], new: dict[str, Any]) -> None:
    """Append list to list, as LangChain does when it sums chunks."""
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
    """Join what OpenRouter streams in pieces: it must be sent back as one block per index."""
    for piece in new:
        if not details or not _continues(details[-1], piece):
            details.append(dict(piece))
            continue
        last = details[-1]
        for name, value in piece.items():
            old = last.get(name)
            if name in {"text", "summary", "data"} and isinstance(old, str) and value:
                last[name] = old + str(value)
            elif value is not None:
                last[name] = value


def _continues(last: dict[str, Any], piece: dict[str, Any]) -> bool:
    known = piece.get("index") is not None
    same = all(last.get(k) == piece.get(k) for k in ("type", "index"))
    return known and same and not (piece.get("id") and last.get("id") not in (None, piece["id"]))


PLAIN = frozenset({"content", "role", "token_id"})
"""The keys of a delta that is nothing but text; Together sends the last two with every delta."""

_TEXT = PLAIN | {"block"}
"""The same, with the number that a piece of text of the Responses API has."""

CHARACTERS_PER_TOKEN = 4

MAX_IDLE_CHUNKS = 10_000
"""The most chunks in a row that add nothing, not even reasoning. Chunks are kept until it is known
whether the answer is shown, so their number needs a bound."""


class ChunkContent(IntEnum):
    """The most visible content of a chunk, in rising order."""

    NOTHING = 0
    """A role, an empty delta, usage, or white space, which some models send without end."""
    THINKING = 1
    """Reasoning only: the model is working, but its answer has not begun."""
    VISIBLE = 2
    """Text, a tool call, a refusal or audio."""


_NOTHING, _THINKING, _VISIBLE = ChunkContent


class ResponseAccumulator:
    """The answer of one attempt so far. Not safe for use by two tasks at once.

    Attributes:
        id: The provider's id for the answer.
        model: The model that answered, which may not be the one that was asked.
        system_fingerprint: The provider's name for its configuration.
        service_tier: The tier that served it.
        usage: The provider's token counts, as sent; the last ones with a count in them.
        warnings: Warnings from Together.
        moderation: OpenAI's moderation results for prompt and answer, where they were requested.
        error: An error object inside a 200 stream; the answer is then faulty, whatever else came.
        ended: Whether every choice has a finish_reason; always False for native answers.
            A server may also end an answer without one, see `end`.
        choices: The choices by index; the first always exists.
        finished: What only an answer of the Responses API has, once it is complete.
        native: The messages of a target that is a LangChain model; there is nothing else then.
        other_answers: Of such a target, where several answers were asked for: the whole messages of
            all but the first.
        stopped: Whether a stop word ended it on our side: then it may be empty.

    Example:
        ```python
        response = ResponseAccumulator()
        response.add(
            {"choices": [{"index": 0, "delta": {"content": "Hi"}}]}
        )  # ChunkContent.VISIBLE
        response.add({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        response.text, response.fault()  # ('Hi', None)
        ```
    """

    __slots__ = (
        "_append",
        "_blank",
        "_heard",
        "_idle",
        "_known",
        "_pieces",
        "_visible",
        "choices",
        "ended",
        "error",
        "finished",
        "id",
        "model",
        "moderation",
        "native",
        "other_answers",
        "service_tier",
        "stopped",
        "system_fingerprint",
        "usage",
        "warnings",
    )

    def __init__(self) -> None:
        first = ChoiceAccumulator()
        self.choices: dict[int, ChoiceAccumulator] = {0: first}
        self.id: str | None = None
        self.model: str | None = None
        self.system_fingerprint: str | None = None
        self.service_tier: str | None = None
        self.usage: dict[str, Any] | None = None
        self.warnings: list[Any] = []
        self.moderation: dict[str, Any] | None = None
        self.error: Any = None
        self.finished: FinishedResponse | None = None
        self.native: list[AIMessage] = []
        self.other_answers: Sequence[AIMessage] = ()
        self._append = first.parts.append
        self._known = False
        self.ended = False
        self.stopped = False
        self._pieces = 0
        self._visible = False
        self._blank = 0
        self._heard = self._idle = 0

    def add(self, chunk: Chunk) -> ChunkContent:
        """Add a chunk of a stream, a whole completion, or `{"message_chunk": AIMessageChunk}`.

        Raises:
            BadChunkError: If the chunk makes no sense; the answer is then `FaultKind.BROKEN`.
        """
        # Nearly every chunk is a piece of plain text; anything else takes the slow path, which
        # validates it. This path must stay free of calls: it runs for each chunk of each attempt.
        try:
            (choice,) = chunk["choices"]
            delta = choice["delta"]
            text = delta["content"]
            if (
                text.__class__ is not str
                or not text
                or not self._known
                or (len(delta) != 1 and not delta.keys() <= _TEXT)
                or choice["index"] != 0
                or choice["finish_reason"]
                or choice.get("logprobs")
                or chunk.get("usage")
                or "error" in chunk
            ):
                return self._add_parsed(chunk)
        except (KeyError, TypeError, ValueError, AttributeError):
            return self._add_parsed(chunk)
        self._append(text)
        self._pieces += 1
        if text.isspace():
            self._blank += len(text)
            return _NOTHING
        self._visible = True
        self._blank = 0
        return _VISIBLE

    def _add_parsed(self, chunk: Chunk) -> ChunkContent:
        choices = choices_of(chunk)
        if not choices and len(chunk) == 2 and "event" in chunk:  # noqa: PLR2004
            return self._add_event(str(chunk["event"]))
        if "stopped" in chunk:
            self.stopped = True
        if "message_chunk" in chunk:
            self.other_answers = chunk.get("other_answers", self.other_answers)
            return self._add_native(passthrough.as_message(chunk["message_chunk"]))
        deltas = [parse_choice(choice) for choice in choices]
        self._add_head(chunk)
        seen, alive = _NOTHING, "event" in chunk
        for delta in deltas:
            choice = self.choices.get(delta.index)
            if choice is None:
                if len(self.choices) == MAX_CHOICES:
                    raise BadChunkError(f"an answer has more than {MAX_CHOICES} choices")
                choice = self.choices[delta.index] = ChoiceAccumulator()
            choice.add(delta)
            has_text, says = bool(delta.text or delta.calls), delta.says
            visible, thinking = says or bool(delta.calls), bool(delta.reasoning or delta.refusal)
            self._blank = 0 if visible else self._blank + len(delta.text)
            # LangChain's message is the first choice: others do not make up for an empty one.
            self._visible = self._visible or (says and not delta.index)
            seen = max(seen, self._classify(has_text, visible, thinking))
            alive = alive or delta.blocks is not None
        self._count_idle()
        self.ended = all(choice.ended for choice in self.choices.values())
        return _THINKING if alive and not seen else seen

    def _add_event(self, kind: str) -> ChunkContent:
        """Add an event of the Responses API: the model works, if only on a search or a program."""
        self._pieces += kind.endswith(".delta")
        self._count_idle()
        return _THINKING

    def _count_idle(self) -> None:
        self._idle += 1
        if self._pieces != self._heard:
            self._idle, self._heard = 0, self._pieces
        elif self._idle > MAX_IDLE_CHUNKS:
            raise BadChunkError(f"{MAX_IDLE_CHUNKS} chunks in a row said nothing")

    def _add_native(self, message: AIMessage) -> ChunkContent:
        if passthrough.REPLACED_KEY in message.response_metadata:
            self.native.clear()  # a nested resilient model replaced its answer
        self.native.append(message)
        has_text, visible, thinking = passthrough.content_kinds(message)
        self._blank = 0 if visible else self._blank + len(message.text)
        if visible and (passthrough.has_tool_calls(message) or passthrough.refusal_of([message])):
            self._visible = self._visible or bool(message.text.strip())  # the rest shows at the end
        else:
            self._visible = self._visible or visible
        return self._classify(has_text, visible, thinking)

    def _classify(self, has_text: bool, visible: bool, thinking: bool) -> ChunkContent:
        self._pieces += has_text or visible or thinking
        if visible:
            return _VISIBLE
        return _THINKING if thinking else _NOTHING

    def _add_head(self, chunk: Chunk) -> None:
        # Azure's first chunk has "" for both of these.
        self.id = self.id or _text(chunk.get("id"))
        self.model = self.model or _text(chunk.get("model"))
        self._known = self.id is not None and self.model is not None
        self.system_fingerprint = _text(chunk.get("system_fingerprint")) or self.system_fingerprint
        self.service_tier = _text(chunk.get("service_tier")) or self.service_tier
        self.error = self.error or chunk.get("error")
        usage, warnings = chunk.get("usage"), chunk.get("warnings")
        # Some servers send usage on every chunk; after an error OpenAI sends one of zeros.
        if isinstance(usage, dict) and (self.usage is None or any(_has_counts(usage))):
            self.usage = usage
        if isinstance(warnings, list):
            self.warnings.extend(warnings)
        if isinstance(moderation := chunk.get("moderation"), dict):
            self.moderation = moderation
        self.finished = chunk.get("response") or self.finished

    @property
    def text(self) -> str:
        """The visible text of the first choice."""
        return "".join(m.text for m in self.native) if self.native else self.choices[0].text

    @property
    def has_usage(self) -> bool:
        """Whether the provider's token counts have come."""
        return self.usage is not None

    @property
    def visible_text(self) -> str:
        """The text up to its last visible character: trailing white space is not shown yet."""
        text = self.text
        return text[: len(text) - self._blank] if self._blank else text

    @property
    def finish_reason(self) -> str | None:
        """Why the first choice ended; None if unknown."""
        if self.native:
            return passthrough.finish_reason(self.native)
        return self.choices[0].finish_reason

    @property
    def has_tool_calls(self) -> bool:
        """Whether a tool call has begun: such an answer cannot be continued, only restarted."""
        if self.native:
            return any(map(passthrough.has_tool_calls, self.native))
        return any(choice.tools.calls for choice in self.choices.values())

    def input_tokens(self) -> int | None:
        """Tokens of the prompt, if the provider reported them."""
        return token_count(self._usage(), "prompt_tokens")

    def output_tokens(self) -> int | None:
        """Tokens of the answer: as reported, else the number of pieces; None if there are none."""
        reported = token_count(self._usage(), "completion_tokens")
        return reported if reported is not None else self._pieces or None

    def tokens(self) -> int:
        """Estimate the tokens so far, reasoning and tool calls included, to judge the pace."""
        length = sum([choice.length() for choice in self.choices.values()])
        return max(self._pieces, length // CHARACTERS_PER_TOKEN)

    def given_tokens(self) -> int:
        """Tokens so far, as reported; else the pieces, unless they are of several tokens each."""
        reported = token_count(self._usage(), "completion_tokens")
        if reported and not self.native:
            return reported
        length = sum([choice.length() for choice in self.choices.values()])
        one_each = length <= 2 * CHARACTERS_PER_TOKEN * self._pieces
        return self._pieces if one_each else length // CHARACTERS_PER_TOKEN

    def cut_by_length(self) -> None:
        """Note that the answer is as long as was asked for, though its provider did not say so."""
        if self.native:
            from langchain_core.messages import AIMessageChunk  # noqa: PLC0415  # only for this

            end = {"finish_reason": "length"}
            self.native.append(AIMessageChunk(content="", response_metadata=end))
        else:
            self.choices[0].finish_reason = "length"

    def cache_tokens(self) -> tuple[int | None, int | None]:
        """Tokens of the prompt that were read from the provider's cache, and written to it."""
        usage = self._usage()
        return cache_counts(usage) if usage else (None, None)

    def _usage(self) -> dict[str, Any] | None:
        return passthrough.usage_of(self.native) if self.native else self.usage

    def end(self) -> None:
        """Count the answer as ended: the server has said so, without a finish_reason."""
        for choice in self.choices.values():
            choice.whole = True
        self.ended = True

    def fault(self, request: ChatRequest | None = None) -> Fault | None:
        """Return what is wrong with the answer once its chunks have ended; None if nothing is.

        A tool call that cannot be run is no fault beside text or one that can: LangChain has
        `invalid_tool_calls`.

        Args:
            request: What was asked: the schemas of its tools say which arguments a call needs.
        """
        if self.error:
            return Fault(FaultKind.SERVER, f"error inside the answer: {_error_text(self.error)}")
        # A LangChain model raises when it is cut off; not all of them give a finish_reason.
        if not self.native and not all(map(_has_ended, self.choices.items())):
            return Fault(FaultKind.BROKEN, self._broken_off())
        for reason in self._reasons():
            if reason not in _USUAL and (fault := fault_of_reason(reason)) is not None:
                return fault
        return None if self._visible or self.stopped else self._without_text(request)

    def _broken_off(self) -> str:
        """Say how it ended; a server at a wrong address may answer anything but a completion."""
        if self._pieces or self.model:
            return "the answer ended without a finish_reason"
        return "what came holds no answer: if that lasts, check `base_url`"

    def _without_text(self, request: ChatRequest | None) -> Fault | None:
        choice = self.choices[0]
        calls = [(call.name, call.args) for call in choice.tools.calls]
        if calls := calls or passthrough.calls_of(self.native):
            return fault_of_calls(calls, request)
        if choice.refusal or passthrough.refusal_of(self.native):
            return Fault(FaultKind.CONTENT_FILTER, "the model refused to answer", kept=True)
        # The code distinguishes "max_tokens was too low" from "the model said nothing".
        problem = "no text, no tool call" + (", reasoning only" if self._pieces else "")
        if cut := ending_of(self.finish_reason) is Ending.CUT_SHORT:
            problem += ": max_tokens was used up before the answer began"
        return Fault(FaultKind.EMPTY, problem, code="length" if cut else self.finish_reason)

    def _reasons(self) -> list[str | None]:
        if self.native:
            return [self.finish_reason]
        return [choice.finish_reason for choice in self.choices.values()]


_USUAL = frozenset({"stop", "tool_calls", "length", None})
"""The finish reasons of nearly all answers, which are no fault."""


def _has_ended(numbered: tuple[int, ChoiceAccumulator]) -> bool:
    """Whether a choice has ended; some servers send a second one with nothing in it."""
    number, choice = numbered
    return choice.ended or (number > 0 and choice.empty)


def _text(value: Any) -> str | None:
    return value if value and isinstance(value, str) else None


def _has_counts(usage: dict[str, Any]) -> list[int | None]:
    return [token_count(usage, k) for k in ("prompt_tokens", "completion_tokens", "total_tokens")]


def _error_text(error: Any) -> str:
    message = error.get("message") if isinstance(error, dict) else error
    return str(message or "no message")[:200]
