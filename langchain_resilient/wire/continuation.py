"""Going on with an answer that broke off: what to ask of another target, and how to join the two.

The next target is asked by a message, never by leaving the assistant's own message open: several
providers refuse that ("prefill"), and others answer it as if it were finished.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from langchain_resilient.wire.passthrough import content_kinds

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from langchain_core.messages import AIMessage

    from langchain_resilient.exchange import ChatRequest
    from langchain_resilient.wire.accumulator import ResponseAccumulator


MAX_ECHO = 400
"""Characters of the end of a text that are looked for in what follows it."""


_LONG = 16
"""Characters that, from the middle of a word on, stand somewhere twice hardly by chance."""


_MIN_RULE = 4
"""Of `|---|` or `====` it is a line; shorter punctuation is doubled by right, as in `f((x))`."""


_MIN_DENSE = 2
"""Of scripts without spaces, where one character twice (`天天`) is a word."""


# Chinese and Japanese; Thai, Lao, Burmese, Khmer: all are written without spaces.
_DENSE = re.compile(
    "[\u2e80-\u9fff\uf900-\ufaff\uff66-\uff9d\U00020000-\U0003ffff"
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]"
)


_GLUE = frozenset(".,:;'\u2019-/@%+#&=~\u200c\u200d\u00ad")
"""What holds numbers, contractions, paths and addresses together: `1.15` is no `1.` and `15`."""


def begins_word(text: str, place: int) -> bool:
    """Whether the character at a place is the first of a word, or of what stands between words.

    Args:
        text: Any text.
        place: An index into it.

    Example:
        ```python
        [i for i in range(9) if begins_word("a 1.5 b-c", i) and "a 1.5 b-c"[i] != " "]  # [0, 2, 6]
        ```
    """
    after = text[place]
    if place == 0 or (before := text[place - 1]).isspace():
        return True
    if _combines(after):
        return False
    return bool(_DENSE.match(before) or _DENSE.match(after)) or not _holds(before, after)


def is_distinctive(text: str, place: int) -> bool:
    """Whether `text[place:]`, said once more right after the text, is an echo and no chance.

    It is if it holds a word and begins where a word does. From the middle of a word on, it must
    reach the next word or be long: `Mis` and `sissippi` have an `s` in common, which is no echo.

    Args:
        text: What was said, without white space at its end.
        place: An index into it.
    """
    length = len(text) - place
    if text[place].isspace():
        return False
    if not any(map(_is_word, text[place:])):
        return length >= _MIN_RULE
    if place == 0 or text[place - 1].isspace():
        return True
    if begins_word(text, place):
        return length >= _MIN_DENSE or not _DENSE.match(text, place)
    later = range(place + 1, len(text))
    return length >= _LONG or any(_is_word(text[i]) and begins_word(text, i) for i in later)


def echoes(text: str) -> list[int]:
    """Find the places from which the end of a text may be repeated, the longest end first.

    These are the last `MAX_ECHO` characters, and its very beginning.
    """
    first = max(0, len(text) - MAX_ECHO)
    found = [place for place in range(first, len(text)) if is_distinctive(text, place)]
    return [0, *found] if first and is_distinctive(text, 0) else found


def anchor(text: str, least: int = 40, most: int = 80) -> str:
    """Return the last few words of a text: so many characters, if it has them.

    Args:
        text: Any text; white space at its end is left out.
        least: Fewer are not enough to know the place.
        most: More need not be repeated.
    """
    said = text.rstrip()
    if len(said) <= most:
        return said.lstrip()
    end = len(said)
    places = range(end - most, end - least + 1)
    start = next((i for i in places if begins_word(said, i) and not said[i].isspace()), end - least)
    return said[start:]


def _is_word(char: str) -> bool:
    return char.isalnum() or char == "_" or _combines(char)


def _combines(char: str) -> bool:
    return unicodedata.category(char)[0] == "M"


def _holds(before: str, after: str) -> bool:
    """Whether two neighbours belong to one word."""
    return all(char in _GLUE or _is_word(char) for char in (before, after))


ECHO_TOKENS = 24
"""What a continuation is given for the words that it repeats."""


MIN_TOKENS = 16 + ECHO_TOKENS
"""What a continuation is given at least."""


_LIMITS = ("max_tokens", "max_completion_tokens")


_SHAPES = frozenset(
    {"grammar", "json_schema", "format", "structured_outputs", "guided_json", "guided_regex",
     "guided_choice", "guided_grammar"}
)  # fmt: skip
"""What llama.cpp, Ollama and vLLM call it when an answer must have a certain form."""


_ELSEWHERE = ("refusal", "function_call", "audio")


_ASKING = """\
Your answer was cut off. These are its last words:

"{anchor}"

Continue it from there. Begin by repeating these last words verbatim, without the quotation marks, \
and go straight on with what comes next, in the same language, voice and formatting: no preamble, \
no remark, nothing said twice. If the answer was already complete, repeat these words and stop."""


_NO_SPACE = re.compile(r"\S|\Z")


_ELLIPSIS = re.compile(r"\.{3,}|…+")


_QUOTES = dict(zip("\"'`“„\u2018«「『", "\"'`”“\u2019»」』", strict=True))


def may_continue(request: ChatRequest, response: ResponseAccumulator) -> bool:
    """Whether another target may go on with what an answer has said so far.

    Only plain text can be glued. What must parse (JSON, a grammar), a tool call, a refusal, speech
    and several choices cannot: they are asked for anew. Tools that are merely offered do not
    matter, nor do log probabilities.

    Args:
        request: What was asked.
        response: What has come of the answer.

    Example:
        ```python
        if may_continue(request, draft):
            request = continued(request, draft.text, draft.output_tokens())
        ```
    """
    wanted = {**request.defaults, **request.overrides}
    return not (
        _shaped(wanted) or _calls_or_speaks(wanted) or response.calling or _says_more(response)
    )


def continuation_request(request: ChatRequest, text: str, tokens: int | None) -> ChatRequest:
    """Make the request by which another target goes on from what was delivered.

    Args:
        request: The one that was being answered; it stays as it is, and its messages are shared.
        text: All that was delivered.
        tokens: Its length in tokens: where the request has a limit, the rest is what is left of it,
            and at least `MIN_TOKENS`. None, where nobody knows, leaves the limit alone.

    Returns:
        A new request, or the same one if the text is empty or blank: there is nothing to go on
        from.

    Example:
        ```python
        continued(request, "The quick bro", 4).messages[-2:]
        # [{'role': 'assistant', 'content': 'The quick bro'},
        #  {'role': 'user', 'content': 'Your answer was cut off. ...'}]
        ```
    """
    if not text.strip():
        return request
    from langchain_core.messages import AIMessage, HumanMessage  # noqa: PLC0415  # only for this

    asking = _ASKING.format(anchor=anchor(text))
    said, asks = {"role": "assistant", "content": text}, {"role": "user", "content": asking}
    return replace(
        request,
        messages=[*request.messages, said, asks],
        source=(*request.source, AIMessage(text), HumanMessage(asking)),
        defaults=_left(request.defaults, tokens),
        overrides=_left(request.overrides, tokens),
    )


class ContinuationJoiner:
    """Trims what a continuation repeats of the delivered text. Not safe for use by two tasks.

    The first text of the continuation is held back for as long as it may turn out to be the end of
    what was delivered (the last `LONGEST_ECHO` characters), or all of it once more. White space
    need not agree, and white space, an ellipsis or a quotation mark may stand before an echo. When
    nothing longer can match, the longest echo is cut out. One that is hardly more than chance stays
    (see `langchain_resilient.wire.continuation.is_distinctive`): then the texts are just put together, for
    answers break off in the middle of words.

    Args:
        delivered: The text so far.

    Attributes:
        settled: Once True, text passes unchanged: the caller may drop the join.

    Example:
        ```python
        join = Join("The quick bro")
        join.feed("quick")  # '': it may be an echo
        join.feed(" brown fox")  # 'wn fox'
        join.settled  # True
        ```
    """

    __slots__ = ("_held", "_places", "_said", "_space", "settled")

    def __init__(self, delivered: str) -> None:
        self.settled = not delivered
        self._said = " ".join(delivered.split())
        self._space = delivered[len(delivered.rstrip()) :]
        self._places = echoes(self._said)
        self._held = ""

    def feed(self, text: str) -> str:
        """Take what came; return what may be shown now."""
        if self.settled:
            return text
        self._held += text
        return self._show(ended=False)

    def finish(self) -> str:
        """Return what is left to be shown, now that the continuation has come to a sound end."""
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
        """Whether an echo, or what may stand before one, is incomplete."""
        if self._held[beginnings[-1][0] :] in {"", ".", ".."}:
            return True
        said = self._said
        heard = [_single_spaced(self._held[place:]) for place, _ in beginnings]
        return any(
            said.startswith(text, place) and len(said) - place > len(text)
            for text in heard
            for place in self._places
        )

    def _rest(self, beginnings: list[tuple[int, str]], *, ended: bool) -> str | None:
        """Cut the longest echo out; None while too little is known of what follows it."""
        found = [(*self._echo(place), closing) for place, closing in beginnings]
        length, end, closing = max(found, key=lambda echo: echo[0])
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
        """Find the longest echo at a place of the held text: its length, and where it ends."""
        heard = _single_spaced(self._held[beginning:])
        echo = next((e for p in self._places if heard.startswith(e := self._said[p:])), "")
        pattern = re.compile(r"\s+".join(map(re.escape, echo.split(" "))))
        match = pattern.match(self._held, beginning)
        return len(echo), match.end() if match else 0


def join_texts(delivered: str, more: str, *, finished: bool) -> str:
    """Put a continuation behind the delivered text, without what it repeats.

    Args:
        delivered: The text so far.
        more: All that came of the continuation.
        finished: Whether it came to a sound end; else what is undecided of it is dropped.

    Example:
        ```python
        joined("Once upon a", "a time", finished=True)  # 'Once upon a time'
        ```
    """
    join = ContinuationJoiner(delivered)
    shown = join.feed(more)
    return delivered + shown + (join.finish() if finished else "")


def _beginnings(text: str) -> Iterator[tuple[int, str]]:
    """Yield where an echo may begin, and the quotation mark that then ends it, if any."""
    place = _skip_space(text, 0)
    yield place, ""
    if ellipsis := _ELLIPSIS.match(text, place):
        place = _skip_space(text, ellipsis.end())
        yield place, ""
    if closing := _QUOTES.get(text[place : place + 1]):
        yield _skip_space(text, place + 1), closing


def _single_spaced(text: str) -> str:
    """Make one space of all white space; at the beginning there is none."""
    return " ".join(text.split()) + " " * text[-1:].isspace()


def _skip_space(text: str, place: int) -> int:
    match = _NO_SPACE.search(text, place)
    return match.start() if match else len(text)


def _without_common(space: str, more: str) -> str:
    """Leave out the white space with which one text ends and the other begins."""
    run = more[: _skip_space(more, 0)]
    common = next((n for n in range(len(run), 0, -1) if space.endswith(run[:n])), 0)
    return more[common:]


def _without_double(space: str, rest: str) -> str:
    """Leave out white space after an echo where the delivered text ends with some already."""
    run = rest[: _skip_space(rest, 0)]
    if run.startswith(space):
        return rest[len(space) :]
    # A line that is missing would change lists, tables and programs.
    return rest if "\n" in run and "\n" not in space else rest[len(run) :]


def _shaped(wanted: Mapping[str, Any]) -> bool:
    """Whether the answer must be JSON, or in some other prescribed form."""
    more = wanted.get("extra_body")
    shape = wanted.get("response_format")
    kind = shape.get("type") if isinstance(shape, dict) else shape
    if kind not in {None, "text"} or any(wanted.get(name) for name in _SHAPES):
        return True
    return isinstance(more, dict) and _shaped(more)


def _calls_or_speaks(wanted: Mapping[str, Any]) -> bool:
    """Whether something else than one text was asked for."""
    choice = wanted.get("tool_choice")
    forced = isinstance(choice, dict) or choice not in {None, "auto", "none"}
    spoken = "audio" in (wanted.get("modalities") or ())
    return bool(wanted.get("tools") and forced) or spoken or (wanted.get("n") or 1) > 1


def _says_more(response: ResponseAccumulator) -> bool:
    """Whether the answer holds something that its text does not."""
    if response.native:
        return any(map(_has_more, response.native))
    return len(response.choices) > 1 or any(map(response.choices[0].extras().get, _ELSEWHERE))


def _has_more(message: AIMessage) -> bool:
    text, visible, _ = content_kinds(message)
    return (visible and not text) or any(map(message.additional_kwargs.get, _ELSEWHERE))


def _left(limits: Mapping[str, Any], tokens: int | None) -> Mapping[str, Any]:
    """Take the tokens that were delivered off the limits that are set."""
    if not tokens:
        return limits
    left = {
        name: max(MIN_TOKENS, limit - tokens + ECHO_TOKENS)
        for name in _LIMITS
        if isinstance(limit := limits.get(name), int)
    }
    return {**limits, **left} if left else limits
