"""Small things that several test modules need."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from langchain_resilient.chat_model import ResilientChatModel
from langchain_resilient.options import Target

if TYPE_CHECKING:
    from collections.abc import Iterator

    from langchain_resilient.testing.simulator import ProviderSimulator

CANARY = "sk-canary-0123456789abcdef"

UNWARNED_FORK = ("-W", "ignore:This process:DeprecationWarning")
"""Options of a Python that forks beside its threads on purpose: 3.12 and later warn of that."""


def target(sim: ProviderSimulator, spec: str, **fields: Any) -> Target:
    """A target at the simulator, in the dialect of its provider."""
    fields = {"api_key": CANARY, **fields}
    return Target(spec, base_url=sim.base_url(spec.partition(":")[0]), **fields)


def chain(sim: ProviderSimulator, *specs: str, **fields: Any) -> ResilientChatModel:
    """A model over targets at the simulator."""
    return ResilientChatModel(targets=[target(sim, spec) for spec in specs], **fields)


@contextmanager
def process(*command: str, **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """A child process that does not outlive the block, nor do its pipes, however the block ends."""
    with subprocess.Popen(command, **options) as started:
        try:
            yield started
        finally:
            started.kill()  # does nothing to one that has been waited for
