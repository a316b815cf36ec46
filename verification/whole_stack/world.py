"""One run of a scenario: simulator, model and callers on one virtual loop, and what happened."""

from __future__ import annotations

import asyncio
import gc
import json
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from langchain_resilient import ResilientChatModel, ResilientError, Target
from langchain_resilient.providers import connection
from langchain_resilient.testing import ProviderSimulator, Step
from verification.kit.leftovers import busy_connections, tasks
from verification.kit.virtual_time import Transport, VirtualLoop, run_virtual
from verification.whole_stack.scenario import BLACK_HOLE, Scenario, prompt_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from langchain_core.messages import BaseMessage

    from langchain_resilient.testing import RecordedRequest
    from verification.whole_stack.scenario import Call


SETTLE_SECONDS = 1.0
"""How long after the last answer a loser may take to be gone, in virtual seconds."""

PROBE_SECONDS = 60.0
"""The same for a probe of a sick target, which nobody waits for and nobody cancels."""

_TICK = 0.05


@dataclass(frozen=True)
class Run:
    """What happened.

    Attributes:
        scenario: What was to happen.
        outcomes: What became of the calls, in the order of calling.
        seen: What the server saw, in the order of coming.
        leaks: What was left behind: tasks, connections, sockets, complaints of the loop.
        seconds: How long it took, in virtual time.
    """

    scenario: Scenario
    outcomes: list[CallOutcome]
    seen: list[RecordedRequest]
    leaks: list[str]
    seconds: float


def play(scenario: Scenario, transport: Transport = "aiohttp") -> Run:
    """Run a scenario from a cold start to the last socket."""

    async def main(loop: VirtualLoop) -> Run:
        complaints: list[str] = []
        loop.set_exception_handler(lambda _, context: complaints.append(str(context)))
        async with simulator(scenario, loop) as sim:
            outcomes = await ask_all(model(scenario, sim), scenario.calls)
            probes = scenario.model.get("health", True) is not None
            leaks = await leftovers(sim, PROBE_SECONDS if probes else SETTLE_SECONDS)
            leaks += await close(sim)
            gc.collect()  # whatever was dropped without being closed complains now
            seen = list(sim.requests)
        return Run(scenario, outcomes, seen, leaks + complaints, loop.time())

    return run_virtual(main, seed=scenario.seed, transport=transport)


class _Simulator(ProviderSimulator):
    """A simulator with a black hole beside it: a listener that never lets anybody in."""

    async def astart(self) -> _Simulator:
        self._hole = await asyncio.get_running_loop().create_server(
            asyncio.Protocol, *_host_and_port(BLACK_HOLE), start_serving=False
        )
        return await super().astart()

    async def astop(self) -> None:
        await super().astop()
        self._hole.close()


def simulator(scenario: Scenario, loop: VirtualLoop) -> ProviderSimulator:
    """Make the providers of a scenario; use it with `async with`."""
    sim = _Simulator(scenario.seed, wall_clock=loop.calendar)
    for pattern, part in scenario.script.items():
        if isinstance(part, Step):
            sim.script(pattern, then=part)
        else:
            sim.chaos(pattern, part)
    return sim


def model(scenario: Scenario, sim: ProviderSimulator) -> ResilientChatModel:
    """Make the model of a scenario. Each target has an account of its own."""

    def target(spec: str) -> Target:
        dialect, _, name = spec.partition(":")
        address = scenario.addresses.get(spec) or sim.base_url(dialect)
        fields = scenario.fields.get(spec, {})
        return Target(spec, base_url=address, api_key=f"key-of-{name}", **fields)

    return ResilientChatModel(targets=[target(s) for s in scenario.targets], **scenario.model)


async def leftovers(sim: ProviderSimulator, seconds: float) -> list[str]:
    """Wait for the losers to go, and list what is still there: tasks, requests, connections.

    Args:
        sim: The providers.
        seconds: How long to wait at most.
    """
    loop = asyncio.get_running_loop()
    for _ in range(round(seconds / _TICK)):
        if not (tasks() or sim.in_flight or busy_connections(loop)):
            break
        await asyncio.sleep(_TICK)
    return [*tasks(), *_requests(sim), *busy_connections(loop)]


async def close(sim: ProviderSimulator) -> list[str]:
    """Close the SDKs' clients, and list the sockets that the server still has open."""
    await connection.close_clients()
    await asyncio.sleep(_TICK)
    return [f"{sim.open_sockets} sockets are open at the server"] if sim.open_sockets else []


def _requests(sim: ProviderSimulator) -> list[str]:
    return [f"{sim.in_flight} requests are in flight at the server"] if sim.in_flight else []


def _host_and_port(url: str) -> tuple[str, int]:
    host, _, port = url.removeprefix("http://").partition(":")
    return host, int(port)


@dataclass
class CallOutcome:
    """What became of a call. Times are the loop's.

    Attributes:
        call: Who asked.
        began: When.
        ended: When the caller had its answer, or knew that it will have none.
        pieces: What came when, of a stream.
        texts: The answers, as many as prompts; of a stream that broke, what came of it.
        receipts: One for each answer, or for the error.
        error: What was raised, if anything was.
        left: Whether the caller went away of its own accord.
    """

    call: Call
    began: float
    ended: float = 0.0
    pieces: list[tuple[float, str]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    receipts: list[dict[str, Any]] = field(default_factory=list)
    error: BaseException | None = None
    left: bool = False


async def ask_all(model: ResilientChatModel, calls: Iterable[Call]) -> list[CallOutcome]:
    """Make all calls, each at its time, and wait for the last."""
    loop = asyncio.get_running_loop()
    start, outcomes, tasks = loop.time(), [], []
    for call in sorted(calls, key=lambda one: one.at):
        await asyncio.sleep(max(0.0, start + call.at - loop.time()))
        outcomes.append(CallOutcome(call, loop.time()))
        tasks.append(loop.create_task(ask(model, outcomes[-1])))
        if call.cancel_after is not None:
            loop.call_later(call.cancel_after, _cancel, tasks[-1], call.cancel_twice)
    await asyncio.gather(*tasks)
    return outcomes


def _cancel(task: asyncio.Task[None], again: bool) -> None:
    task.cancel()
    if again:
        asyncio.get_running_loop().call_soon(task.cancel)


async def ask(model: ResilientChatModel, outcome: CallOutcome) -> None:
    """Make one call; never raises."""
    call, clock = outcome.call, asyncio.get_running_loop().time
    own: dict[str, Any] = {} if call.timeout is None else {"timeout": call.timeout}
    try:
        if call.how == "astream":
            await _read(model, outcome, own)
        elif call.how == "abatch":
            for answer in await model.abatch(list(call.prompts), **own):
                _note(outcome, answer)
        else:
            _note(outcome, await model.ainvoke(call.prompts[0], **own))
    except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  # every error is an outcome
        outcome.error = error
        if isinstance(error, ResilientError) and error.receipt is not None:
            outcome.receipts.append(error.receipt.as_dict())
    outcome.ended = clock()


async def _read(model: ResilientChatModel, outcome: CallOutcome, own: dict[str, Any]) -> None:
    call, clock = outcome.call, asyncio.get_running_loop().time
    outcome.texts.append("")
    async for chunk in model.astream(call.prompts[0], **own):
        outcome.pieces.append((clock(), chunk.text))
        outcome.texts[0] += chunk.text
        _note_receipt(outcome, chunk)
        if call.leave_after is not None and len(outcome.pieces) >= call.leave_after:
            outcome.left = True
            return
        if call.pause:
            await asyncio.sleep(call.pause)


def _note(outcome: CallOutcome, answer: BaseMessage) -> None:
    outcome.texts.append(answer.text)
    _note_receipt(outcome, answer)


def _note_receipt(outcome: CallOutcome, message: BaseMessage) -> None:
    receipt = message.response_metadata.get("resilience")
    if receipt is not None:
        outcome.receipts.append(receipt)


Event = tuple[float, str]
"""When, in virtual seconds, and what."""


def trace(run: Run) -> list[Event]:
    """Describe a run from both sides: what the callers got, and what the server saw."""
    events = [event for outcome in run.outcomes for event in _of_caller(outcome)]
    events += [
        event for number, seen in enumerate(run.seen, 1) for event in _of_server(number, seen)
    ]
    return sorted(((round(at, 6), what) for at, what in events), key=lambda event: event[0])


def digest(run: Run) -> str:
    """Hash a run: the same seed gives the same digest, in any process."""
    return sha256(repr(trace(run)).encode()).hexdigest()


def _of_caller(outcome: CallOutcome) -> Iterator[Event]:
    call = outcome.call
    name = f"call {call.number}"
    yield outcome.began, f"{name} {call.how} {' '.join(call.prompts)}"
    for at, text in outcome.pieces:
        yield at, f"{name} reads {text!r}"
    how = "leaves" if outcome.left else "has its answer"
    if outcome.error is not None:
        how = type(outcome.error).__name__
    yield outcome.ended, f"{name} {how}: {outcome.texts}"
    for receipt in outcome.receipts:
        yield outcome.ended, f"{name} receipt {_story(receipt)}"


def _story(receipt: dict) -> str:
    # Messages of failures may hold addresses of objects, which no seed decides.
    attempts = [{k: v for k, v in a.items() if k != "message"} for a in receipt["attempts"]]
    return json.dumps({**receipt, "attempts": attempts}, sort_keys=True)


def _of_server(number: int, seen: RecordedRequest) -> Iterator[Event]:
    name = f"server {number} {seen.target}"
    prompt = prompt_of(seen.body)
    yield seen.at, f"{name} {'streams' if seen.stream else 'answers'} {seen.step}: {prompt}"
    if seen.ended_at is not None:
        how = "is left" if seen.aborted else "has ended"
        yield seen.ended_at, f"{name} {how}: {seen.status} {len(seen.pieces)} pieces"
