"""A key that was refused before: it is not waited for, and what is wrong is said at once."""

from __future__ import annotations

import time

import pytest

from langchain_resilient import AllTargetsFailedError, FaultKind
from langchain_resilient.testing import ProviderSimulator, Status
from verification.kit.scripted_targets import chain


@pytest.mark.parametrize("deadline", [5.0, 600.0], ids=["deadline before it is back", "after"])
@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, FaultKind.BAD_REQUEST), (401, FaultKind.AUTH), (404, FaultKind.NOT_FOUND)],
)
async def test_a_failure_beside_a_refused_key_is_told_at_once(deadline, status, kind):
    """Also where the deadline would allow to wait until the account is tried again."""
    with ProviderSimulator() as sim:
        llm = chain(sim, "openai:a", "together:b", timeout=deadline, share_learning=False)
        sim.script("openai:a", then=Status(401))
        await llm.ainvoke("this one is answered by the second")
        sim.script("together:b", then=Status(status))
        began = time.monotonic()
        with pytest.raises(AllTargetsFailedError) as raised:
            await llm.ainvoke("this one by nobody")
    assert time.monotonic() - began < 4.0
    assert {fault.kind for _, fault in raised.value.receipt.faults} == {kind, FaultKind.AUTH}
