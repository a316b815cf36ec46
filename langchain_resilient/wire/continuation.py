"""Continue an answer that broke off: the request to another target, and how to join the two texts.

The other target is asked by a user message, never by leaving the assistant's message open
("prefill"): several providers refuse that, and others answer as if the message were finished.

Models repeat some of the text before they go on. Where words begin, and what counts as such an
"echo", is decided in the first part of this file.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from langchain_resilient.exchange import TOKEN_LIMITS
from langchain_resilient.wire.passthrough import content_kinds

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from langchain_core.messages import AIMessage

    from langchain_resilient.exchange import ChatRequest
    from langchain_resilient.wire.accumulator import ResponseAccumulator


MAX_ECHO = 400
"""The longest end of a text, in characters, that is looked for in what follows it."""

_MIN_LONG = 16
"""Characters; a match of this length is no chance, even if it starts in the middle of a word."""

_MIN_RULE = 4
"""Characters; punctuation as long as `|---|` or `====` is a rule, shorter may rightly be doubled,
as in `f((x))`."""

_MIN_DENSE = 2
"""Characters of a script without spaces, where one character twice (`天天`) may be a word."""


# Chinese and Japanese; Thai, Lao, Burmese, Khmer: all are written without spaces.
_DENSE = re.compile(
    "[\u2e80-\u9fff\uf900-\ufaff\uff66-\uff9d\U00020000-\U0003ffff"
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]"
)

_GLUE = frozenset(".,:;'\u2019-/@%+#&=~\u200c\u200d\u00ad")
"""Characters inside numbers, contractions, paths and addresses: `1.15` is one word."""


def begins_word(text: str, index: int) -> bool:
    """Whether the character at an index is the first of a word, or of what separates words.

    Args:
        text: Any text.
        index: An index into it.

    Example:
        ```python
        [i for i in range(9) if begins_word("a 1.5 b-c", i) and "a 1.5 b-c"[i] != " "]  # [0, 2, 6]
        ```
    """
    after = text[index]
    if index == 0 or (before := text[index - 1]).isspace():
        return True
    if _combines(after):
        return False
    return bool(_DENSE.match(before) or _DENSE.match(after)) or not _holds(before, after)


def is_distinctive(text: str, index: int) -> bool:
    """Whether `text[index:]`, repeated right after the text, is an echo rather than chance.

    It is if it contains a word and begins where a word does. If it begins in the middle of a word,
    it must reach the next word or be long: `Mis` and `sissippi` share an `s`, which is no echo.

    Args:
        text: The text so far, without white space at its end.
        index: An index into it.
    """
    length = len(text) - index
    if text[index].isspace():
        return False
    if not any(map(_is_word, text[index:])):
        return length >= _MIN_RULE
    if index == 0 or text[index - 1].isspace():
        return True
    if begins_word(text, index):
        return length >= _MIN_DENSE or not _DENSE.match(text, index)
    later = range(index + 1, len(text))
    return length >= _MIN_LONG or any(_is_word(text[i]) and begins_word(text, i) for i in later)


def echo_starts(text: str) -> list[int]:
    """Find the indices from which the end of a text may be repeated, the longest end first.

    They lie in its last `MAX_ECHO` characters; index 0 (all of the text) counts too.
    """
    first = max(0, len(text) - MAX_ECHO)
    starts = [index for index in range(first, len(text)) if is_distinctive(text, index)]
    return [0, *starts] if first and is_distinctive(text, 0) else starts


def last_words(text: str, min_length: int = 40, max_length: int = 80) -> str:
    """Return the last few words of a text.

    Args:
        text: Any text; white space at its end is left out.
        min_length: The fewest characters; fewer do not identify the place.
        max_length: The most characters.
    """
    text = text.rstrip()
    end = len(text)
    if end <= max_length:
        return text.lstrip()
    indices = range(end - max_length, end - min_length + 1)
    starts = (i for i in indices if begins_word(text, i) and not text[i].isspace())
    return text[next(starts, end - min_length) :]


def _is_word(char: str) -> bool:
    return char.isalnum() or char == "_" or _combines(char)


def _combines(char: str) -> bool:
    return unicodedata.category(char)[0] == "M"


def _holds(before: str, after: str) -> bool:
    """Whether two neighbouring characters belong to one word."""
    return all(char in _GLUE or _is_word(char) for char in (before, after))


ECHO_TOKENS = 24
"""Tokens of the words that a continuation is asked to repeat, at most."""

_FEW_TOKENS = 3 * ECHO_TOKENS
"""A continuation that may not be longer is asked to repeat nothing: it has none to spare."""

_FORM_PARAMS = frozenset(
    {"grammar", "json_schema", "format", "structured_outputs", "guided_json", "guided_regex",
     "guided_choice", "guided_grammar"}
)  # fmt: skip
"""The parameters by which llama.cpp, Ollama and vLLM prescribe the form of an answer."""

_OTHER_CONTENT = ("refusal", "function_call", "audio")

_PROMPT = """\
Your answer was cut off. These are its last words:

"{last_words}"

Continue it from there. Begin by repeating these last words verbatim, without the quotation marks, \
and go straight on with what comes next, in the same language, voice and formatting: no preamble, \
no remark, nothing said twice. If the answer was already complete, repeat these words and stop."""

_SHORT_PROMPT = """\
Your answer was cut off. These are its last words:

"{last_words}"

Go straight on with what comes next, in the same language, voice and formatting: no preamble, no \
remark, and none of these words again."""

_NO_SPACE = re.compile(r"\S|\Z")
_ELLIPSIS = re.compile(r"\.{3,}|…+")
_QUOTES = dict(zip("\"'`“„\u2018«「『", "\"'`”“\u2019»」』", strict=True))


def may_continue(request: ChatRequest, response: ResponseAccumulator) -> bool:
    """Whether another target may continue an answer from where it broke off.

    Only plain text can be joined. Anything that must parse (JSON, a grammar), tool calls, refusals,
    audio and several choices cannot be: they are requested again from the start. Tools that are
    only offered do not matter, nor do log probabilities.

    Args:
        request: The request that was being answered.
        response: The part of the answer that has come.

    Example:
        ```python
        if may_continue(request, response):
            request = continuation_request(request, response.text, response.output_tokens())
        ```
    """
    params = {**request.defaults, **request.overrides}
    return not (
        _has_prescribed_form(params)
        or _calls_or_speaks(params)
        or response.has_tool_calls
        or _has_more_than_text(response)
    )


def continuation_request(request: ChatRequest, text: str, tokens: int | None) -> ChatRequest:
    """Make the request for another target to continue from the delivered text.

    Args:
        request: The one that was being answered; it stays as it is, and its messages are shared.
        text: All that was delivered.
        tokens: Its length in tokens, which is taken off the limits of whoever is asked; None if
            unknown: they then stay as they are.

    Returns:
        A new request; the same one if the text is blank, since there is nothing to continue.

    Example:
        ```python
        continuation_request(request, "The quick bro", 4).messages[-2:]
        # [{'role': 'assistant', 'content': 'The quick bro'},
        #  {'role': 'user', 'content': 'Your answer was cut off. ...'}]
        ```
    """
    if not text.strip():
        return request
    from langchain_core.messages import AIMessage, HumanMessage  # noqa: PLC0415  # only for this

    limit = token_limit(request)
    short = limit is not None and limit - (tokens or 0) < _FEW_TOKENS
    prompt = (_SHORT_PROMPT if short else _PROMPT).format(last_words=last_words(text))
    partial = {"role": "assistant", "content": text}
    instruction = {"role": "user", "content": prompt}
    return replace(
        request,
        messages=[*request.messages, partial, instruction],
        source=(*request.source, AIMessage(text), HumanMessage(prompt)),
        delivered=tokens or 0,
    )


def token_limit(request: ChatRequest) -> int | None:
    """How long the answer may be, by the call or the model; None where neither says."""
    params = {**request.defaults, **request.overrides}
    limits = [limit for name in TOKEN_LIMITS if isinstance(limit := params.get(name), int)]
    return min(limits, default=None)


class ContinuationJoiner:
    """Cuts out what a continuation repeats of the delivered text. Not for use by two tasks at once.

    The beginning of the continuation is held back for as long as it may turn out to repeat the end
    of the delivered text (its last `MAX_ECHO` characters), or all of it. White space may differ,
    and white space, an ellipsis or a quotation mark may precede the echo. Once no longer match is
    possible, the longest echo is cut out. A match that may well be chance is not an echo (see
    `is_distinctive`): the texts are then joined as they are, since answers break off in the middle
    of words.

    Args:
        delivered: The text so far.

    Attributes:
        settled: Once True, text passes unchanged: the caller may drop the join.

    Example:
        ```python
        join = ContinuationJoiner("The quick bro")
        join.feed("quick")  # '': it may be an echo
        join.feed(" brown fox")  # 'wn fox'
        join.settled  # True
        ```
    """

    __slots__ = ("_echo_starts", "_held", "_space", "_text", "settled")

    def __init__(self, delivered: str) -> None:
        self.settled = not delivered
        self._text = " ".join(delivered.split())
        self._space = delivered[len(delivered.rstrip()) :]
        self._echo_starts = echo_starts(self._text)
        self._held = ""

    def feed(self, text: str) -> str:
        """Add text of the continuation; return what may be shown now."""
        if self.settled:
            return text
        self._held += text
        return self._show(ended=False)

    def finish(self) -> str:
        """Return the rest, once the continuation has ended properly."""
        return "" if self.settled else self._show(ended=True)

    def _show(self, *, ended: bool) -> str:
        beginnings = list(_beginnings(self._held))
        if not ended and self._may_grow(beginnings):
            return ""
        rest = self._rest(beginnings, ended=ended)
        if rest is None:
            return ""
        self.settled, self._held = True, ""
        return rest

    def _may_grow(self, beginnings: list[tuple[int, str]]) -> bool:
        """Whether an echo, or what may precede one, may still be incomplete."""
        if self._held[beginnings[-1][0] :] in {"", ".", ".."}:
            return True
        candidates = [_single_spaced(self._held[index:]) for index, _ in beginnings]
        return any(
            self._text.startswith(text, index) and len(self._text) - index > len(text)
            for text in candidates
            for index in self._echo_starts
        )

    def _rest(self, beginnings: list[tuple[int, str]], *, ended: bool) -> str | None:
        """Return the text without its longest echo; None while it is unclear what follows it."""
        echoes = [(*self._echo(index), closing) for index, closing in beginnings]
        length, end, closing = max(echoes, key=lambda echo: echo[0])
        if not length:
            return _without_common(self._space, self._held)
        rest = self._held[end:]
        unsure = closing and not rest
        if closing and rest.startswith(closing):
            rest = rest[1:]
        unsure = unsure or (self._space and not rest.strip())
        if unsure and not ended:
            return None
        return _without_double(self._space, rest)

    def _echo(self, beginning: int) -> tuple[int, int]:
        """Return the longest echo at an index of the held text: its length, and where it ends."""
        text = _single_spaced(self._held[beginning:])
        echo = next((e for p in self._echo_starts if text.startswith(e := self._text[p:])), "")
        pattern = re.compile(r"\s+".join(map(re.escape, echo.split(" "))))
        match = pattern.match(self._held, beginning)
        return len(echo), match.end() if match else 0


def join_texts(delivered: str, more: str, *, finished: bool) -> str:
    """Append a continuation to the delivered text, without what it repeats.

    Args:
        delivered: The text so far.
        more: The text of the continuation.
        finished: Whether it ended properly; if not, text that may be an echo is dropped.

    Example:
        ```python
        join_texts("Once upon a", "a time", finished=True)  # 'Once upon a time'
        ```
    """
    join = ContinuationJoiner(delivered)
    shown = join.feed(more)
    return delivered + shown + (join.finish() if finished else "")


def _beginnings(text: str) -> Iterator[tuple[int, str]]:
    """Yield each index at which an echo may begin, and its closing quotation mark, if any."""
    index = _skip_space(text, 0)
    yield index, ""
    if ellipsis := _ELLIPSIS.match(text, index):
        index = _skip_space(text, ellipsis.end())
        yield index, ""
    if closing := _QUOTES.get(text[index : index + 1]):
        yield _skip_space(text, index + 1), closing


def _single_spaced(text: str) -> str:
    """Collapse runs of white space to one space, and remove it at the beginning."""
    return " ".join(text.split()) + " " * text[-1:].isspace()


def _skip_space(text: str, index: int) -> int:
    match = _NO_SPACE.search(text, index)
    return match.start() if match else len(text)


def _without_common(space: str, more: str) -> str:
    """Remove leading white space with which the delivered text already ends."""
    run = more[: _skip_space(more, 0)]
    common = next((n for n in range(len(run), 0, -1) if space.endswith(run[:n])), 0)
    return more[common:]


def _without_double(space: str, rest: str) -> str:
    """Remove white space after an echo where the delivered text already ends with it."""
    run = rest[: _skip_space(rest, 0)]
    if run.startswith(space):
        return rest[len(space) :]
    # A missing line break would change lists, tables and programs.
    return rest if "\n" in run and "\n" not in space else rest[len(run) :]


def _has_prescribed_form(params: Mapping[str, Any]) -> bool:
    """Whether the answer must be JSON, or in some other prescribed form."""
    more = params.get("extra_body")
    shape = params.get("response_format")
    kind = shape.get("type") if isinstance(shape, dict) else shape
    if kind not in {None, "text"} or any(params.get(name) for name in _FORM_PARAMS):
        return True
    return isinstance(more, dict) and _has_prescribed_form(more)


def _calls_or_speaks(params: Mapping[str, Any]) -> bool:
    """Whether anything but a single text was requested."""
    choice = params.get("tool_choice")
    forced = isinstance(choice, dict) or choice not in {None, "auto", "none"}
    spoken = "audio" in (params.get("modalities") or ())
    return bool(params.get("tools") and forced) or spoken or (params.get("n") or 1) > 1


def _has_more_than_text(response: ResponseAccumulator) -> bool:
    """Whether the answer contains something besides its text."""
    if response.native:
        return any(map(_message_has_more, response.native))
    return len(response.choices) > 1 or any(map(response.choices[0].extras().get, _OTHER_CONTENT))


def _message_has_more(message: AIMessage) -> bool:
    text, visible, _ = content_kinds(message)
    return (visible and not text) or any(map(message.additional_kwargs.get, _OTHER_CONTENT))
