"""Where words begin, and which repetitions of a text's end are told from chance."""

from __future__ import annotations

import re
import unicodedata

LONGEST_ECHO = 400
"""Characters of the end of a text that are looked for in what follows it."""

_LONG = 16
"""Characters that, from the middle of a word on, stand somewhere twice hardly by chance."""

_SHORTEST_RULE = 4
"""Of `|---|` or `====` it is a line; shorter punctuation is doubled by right, as in `f((x))`."""

_SHORTEST_DENSE = 2
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


def telling(text: str, place: int) -> bool:
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
        return length >= _SHORTEST_RULE
    if place == 0 or text[place - 1].isspace():
        return True
    if begins_word(text, place):
        return length >= _SHORTEST_DENSE or not _DENSE.match(text, place)
    later = range(place + 1, len(text))
    return length >= _LONG or any(_is_word(text[i]) and begins_word(text, i) for i in later)


def echoes(text: str) -> list[int]:
    """Find the places from which the end of a text may be repeated, the longest end first.

    These are the last `LONGEST_ECHO` characters, and its very beginning.
    """
    first = max(0, len(text) - LONGEST_ECHO)
    found = [place for place in range(first, len(text)) if telling(text, place)]
    return [0, *found] if first and telling(text, 0) else found


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
