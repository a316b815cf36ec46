"""Handles every request: reads it, refuses it, or lets a step of the script answer it."""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from hashlib import blake2s
from random import Random
from typing import Any

from langchain_resilient.testing.admission import AdmissionRules, RateLimitStates, check_admission
from langchain_resilient.testing.answer_generator import (
    generate_answer,
    is_reasoning_model,
    max_answer_tokens,
)
from langchain_resilient.testing.answers import Answer, ReplyOptions
from langchain_resilient.testing.batch_requests import BatchRequests
from langchain_resilient.testing.batches import BatchStore, StoredBatch
from langchain_resilient.testing.dialects import APIS, DIALECTS
from langchain_resilient.testing.dialects.base import Dialect, IncomingRequest, with_serial
from langchain_resilient.testing.exchange import Exchange, render_response
from langchain_resilient.testing.http import HttpRequest, RequestHead, head
from langchain_resilient.testing.request_log import RecordedRequest, RequestLog
from langchain_resilient.testing.script import TargetScripts
from langchain_resilient.testing.server import Connection
from langchain_resilient.testing.steps.base import Reply
from langchain_resilient.testing.target_patterns import matches

_MAX_CACHED_REQUESTS = 512
_MAX_CACHED_BYTES = 16_384  # a longer body is not worth keeping
_MIN_CACHED_PROMPT = 1024  # tokens; OpenAI caches no shorter prompt
_CACHED_PREFIX = 4096  # characters, about as long as the shortest cached prompt
_CACHED_BLOCK = 128  # tokens
_NO_SERIAL = b"%016x" % 0  # only chat requests are counted


class CachedRequest:
    """A request body that is parsed, checked and, with luck, answered only once.

    Attributes:
        request: The request.
        reply: The reply that `rendered` was made for.
        rendered: The whole response to it, and the pieces of text in it.
    """

    __slots__ = ("rendered", "reply", "request")

    def __init__(self, dialect: Dialect, data: bytes) -> None:
        sent = _json_object(data)
        model = sent.get("model")
        model = model if isinstance(model, str) else ""
        body = dialect.chat_body(sent) if model else sent
        error = dialect.find_error(sent, body) if model else None
        streams = sent.get("stream") is True
        self.request = IncomingRequest(
            dialect, model, body, streams, error, None if body is sent else sent
        )
        self.reply: Reply | None = None
        self.rendered: tuple[bytes, list[str]] = (b"", [])


class RequestCache:
    """Keeps the last requests by their bytes, and which long prompts were seen before."""

    def __init__(self) -> None:
        self._requests: OrderedDict[tuple[str, bytes], CachedRequest] = OrderedDict()
        self._prompts: OrderedDict[bytes, None] = OrderedDict()

    def read(self, dialect: Dialect, data: bytes) -> CachedRequest:
        """Read a request body."""
        key = (dialect.chat_path, data)
        cached = self._requests.get(key)
        if cached is None:
            cached = CachedRequest(dialect, data)
            if len(data) <= _MAX_CACHED_BYTES:
                self._requests[key] = cached
                if len(self._requests) > _MAX_CACHED_REQUESTS:
                    self._requests.popitem(last=False)
        return cached

    def cached_tokens(self, target: str, messages: Any, prompt_tokens: int) -> int:
        """Return how many tokens of a prompt the provider has in its cache, and put it there."""
        text = str(messages)
        if len(text) < _CACHED_PREFIX:
            return 0
        digest = blake2s(f"{target}:{text[:_CACHED_PREFIX]}".encode(), digest_size=16).digest()
        known = digest in self._prompts
        self._prompts[digest] = None
        if len(self._prompts) > _MAX_CACHED_REQUESTS:
            self._prompts.popitem(last=False)
        return prompt_tokens // _CACHED_BLOCK * _CACHED_BLOCK if known else 0


def _json_object(data: bytes) -> dict[str, Any]:
    """Parse a body; return an empty object if it is not a JSON object."""
    try:
        value = json.loads(data)
        if b"\\u" in data:
            json.dumps(value, ensure_ascii=False).encode()  # refuses half of a surrogate pair
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _in_batch(dialect: Dialect, sent: dict[str, Any]) -> IncomingRequest:
    body = dialect.chat_body(sent)
    return IncomingRequest(
        dialect, str(sent.get("model") or ""), body, False, dialect.find_error(sent, body), sent
    )


class RequestHandler:
    """Handles the requests of all connections, on the simulator's loop."""

    def __init__(
        self,
        scripts: TargetScripts,
        rules: AdmissionRules,
        log: RequestLog,
        *,
        seed: int,
        wall_clock: Callable[[], float],
        batches: BatchStore,
    ) -> None:
        self._scripts = scripts
        self.batches = batches
        self._rules = rules
        self._log = log
        self._seed = seed
        self._wall_clock = wall_clock
        self._cache = RequestCache()
        self._randoms: dict[str, Random] = {}
        self._clock: Callable[[], float] = lambda: 0.0
        self._started = 0.0
        self._chats = APIS
        self._batch_requests = BatchRequests(
            batches,
            self._answer_in_batch,
            lambda dialect, body: _in_batch(dialect, body).error is not None,
            self.now,
            wall_clock,
        )
        self._ok_headers = {d.name: d.ok_headers(None, None) for d in DIALECTS.values()}

    def now(self) -> float:
        """The loop's time."""
        return self._clock()

    def start(self) -> None:
        """Take the time from the running loop."""
        self._clock = asyncio.get_running_loop().time
        self._started = self._clock()

    def reset(self) -> None:
        """Seed all chance afresh, and empty the caches."""
        self._cache = RequestCache()
        self._randoms = {}
        self.batches.clear()

    def handle(self, connection: Connection, http_request: HttpRequest) -> None:
        """Answer a request, or start to."""
        asked = http_request.head
        dialect = self._chats.get(asked.path)
        if dialect is None or asked.method != "POST":
            self._answer_other(connection, http_request)
            return
        cached = self._cache.read(dialect, http_request.body)
        request = cached.request
        record = RecordedRequest(
            dialect.name,
            request.model,
            request.stream,
            request.body if request.sent is None else request.sent,
            asked.headers,
            blake2s(asked.token.encode(), digest_size=4).hexdigest() if asked.token else "",
            self._clock(),
        )
        self._log.begin(record)
        try:
            refusal, limits = check_admission(
                self._rules, request, asked.token, record.key, record.at
            )
            if refusal is not None:
                error, hints = refusal
                record.step = f"Refused {error.status}"
                self._exchange(connection, request, record, limits).refuse(error, hints)
            else:
                self._take_step(connection, cached, record, limits)
        except BaseException:
            self._on_end(record, False)  # a request that failed here must not count as in flight
            raise

    def _take_step(
        self,
        connection: Connection,
        cached: CachedRequest,
        record: RecordedRequest,
        limits: RateLimitStates,
    ) -> None:
        request = cached.request
        step = self._scripts.take(request.target).choose(request, record.at - self._started)
        record.step = step.name
        if type(step) is Reply and step.instant and not any(limits):
            self._answer_at_once(connection, cached, record, step)
        else:
            exchange = self._exchange(connection, request, record, limits)
            exchange.start(step.play(exchange))

    def _answer_at_once(
        self, connection: Connection, cached: CachedRequest, record: RecordedRequest, reply: Reply
    ) -> None:
        """Answer without a task, and the same bytes with the same bytes.

        Benchmarks measure clients on this path: it must cost little beside them.
        """
        if cached.reply is not reply:
            cached.rendered, reusable = self._render(cached.request, reply)
            cached.reply = reply if reusable else None
        data, pieces = cached.rendered
        connection.write(with_serial(data, record.serial))
        record.status = reply.status
        record.pieces = pieces
        self._on_end(record, False)
        connection.release(close=reply.close)

    def _render(
        self, request: IncomingRequest, reply: Reply
    ) -> tuple[tuple[bytes, list[str]], bool]:
        """Return a whole response with its pieces, and whether the next time it is the same."""
        answer = self._generate(request, reply)
        dialect = request.dialect
        render = dialect.stream if request.stream else dialect.plain
        rendered = render(request, answer, reply)
        data = render_response(request, reply, rendered, self._ok_headers[dialect.name])
        return (data, rendered.texts), answer.usage.prompt < _MIN_CACHED_PROMPT

    def _generate(self, request: IncomingRequest, reply: ReplyOptions) -> Answer:
        openai = request.dialect.name == "openai"
        body = request.body
        limit = max_answer_tokens(body) if openai else body.get("max_tokens")
        reasons = openai and is_reasoning_model(request.model)
        answer = generate_answer(body, reply, limit=limit, reasons=reasons)
        prompt = answer.usage.prompt
        if prompt < _MIN_CACHED_PROMPT:
            return answer
        cached = self._cache.cached_tokens(request.target, body["messages"], prompt)
        return replace(answer, usage=replace(answer.usage, cached=cached))

    def _exchange(
        self,
        connection: Connection,
        request: IncomingRequest,
        record: RecordedRequest,
        limits: RateLimitStates,
    ) -> Exchange:
        dialect = request.dialect
        if request.target not in self._randoms:
            # One generator per target: what others are asked does not change what happens here.
            self._randoms[request.target] = Random(f"{self._seed}:{request.target}")
        return Exchange(
            connection,
            request,
            record,
            elapsed=record.at - self._started,
            random=self._randoms[request.target],
            ok_headers=(
                dialect.ok_headers(*limits) if any(limits) else self._ok_headers[dialect.name]
            ),
            generate=self._generate,
            wall_clock=self._wall_clock,
            on_end=self._on_end,
        )

    def _on_end(self, record: RecordedRequest, aborted: bool) -> None:
        self._log.finish(record, self._clock(), aborted=aborted)

    def _answer_other(self, connection: Connection, http_request: HttpRequest) -> None:
        """Answer a request that is not for a chat: about models, files or batches, or an error."""
        asked = http_request.head
        dialect = next((d for d in DIALECTS.values() if asked.path.startswith(d.base_path)), None)
        dialect = dialect or DIALECTS["openai"]
        details = {"method": asked.method, "path": asked.path}
        if self._locked_out(asked):
            error = dialect.error("401", None, {"key": "sk-****"})
            status, (kind, body) = error.status, dialect.error_content(error)
        elif self._batch_requests.handle(connection, http_request, dialect):
            return
        elif asked.path == dialect.models_path and asked.method == "GET":
            status, (kind, body) = 200, ("application/json", dialect.dumps(self._models(dialect)))
        else:
            wrong_method = asked.path in APIS or asked.path == dialect.models_path
            error = dialect.error("405" if wrong_method else "404_url", None, details)
            status, (kind, body) = error.status, dialect.error_content(error)
        headers = (("content-type", kind), ("content-length", str(len(body))))
        connection.write(with_serial(head(status, headers) + body, _NO_SERIAL))
        connection.release()

    def _locked_out(self, asked: RequestHead) -> bool:
        """Whether a request about files or batches lacks a key that is known."""
        keys = self._rules.keys
        needed = "/files" in asked.path or "/batches" in asked.path
        return needed and keys is not None and asked.token not in keys

    def _answer_in_batch(
        self, dialect: Dialect, batch: StoredBatch, line: dict[str, Any]
    ) -> tuple[int, Any]:
        """Answer a request of a batch: a status and a body."""
        request = _in_batch(dialect, line["body"])
        if any(matches(pattern, request.target) for pattern in self._rules.retired):
            error = dialect.error("404", request)
            return error.status, dialect.error_object(error)
        if request.error is not None:
            return request.error.status, dialect.error_object(request.error)
        reply = batch.backlog.reply
        return 200, dialect.document(request, self._generate(request, reply), reply)

    def _models(self, dialect: Dialect) -> object:
        """List the models that were scripted or asked, but for the retired ones."""
        listed = self._rules.listed
        known = {*self._scripts.patterns(), *self._rules.limits, *self._rules.windows, *listed}
        targets = {target for target in known | self._log.targets() if "*" not in target}
        names = [
            target.partition(":")[2]
            for target in sorted(targets)
            if target.startswith(f"{dialect.name}:")
            and not any(matches(pattern, target) for pattern in self._rules.retired)
        ]
        dates = {target.partition(":")[2]: listed[target] for target in listed if target in targets}
        return dialect.models([name for name in names if name], dates)
