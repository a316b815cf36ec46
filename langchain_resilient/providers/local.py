"""A language model inside this process: no key, no rate limit, no network after one download.

It is the default without keys and a last resort with them. The embedded model is
SmolLM2-135M-Instruct (Apache-2.0): fluent, quick, and weak on facts. Any other GGUF file serves as
well: `Target("local:/path/to/model.gguf")`, or its path in `LANGCHAIN_RESILIENT_MODEL`.

Environment variables:
    LANGCHAIN_RESILIENT_MODEL: The path of a GGUF file to use instead of the embedded model.
    LANGCHAIN_RESILIENT_THREADS: Threads that compute (default 1).
    LANGCHAIN_RESILIENT_CONTEXT: Tokens of prompt and answer together (default 4096).
    LANGCHAIN_RESILIENT_CACHE: The folder for the weights; see `weights.py`.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import warnings
from typing import TYPE_CHECKING, Any

from langchain_resilient.providers.local_dialect import ForcedCall, adapt, whole
from langchain_resilient.providers.local_errors import LocalModelError, MissingExtraError, as_error
from langchain_resilient.providers.local_model import model_at, unload
from langchain_resilient.providers.sdk import DroppedParameterWarning

if TYPE_CHECKING:
    from langchain_resilient.exchange import ChatRequest, Chunk
    from langchain_resilient.options import Target

__all__ = ["LocalModelError", "LocalProvider", "MissingExtraError", "preload", "unload"]

logger: logging.Logger = logging.getLogger("langchain_resilient")


class LocalProvider:
    """Serves `"local"` and `"local:/path/to/model.gguf"`.

    Two answers are written at a time; further requests wait their turn. Targets of one model share
    it, on any number of threads and event loops.

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
            LocalModelError: If the model cannot be had, or refuses the request.
        """
        model = model_at(self.target.model)
        body = request.body(self._params)
        if self.target.logit_bias is None and body.pop("logit_bias", None):
            self._warn("logit_bias")  # its token ids are those of another model
        adapted = adapt(body, embedded=model.embedded)
        for name in adapted.dropped:
            self._warn(name)
        answer = LocalAnswer(
            adapted.body, ForcedCall(adapted.forced) if adapted.forced else None, stream
        )
        model.submit(answer.generation)
        try:
            await answer.begin()
        except BaseException:
            await answer.aclose()
            raise
        return answer

    def _warn(self, name: str) -> None:
        if name not in self._dropped:
            self._dropped.add(name)
            msg = f"{self.target.name} does not take {name!r}: left out for this target"
            warnings.warn(msg, DroppedParameterWarning, stacklevel=2)
            logger.info(msg)


def preload(model: str = "") -> None:
    """Fetch and load a model now rather than at the first request. Blocks.

    Loading holds up every thread of the process for about 0.4 s (llama.cpp's binding keeps the
    GIL), so a server may prefer to do it before it takes requests.

    Args:
        model: As in `Target("local:...")`; `""` for the default.

    Raises:
        LocalModelError: If the model cannot be had.
    """
    model_at(model).load()


class Generation:
    """An answer on its way from a worker thread to an event loop.

    It holds at most as many chunks as the model's context has tokens.
    """

    def __init__(self, body: dict[str, Any]) -> None:
        self.body = body
        self.stopped: bool = False
        self.chunks: asyncio.Queue[Chunk | Exception | None] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()

    def take(self, chunk: Chunk) -> bool:
        """Hand a chunk to the loop; see `local_model.Job`."""
        return self.stopped or self._send(chunk)

    def end(self, error: Exception | None) -> None:
        """Hand the end to the loop."""
        self._send(error)

    def _send(self, item: Chunk | Exception | None) -> bool:
        try:
            self._loop.call_soon_threadsafe(self.chunks.put_nowait, item)
        except RuntimeError:  # the loop is closed: nobody listens any more
            self.stopped = True
        return self.stopped


class LocalAnswer:
    """The chunks of one answer, on the event loop that asked for it."""

    def __init__(self, body: dict[str, Any], forced: ForcedCall | None, stream: bool) -> None:
        self.generation: Generation = Generation(body)
        self._forced = forced
        self._stream = stream
        self._first: Chunk | None = None
        self._begun: set[int] = set()
        self._ended = False

    async def begin(self) -> None:
        """Wait for the first sign of life."""
        self._first = await self._next()

    def __aiter__(self) -> LocalAnswer:
        """Return itself."""
        return self

    async def __anext__(self) -> Chunk:
        """Wait for the next chunk, or for the whole answer if it was asked for plainly."""
        if not self._stream:
            chunks = []
            while (chunk := await self._next_visible()) is not None:
                chunks.append(chunk)
            if not chunks:
                raise StopAsyncIteration
            return whole(chunks)
        chunk = await self._next_visible()
        if chunk is None:
            raise StopAsyncIteration
        return chunk

    async def aclose(self) -> None:
        """Stop the generation, within a token or a batch of the prompt; its thread is then free."""
        self.generation.stopped = True
        self._ended = True

    def __del__(self) -> None:
        """Stop also what was abandoned."""
        self.generation.stopped = True

    async def _next_visible(self) -> Chunk | None:
        while (chunk := await self._next()) is not None:
            if "prompt_progress" not in chunk:
                chunk.pop("timings", None)
                self._add_role(chunk)
                return self._forced.turn(chunk) if self._forced else chunk
        return None

    def _add_role(self, chunk: Chunk) -> None:
        """Begin each choice with its role.

        llama.cpp sends it with the first token, and no chunk for a token that ends inside a
        character: an answer that begins with an emoji comes without a role.
        """
        for choice in chunk["choices"]:
            if choice["index"] not in self._begun:
                self._begun.add(choice["index"])
                choice["delta"].setdefault("role", "assistant")

    async def _next(self) -> Chunk | None:
        if self._ended:
            return None
        if self._first is not None:
            first, self._first = self._first, None
            return first
        item = await self.generation.chunks.get()
        if isinstance(item, dict):
            if "error" not in item:
                return item
            item = as_error(item["error"])
        self._ended = True
        if item is not None:
            raise item
        return None
