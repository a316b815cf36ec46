"""A language model inside this process: no key, no rate limit, no network after one download.

It is the default without keys, and with keys a last resort. The embedded model is
SmolLM2-135M-Instruct (Apache-2.0): fluent, quick, and weak on facts. Any other GGUF file can be
used as well: `Target("local:/path/to/model.gguf")`, or its path in `LANGCHAIN_RESILIENT_MODEL`.

Environment variables:
    LANGCHAIN_RESILIENT_MODEL: The path of a GGUF file to use instead of the embedded model.
    LANGCHAIN_RESILIENT_THREADS: Threads for the computation (default 1).
    LANGCHAIN_RESILIENT_CONTEXT: Tokens of prompt and answer together (default 4096).
    LANGCHAIN_RESILIENT_CACHE: The folder for the weights; see `weights.py`.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

from langchain_resilient import notices
from langchain_resilient.errors import DroppedParameterWarning, MissingExtraError
from langchain_resilient.providers.local.dialect import (
    ForcedToolCall,
    to_completion,
    to_llama_request,
)
from langchain_resilient.providers.local.model import (
    Generation,
    LocalModelError,
    get_model,
    to_error,
    unload,
)
from langchain_resilient.wire.json_values import writable

if TYPE_CHECKING:
    from langchain_resilient.exchange import ChatRequest, Chunk
    from langchain_resilient.options import Target

__all__ = ["LocalModelError", "LocalProvider", "preload", "unload"]


class LocalProvider:
    """Serves `"local"` and `"local:/path/to/model.gguf"`.

    Two answers are written at a time; further requests wait their turn. All targets of one model
    share it, on any number of threads and event loops.

    Raises:
        MissingExtraError: If xllamacpp is not installed.
    """

    def __init__(self, target: Target) -> None:
        if importlib.util.find_spec("xllamacpp") is None:
            msg = 'the local model needs xllamacpp: pip install "langchain-resilient[local]"'
            raise MissingExtraError(msg)
        self.target = target
        self._params = target.sampling_params()
        self._dropped: set[str] = set()

    async def open(self, request: ChatRequest, *, stream: bool) -> LocalAnswer:
        """Wait until the model has begun to read the prompt; see `base.Provider.open`.

        Raises:
            LocalModelError: If the model cannot be loaded, or refuses the request.
        """
        model = get_model(self.target.model)
        body = writable(request.body(self._params))
        if self.target.logit_bias is None and body.pop("logit_bias", None):
            self._warn_dropped("logit_bias")  # its token ids are those of another model
        llama_request = to_llama_request(body, embedded=model.embedded)
        for name in llama_request.dropped:
            self._warn_dropped(name)
        tools = llama_request.forced_tools
        answer = LocalAnswer(llama_request.body, ForcedToolCall(tools) if tools else None, stream)
        model.submit(answer.generation)
        try:
            await answer.wait_for_first_chunk()
        except BaseException:
            await answer.aclose()
            raise
        return answer

    def _warn_dropped(self, name: str) -> None:
        if name not in self._dropped:
            self._dropped.add(name)
            msg = f"{self.target.name} does not take {name!r}: left out for this target"
            notices.warn(msg, DroppedParameterWarning)


def preload(model: str = "") -> None:
    """Fetch and load a model now rather than at the first request. Blocks.

    Loading blocks every thread of the process for about 0.4 s, because llama.cpp's binding keeps
    the GIL. A server may prefer to do it before it takes requests.

    Args:
        model: As in `Target("local:...")`; `""` for the default.

    Raises:
        LocalModelError: If the model cannot be loaded.
    """
    get_model(model).load()


class LocalAnswer:
    """The chunks of one answer, on the event loop that asked for it."""

    def __init__(
        self, body: dict[str, Any], forced_call: ForcedToolCall | None, stream: bool
    ) -> None:
        self.generation: Generation = Generation(body)
        self._forced_call = forced_call
        self._stream = stream
        self._first: Chunk | None = None
        self._started_choices: set[int] = set()
        self._ended = False

    async def wait_for_first_chunk(self) -> None:
        """Wait for the first chunk, usually a report that the prompt is being read."""
        self._first = await self._next()

    def __aiter__(self) -> LocalAnswer:
        """Return itself."""
        return self

    async def __anext__(self) -> Chunk:
        """Wait for the next chunk, or for the complete answer if no stream was asked for."""
        if not self._stream:
            chunks = []
            while (chunk := await self._next_visible()) is not None:
                chunks.append(chunk)
            if not chunks:
                raise StopAsyncIteration
            return to_completion(chunks)
        chunk = await self._next_visible()
        if chunk is None:
            raise StopAsyncIteration
        return chunk

    async def aclose(self) -> None:
        """Stop the generation within a token, or a batch of the prompt; this frees its thread."""
        self.generation.stopped = True
        self._ended = True

    def __del__(self) -> None:
        """Stop an answer that was abandoned without being closed."""
        self.generation.stopped = True

    async def _next_visible(self) -> Chunk | None:
        """The next chunk in the chat-completions dialect; None at the end."""
        while (chunk := await self._next()) is not None:
            if "prompt_progress" not in chunk:
                chunk.pop("timings", None)
                self._add_roles(chunk)
                return self._forced_call.convert(chunk) if self._forced_call else chunk
        return None

    def _add_roles(self, chunk: Chunk) -> None:
        """Put the role into each choice's first delta.

        llama.cpp sends it with the first token only, and not at all if that token has no text yet,
        such as the first bytes of an emoji.
        """
        for choice in chunk.get("choices", ()):
            if choice["index"] not in self._started_choices:
                self._started_choices.add(choice["index"])
                choice["delta"].setdefault("role", "assistant")

    async def _next(self) -> Chunk | None:
        """The next chunk of llama.cpp's; None at the end."""
        if self._ended:
            return None
        if self._first is not None:
            first, self._first = self._first, None
            return first
        item = await self.generation.chunks.get()
        if isinstance(item, dict):
            if "error" not in item:
                return item
            item = to_error(item["error"])
        self._ended = True
        if item is not None:
            raise item
        return None
