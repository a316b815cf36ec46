"""The desk: takes every request past the door, and lets a step of the script do the rest."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from hashlib import blake2s
from random import Random
from typing import TYPE_CHECKING

from langchain_resilient.testing.brain import is_reasoning_model, longest_answer, think
from langchain_resilient.testing.dialects import DIALECTS
from langchain_resilient.testing.dialects.base import Call, numbered
from langchain_resilient.testing.door import refusal_at_door
from langchain_resilient.testing.exchange import Exchange
from langchain_resilient.testing.http import head
from langchain_resilient.testing.memory import CACHED_FROM, Memory
from langchain_resilient.testing.patterns import matches
from langchain_resilient.testing.records import Ledger, Seen
from langchain_resilient.testing.steps.reply import Reply
from langchain_resilient.testing.telling import whole_response

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_resilient.testing.brain import Answer
    from langchain_resilient.testing.dialects.base import Dialect
    from langchain_resilient.testing.door import Rules
    from langchain_resilient.testing.http import Head, Request
    from langchain_resilient.testing.limits import Meters
    from langchain_resilient.testing.memory import Reading
    from langchain_resilient.testing.script import Script
    from langchain_resilient.testing.server import Connection

_NO_NUMBER = b"%016x" % 0  # only chat requests are counted


class Desk:
    """Handles the requests of all connections, on the simulator's loop."""

    def __init__(
        self,
        script: Script,
        rules: Rules,
        ledger: Ledger,
        *,
        seed: int,
        wall_clock: Callable[[], float],
    ) -> None:
        self.script = script
        self.rules = rules
        self.ledger = ledger
        self.started: float = 0.0
        self._seed = seed
        self._wall_clock = wall_clock
        self._memory = Memory()
        self._randoms: dict[str, Random] = {}
        self._clock: Callable[[], float] = lambda: 0.0
        self._chats = {dialect.chat_path: dialect for dialect in DIALECTS.values()}
        self._ok_headers = {d.name: d.ok_headers(None, None) for d in DIALECTS.values()}

    def open(self) -> None:
        """Begin to work on the running loop."""
        self._clock = asyncio.get_running_loop().time
        self.started = self._clock()

    def forget(self) -> None:
        """Draw every chance afresh, and have no prompt in the cache."""
        self._memory = Memory()
        self._randoms = {}

    def handle(self, connection: Connection, request: Request) -> None:
        """Answer a request, or start to."""
        asked = request.head
        dialect = self._chats.get(asked.path)
        if dialect is None or asked.method != "POST":
            self._no_chat(connection, asked)
            return
        reading = self._memory.read(dialect, request.body)
        now = self._clock()
        call = Call(dialect, reading.model, reading.body, reading.stream)
        key = blake2s(asked.token.encode(), digest_size=4).hexdigest() if asked.token else ""
        seen = Seen(dialect.name, call.model, call.stream, call.body, asked.headers, key, now)
        self.ledger.open(seen)
        try:
            refusal, meters = refusal_at_door(self.rules, call, reading, seen, asked.token)
            if refusal is not None:
                seen.step = f"Door {refusal[0].status}"
                self._exchange(connection, call, seen, meters).refuse(*refusal)
            else:
                self._take_step(connection, call, seen, reading, meters)
        except BaseException:
            self._on_end(seen, False)  # whatever failed here, nobody shall wait for this request
            raise

    def _take_step(
        self, connection: Connection, call: Call, seen: Seen, reading: Reading, meters: Meters
    ) -> None:
        step = self.script.take(call.target).choose(call, seen.at - self.started)
        seen.step = step.name
        if type(step) is Reply and step.instant and not any(meters):
            self._answer_at_once(connection, call, seen, reading, step)
        else:
            connection.play(self._exchange(connection, call, seen, meters), step)

    def _answer_at_once(
        self, connection: Connection, call: Call, seen: Seen, reading: Reading, reply: Reply
    ) -> None:
        """Answer without a task, and the same bytes with the same bytes: this path is measured."""
        if reading.step is not reply:
            reading.rendered, again = self._render(call, reply)
            reading.step = reply if again else None
        data, pieces = reading.rendered
        connection.write(numbered(data, seen.serial))
        seen.status = reply.status
        seen.pieces = pieces
        self._on_end(seen, False)
        connection.release(None, close=reply.close)

    def _render(self, call: Call, reply: Reply) -> tuple[tuple[bytes, list[str]], bool]:
        """Return a whole response with its pieces, and whether the same one will do next time."""
        answer = self._think(call, reply)
        cut_up = call.dialect.stream if call.stream else call.dialect.plain
        parts = cut_up(call, answer, reply)
        data = whole_response(call, reply, parts, self._ok_headers[call.dialect.name])
        return (data, parts.pieces), answer.usage.prompt < CACHED_FROM

    def _think(self, call: Call, reply: Reply) -> Answer:
        openai = call.dialect.name == "openai"
        limit = longest_answer(call.body) if openai else call.body.get("max_tokens")
        thinks = openai and is_reasoning_model(call.model)
        answer = think(call.body, reply, limit=limit, thinks=thinks)
        if answer.usage.prompt < CACHED_FROM:
            return answer
        cached = self._memory.cached_tokens(call.target, call.body["messages"], answer.usage.prompt)
        return replace(answer, usage=replace(answer.usage, cached=cached))

    def _exchange(self, connection: Connection, call: Call, seen: Seen, meters: Meters) -> Exchange:
        headers = self._ok_headers[call.dialect.name]
        if any(meters):
            headers = call.dialect.ok_headers(*meters)
        if call.target not in self._randoms:
            # One stream a target: what others are asked does not change what happens here.
            self._randoms[call.target] = Random(f"{self._seed}:{call.target}")
        return Exchange(
            connection,
            call,
            seen,
            at=seen.at - self.started,
            random=self._randoms[call.target],
            ok_headers=headers,
            think=self._think,
            wall_clock=self._wall_clock,
            on_end=self._on_end,
        )

    def _on_end(self, seen: Seen, aborted: bool) -> None:
        self.ledger.close(seen, self._clock(), aborted=aborted)

    def _no_chat(self, connection: Connection, asked: Head) -> None:
        """Answer what is no chat request: the list of models, or an error."""
        dialect = next((d for d in DIALECTS.values() if asked.path.startswith(d.base_path)), None)
        dialect = dialect or DIALECTS["openai"]
        details = {"method": asked.method, "path": asked.path}
        if asked.path == dialect.models_path and asked.method == "GET":
            status, (kind, body) = 200, ("application/json", dialect.dumps(self._models(dialect)))
        else:
            wrong = asked.path in (dialect.chat_path, dialect.models_path)
            problem = dialect.problem("405" if wrong else "404_url", None, details)
            status, (kind, body) = problem.status, dialect.error_body(problem)
        headers = (("content-type", kind), ("content-length", str(len(body))))
        connection.write(numbered(head(status, headers) + body, _NO_NUMBER))
        connection.release(None)

    def _models(self, dialect: Dialect) -> object:
        """List the models that were scripted or asked, but for the retired ones."""
        known = {*self.script.patterns(), *self.rules.limits, *self.rules.windows}
        targets = {target for target in known | self.ledger.targets() if "*" not in target}
        names = [
            target.partition(":")[2]
            for target in sorted(targets)
            if target.startswith(f"{dialect.name}:")
            and not any(matches(pattern, target) for pattern in self.rules.retired)
        ]
        return dialect.models([name for name in names if name])
