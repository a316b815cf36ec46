"""Small things that several test modules need."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_resilient.chat_model import ResilientChatModel
from langchain_resilient.options import Target

if TYPE_CHECKING:
    from langchain_resilient.testing.simulator import ProviderSimulator

CANARY = "sk-canary-0123456789abcdef"


def target(sim: ProviderSimulator, spec: str, **fields: Any) -> Target:
    """A target at the simulator, in the dialect of its provider."""
    fields = {"api_key": CANARY, **fields}
    return Target(spec, base_url=sim.base_url(spec.partition(":")[0]), **fields)


def chain(sim: ProviderSimulator, *specs: str, **fields: Any) -> ResilientChatModel:
    """A model over targets at the simulator."""
    return ResilientChatModel(targets=[target(sim, spec) for spec in specs], **fields)
