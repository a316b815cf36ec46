"""A simulated provider for tests: real HTTP on the loopback interface, with scripted faults.

`ProviderSimulator` speaks the chat completions of OpenAI and of Together as their SDKs expect
them, answers every prompt with a text that a test can work out (`answer_to`), and fails in all the
ways that real providers were seen to: error statuses with their real bodies and headers, streams
that break, stall, lie or never begin, rate limits, lost connections.

What a script may hold:

- A good answer is a `Reply`, as fast or slow as you like; its delays are seconds or distributions
  (`Lognormal`, `Pareto`, `Mixture`, ...).
- An error response is a `Status`, or one of the refusals with a name: `RateLimited`, `Quota`,
  `Overloaded`, `SlowDown`, `RequestTooLarge`, `ContextTooLong`, `ContentFilter`, `InvalidKey`,
  `ModelNotFound`, `BadRequest`, `Compatible`, `Html`; and, depending on the request,
  `UnsupportedParameter`, `NoStreaming`, `RejectPrefill`, `Lacks` (structured outputs, tools).
- A broken connection or stream is a `Cut`, `Reset`, `Stall`, `CleanEnd`, `NoDone`, `Malformed`,
  `HtmlInside`, `SseError`, `KeepAlives`, `SlowHeaders`, `NoAnswer` or `Raw`; most take `after`, the
  pieces of the answer that get through first. A `Stall` may end after some `seconds`, a `NoDone`
  may `hold` or `reset` the connection, a `Malformed` line may replace a piece (`replaces`).
- A complete response without an answer is `Empty`, `Whitespace` or `Garbage`; white space may also
  come `after` some pieces, and last `forever`.
- `Timeline` changes all that with time, `Delayed` puts it off.

Files and batches work too, at both providers: `ProviderSimulator.backlog` says how a `Backlog` is
worked through, in hours of the loop's clock, and `break_batches` what goes wrong.

Asked to continue its last answer, the model does (`Reply.overlap` repeats some of it); nothing is
left of an answer that is complete.

Nothing here depends on anything but the standard library.

Example:
    ```python
    from openai import OpenAI
    from langchain_resilient.testing import Cut, ProviderSimulator, Reply, Status, answer_to

    with ProviderSimulator(seed=0) as sim:
        sim.script("openai:gpt-6-luna", Status(500), Cut(after=3), then=Reply())
        client = OpenAI(base_url=sim.base_url("openai"), api_key="any", max_retries=1)
        messages = [{"role": "user", "content": "Hello"}]
        ...
        assert sim.count("openai:gpt-6-luna", status=500) == 1
    ```
"""

from __future__ import annotations

from langchain_resilient.testing.answers import ToolCall, answer_to
from langchain_resilient.testing.batches import Backlog, BatchRecord
from langchain_resilient.testing.delays import (
    Delay,
    Distribution,
    Exponential,
    Lognormal,
    Mixture,
    Pareto,
    Uniform,
)
from langchain_resilient.testing.exchange import Exchange
from langchain_resilient.testing.json_script import load_script
from langchain_resilient.testing.request_log import RecordedRequest
from langchain_resilient.testing.simulator import ProviderSimulator
from langchain_resilient.testing.steps.base import Delayed, Reply, Step, Timeline
from langchain_resilient.testing.steps.faults import (
    CleanEnd,
    Cut,
    Empty,
    Garbage,
    HtmlInside,
    KeepAlives,
    Malformed,
    NoAnswer,
    NoDone,
    Raw,
    Reset,
    SlowHeaders,
    SseError,
    Stall,
    Whitespace,
)
from langchain_resilient.testing.steps.refusals import (
    BadRequest,
    Compatible,
    ContentFilter,
    ContextTooLong,
    Html,
    HttpDate,
    InvalidKey,
    Lacks,
    ModelNotFound,
    NoStreaming,
    Overloaded,
    Quota,
    RateLimited,
    Refusal,
    RejectPrefill,
    RequestTooLarge,
    SlowDown,
    Status,
    UnsupportedParameter,
)

__all__ = [
    "Backlog",
    "BadRequest",
    "BatchRecord",
    "CleanEnd",
    "Compatible",
    "ContentFilter",
    "ContextTooLong",
    "Cut",
    "Delay",
    "Delayed",
    "Distribution",
    "Empty",
    "Exchange",
    "Exponential",
    "Garbage",
    "Html",
    "HtmlInside",
    "HttpDate",
    "InvalidKey",
    "KeepAlives",
    "Lacks",
    "Lognormal",
    "Malformed",
    "Mixture",
    "ModelNotFound",
    "NoAnswer",
    "NoDone",
    "NoStreaming",
    "Overloaded",
    "Pareto",
    "ProviderSimulator",
    "Quota",
    "RateLimited",
    "Raw",
    "RecordedRequest",
    "Refusal",
    "RejectPrefill",
    "Reply",
    "RequestTooLarge",
    "Reset",
    "SlowDown",
    "SlowHeaders",
    "SseError",
    "Stall",
    "Status",
    "Step",
    "Timeline",
    "ToolCall",
    "Uniform",
    "UnsupportedParameter",
    "Whitespace",
    "answer_to",
    "load_script",
]
