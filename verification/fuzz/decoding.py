"""Everything that reads a provider's bytes, one function a way in, for any bytes at all.

Each returns what came of it in a word, and raises whatever must not be raised.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json

from langchain_resilient import FaultKind
from langchain_resilient.providers import errors, redaction
from langchain_resilient.providers.errors import classify
from langchain_resilient.providers.rate_limit_headers import (
    rate_limit_status,
    retry_after,
    should_retry,
)
from langchain_resilient.providers.sse import decode_body, open_answer
from langchain_resilient.providers.sse_decoder import EventTooLongError, SSEDecoder
from langchain_resilient.wire.accumulator import ResponseAccumulator, usage_metadata
from langchain_resilient.wire.continuation import ContinuationJoiner
from langchain_resilient.wire.json_modes import JSONExtractor, JSONModeConverter, RequestedJSON
from langchain_resilient.wire.output import ChunkConverter, to_chat_result
from langchain_resilient.wire.structured_output import OutputSpec
from verification.fuzz.nonsense import Dice

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from langchain_resilient.exchange import Chunk

_SCHEMA = {"title": "Output", "type": "object", "properties": {"a": {"type": "integer"}},
           "required": ["a"]}  # fmt: skip
_NAMES = ("retry-after", "retry-after-ms", "date", "x-ratelimit-reset", "x-should-retry",
          "x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "content-type",
          "x-ratelimit-reset-requests", "x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens",
          "x-ratelimit-reset-tokens", "x-ratelimit-remaining-", "x-request-id")  # fmt: skip


class NotClassifiedError(AssertionError):
    """A failure that the classifier takes for a defect of ours: so it is one."""


class _Response:
    """An open response of some pieces."""

    status_code = 200

    def __init__(self, pieces: list[bytes], kind: str) -> None:
        self.headers = {"content-type": kind}
        self._pieces = pieces

    async def aiter_bytes(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece

    async def aclose(self) -> None:
        pass


class _RefusedError(Exception):
    """Shaped like an SDK's error."""

    def __init__(self, status: int, headers: dict[str, str], body: Any) -> None:
        super().__init__(f"Error code: {status} - {body}"[:200])
        self.status_code = status
        self.headers = headers
        self.body = body


def _kind(error: Exception) -> str:
    fault = classify(error)
    if fault.kind is FaultKind.INTERNAL:
        raise NotClassifiedError(f"{type(error).__name__}: {error}") from error
    return str(fault.kind)


def _whole(response: ResponseAccumulator) -> str:
    fault = response.fault()
    # As the race asks.
    response.text, response.visible_text, response.has_tool_calls, response.tokens()
    response.input_tokens(), response.output_tokens(), response.cache_tokens()
    if fault is not None:
        return str(fault.kind)
    message: Any = to_chat_result(response, "openai", "m").generations[0].message
    message.model_dump_json()
    for method in ("json_schema", "function_calling"):
        OutputSpec(_SCHEMA, method).fault(message)
    return "answer"


def _streamed(chunks: list[Chunk], response: ResponseAccumulator) -> None:
    """Show the same chunks, as a stream does; what the accumulator took must not fail here."""
    converter = ChunkConverter("openai")
    pieces = [piece for piece in map(converter.add, chunks) if piece is not None]
    pieces.append(converter.last_chunk(response, "m"))
    sum(pieces[1:], pieces[0])


def stream(data: bytes) -> str:
    """Read a streamed answer, cut as the first byte says, whole or turned into tool calls."""
    dice = Dice(data)
    size, turned = dice.pick((10**6, 1000, 100, 10, 3, 1)), dice.once_in(4)
    rest = dice.rest()
    size = max(size, len(rest) // 300)
    pieces = [rest[at : at + size] for at in range(0, len(rest), size)]
    return _driven(_read(_Response(pieces, "text/event-stream"), turned=turned))


def _driven(coroutine: Coroutine[Any, Any, str]) -> str:
    """Run what never waits for anything, without the cost of a loop."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return str(end.value)
    raise AssertionError("it waits for something")


async def _read(response: _Response, *, turned: bool) -> str:
    response, chunks, answer = ResponseAccumulator(), [], open_answer(response, stream=True)
    requested = RequestedJSON("tools", ("tools", "json_schema", "prompt"), "output", None, _SCHEMA)
    convert = JSONModeConverter(requested, "prompt").convert if turned else None
    try:
        async for one in answer:
            chunk = convert(one) if convert else one
            response.add(chunk)
            chunks.append(chunk)
    except Exception as error:  # noqa: BLE001  # as the race does
        return _kind(error)
    finally:
        await answer.aclose()
    _streamed(chunks, response)
    return _whole(response)


def body(data: bytes) -> str:
    """Read a plain answer."""
    response = ResponseAccumulator()
    try:
        response.add(decode_body(data))
    except Exception as error:  # noqa: BLE001
        return _kind(error)
    return _whole(response)


def error(data: bytes) -> str:
    """Classify a refusal: a status, headers, and a body of any shape."""
    dice = Dice(data)
    status = dice.pick((400, 401, 402, 403, 404, 408, 413, 422, 429, 500, 503, 200, 302))
    headers = _headers(dice)
    rest = dice.rest()
    try:
        body: Any = from_json(rest)
    except ValueError:
        body = rest.decode("utf-8", "replace")
    failure = _RefusedError(status, headers, body)
    errors.refused_parameters(failure, {"top_k", "stream", "temperature"})
    redaction.redact_error(failure, ["sk-canary-0123456789"])
    return _kind(failure)


def _headers(dice: Dice) -> dict[str, str]:
    fields = {}
    for _ in range(dice.below(4)):
        name, length = dice.pick(_NAMES), dice.below(40)
        value = bytes(dice.below(256) for _ in range(length))
        fields[name] = value.decode("latin-1")
    return fields


def hints(data: bytes) -> str:
    """Read headers: how long to wait, what the limits are."""
    headers = _headers(Dice(data))
    wait, level, again = (
        retry_after(headers, data.decode("utf-8", "replace")),
        rate_limit_status(headers),
        None,
    )
    again = should_retry(headers)
    assert wait is None or 0 <= wait < 366 * 86400
    return f"{wait is not None}, {level is not None}, {again}"


def lines(data: bytes) -> str:
    """Decode events: however the bytes are cut, the same comes out."""
    dice = Dice(data)
    size, rest = 1 + dice.below(9), dice.rest()
    pieces = [rest[at : at + size] for at in range(0, len(rest), size)]
    cut, whole = _events(pieces), _events([rest])
    assert cut == whole, (cut, whole)
    return f"{len(cut)} events"


def _events(pieces: list[bytes]) -> list[Any]:
    decoder, results = SSEDecoder(max_event_bytes=4096), []
    try:
        for piece in pieces:
            results += decoder.feed(piece)
        results += decoder.flush()
    except EventTooLongError:
        return ["too long"]
    return results


def texts(data: bytes) -> str:
    """What works on text: the JSON in it, where two texts meet, token counts of any kind."""
    text = data.decode("utf-8", "replace")
    half = len(text) // 2
    cutter = JSONExtractor()
    value = cutter.feed(text[:half]) + cutter.feed(text[half:]) + cutter.rest()
    join = ContinuationJoiner(text[:half])
    join.feed(text[half:])
    join.finish()
    try:
        usage: Any = json.loads(text)
    except (ValueError, RecursionError):
        usage = None
    if isinstance(usage, dict):
        usage_metadata(usage)
    return "json" if value else "none"


WAYS: tuple[Callable[[bytes], str], ...] = (stream, body, error, hints, lines, texts)
"""All of them."""


def decode(data: bytes) -> str:
    """Let the first byte choose the way in, and the others be what comes in."""
    dice = Dice(data)
    way = dice.pick(WAYS)
    return f"{way.__name__}: {way(dice.rest())}"
