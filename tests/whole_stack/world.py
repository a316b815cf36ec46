"""One run of a scenario: simulator, model and callers on one virtual loop, and what they leave."""

from __future__ import annotations

import asyncio
import gc
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langchain_resilient.chat_model import ResilientChatModel
from langchain_resilient.options import Target
from langchain_resilient.providers import sdk
from langchain_resilient.testing.simulator import ProviderSimulator
from langchain_resilient.testing.steps.base import Step
from tests.whole_stack.callers import Told, ask_all
from tests.whole_stack.scenario import BLACK_HOLE, Scenario
from tests.whole_stack.virtual import run_virtual

if TYPE_CHECKING:
    from langchain_resilient.testing.request_log import RecordedRequest
    from tests.whole_stack.virtual import Transport, VirtualLoop

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
        told: What the callers were told, in the order of calling.
        seen: What the server saw, in the order of coming.
        leaks: What was left behind: tasks, connections, sockets, complaints of the loop.
        seconds: How long it took, in virtual time.
    """

    scenario: Scenario
    told: list[Told]
    seen: list[RecordedRequest]
    leaks: list[str]
    seconds: float


def play(scenario: Scenario, transport: Transport = "aiohttp") -> Run:
    """Run a scenario from a cold start to the last socket."""

    async def main(loop: VirtualLoop) -> Run:
        complaints: list[str] = []
        loop.set_exception_handler(lambda _, context: complaints.append(str(context)))
        async with simulator(scenario, loop) as sim:
            told = await ask_all(model(scenario, sim), scenario.calls)
            probes = scenario.model.get("health", True) is not None
            leaks = await leftovers(sim, PROBE_SECONDS if probes else SETTLE_SECONDS)
            leaks += await close(sim)
            gc.collect()  # whatever was dropped without being closed complains now
            seen = list(sim.requests)
        return Run(scenario, told, seen, leaks + complaints, loop.time())

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
        if not (_tasks() or sim.in_flight or _busy_connections(loop)):
            break
        await asyncio.sleep(_TICK)
    return [*_tasks(), *_requests(sim), *_busy_connections(loop)]


async def close(sim: ProviderSimulator) -> list[str]:
    """Close the SDKs' clients, and list the sockets that the server still has open."""
    await sdk.close_clients()
    await asyncio.sleep(_TICK)
    return [f"{sim.open_sockets} sockets are open at the server"] if sim.open_sockets else []


def _tasks() -> list[str]:
    return [f"a task is left: {t}" for t in asyncio.all_tasks() - {asyncio.current_task()}]


def _requests(sim: ProviderSimulator) -> list[str]:
    return [f"{sim.in_flight} requests are in flight at the server"] if sim.in_flight else []


def _busy_connections(loop: asyncio.AbstractEventLoop) -> list[str]:
    known = sdk._by_loop.get(loop)
    transports = [c._http._transport for c in known.made.values()] if known else []
    return [f"a pool holds {held}" for t in transports if (held := busy(t))]


def busy(transport: Any) -> list[Any]:
    """List what a pool counts as in use; neither transport tells it in public."""
    if hasattr(transport, "_pool"):
        pool = transport._pool
        return [c for c in pool.connections if not c.is_idle()] + pool._requests
    session = transport.client
    if session is None or callable(session):  # it was closed, or never used
        return []
    return [*session.connector._acquired, *session.connector._waiters]


def _host_and_port(url: str) -> tuple[str, int]:
    host, _, port = url.removeprefix("http://").partition(":")
    return host, int(port)
