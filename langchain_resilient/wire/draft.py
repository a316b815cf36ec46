"""One answer being received, folded chunk by chunk.

Every attempt has a draft, the losers too, so adding a plain piece of text costs about a
microsecond, and nothing becomes a LangChain message before it is known whose answer counts.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Any

from langchain_resilient.fault import Fault, FaultKind
from langchain_resilient.wire import native
from langchain_resilient.wire.choice import Choice
from langchain_resilient.wire.reading import MOST_CHOICES, BadChunkError, choices_of, read
from langchain_resilient.wire.usage import cache_counts, count

if TYPE_CHECKING:
    from langchain_core.messages import AIMessage

    from langchain_resilient.request import Chunk


PLAIN = frozenset({"content", "role", "token_id"})
"""What may stand in a delta that is nothing but text; the last two are on all of Together's."""


CHARACTERS_A_TOKEN = 4

MOST_IDLE = 10_000
"""Chunks in a row that add nothing, not even thoughts: they are kept until it is known whether
the answer is shown, so there must be an end."""


class Seen(IntEnum):
    """What a chunk brought, for whoever waits for it. Larger is more."""

    NOTHING = 0
    """A role, an empty delta, usage, or white space: some models go on with that for ever."""
    THINKING = 1
    """Reasoning only: the model is alive, but nothing of its answer has come."""
    VISIBLE = 2
    """Text, a tool call, a refusal or audio."""


_NOTHING, _THINKING, _VISIBLE = Seen


class Draft:
    """The answer of one attempt so far. Not safe for use by two tasks at once.

    Attributes:
        id: The provider's id for the answer.
        model: The model that answered, which may not be the one that was asked.
        system_fingerprint: The provider's name for its configuration.
        service_tier: The tier that served it.
        usage: The provider's token counts, as it sent them; the last that counts anything.
        warnings: What Together warns about.
        moderation: What OpenAI's moderation, where it was asked for, thinks of prompt and answer.
        error: An error object inside a 200 stream: it decides, whatever else came.
        ended: Whether every choice has said why it ended; of a native answer that is not known.
        choices: What each choice has said, by its index; the first is always there.
        native: The messages of a target that is a LangChain model; such a draft has nothing else.

    Example:
        ```python
        draft = Draft()
        draft.add({"choices": [{"index": 0, "delta": {"content": "Hi"}}]})  # Seen.VISIBLE
        draft.add({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        draft.text, draft.fault()  # ('Hi', None)
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
        "id",
        "model",
        "moderation",
        "native",
        "service_tier",
        "system_fingerprint",
        "usage",
        "warnings",
    )

    def __init__(self) -> None:
        first = Choice()
        self.choices: dict[int, Choice] = {0: first}
        self.id: str | None = None
        self.model: str | None = None
        self.system_fingerprint: str | None = None
        self.service_tier: str | None = None
        self.usage: dict[str, Any] | None = None
        self.warnings: list[Any] = []
        self.moderation: dict[str, Any] | None = None
        self.error: Any = None
        self.native: list[AIMessage] = []
        self._append = first.parts.append
        self._known = False
        self.ended = False
        self._pieces = 0
        self._visible = False
        self._blank = 0
        self._heard = self._idle = 0

    def add(self, chunk: Chunk) -> Seen:
        """Fold in a chunk of a stream, a whole completion, or `{"message_chunk": AIMessageChunk}`.

        Raises:
            BadChunkError: If the chunk makes no sense; the answer is then `FaultKind.BROKEN`.
        """
        # Nearly every chunk is a piece of plain text. What is not exactly that goes the long way.
        try:
            (choice,) = chunk["choices"]
            delta = choice["delta"]
            text = delta["content"]
            if (
                text.__class__ is not str
                or not text
                or not self._known
                or (len(delta) != 1 and not delta.keys() <= PLAIN)
                or choice["index"] != 0
                or choice["finish_reason"]
                or choice.get("logprobs")
                or chunk.get("usage")
                or "error" in chunk
            ):
                return self._add_any(chunk)
        except (KeyError, TypeError, ValueError, AttributeError):
            return self._add_any(chunk)
        self._append(text)
        self._pieces += 1
        if text.isspace():
            self._blank += len(text)
            return _NOTHING
        self._visible = True
        self._blank = 0
        return _VISIBLE

    def _add_any(self, chunk: Chunk) -> Seen:
        choices = choices_of(chunk)
        if "message_chunk" in chunk:
            return self._add_native(native.as_message(chunk["message_chunk"]))
        deltas = [read(choice) for choice in choices]
        self._add_head(chunk)
        seen = _NOTHING
        for delta in deltas:
            choice = self.choices.get(delta.index)
            if choice is None:
                if len(self.choices) == MOST_CHOICES:
                    raise BadChunkError(f"an answer has more than {MOST_CHOICES} choices")
                choice = self.choices[delta.index] = Choice()
            choice.add(delta)
            said = bool(delta.text or delta.calls or delta.refusal)
            self._blank = 0 if delta.visible else self._blank + len(delta.text)
            seen = max(seen, self._see(said, delta.visible, bool(delta.reasoning), delta.index))
        self._idle += 1
        if self._pieces != self._heard:
            self._idle, self._heard = 0, self._pieces
        elif self._idle > MOST_IDLE:
            raise BadChunkError(f"{MOST_IDLE} chunks in a row said nothing")
        self.ended = all(choice.ended for choice in self.choices.values())
        return seen

    def _add_native(self, message: AIMessage) -> Seen:
        if native.REPLACED_KEY in message.response_metadata:
            self.native.clear()  # a chain inside the chain began anew
        self.native.append(message)
        said, visible, thinking = native.kinds(message)
        self._blank = 0 if visible else self._blank + len(message.text)
        return self._see(said, visible, thinking)

    def _see(self, said: bool, visible: bool, thinking: bool, index: int = 0) -> Seen:
        self._pieces += said or visible or thinking
        # The message is the first choice: others do not make up for one that is empty.
        self._visible = self._visible or (visible and not index)
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
        # Some servers count on every chunk; after an error OpenAI sends one that is all zeros.
        if isinstance(usage, dict) and (self.usage is None or any(_counts(usage))):
            self.usage = usage
        if isinstance(warnings, list):
            self.warnings.extend(warnings)
        if isinstance(moderation := chunk.get("moderation"), dict):
            self.moderation = moderation

    @property
    def text(self) -> str:
        """The visible text of the first choice."""
        return "".join(m.text for m in self.native) if self.native else self.choices[0].text

    @property
    def counted(self) -> bool:
        """Whether the provider's token counts have come."""
        return self.usage is not None

    @property
    def shown(self) -> str:
        """The text up to its last visible character: white space waits for what follows it."""
        text = self.text
        return text[: len(text) - self._blank] if self._blank else text

    @property
    def finish_reason(self) -> str | None:
        """Why the first choice ended; None if it was not said."""
        if self.native:
            return native.finish_reason(self.native)
        return self.choices[0].finish_reason

    @property
    def calling(self) -> bool:
        """Whether a tool call has begun: such an answer cannot be continued, only restarted."""
        if self.native:
            return any(map(native.calling, self.native))
        return any(choice.tools.calls for choice in self.choices.values())

    def input_tokens(self) -> int | None:
        """Tokens of the prompt, where the provider said."""
        return count(self._usage(), "prompt_tokens")

    def output_tokens(self) -> int | None:
        """Tokens of the answer: as reported, else the number of pieces that came, None if none."""
        reported = count(self._usage(), "completion_tokens")
        return reported if reported is not None else self._pieces or None

    def tokens(self) -> int:
        """About how much has come so far, thoughts and tool calls included: to judge its pace."""
        length = sum([choice.length() for choice in self.choices.values()])
        return max(self._pieces, length // CHARACTERS_A_TOKEN)

    def cache_tokens(self) -> tuple[int | None, int | None]:
        """Tokens of the prompt that were read from the provider's cache, and written to it."""
        usage = self._usage()
        return cache_counts(usage) if usage else (None, None)

    def _usage(self) -> dict[str, Any] | None:
        return native.usage(self.native) if self.native else self.usage

    def fault(self) -> Fault | None:
        """What is wrong with the answer, now that its chunks have ended; None if it is good.

        Arguments of a tool call that are not JSON are no fault: LangChain has `invalid_tool_calls`.
        """
        if self.error:
            return Fault(FaultKind.SERVER, f"error inside the answer: {_error_text(self.error)}")
        # A LangChain model raises when it is cut off; not all of them tell a finish_reason.
        if not self.native and not all(choice.ended for choice in self.choices.values()):
            return Fault(FaultKind.BROKEN, "the answer ended without a finish_reason")
        if any(reason == "content_filter" for reason in self._reasons()):
            return Fault(FaultKind.CONTENT_FILTER, "stopped by the provider's content filter")
        if not self._visible:
            return self._empty()
        return None

    def _empty(self) -> Fault:
        # Its code lets a policy tell "the limit of tokens was too low" from "nothing was said".
        what = "no text, no tool call" + (", reasoning only" if self._pieces else "")
        if self.finish_reason == "length":
            what += ": max_tokens was used up before the answer began"
        return Fault(FaultKind.EMPTY, what, code=self.finish_reason)

    def _reasons(self) -> list[str | None]:
        if self.native:
            return [self.finish_reason]
        return [choice.finish_reason for choice in self.choices.values()]


def _text(value: Any) -> str | None:
    return value if value and isinstance(value, str) else None


def _counts(usage: dict[str, Any]) -> list[int | None]:
    return [count(usage, k) for k in ("prompt_tokens", "completion_tokens", "total_tokens")]


def _error_text(error: Any) -> str:
    said = error.get("message") if isinstance(error, dict) else error
    return str(said or "no message")[:200]
