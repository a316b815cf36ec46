"""Oddities: answers that are complete for HTTP and yet are no answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from langchain_resilient.testing.brain import Choice
from langchain_resilient.testing.http import reason
from langchain_resilient.testing.problems import BAD_GATEWAY_PAGE, Problem
from langchain_resilient.testing.steps.base import Step
from langchain_resilient.testing.steps.reply import Reply

if TYPE_CHECKING:
    from langchain_resilient.testing.delays import Delay
    from langchain_resilient.testing.dialects.base import Call
    from langchain_resilient.testing.exchange import Exchange


@dataclass(frozen=True, repr=False)
class Empty(Step):
    """A 200 that says nothing and calls no tool, with `finish_reason: stop`.

    Attributes:
        null: Whether the content is null instead of `""`.
    """

    null: bool = False

    async def play(self, exchange: Exchange) -> None:
        """Say nothing."""
        await exchange.tell(Reply(), Choice(None if self.null else "", "stop")).give()


@dataclass(frozen=True, repr=False)
class Html(Step):
    """An error page, as proxies before the provider send it.

    Attributes:
        code: The HTTP status code; 200 is possible too.
    """

    code: int = 502

    async def play(self, exchange: Exchange) -> None:
        """Send the page."""
        page = Problem(self.code, text=BAD_GATEWAY_PAGE, html=True)
        host = f"{exchange.call.dialect.name} gateway"
        exchange.refuse(page.filled({"code": self.code, "reason": reason(self.code), "host": host}))


_GARBAGE: dict[str, tuple[str, bytes]] = {
    "object": ("application/json", b'{"unexpected":true}'),
    "choices": ("application/json", b'{"id":"x","object":"chat.completion","choices":[]}'),
    "list": ("application/json", b"[]"),
    "null": ("application/json", b"null"),
    "broken": ("application/json", b'{"id":"x","choices":[{"message":'),
    "text": ("text/plain", b"OK"),
    "nothing": ("application/json", b""),
}


@dataclass(frozen=True, repr=False)
class Garbage(Step):
    """A 200 whose body is no chat completion, whether or not a stream was wanted.

    Attributes:
        shape: `"object"`, `"choices"` (an empty list), `"list"`, `"null"`, `"broken"` (no JSON),
            `"text"` or `"nothing"`.
    """

    shape: Literal["object", "choices", "list", "null", "broken", "text", "nothing"] = "object"

    async def play(self, exchange: Exchange) -> None:
        """Send it."""
        content_type, body = _GARBAGE[self.shape]
        exchange.respond(200, body, content_type)


Shape = Literal[
    "flat", "object", "message", "reason", "detail", "string", "code", "upstream", "text"
]


@dataclass(frozen=True, repr=False)
class Compatible(Step):
    """An error in the words of some server that is compatible with OpenAI.

    Attributes:
        code: The HTTP status code.
        shape: How the body looks: `"flat"` (`{"code", "error"}`), `"object"` (`{"object":
            "error", ...}`), `"message"` (`{"message"}`), `"reason"` (`{"code", "reason",
            "message"}`), `"detail"` (`{"detail": [...]}`), `"string"` (`{"error": "..."}`),
            `"code"` (`{"error": {"code": 429, ...}}`), `"upstream"` (a provider's error inside),
            or `"text"`.
        message: What it says.
    """

    code: int = 400
    shape: Shape = "flat"
    message: str = "The request could not be served."

    async def play(self, exchange: Exchange) -> None:
        """Send it."""
        if self.shape == "text":
            exchange.respond(self.code, self.message.encode(), "text/plain; charset=utf-8")
            return
        exchange.respond(self.code, exchange.call.dialect.dumps(self._body()))

    def _body(self) -> dict[str, Any]:
        located = {"type": "invalid", "loc": ["body", "messages"], "msg": self.message}
        upstream = {
            "raw": f'{{"error":{{"message":"{self.message}"}}}}',
            "provider_name": "Upstream",
        }
        wrapped = {"message": "Provider returned error", "code": self.code, "metadata": upstream}
        bodies: dict[str, dict[str, Any]] = {
            "flat": {"code": str(self.code), "error": self.message},
            "object": {
                "object": "error",
                "message": self.message,
                "type": "invalid_request_error",
                "param": None,
                "code": "3505",
            },
            "message": {"message": self.message},
            "reason": {
                "code": self.code,
                "reason": "FAILED",
                "message": self.message,
                "metadata": {},
            },
            "detail": {"detail": [located]},
            "string": {"error": self.message},
            "code": {"error": {"code": self.code, "message": self.message}},
            "upstream": {"error": wrapped, "user_id": "user_simulated"},
        }
        return bodies[self.shape]


@dataclass(frozen=True, repr=False)
class Delayed(Step):
    """Any other step, later.

    Attributes:
        step: What to play.
        latency: Seconds before it.

    Example:
        ```python
        sim.script("openai:gpt-4", Delayed(Empty(), 0.5))
        ```
    """

    step: Step
    latency: Delay

    def choose(self, call: Call, at: float) -> Step:
        """Delay what the step chooses."""
        return Delayed(self.step.choose(call, at), self.latency)

    async def play(self, exchange: Exchange) -> None:
        """Wait, and play it."""
        await exchange.sleep(self.latency)
        await self.step.play(exchange)


@dataclass(frozen=True, repr=False)
class Timeline(Step):
    """Different steps at different times: outages, brown-outs, recoveries.

    Attributes:
        phases: Pairs of the second at which a phase begins, counted from the simulator's start,
            and its step. Before the first one there is a plain `Reply`.

    Example:
        ```python
        sim.script("openai:gpt-4", then=Timeline((60, NoAnswer()), (660, Reply())))
        ```
    """

    phases: tuple[tuple[float, Step], ...]

    def __init__(self, *phases: tuple[float, Step]) -> None:
        object.__setattr__(self, "phases", tuple(sorted(phases, key=lambda phase: phase[0])))

    def choose(self, call: Call, at: float) -> Step:
        """Return the step of the phase that is on."""
        step: Step = Reply()
        for begins, candidate in self.phases:
            if begins <= at:
                step = candidate
        return step.choose(call, at)

    async def play(self, exchange: Exchange) -> None:
        """Play the phase that is on."""
        await self.choose(exchange.call, exchange.at).play(exchange)
