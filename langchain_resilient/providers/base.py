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

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from langchain_resilient.fault import Fault
    from langchain_resilient.request import ChatRequest, Chunk
    from langchain_resilient.target import Target


class ChunkStream(Protocol):
    """An open answer: an async iterator of chunks that can be closed early.

    An async generator is one. Chunks are plain dicts in the shape of `chat.completion.chunk` (or
    one `chat.completion`, where the answer came plainly). The iterator ends when the provider's
    answer ends; a failure is raised as the provider's own exception. `aclose` frees the connection
    and is called exactly once, by the task that read it.

    It may also have a method `quota() -> Quota | None`, which reads from the answer's head what the
    provider says of its rate limits (`langchain_resilient.quota`): then requests are paced by it.
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


class ProviderFactory(Protocol):
    """Makes a `Provider` for a target. May define `classify(error) -> Fault | None` of its own."""

    def __call__(self, target: Target) -> Provider:
        """Cheap: no network, no SDK client yet."""
        ...


class Classifier(Protocol):
    """Turns an exception into a `Fault`."""

    def __call__(self, error: BaseException) -> Fault:
        """Never raises."""
        ...
