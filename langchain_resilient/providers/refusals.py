"""What one target has refused, and how requests to it are mended from then on.

Models differ within one API, and servers within one dialect, so nothing is known beforehand: a
request that is refused teaches what to leave out, and is sent again. As little as possible is
given up: a parameter that is unknown is left out for good, a value only where it is that value, a
combination only where it is that combination, and a number that is too large becomes the largest.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from langchain_resilient import notices
from langchain_resilient.errors import DroppedParameterWarning
from langchain_resilient.faults import FaultKind
from langchain_resilient.providers.error_details import error_details, error_status, error_text
from langchain_resilient.providers.errors import (
    classify,
    refused_parameter,
    refused_parameters,
    refuses_names,
    says_nothing,
)
from langchain_resilient.wire.foreign_blocks import tools_without_marks, without_marks
from langchain_resilient.wire.refused_messages import (
    SWAPPED_ROLES,
    has_names,
    move_source_images,
    move_tool_images,
    refused_role,
    refuses_lists,
    refuses_tool_images,
    shorten_source_ids,
    source_without_lists,
    swap_roles,
    swap_source_roles,
    without_lists,
    without_names,
    without_source_names,
)
from langchain_resilient.wire.tool_calls import SHORT_ID_MODELS, shorten_call_ids

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from collections.abc import Set as AbstractSet

    from langchain_core.messages import BaseMessage


_ALTERNATIVE = {
    "max_tokens": "max_completion_tokens",
    "max_completion_tokens": "max_tokens",
}
"""The other name under which an API may take the same limit."""

_SAMPLING = frozenset({"temperature", "top_p", "presence_penalty", "frequency_penalty", "logprobs",
                       "top_logprobs", "logit_bias", "stop", "verbosity"})  # fmt: skip
"""Parameters that models with reasoning take or refuse by the effort."""

_COUNTED = ("max_tokens", "max_completion_tokens", "max_output_tokens", "top_logprobs", "top_k")
"""Numbers of which the largest possible does as well."""

_UNKNOWN = re.compile(
    r"unknown_?\s?param|unrecognized|extra inputs|unexpected keyword|not permitted", re.IGNORECASE
)
_VALUE = re.compile(
    r"unsupported[ _]value|invalid[ _](?:enum[ _])?value|only the default|"
    r"(?:supported|allowed|valid) values|unknown variant|"
    r"(?:should|must) be (?:one of )?['\"`]|not (?:a )?valid|is (?:not available|invalid)",
    re.IGNORECASE,
)
_DEFAULT = re.compile(r"only the default \((.+?)\) value", re.IGNORECASE)
_ALLOWED = re.compile(
    r"(?:(?:supported|allowed|valid) values (?:are|is)|expected one of|(?:should|must) be)"
    r":? (?:one of:? )?([^.]*)",
    re.IGNORECASE,
)
_QUOTED = re.compile(r"['\"`](\w+)['\"`]")
_NEEDS = re.compile(
    r"['\"`](\w+)['\"`][^.]{0,40}(?:only (?:be )?(?:allowed|supported|used)|requires?)[^.]{0,40}"
    r"['\"`](\w+)['\"`]",
    re.IGNORECASE,
)
_LARGEST = re.compile(
    r"(?:at most|<=|less than or equal to|maximum (?:value )?(?:of|is|allowed is)|up to|"
    r"\[\d+, ?)\s*['\"`]?(\d[\d,_]*)|> ?(\d[\d,_]*),? which is the maximum",
    re.IGNORECASE,
)
_TOO_LARGE = re.compile(
    r"too (?:large|high|big)|at most|maximum|exceed|less than or equal|<=|valid range",
    re.IGNORECASE,
)
_ONE_ANSWER = re.compile(
    r"['\"`]?\bn\b['\"`]?\s*(?:>|must|should|has to|is not|cannot|can only|parameter)|"
    r"only (?:one|1|a single) (?:choice|completion|candidate|answer)|"
    r"not support[^.]{0,30}(?:['\"`]n['\"`]|multiple (?:choices|completions|candidates))|"
    r"['\"`]n['\"`][^.]{0,40}(?:must be|<=|at most|not supported|unsupported)",
    re.IGNORECASE,
)
_FORCED_TOOL = re.compile(r"tool_?\s?choice|forc\w+ tool|tool use", re.IGNORECASE)
_REFUSED_CHOICE = re.compile(
    r"not (?:be )?(?:support|allow|enabled|compatible|permitted)|n't support|unsupported|only "
    r"(?:support|allow|accept)|must be ['\"`]?auto|incompatible|invalid",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class _Rule:
    """Where a parameter is left out.

    Attributes:
        name: The parameter.
        refused: The one value that is refused, as text; None for any.
        allowed: The values that are taken, as text; None if only `refused` is known.
        beside: Parameters, each with its value as text or None for any, that must be there too.
        without: A parameter that must be missing.
    """

    name: str
    refused: str | None = None
    allowed: frozenset[str] | None = None
    beside: frozenset[tuple[str, str | None]] = frozenset()
    without: str | None = None

    def applies(self, body: Mapping[str, Any]) -> bool:
        """Whether a body holds what is refused."""
        if self.name not in body or (self.without is not None and body.get(self.without)):
            return False
        value = str(body[self.name])
        if self.allowed is not None:
            is_refused = value not in self.allowed
        else:
            is_refused = self.refused is None or value == self.refused
        return is_refused and all(
            body.get(other) and (wanted is None or str(body[other]) == wanted)
            for other, wanted in self.beside
        )

    def describe(self, value: Any) -> str:
        """Say what is not taken."""
        text = repr(self.name)
        if self.refused is not None or self.allowed is not None:
            text = f"{text} with the value {value!r}"
        if self.beside:
            text = f"{text} together with {' and '.join(sorted(repr(n) for n, _ in self.beside))}"
        return f"{text} without {self.without!r}" if self.without else text


def without_refused_marks(error: Exception, body: dict[str, Any]) -> dict[str, Any] | None:
    """Give a refused request without its cache marks; None if it has none, or the error is another.

    Args:
        error: What its server said.
        body: In the chat-completions dialect; it stays as it is.
    """
    messages, tools = without_marks(body["messages"]), body.get("tools") or []
    plain_tools = tools_without_marks(tools)
    if messages == body["messages"] and plain_tools is tools:
        return None
    if classify(error).kind is not FaultKind.BAD_REQUEST:
        return None
    return {**body, "messages": messages, **({"tools": plain_tools} if plain_tools else {})}


MAX_DROPPED = 4096
"""Names that are known to be refused; at more, all are forgotten and learned again. Callers of a
service may give any."""


class Refusals:
    """What one target has refused so far.

    Args:
        target: Its name, for warnings.
        unwarned: Parameters that the caller did not set: leaving them out needs no warning.
        on_unknown: Called with a parameter that is refused as such; usually `drop`.

    Attributes:
        learned: Whether there is anything to mend.
        one_answer: Whether it gives one answer a request only, whatever `n` says.
        tool_images: Whether it takes images in the results of tools.

    Example:
        ```python
        refusals = Refusals("openai:m")
        refusals.learn(error, body, frozenset({"messages"}))  # True: send it again
        refusals.mend(body)
        ```
    """

    __slots__ = ("_auto_choice", "_dropped", "_largest", "_lists", "_names", "_on_unknown",
                 "_roles", "_rules", "_short_ids", "_target", "_unwarned", "_warned", "learned",
                 "one_answer", "tool_images")  # fmt: skip

    def __init__(
        self,
        target: str,
        unwarned: AbstractSet[str] = frozenset(),
        on_unknown: Callable[[AbstractSet[str]], None] | None = None,
    ) -> None:
        self._target = target
        self._on_unknown = on_unknown or self.drop
        self._unwarned = unwarned
        self._dropped: set[str] = set()
        self._rules: set[_Rule] = set()
        self._largest: dict[str, int] = {}
        self._roles: dict[str, str] = {}
        self._warned: set[str] = set()
        self._auto_choice: set[str] = set()
        self._short_ids = False
        self._names = True
        self._lists = True
        self.learned = False
        self.one_answer = False
        self.tool_images = True

    def drop(self, names: AbstractSet[str]) -> None:
        """Leave parameters out of all requests, and warn once about each."""
        self.learned = self.learned or bool(names)
        if len(self._dropped) > MAX_DROPPED:
            self._dropped.clear()
        for name in names - self._dropped:
            self._dropped.add(name)
            if name not in self._unwarned and _ALTERNATIVE.get(name, name) in self._dropped:
                self.warn(f"does not take {name!r}: left out for this target")

    def require(self, name: str, other: str) -> None:
        """Leave a parameter out wherever another, which it needs, is missing."""
        self._rules.add(_Rule(name, without=other))
        self.learned = True

    def swap_role(self, role: str) -> None:
        """Send the messages of a role under the one that takes its place."""
        self._roles[role] = SWAPPED_ROLES[role]
        self.learned = True

    def move_tool_images(self) -> None:
        """Send the images in tools' results as a user's from now on."""
        self.tool_images = False
        self.learned = True

    def drop_lists(self) -> None:
        """Send a text where a message is a list of texts from now on."""
        self._lists = False
        self.learned = True

    def mend(self, body: dict[str, Any]) -> None:
        """Take out of a request what is known to be refused; the outermost dict is changed."""
        self._mend(body)

    def _mend(self, body: dict[str, Any]) -> None:
        for name in self._dropped & body.keys():
            value, alternative = body.pop(name), _ALTERNATIVE.get(name)
            if alternative is not None and alternative not in self._dropped:
                body[alternative] = value
        for name in self._largest.keys() & body.keys():
            if _is_over(body[name], self._largest[name]):
                body[name] = self._largest[name]
        for rule in [rule for rule in self._rules if rule.applies(body)]:
            value = body.pop(rule.name, None)
            if rule.name not in self._unwarned:
                self.warn(f"does not take {rule.describe(value)}: left out there")
        if _is_forced(body) and _effort(body) in self._auto_choice:
            body["tool_choice"] = "auto"
        if "messages" in body:  # the Responses API has none
            body["messages"] = self._mended_messages(body["messages"])

    def _mended_messages(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if self._roles:
            messages = swap_roles(messages, self._roles)
        if self._short_ids:
            messages = shorten_call_ids(messages)
        if not self._names:
            messages = without_names(messages)
        if not self.tool_images and len(messages) > 2:  # noqa: PLR2004  # there may be a result
            messages = move_tool_images(messages)
        return messages if self._lists else without_lists(messages)

    def mend_source(self, messages: list[BaseMessage]) -> list[BaseMessage]:
        """Do to LangChain's messages what `mend` does to those of chat completions."""
        if self._roles:
            messages = swap_source_roles(messages, self._roles)
        if self._short_ids:
            messages = shorten_source_ids(messages)
        if not self._names:
            messages = without_source_names(messages)
        if not self.tool_images:
            messages = move_source_images(messages)
        return messages if self._lists else source_without_lists(messages)

    def learn(self, error: Exception, body: Mapping[str, Any], required: AbstractSet[str]) -> bool:
        """Learn from an error.

        Args:
            error: The exception.
            body: The request that it answers.
            required: Parameters that the request cannot do without.

        Returns:
            Whether the request would now be another, and should be sent again.
        """
        details = error_details(error)
        if not self._short_ids and SHORT_ID_MODELS.search(error_text(error, details)):
            self._short_ids = self.learned = True
            return True
        if not isinstance(error, TypeError | ValidationError) and error_status(
            error, details
        ) not in (400, 422):
            return False
        text = error_text(error, details)
        param = refused_parameter(details)
        words = f"{details.get('code')} {text}"
        optional = body.keys() - required
        if "messages" in body:
            self._learn_messages(f"{details.get('param')} {text}", body["messages"], error)
        self._learn_largest(text, param, body, error)
        refused = self._refused(error, words, param, body, optional)
        forgotten = [self._learn_parameter(name, words, text, body) for name in refused]
        self._learn_choice(text, param, body)
        if _wants_several(body) and (param == "n" or _ONE_ANSWER.search(text)):
            self.one_answer = True
        self.learned = True
        mended = dict(body)
        self._mend(mended)
        if mended == body and says_nothing(error):
            return self._guess(body)
        return mended != body or any(forgotten) or (self.one_answer and _wants_several(body))

    def _guess(self, body: Mapping[str, Any]) -> bool:
        """Leave `stream_options` out, which is nobody's wish; say so again if that was wrong."""
        if "stream_options" in body:
            self._dropped.add("stream_options")
            return True
        self._dropped.discard("stream_options")
        return False

    # -- one kind of refusal each --

    def _learn_messages(self, text: str, messages: list[dict[str, Any]], error: Exception) -> None:
        if self._names and refuses_names(error) and has_names(messages):
            self._names = False
            self.warn("does not take the `name` of a message: left out for this target")
        role = refused_role(text, messages)
        if role is not None:
            self.swap_role(role)
        if self.tool_images and refuses_tool_images(text, messages):
            self.move_tool_images()
        if self._lists and refuses_lists(text, messages):
            self.drop_lists()

    def _learn_largest(
        self, text: str, param: str, body: Mapping[str, Any], error: Exception
    ) -> None:
        if not _TOO_LARGE.search(text) or classify(error).kind is not FaultKind.BAD_REQUEST:
            return
        for name in _COUNTED:
            if name not in body or not (param == name or re.search(rf"\b{name}\b", text)):
                continue
            limits = [int(re.sub(r"\D", "", one or other)) for one, other in _LARGEST.findall(text)]
            lower = [limit for limit in limits if limit > 0 and _is_over(body[name], limit)]
            if lower:
                self._largest[name] = max(lower)
                if name in _ALTERNATIVE:
                    self._largest[_ALTERNATIVE[name]] = max(lower)
                self.warn(f"takes at most {max(lower)} for {name!r}: sent instead of more")

    def _refused(
        self,
        error: Exception,
        words: str,
        param: str,
        body: Mapping[str, Any],
        optional: AbstractSet[str],
    ) -> set[str]:
        """Find the parameters that an error refuses, as such or with their value."""
        needs = _NEEDS.search(words)
        if needs and needs[1] in optional and not body.get(needs[2]):
            return {needs[1]}
        if names := refused_parameters(error, optional):
            # With two names the first is what is refused, the other beside what.
            efforts = {"reasoning_effort"} & names
            return efforts if efforts and len(names) > 1 and "tools" in body else names
        is_plain_text = isinstance(body.get(param), str | dict)
        return {param} if param in optional and is_plain_text and _VALUE.search(words) else set()

    def _learn_parameter(self, name: str, words: str, text: str, body: Mapping[str, Any]) -> bool:
        """Remember a refused parameter, its value or its company; whether it is forgotten."""
        needs = _NEEDS.search(text)
        if needs and needs[1] == name and not body.get(needs[2]):
            self.require(name, needs[2])
            return False
        beside = self._beside(name, text, body)
        is_value = bool(_VALUE.search(words)) or _names_value(text, body[name])
        if _UNKNOWN.search(words) or not (beside or is_value):
            self._on_unknown({name})
            return True
        if not is_value:
            self._rules.add(_Rule(name, beside=beside))
            return False
        allowed = _allowed_values(text, str(body[name]))
        refused = None if allowed is not None else str(body[name])
        self._rules.add(_Rule(name, refused, allowed, beside))
        return False

    def _beside(
        self, name: str, text: str, body: Mapping[str, Any]
    ) -> frozenset[tuple[str, str | None]]:
        """Find what else in a request the refusal may be about."""
        found: set[tuple[str, str | None]] = set()
        effort = body.get("reasoning_effort")
        if name in _SAMPLING and effort is not None:
            found.add(("reasoning_effort", str(effort)))
        if name == "reasoning_effort" and body.get("tools"):
            found.add(("tools", None))
        for other in set(_QUOTED.findall(text)) & body.keys() - {name, "messages", "model"}:
            if body[other] and not any(other == known for known, _ in found):
                found.add((other, None))
        return frozenset(found)

    def _learn_choice(self, text: str, param: str, body: Mapping[str, Any]) -> None:
        about = param == "tool_choice" or _FORCED_TOOL.search(text)
        if _is_forced(body) and about and _REFUSED_CHOICE.search(text):
            self._auto_choice.add(_effort(body))

    def warn(self, what: str) -> None:
        """Warn of what the target does not take, once."""
        if what not in self._warned and len(self._warned) <= MAX_DROPPED:
            self._warned.add(what)
            msg = f"{self._target} {what}"
            notices.warn(msg, DroppedParameterWarning)


class ResponsesRefusals(Refusals):
    """The same for the Responses API, where some parameters are parts of others."""

    __slots__ = ()

    def mend(self, body: dict[str, Any]) -> None:
        """Take out of a request what is known to be refused; what it holds is not changed."""
        flat = _flattened(body)
        if flat is None:
            self._mend(body)
            return
        self._mend(flat)
        for name, (whole, part) in _PARTS.items():
            if name in flat:
                flat[whole] = {**flat.get(whole, {}), part: flat.pop(name)}
        body.clear()
        body.update(flat)

    def learn(self, error: Exception, body: Mapping[str, Any], required: AbstractSet[str]) -> bool:
        """Learn from an error; see `Refusals.learn`."""
        return super().learn(error, _flattened(body) or body, required)


_PARTS = {"reasoning_effort": ("reasoning", "effort"), "verbosity": ("text", "verbosity")}


def _flattened(body: Mapping[str, Any]) -> dict[str, Any] | None:
    """Write the parts as parameters of their own; None if there is none."""
    flat: dict[str, Any] | None = None
    for name, (whole, part) in _PARTS.items():
        held = body.get(whole)
        if not isinstance(held, dict) or part not in held:
            continue
        flat = dict(body) if flat is None else flat
        flat[name] = held[part]
        rest = {k: v for k, v in held.items() if k != part}
        if rest:
            flat[whole] = rest
        else:
            del flat[whole]
    return flat


def _effort(body: Mapping[str, Any]) -> str:
    return str(body.get("reasoning_effort"))


def _is_forced(body: Mapping[str, Any]) -> bool:
    """Whether some tool must be called, whichever it is."""
    return body.get("tool_choice") in ("required", "any")


def _wants_several(body: Mapping[str, Any]) -> bool:
    n = body.get("n")
    return isinstance(n, int) and n > 1


def _is_over(value: Any, limit: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > limit


def _names_value(text: str, value: Any) -> bool:
    """Whether a refusal speaks of the value of a parameter."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return False
    return (
        re.search(rf"not support ['\"`]?{re.escape(str(value))}['\"`]?(?![\w.])", text) is not None
    )


def _allowed_values(text: str, refused: str) -> frozenset[str] | None:
    if default := _DEFAULT.search(text):
        value = default[1].strip("'\"`")
        return frozenset({value, f"{value}.0", value.removesuffix(".0")})
    listed = _ALLOWED.search(text)
    values = frozenset(_QUOTED.findall(listed[1])) if listed else frozenset()
    return values if values and refused not in values else None
