"""Steps: what a simulated provider can do with one request."""

from __future__ import annotations

from langchain_resilient.testing.steps import base, faults, refusals
from langchain_resilient.testing.steps.base import Step
from langchain_resilient.testing.steps.refusals import Refusal

STEPS: dict[str, type[Step]] = {
    name: value
    for module in (base, faults, refusals)
    for name, value in vars(module).items()
    if isinstance(value, type)
    and issubclass(value, Step)
    and value.__module__ == module.__name__
    and value not in (Step, Refusal, faults.Broken)
}
"""Every step that a script may hold, by name."""
