"""The seam between the engine and a provider: open a stream, read chunks, close it.

A new provider is one class with `open` and one line that registers it:

```python
from langchain_resilient.providers import register


@register("echo", api_key_env=None)
class EchoProvider:
    def __init__(self, target):
        self.target = target

    async def open(self, request, *, stream):
        text = request.messages[-1]["content"]

        async def chunks():
            yield {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": "stop"}]}

        return chunks()


llm = ResilientChatModel(targets=["echo:parrot"])
```
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

TOKEN_LIMITS = frozenset({"max_tokens", "max_completion_tokens"})
"""The parameters that limit the length of an answer."""

Chunk = dict[str, Any]
"""A decoded `chat.completion.chunk`, or a whole `chat.completion` where the answer came plainly."""


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """Messages and parameters for any target. Nothing in it may be changed by whoever reads it.

    Attributes:
        messages: Chat-completions messages.
        defaults: Parameters for all targets; a target's own go before them.
        overrides: Parameters of this call; they go before a target's own.
        source: The messages as LangChain gave them, for targets that are LangChain models.
        native: The call's LangChain keyword arguments (tools, ...), for the same.
        continues: Whether it asks for the rest of an answer whose beginning was delivered.
        delivered: The tokens of that beginning, which every limit of an answer's length loses.
        foreign: Whether its messages hold blocks that not every target takes (a video, ...).
    """

    messages: list[dict[str, Any]]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    overrides: Mapping[str, Any] = field(default_factory=dict)
    source: Sequence[Any] = ()
    native: Mapping[str, Any] = field(default_factory=dict)
    continues: bool = False
    delivered: int = 0
    foreign: bool = False

    def body(self, target_params: Mapping[str, Any]) -> dict[str, Any]:
        """Merge into one new request body: call before target before model.

        Only the outermost dict is new; the messages and schemas in it are shared.

        Args:
            target_params: What the target itself sets.

        Returns:
            The body without `model` and `stream`, which the provider adds.
        """
        body = {
            **self.defaults,
            **target_params,
            **self.overrides,
            "messages": self.messages,
        }
        return self.shortened(body) if self.delivered else body

    def shortened(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Take what was delivered off the limits of the answer's length; 1 token is the least."""
        return {
            name: max(1, value - self.delivered)
            if name in TOKEN_LIMITS and isinstance(value, int)
            else value
            for name, value in params.items()
        }


class RateLimitLevel(NamedTuple):
    """One limit as it stood when the answer's request was let in.

    Attributes:
        limit: How much flows in in a minute.
        remaining: How much more would be let in at that moment.
        capacity: How much may be let in at once, as far as the provider's figures show.
    """

    limit: float
    remaining: float
    capacity: float


class RateLimitStatus(NamedTuple):
    """The limits of one key and model; None for what the provider does not tell.

    Example:
        ```python
        RateLimitStatus(
            requests=RateLimitLevel(600, 599, 600),
            tokens=RateLimitLevel(200_000, 199_900, 200_000),
        )
        ```
    """

    requests: RateLimitLevel | None
    tokens: RateLimitLevel | None


class ChunkStream(Protocol):
    """An open answer: an async iterator of chunks that can be closed early.

    An async generator is one. Chunks are plain dicts in the shape of `chat.completion.chunk` (or
    one `chat.completion`, where the answer came plainly). The iterator ends when the provider's
    answer ends; a failure is raised as the provider's own exception. `aclose` frees the connection
    and is called exactly once, by the task that read it.

    It may also have a method `rate_limit_status() -> RateLimitStatus | None`, which reads the
    provider's rate limits from the answer's head: then requests are paced by them. And it may have
    an attribute `complete`: whether the server itself has said that the answer is at its end, which
    counts where no `finish_reason` came.
    """

    def __aiter__(self) -> ChunkStream:
        """Return itself."""
        ...

    async def __anext__(self) -> Chunk:
        """Wait for the next chunk."""
        ...

    async def aclose(self) -> object:
        """Stop: the provider must not go on generating."""
        ...


class Provider(Protocol):
    """Speaks one API for one target. Holds no policy and no state of a request."""

    async def open(self, request: ChatRequest, *, stream: bool) -> ChunkStream:
        """Send the request and return as soon as the answer has begun.

        Args:
            request: Shared with other attempts: read only.
            stream: Whether to ask for a stream or for one whole answer.

        Raises:
            Exception: The provider's own; `classify` knows what it means.
        """
        ...


# -- batches ---------------------------------------------------------------------------------------

BatchStatus = Literal["waiting", "running", "cancelling", "completed", "failed", "expired",
                      "cancelled"]  # fmt: skip
"""What a provider says of a batch, in words of our own; the last four are for good."""


class BatchState(NamedTuple):
    """A batch as its provider describes it.

    Attributes:
        id: Its id there.
        status: How it is.
        share: How much of it is done, from 0 to 1.
        done: The number of requests with an answer; None where the provider tells only the share.
        input_file: The id of the file of its requests.
        output_file: That of the answers; None until there is one.
        error_file: That of the errors; None if there is none.
        tag: What we noted when we created it; None where a provider takes no notes.
        problem: Why it failed.
    """

    id: str
    status: BatchStatus
    share: float = 0.0
    done: int | None = None
    input_file: str | None = None
    output_file: str | None = None
    error_file: str | None = None
    tag: str | None = None
    problem: str = ""

    @property
    def ended(self) -> bool:
        """Whether nothing more happens to it."""
        return self.status in ("completed", "failed", "expired", "cancelled")


class RequestForm(NamedTuple):
    """In which form a request was written: needed to read the answer.

    Attributes:
        endpoint: The path of the API, e.g. `"/v1/chat/completions"`.
        json_mode: The way in which JSON was asked for, if it was.
    """

    endpoint: str
    json_mode: str | None = None


class WrittenRequest(NamedTuple):
    """A request as a provider's batch holds it.

    Attributes:
        form: In which form it is.
        body: Plain JSON.
        read: Reads the body of the answer.
    """

    form: RequestForm
    body: dict[str, Any]
    read: Callable[[bytes], ChunkStream]
