"""What the simulated model says: a text that anyone can work out from the question alone.

The rule, so that a test can check the right answer to the right prompt:

- `answer_to(prompt)` is `Answer <digest> to "<first words of the prompt>": 1 kalo 2 miru ...`, in
  sentences of eight numbered made-up words. It does not depend on model, provider or seed.
- The words follow from the digest, so any part that shows the beginning of an answer is enough to
  work out the rest: that is how a *continuation* is found (see `continuation`).
- `say exactly: X` is answered by X.
- A token is up to eight word characters, or one other character, with the white space before it.
  Prompts are counted at four characters a token.
"""

from __future__ import annotations

import re
from hashlib import blake2s
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

DEFAULT_WORDS = 40
"""How many numbered words an answer has unless a `Reply` says otherwise."""

_TOKEN = re.compile(r"\s*(?:\w{1,8}|[^\w\s])|\s+")
_HEADER = re.compile(r'Answer ([0-9a-f]{8}) to "([^"]*)": ')
_SAY_EXACTLY = re.compile(r"\bsay exactly:?\s*(.+)", re.IGNORECASE | re.DOTALL)
_ASKS_TO_CONTINUE = re.compile(
    r"\b(?:continu\w+|go on|carry on|left off|resume|pick up|interrupted|cut off)\b",
    re.IGNORECASE,
)
_NUMBERED = re.compile(r"\b\d+ [a-z]{4}\b")
_SYLLABLES = [consonant + vowel for consonant in "bdfghjklmnprstvz" for vowel in "aeiou"]
_WORDS = [first + second for first in _SYLLABLES for second in _SYLLABLES]
_SENTENCE = 8
_SHORT = 40
_SHORTEST_QUOTE = 12  # characters of an answer that are too many to stand somewhere by chance


class Turn(NamedTuple):
    """One message as the model reads it: who says what, without pictures and tool calls."""

    role: str
    text: str


def tokens(text: str) -> list[str]:
    """Cut a text into tokens; joined again they are the text.

    Example:
        ```python
        tokens("Hello, world")  # ["Hello", ",", " world"]
        ```
    """
    return _TOKEN.findall(text)


def count_prompt_tokens(text: str) -> int:
    """Count a prompt's tokens at four characters each, rounded up."""
    return (len(text) + 3) // 4


def answer_to(prompt: str, *, words: int = DEFAULT_WORDS, choice: int = 0) -> str:
    """Work out what the simulated model answers to a question.

    Args:
        prompt: The last user message of the conversation.
        words: How many numbered words; a longer answer begins with the shorter one.
        choice: Which of `n` answers, counted from 0.

    Returns:
        The whole answer.

    Example:
        ```python
        assert model.invoke("Hello").content == answer_to("Hello")
        ```
    """
    said = _SAY_EXACTLY.search(prompt)
    if said:
        return _unquoted(said[1].strip())
    digest = blake2s((f"{choice}:{prompt}" if choice else prompt).encode(), digest_size=4)
    short = " ".join(prompt[: 4 * _SHORT].split())[:_SHORT].replace('"', "'")
    return _compose(digest.hexdigest(), short, words)


def continuation(turns: Sequence[Turn], *, words: int, overlap: int = 0) -> str | None:
    """Go on with an answer that broke off, if that is what the conversation asks for.

    It does when its last user message or a system message says so ("continue", "go on",
    "carry on", "resume", "where you left off", "interrupted", ...), or when its last message is
    the assistant's own. The answer to go on with is that to any earlier question Q whose
    beginning the assistant has said, or the asking message quotes; Q itself need not be there if
    the quoted beginning reaches to the colon.

    Args:
        turns: The conversation.
        words: The length of the whole answer, in numbered words.
        overlap: How many characters of what was already said to repeat first.

    Returns:
        The rest of the answer, or None if nothing is to be continued. Of an answer that is complete
        only what is repeated is left: nothing, without an overlap.
    """
    asking, before = _split_asking(turns)
    if not asking and before is None:
        return None
    earlier = turns if before is None else turns[:before]
    for whole, said in _candidates(earlier, asking, words):
        rest = rest_of(whole, said, overlap)
        if rest is not None:
            return rest
    return None


def rest_of(whole: str, said: str, overlap: int = 0) -> str | None:
    """Return what is left of an answer, after the last characters that were already said of it.

    Args:
        whole: The answer.
        said: Its beginning; with anything else, and with nothing, there is no rest: None.
        overlap: How many characters to repeat.
    """
    return whole[max(0, len(said) - overlap) :] if said and whole.startswith(said) else None


def asks_to_continue(text: str) -> bool:
    """Tell whether a message wants the model to go on with what it said."""
    return bool(_ASKS_TO_CONTINUE.search(text))


def _split_asking(turns: Sequence[Turn]) -> tuple[list[str], int | None]:
    """Find the texts that ask to continue, and where the conversation before them ends."""
    asking = [
        turn.text
        for turn in turns
        if turn.role in {"system", "developer"} and asks_to_continue(turn.text)
    ]
    if turns and turns[-1].role == "assistant":
        return asking, len(turns)
    last = max((i for i, turn in enumerate(turns) if turn.role == "user"), default=None)
    if last is not None and asks_to_continue(turns[last].text):
        return [turns[last].text, *asking], last
    return asking, None


def _candidates(
    turns: Sequence[Turn], asking: Sequence[str], words: int
) -> Iterator[tuple[str, str]]:
    """Yield pairs of a whole answer and the part of it that was said, likeliest first."""
    for i in range(len(turns) - 1, -1, -1):
        if turns[i].role != "user":
            continue
        whole = answer_to(turns[i].text, words=words)
        yield whole, "".join(turn.text for turn in turns[i + 1 :] if turn.role == "assistant")
        for text in asking:
            yield whole, _quoted(whole, text)
    for text in (*asking, *(turn.text for turn in reversed(turns) if turn.role == "assistant")):
        header = _HEADER.search(text)
        if header:
            whole = _compose(header[1], header[2], words)
            yield whole, _quoted(whole, text)


def _quoted(whole: str, text: str) -> str:
    """Return how far `text` quotes `whole`: its beginning, or only the end of what was said."""
    at = text.rfind(whole[:_SHORTEST_QUOTE])
    if at >= 0:
        return whole[: _agreement(whole, text[at:])]
    furthest = 0
    for word in _NUMBERED.finditer(text):
        at = whole.find(f" {word[0]}") + 1
        if at:
            furthest = max(furthest, at + _agreement(whole[at:], text[word.start() :]))
    return whole[:furthest]


def _agreement(one: str, other: str) -> int:
    """Count the characters in which two texts begin alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def _compose(digest: str, short: str, words: int) -> str:
    """Write the answer that a digest stands for.

    A stride that shares no factor with 6,400 visits every two-syllable word before any repeats.
    """
    number = int(digest, 16)
    stride = number // len(_WORDS) % 640 * 10 + 3
    place = number - stride
    numbered = [
        f"{i} {_WORDS[(place + i * stride) % 6400]}{'' if i % _SENTENCE else '.'}"
        for i in range(1, words + 1)
    ]
    return f'Answer {digest} to "{short}": {" ".join(numbered)}'


def _unquoted(text: str) -> str:
    pairs = {'"': '"', "'": "'", "“": "”", "`": "`"}
    if len(text) > 1 and pairs.get(text[0]) == text[-1]:
        return text[1:-1]
    return text
