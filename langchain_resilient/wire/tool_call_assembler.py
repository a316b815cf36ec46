"""Puts streamed tool calls together, and mends arguments where that needs no guessing.

What is mended: a fence around the JSON, JSON that was encoded twice, a comma before a closing
bracket, arguments that each fragment repeats from the start. It is done while they come, so that
what a stream shows adds up to the same call. At the end it is seen whether one of them can be run.
"""

from __future__ import annotations

import json
import re
import uuid
from typing import TYPE_CHECKING, Any

from langchain_resilient.faults import Fault, FaultKind
from langchain_resilient.wire.chunk_parser import MAX_CALLS, BadChunkError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from langchain_resilient.exchange import ChatRequest
    from langchain_resilient.wire.chunk_parser import ToolCallFragment


_ESCAPED = re.compile(r"\\.", re.DOTALL)
_DANGLING = re.compile(r",\s*(?:[}\]]|\Z)")
_COMMAS = re.compile(
    r"""(?P<kept>"(?:[^"\\]|\\.)*(?:"|\\?\Z)) | ,(?=\s*[}\]]) | (?P<open>,\s*\Z)""",
    re.VERBOSE | re.DOTALL,
)
_EMPTY = re.compile(r"\s*\{\s*\}\s*(?=\{|\Z)")
_FENCE = "```"
_LANGUAGE = re.compile(r"[a-zA-Z]*")
_MAX_HELD = 200
"""Characters, mostly white space, that a comma is held back with."""


def read_arguments(text: str) -> Any:
    """Decode the arguments of a call; not strictly, since models put raw line breaks into strings.

    Raises:
        ValueError: If they are no JSON.
    """
    try:
        return json.loads(text, strict=False) if text else {}
    except RecursionError:
        msg = "nested too deep"
        raise ValueError(msg) from None


class ToolCallBuilder:
    """One tool call as far as it has come.

    Attributes:
        extra: What its provider wants back with it.
        name: The tool's name; empty while it has not come.
        named: Whether the name is complete: arguments have come after it.
        given_id: The server's id.
        made_id: The id that was made here instead.
    """

    __slots__ = (
        "_args",
        "_comma",
        "_depth",
        "_escaped",
        "_held",
        "_in_string",
        "_length",
        "_other",
        "_spoilt",
        "extra",
        "given_id",
        "made_id",
        "name",
        "named",
    )

    def __init__(self) -> None:
        self.extra: dict[str, Any] | None = None
        self.given_id: str | None = None
        self.made_id: str | None = None
        self.name: str = ""
        self.named: bool = False
        self._args: list[str] = []
        self._length = 0
        # What is not passed on yet: an empty object, what does not begin as an object, and a comma
        # of which it is not known whether anything follows it.
        self._held = ""
        self._other: list[str] = []
        self._comma = ""
        self._depth = 0
        self._spoilt = False
        self._in_string = self._escaped = False

    @property
    def id(self) -> str:
        """The server's id, or one made here: an agent cannot answer a call without one."""
        if self.given_id:
            return self.given_id
        if self.made_id is None:
            self.made_id = f"call_{uuid.uuid4().hex[:24]}"
        return self.made_id

    @property
    def args(self) -> str:
        """The arguments, JSON if the model did well."""
        return "".join(self._args) + self._comma if self._args else self.held

    @property
    def held(self) -> str:
        """Arguments that were not passed on while they came, mended if possible."""
        return _mended("".join(self._other)) if self._other else self._held

    @property
    def begun(self) -> bool:
        """Whether any arguments have come."""
        return bool(self._args or self._held or self._other)

    def length(self) -> int:
        """Characters of its arguments."""
        return self._length + len(self._held) + sum(map(len, self._other))

    def is_whole(self) -> bool:
        """Whether its arguments are a complete object."""
        if self._in_string or self._depth or self._spoilt or not (self._args or self._held):
            return False
        try:
            return isinstance(read_arguments(self.args), dict)
        except ValueError:
            return False

    def repeats(self, args: str) -> bool:
        """Whether these arguments are those that it has."""
        return args.strip() == self.args.strip()

    def has_empty_object(self) -> bool:
        """Whether its arguments are `{}` so far, which some servers send before the real ones."""
        return bool(self._held)

    def add(self, fragment: ToolCallFragment) -> tuple[str | None, str | None, str | None]:
        """Take what is new in a fragment.

        Returns:
            The id, name and arguments that it added, each None where it added nothing.
        """
        if fragment.extra:
            self.extra = {**(self.extra or {}), **fragment.extra}
        id_ = name = None
        if fragment.id and not self.given_id:
            self.given_id = id_ = fragment.id
        # A name may come in pieces, or be repeated whole with every piece of the arguments; and it
        # may come after them.
        if fragment.name and not self.named and fragment.name != self.name:
            self.name += fragment.name
            name = fragment.name
        args = self._new_args(fragment.args) if fragment.args else None
        self.named = self.named or bool(fragment.args and self.name)
        return id_, name, args or None

    def _new_args(self, text: str) -> str:
        """Take arguments in, and return what can be passed on of them."""
        if self._other:
            self._other.append(text)
            return ""
        if not self._args:
            if text == "null" and not self._held:  # how some models say "no arguments"
                return ""
            text, self._held = (self._held + text).lstrip(), ""
            if (match := _EMPTY.match(text)) and match.end() < len(text):
                text = text[match.end() :]
            if _EMPTY.fullmatch(text):
                self._held = "{}"
                return ""
            if text[:1] != "{":
                self._other = [text] if text else []
                return ""
        elif self._is_cumulative(text):
            text, self._comma = text[self._length :], ""  # which is repeated too
        text = self._without_dangling_commas(text)
        if text:
            self._args.append(text)
            self._length += len(text)
        return text

    def _is_cumulative(self, text: str) -> bool:
        """Whether a fragment begins with all the arguments so far, where none could be nested."""
        if len(text) < self._length or text[:1] not in "{ \n\t":
            return False
        before = "".join(self._args)
        return text.startswith(before) and before.rstrip()[-1] not in "{:[,"

    def _without_dangling_commas(self, text: str) -> str:
        text, self._comma = self._comma + text, ""
        if "," in text and _DANGLING.search(text):
            before = '"\\' if self._escaped else '"' if self._in_string else ""
            text = _COMMAS.sub(self._keep_comma, before + text)[len(before) :]
        self._follow(text)
        return text

    def _follow(self, text: str) -> None:
        """Keep track of whether a string is open, and of how many brackets are."""
        if not text:
            return
        if self._args and not self._depth and not self._in_string and not text.isspace():
            self._spoilt = True  # something follows the whole object
        bare = _ESCAPED.sub("", text[1:] if self._escaped else text)
        self._escaped = bare.endswith("\\")
        parts = bare.split('"')
        for outside in parts[1 if self._in_string else 0 :: 2]:
            self._depth += outside.count("{") + outside.count("[")
            self._depth -= outside.count("}") + outside.count("]")
        self._in_string ^= len(parts) % 2 == 0

    def _keep_comma(self, match: re.Match[str]) -> str:
        if match["kept"]:
            return match["kept"]
        held = match["open"] or ""
        if len(held) > _MAX_HELD:
            return held
        self._comma = held
        return ""


def _mended(text: str) -> str:
    """Take a fence or a second encoding off; what is no object then stays as it was."""
    inner = text
    for _ in range(3):
        inner = inner.strip()
        if len(inner) > 2 * len(_FENCE) and inner.startswith(_FENCE) and inner.endswith(_FENCE):
            inner = _LANGUAGE.sub("", inner[len(_FENCE) : -len(_FENCE)], count=1).strip()
        inner = _COMMAS.sub(lambda match: match["kept"] or match["open"] or "", inner)
        try:
            value = read_arguments(inner)
        except ValueError:
            return text
        if isinstance(value, dict):
            return inner
        if not isinstance(value, str):
            return text
        inner = value
    return text


class ToolCallAssembler:
    """Tells which fragment belongs to which call.

    The index decides where it means anything. It does not with servers that number every call 0
    (Grok and Gemini behind gateways) or give no index: there a new id beside a name, or a second
    name, begins a new call, and so does a new object after whole arguments. An id belongs to the
    call that had it first: as their own, never as a later one.
    """

    __slots__ = ("_by_id", "_by_index", "calls")

    def __init__(self) -> None:
        self.calls: list[ToolCallBuilder] = []
        self._by_index: dict[int, int] = {}
        self._by_id: dict[str, int] = {}

    def length(self) -> int:
        """Characters of all their arguments."""
        return sum([call.length() for call in self.calls])

    def add(self, fragment: ToolCallFragment) -> tuple[int, str | None, str | None, str | None]:
        """Fold in one fragment.

        Returns:
            The place of its call, and the id, name and arguments that are new.

        Raises:
            BadChunkError: If there are more calls than any answer has.
        """
        index = self._place(fragment)
        if index is not None and _begins_anew(self.calls[index], fragment):
            index = None
        if index is None:
            index = len(self.calls)
            if index == MAX_CALLS:
                raise BadChunkError(f"an answer has more than {MAX_CALLS} tool calls")
            self.calls.append(ToolCallBuilder())
        if fragment.number is not None:
            self._by_index[fragment.number] = index
        if fragment.id and self._by_id.get(fragment.id, index) != index:
            fragment = fragment._replace(id=None)  # another call's: this one gets one of its own
        added = self.calls[index].add(fragment)
        if added[0]:
            self._by_id[added[0]] = index
        return (index, *added)

    def _place(self, f: ToolCallFragment) -> int | None:
        known = self._by_id.get(f.id) if f.id else None
        if f.number is None:
            return self._place_by_id(f, known)
        index = self._by_index.get(f.number)
        if index is None or not f.id or self.calls[index].given_id in (None, f.id):
            return index
        if known is not None and self._numbered_alike():
            return known
        # Without a name it is no new call: vLLM has sent a fresh id with every fragment.
        return None if f.name else index

    def _numbered_alike(self) -> bool:
        """Whether calls share an index, so that it means nothing."""
        return len(self._by_index) < len(self.calls)

    def _place_by_id(self, f: ToolCallFragment, known: int | None) -> int | None:
        if known is not None:
            return known
        last = self._last()
        begins = f.name and (f.id or last is None or self.calls[last].name)
        return None if begins else last

    def _last(self) -> int | None:
        return len(self.calls) - 1 if self.calls else None


def _begins_anew(call: ToolCallBuilder, fragment: ToolCallFragment) -> bool:
    """Whether a fragment is of another call, although it carries this one's index or id."""
    args = fragment.args or ""
    begins = args.lstrip()[:1] == "{"
    other_name = call.named and fragment.name and fragment.name != call.name
    if not (begins or other_name) or not call.is_whole():
        return False
    if other_name:
        return True
    if call.repeats(args):
        return False
    return bool(fragment.name) or not call.has_empty_object()


# -- whether they can be run ----------------------------------------------------------------------


def fault_of_calls(calls: Sequence[tuple[str, str]], request: ChatRequest | None) -> Fault | None:
    """Return the fault of an answer that has only tool calls; None if one of them can be run.

    Args:
        calls: Their names and arguments.
        request: What was asked: the schemas of its tools say which arguments a call needs.
    """
    needed = _needed_arguments(request)
    problems = [_call_problem(name, args, needed) for name, args in calls]
    if not all(problems):
        return None
    message = f"no tool call that can be run: {problems[0]}"
    return Fault(FaultKind.INVALID, message, kept=True)


def _needed_arguments(request: ChatRequest | None) -> dict[str, set[str]]:
    """Find the required arguments of each tool of a request."""
    if request is None:
        return {}
    needed = {}
    for tool in request.overrides.get("tools") or request.defaults.get("tools") or ():
        function = _as_dict(_as_dict(tool).get("function"))
        required = _as_dict(function.get("parameters")).get("required")
        if isinstance(required, list | tuple):
            needed[str(function.get("name"))] = {n for n in required if isinstance(n, str)}
    return needed


def _call_problem(name: str, text: str, needed: Mapping[str, set[str]]) -> str:
    """Say why a call cannot be run; empty if it can."""
    if not name:
        return "it has no name"
    try:
        args = read_arguments(text)
    except ValueError:
        return "its arguments are not JSON"
    if not isinstance(args, dict):
        return "its arguments are not a JSON object"
    missing = needed.get(name, set()) - args.keys()
    return f"it lacks {', '.join(sorted(missing))}" if missing else ""


def _as_dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
