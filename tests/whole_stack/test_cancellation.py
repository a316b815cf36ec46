"""A caller is cancelled at every single step of the event loop: nothing is ever left behind."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from langchain_resilient import Hedge, TimeLimits
from langchain_resilient.runtime.shared_state import reset
from langchain_resilient.testing import Cut, NoAnswer, Reply, Status
from tests.whole_stack.everyday import CHAINS, PRIMARY
from verification.kit.virtual_time import VirtualLoop, run_virtual
from verification.whole_stack.scenario import (
    HEALTHY,
    WORDS,
    Call,
    How,
    Scenario,
    prompt_of,
    prompts,
    right_text,
)
from verification.whole_stack.world import (
    CallOutcome,
    ask,
    ask_all,
    close,
    leftovers,
    model,
    simulator,
)

if TYPE_CHECKING:
    from langchain_resilient.testing import ProviderSimulator, RecordedRequest, Step
    from verification.kit.virtual_time import Transport

FIRST: dict[str, Step] = {
    "answers": Reply(first_text=0.3, chunk_gap=0.02, words=WORDS),
    "is hedged": Reply(first_text=0.75, words=WORDS),
    "fails": Status(500, latency=0.1),
    "breaks": Cut(0, reply=HEALTHY),
    "hangs": NoAnswer(),
}
"""What the first target does while the second is healthy."""

AT_ONCE = 0.15
"""Seconds that closing may take; less than any answer above, so that none is waited for."""

HEAD_START = 0.1
"""Seconds that the other callers of a scenario, if it has any, begin earlier."""

FEWEST_STEPS = 17
"""A sweep of fewer steps would have missed most of a request; Python 3.14 takes 18 where 3.11 takes
over 20."""


def scenario(chain: tuple[str, ...], how: How, first: Step) -> Scenario:
    """One call, of which every step is a place to be cancelled at."""
    second = Reply(first_text=0.4, words=WORDS)
    return Scenario(
        targets=chain,
        script={chain[0]: first, chain[1]: second},
        calls=(Call(0, 0.0, how, prompts(0, 2 if how == "abatch" else 1)),),
        model={
            "timeout": 20.0,
            "hedge": Hedge(delay=0.5, budget=1.0),
            "time_limits": TimeLimits(first_text=1.0),
        },
    )


async def cancelled_at(
    sim: ProviderSimulator, part: Scenario, steps: tuple[int, ...]
) -> tuple[CallOutcome, list[str]]:
    """Make the first call from a cold start, cancel its task before the given steps of the loop.

    Returns:
        What its caller got; and what was left behind, or wrong for the other callers.
    """
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    reset(seed=0)
    llm = model(part, sim)
    others = asyncio.create_task(ask_all(llm, part.calls[1:]))
    await asyncio.sleep(HEAD_START)
    outcome = CallOutcome(part.calls[0], loop.time())
    task = asyncio.create_task(ask(llm, outcome))
    loop.interrupts = {loop.steps + step: task.cancel for step in steps}
    await asyncio.wait([task])
    loop.interrupts = {}
    if task.cancelled():  # before it had begun
        outcome.error = asyncio.CancelledError()
    ended = loop.time()
    wrong = [f"wrong answer: {other}" for other in await others if not is_right(other)]
    wrong += await leftovers(sim, AT_ONCE) + await close(sim)
    return outcome, wrong + [
        f"went on for nobody: {s}" for s in sim.requests if goes_on(s, outcome, ended)
    ]


def goes_on(seen: RecordedRequest, outcome: CallOutcome, ended: float) -> bool:
    """Whether a request was still answered when its caller had been gone for a while."""
    mine = seen.at >= outcome.began and prompt_of(seen.body) in outcome.call.prompts
    return mine and (seen.ended_at is None or seen.ended_at > ended + AT_ONCE)


def is_right(outcome: CallOutcome) -> bool:
    """Whether a caller has the whole answer to each prompt."""
    return outcome.texts == [right_text(prompt) for prompt in outcome.call.prompts]


async def sweep(loop: VirtualLoop, part: Scenario, again: int | None) -> list[tuple[int, Any]]:
    """Cancel at the first step, at the second, and so on until the call ends before it.

    Args:
        loop: The loop.
        part: The scenario.
        again: After how many more steps to cancel once more; None for once only.

    Returns:
        The steps at which something was left behind or the caller got something wrong.
    """
    wrong: list[tuple[int, Any]] = []
    step = 0
    async with simulator(part, loop) as sim:
        outcome = CallOutcome(part.calls[0], 0.0, error=asyncio.CancelledError())
        while outcome.error is not None:
            step += 1
            more = () if again is None else (step + again,)
            outcome, leaks = await cancelled_at(sim, part, (step, *more))
            if leaks or not isinstance(outcome.error, asyncio.CancelledError | None):
                wrong.append((step, leaks or outcome.error))
    assert step > FEWEST_STEPS
    assert is_right(outcome)
    return wrong


def swept(
    part: Scenario, again: int | None = None, transport: Transport = "aiohttp"
) -> list[tuple[int, Any]]:
    """Sweep in virtual time; see `sweep`."""
    return run_virtual(lambda loop: sweep(loop, part, again), transport=transport)


@pytest.mark.parametrize("how", ["ainvoke", "astream"])
@pytest.mark.parametrize(
    ("chain", "first"),
    [
        *(("openai first", first) for first in FIRST),
        # Where both targets are asked, the chain above has Together's part already.
        ("together first", "answers"),
        ("together first", "is hedged"),
    ],
)
def test_a_caller_cancelled_at_any_step_leaves_nothing_behind(chain, how, first):
    """No task, no request, no busy connection, no socket; the caller gets its `CancelledError`."""
    assert swept(scenario(CHAINS[chain], how, FIRST[first])) == []


@pytest.mark.parametrize("how", ["ainvoke", "astream"])
@pytest.mark.parametrize("first", ["answers", "is hedged", "breaks"])
def test_so_does_one_cancelled_twice(how, first):
    """The second time in the midst of the first: what is being closed is closed all the same."""
    assert swept(scenario(CHAINS["together first"], how, FIRST[first]), again=1) == []


def test_so_does_a_whole_batch():
    """Every prompt of it is given up."""
    assert swept(scenario(CHAINS["openai first"], "abatch", FIRST["is hedged"])) == []


@pytest.mark.parametrize("how", ["ainvoke", "astream"])
def test_so_does_one_that_waits_for_a_place(how):
    """The target takes one request at a time: who has its place and who comes later are served."""
    part = Scenario(
        targets=(PRIMARY,),
        script={PRIMARY: Reply(first_text=0.3, words=WORDS)},
        calls=(
            Call(0, 0.0, how, prompts(0)),
            Call(1, 0.0, "ainvoke", prompts(1)),
            Call(2, 1.0, "ainvoke", prompts(2), timeout=5.0),
        ),
        model={"timeout": 20.0, "hedge": None},
        fields={PRIMARY: {"max_concurrency": 1}},
    )
    assert swept(part) == []


@pytest.mark.parametrize("how", ["ainvoke", "astream"])
def test_so_does_openai_on_httpx(how):
    """The SDK's httpx2 gives every connection back."""
    part = scenario(("openai:first", "openai:second"), how, FIRST["is hedged"])
    assert swept(part, again=1, transport="httpx") == []


@pytest.mark.xfail(
    reason="httpcore 1.0.9 never gives back a connection that is cancelled right after connecting",
    strict=True,
)
def test_so_does_together_on_httpx():
    """Why aiohttp is the default: this SDK's httpx strands connections, also by one cancel."""
    part = scenario(("together:first", "together:second"), "ainvoke", FIRST["answers"])
    assert swept(part, transport="httpx") == []
