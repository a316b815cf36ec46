"""Refusals by name: what the providers say on the occasions that matter."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from langchain_resilient.testing.brain import longest_answer, prompt_tokens
from langchain_resilient.testing.dialects.base import go_duration
from langchain_resilient.testing.steps.refusals import REQUESTS_PER_MINUTE, Refusal
from langchain_resilient.testing.steps.reply import AT_ONCE, Reply

if TYPE_CHECKING:
    from collections.abc import Mapping

    from langchain_resilient.testing.dialects.base import Call
    from langchain_resilient.testing.exchange import Exchange
    from langchain_resilient.testing.problems import Problem
    from langchain_resilient.testing.steps.base import Step

Feature = Literal["json_schema", "json_object", "tools"]
"""What a model may be unable to do: structured outputs, JSON mode, calling tools."""

_TOO_LARGE = 30_000  # tokens a minute, the limit in most public threads about it


@dataclass(frozen=True, repr=False)
class RateLimited(Refusal):
    """A 429 with all the provider's hints: come back in `seconds`.

    Attributes:
        seconds: What the hint headers and the message say.
        of: What ran out: `"requests"` or `"tokens"`.
    """

    seconds: float = 20.0
    of: str = "requests"

    def problem(self, call: Call) -> Problem:
        """Return what to say."""
        used = {"limit": REQUESTS_PER_MINUTE, "used": REQUESTS_PER_MINUTE, "requested": 1}
        kind = "429" if self.of == "requests" else "429_tokens"
        return call.dialect.problem(kind, call, {**used, "wait": go_duration(self.seconds)})

    def hints(self, call: Call, now: float) -> dict[str, str]:
        """Return `retry-after`, OpenAI's `retry-after-ms`, and the reset headers."""
        usual = {"retry-after": f"{max(1, round(self.seconds))}"}
        if call.dialect.name == "openai":
            usual["retry-after-ms"] = f"{round(self.seconds * 1000)}"
        usual |= call.dialect.reset_headers(self.seconds, REQUESTS_PER_MINUTE)
        return usual | super().hints(call, now)


@dataclass(frozen=True, repr=False)
class RequestTooLarge(Refusal):
    """A 429 that can never succeed: the request alone is over the tokens-a-minute limit.

    No retry hint, all of the limit remaining, a reset of `0s`.

    Attributes:
        limit: Tokens a minute.
    """

    kind: ClassVar[str] = "request_too_large"
    limit: int = _TOO_LARGE

    def details(self, call: Call) -> Mapping[str, object]:
        """Speak of the limit and of more tokens than that."""
        return {"limit": self.limit, "requested": max(prompt_tokens(call.body), self.limit + 601)}

    def hints(self, call: Call, now: float) -> dict[str, str]:
        """Return headers that look as if nothing were wrong."""
        kinds = {"limit": self.limit, "remaining": self.limit, "reset": "0s"}
        usual = {f"x-ratelimit-{name}-tokens": str(value) for name, value in kinds.items()}
        return (usual if call.dialect.name == "openai" else {}) | super().hints(call, now)


@dataclass(frozen=True, repr=False)
class Quota(Refusal):
    """The money is gone: `insufficient_quota` (429) at OpenAI, 402 at Together; no hints."""

    kind: ClassVar[str] = "quota"


@dataclass(frozen=True, repr=False)
class InvalidKey(Refusal):
    """401: the key is wrong."""

    kind: ClassVar[str] = "401"


@dataclass(frozen=True, repr=False)
class Overloaded(Refusal):
    """503: `server_is_overloaded` at OpenAI, "overloaded or not ready yet" at Together."""

    kind: ClassVar[str] = "overloaded"


@dataclass(frozen=True, repr=False)
class SlowDown(Refusal):
    """429 `slow_down`: requests were ramped up too fast, even though under the limits."""

    kind: ClassVar[str] = "slow_down"


@dataclass(frozen=True, repr=False)
class ModelNotFound(Refusal):
    """404: `model_not_found` at OpenAI, `model_not_available` at Together."""

    kind: ClassVar[str] = "404"


@dataclass(frozen=True, repr=False)
class BadRequest(Refusal):
    """400: something is wrong with the request, and would be everywhere."""

    kind: ClassVar[str] = "400"


@dataclass(frozen=True, repr=False)
class ContextTooLong(Refusal):
    """400: the conversation is longer than the model can read, whatever its length.

    For a limit that only long requests run into, see `ProviderSimulator.context_window`.

    Attributes:
        limit: The model's context in tokens.
        code: The status; Together was seen to send 422 as well.
    """

    kind: ClassVar[str] = "context_too_long"
    limit: int = 8192
    code: int = 400

    def details(self, call: Call) -> Mapping[str, object]:
        """Speak of the limit and of more tokens than that."""
        return {
            "limit": self.limit,
            "tokens": max(prompt_tokens(call.body), self.limit + 1),
            "wanted": longest_answer(call.body) or 1,
        }

    def problem(self, call: Call) -> Problem:
        """Return what to say."""
        return replace(super().problem(call), status=self.code)


@dataclass(frozen=True, repr=False)
class ContentFilter(Refusal):
    """The safety system steps in: a 400, or an answer that ends with `content_filter`.

    Attributes:
        after: None refuses the request; a number breaks the answer off after so many pieces.
    """

    kind: ClassVar[str] = "content_filter"
    after: int | None = None

    async def play(self, exchange: Exchange) -> None:
        """Refuse, or stop in the middle of the answer."""
        if self.after is None:
            await super().play(exchange)
        else:
            choice = exchange.shortened(Reply(), self.after, "content_filter")
            await exchange.tell(Reply(finish_reason="content_filter"), choice).give()


@dataclass(frozen=True, repr=False)
class UnsupportedParameter(Refusal):
    """400 for requests that have a certain parameter; others are answered.

    Attributes:
        parameter: The request's field that this model does not take.
        otherwise: The step for requests without it.
    """

    kind: ClassVar[str] = "unsupported_parameter"
    parameter: str
    otherwise: Step = AT_ONCE

    def choose(self, call: Call, at: float) -> Step:
        """Refuse only what has the parameter."""
        return self if self.parameter in call.body else self.otherwise.choose(call, at)

    def details(self, call: Call) -> Mapping[str, object]:  # noqa: ARG002 - says the same to all
        """Speak of the parameter."""
        return {"param": self.parameter}


@dataclass(frozen=True, repr=False)
class Lacks(Refusal):
    """Refuses requests that want of a model what it cannot do; others are answered.

    OpenAI says 400 to a `response_format`, and 404 to `tools`, though the model is there.

    Attributes:
        features: What it cannot do: `"json_schema"`, `"json_object"`, `"tools"`; several in a
            tuple.
        otherwise: The step for other requests.

    Example:
        ```python
        sim.script("openai:gpt-4", then=Lacks("json_schema"))
        sim.script("together:*", then=Lacks(("json_schema", "tools"), Reply("{}")))
        ```
    """

    features: Feature | tuple[Feature, ...]
    otherwise: Step = AT_ONCE

    def choose(self, call: Call, at: float) -> Step:
        """Refuse only what wants one of the features."""
        return self.otherwise.choose(call, at) if self._missing(call.body) is None else self

    def problem(self, call: Call) -> Problem:
        """Return what to say."""
        feature = self._missing(call.body)
        kind = "no_tools" if feature == "tools" else "no_response_format"
        return call.dialect.problem(kind, call, {"feature": feature})

    def _missing(self, body: Mapping[str, Any]) -> str | None:
        """The first feature that a request wants in vain."""
        lacks = (self.features,) if isinstance(self.features, str) else self.features
        wanted = [(body.get("response_format") or {}).get("type")]
        wanted += ["tools"] if body.get("tools") else []
        return next((feature for feature in wanted if feature in lacks), None)


@dataclass(frozen=True, repr=False)
class NoStreaming(Refusal):
    """400 for requests with `stream`; plain ones are answered.

    Attributes:
        otherwise: The step for plain requests.
    """

    kind: ClassVar[str] = "no_streaming"
    otherwise: Step = AT_ONCE

    def choose(self, call: Call, at: float) -> Step:
        """Refuse only streams."""
        return self if call.stream else self.otherwise.choose(call, at)


@dataclass(frozen=True, repr=False)
class RejectPrefill(Refusal):
    """400 for conversations that end with the assistant's own message; others are answered.

    Attributes:
        otherwise: The step for other conversations.
    """

    kind: ClassVar[str] = "no_prefill"
    otherwise: Step = AT_ONCE

    def choose(self, call: Call, at: float) -> Step:
        """Refuse only prefill."""
        prefilled = call.body["messages"][-1].get("role") == "assistant"
        return self if prefilled else self.otherwise.choose(call, at)
