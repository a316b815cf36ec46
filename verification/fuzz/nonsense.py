"""Values that no server should send, how JSON is spoilt with them, and how bytes choose."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


T = TypeVar("T")


class Dice:
    """Makes choices, and goes on with the first option for ever once its bytes are used up.

    Drawing every choice from a strategy of its own would take hypothesis thirty times as long.

    Args:
        data: One byte a choice, two where there are more options than a byte can tell.

    Example:
        ```python
        dice = Dice(bytes([2, 1]))
        dice.pick("abc"), dice.pick("abc"), dice.pick("abc")  # ('c', 'b', 'a')
        ```
    """

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def below(self, count: int) -> int:
        """A number from 0 on; one of few bytes is as likely as any other."""
        size = 1 if count <= 256 else 2 if count <= 65_536 else 4
        taken = self._data[self._at : self._at + size]
        self._at += size
        return int.from_bytes(taken, "little") % count

    def pick(self, options: Sequence[T]) -> T:
        """One of them; the first should be the harmless one."""
        return options[self.below(len(options))]

    def once_in(self, count: int) -> bool:
        """Whether something rare happens."""
        return self.below(count) == count - 1

    def rest(self) -> bytes:
        """What is left."""
        return self._data[self._at :]


_RAW, _END = "\ue000", "\ue001"
"""Stand around text that goes into JSON as it is: what `json.dumps` would not write."""


def _raw(text: str) -> str:
    return f"{_RAW}{text}{_END}"


NUMBERS = (
    0, -1, 1, 2, 5, 127, 2**31, 2**63, 2**64 + 1, -(2**70), 0.0, 0.5, -0.0, 1e308, -1e-320,
    _raw("NaN"), _raw("-Infinity"), _raw("1e999"), _raw("1" + "0" * 400), _raw("9" * 5000),
    _raw("-"), _raw("00"), _raw("0x10"),
)  # fmt: skip
TEXTS = (
    "", " ", "\n\t", "null", "[DONE]", "0", "429", "4\u00b2\u00b3", "stop", "length", "tool_calls",
    "content_filter", "eos", "error", "assistant", "{", '{"a": 1}', '{"a":', "\u0000", "\ufeff",
    "\u202e", "\U0001f600", "x" * 3000, "<html>", "<" * 2000, "data: x", "<think>", "</think>",
    _raw('"\\ud800"'), _raw('"\\udfff\\ud800"'), _raw('"\\x"'), _raw('"unfinished'), _raw("'a'"),
    "sk-canary-0123456789abcdef", "Please try again in 20s", "retry " + "1" * 500,
)  # fmt: skip
SHAPES: tuple[Any, ...] = (
    None, True, False, [], {}, [None], [[]], [{}], {"": None}, {"a": {"b": []}},
    {"message": {"message": 1}}, [1, "a", None, {}], {"loc": 1, "msg": None}, {"text": 1},
    _raw("[" * 300 + "]" * 300), _raw('{"a":' * 300 + "1" + "}" * 300), _raw("[" * 5000),
    _raw('{"a":' * 100 + "1" + "}" * 100), _raw('{"a":1,"a":2}'), _raw(""), _raw("undefined"),
)  # fmt: skip
ANYTHING = (*SHAPES, *NUMBERS, *TEXTS)

_NAMES = ("error", "choices", "usage", "message", "delta", "index", "tool_calls", "finish_reason",
          "content", "code", "type", "detail", "text", "function", "arguments", "name", "id",
          "logprobs", "audio", "annotations", "reasoning_details", "reasoning", "refusal",
          "function_call", "warnings", "moderation", "status", "param", "metadata", "model",
          "prompt_tokens", "completion_tokens_details", "prompt_tokens_details",
          "seed")  # fmt: skip

Place = tuple[Any, Any]


def places(value: Any) -> Iterator[Place]:
    """Every place in a JSON value: what holds it, and its name or number there."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        yield value, key
        if isinstance(inner, (dict, list)) and inner:
            yield from places(inner)


def _replace(dice: Dice, holder: Any, key: Any) -> None:
    holder[key] = copy.deepcopy(dice.pick(ANYTHING))


def _delete(_: Dice, holder: Any, key: Any) -> None:
    del holder[key]


def _wrap(_: Dice, holder: Any, key: Any) -> None:
    holder[key] = [holder[key]]


def _unwrap(_: Dice, holder: Any, key: Any) -> None:
    if isinstance(holder[key], list) and holder[key]:
        holder[key] = holder[key][0]


def _double(_: Dice, holder: Any, key: Any) -> None:
    if isinstance(holder, list):
        holder.append(holder[key])
    elif isinstance(holder[key], list):
        holder[key] = holder[key] * 2


def _add(dice: Dice, holder: Any, key: Any) -> None:
    into = holder[key] if isinstance(holder[key], dict) else holder
    if isinstance(into, dict):
        into[dice.pick(_NAMES)] = copy.deepcopy(dice.pick(ANYTHING))


def _rename(dice: Dice, holder: Any, key: Any) -> None:
    if isinstance(holder, dict):
        holder[dice.pick(_NAMES)] = holder.pop(key)


_WAYS: tuple[Callable[[Dice, Any, Any], None], ...] = (
    _replace, _replace, _replace, _replace, _delete, _wrap, _unwrap, _double, _add, _add, _rename
)  # fmt: skip


def spoilt(dice: Dice, value: Any, changes: int) -> Any:
    """A JSON value with some changes; the value itself stays as it is."""
    if not changes:
        return value
    root = [json.loads(json.dumps(value))]  # a copy, in a tenth of the time of `deepcopy`
    for _ in range(changes):
        items = list(places(root))
        if items:
            dice.pick(_WAYS)(dice, *items[dice.below(len(items))])
    return root[0] if root else None


def written(value: Any) -> bytes:
    """Write a spoilt value down; what JSON does not know goes in as it is."""
    if isinstance(value, str) and _RAW not in value:
        return value.encode("utf-8", "surrogatepass")
    text = json.dumps(value, ensure_ascii=False)
    parts = text.split(f'"{_RAW}')
    for number, part in enumerate(parts[1:], 1):
        raw, _, rest = part.partition(f'{_END}"')
        parts[number] = json.loads(f'"{raw}"') + rest
    return "".join(parts).encode("utf-8", "surrogatepass")
