"""Scripts written as JSON, for the command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_resilient.testing import delays
from langchain_resilient.testing.delays import Distribution
from langchain_resilient.testing.simulator import ProviderSimulator
from langchain_resilient.testing.steps import STEPS
from langchain_resilient.testing.steps.base import Step
from langchain_resilient.testing.steps.refusals import HttpDate

_DELAYS: dict[str, type[Distribution]] = {
    name: value
    for name, value in vars(delays).items()
    if isinstance(value, type) and issubclass(value, Distribution) and value is not Distribution
}


def load_script(simulator: ProviderSimulator, script: Mapping[str, Any]) -> None:
    """Give a simulator a script read from JSON.

    Each pattern has a list of steps, `{"step": NAME, ...}` with the step's arguments; a step with
    `"then": true` follows for ever, one with a `"chance"` may happen to any request. Delays may be
    written `{"delay": "Lognormal", "median": 0.5, ...}`.

    Raises:
        ValueError: If the script is wrong; the message says where.

    Example:
        ```python
        load_script(sim, {"openai:gpt-6-luna": [{"step": "Status", "code": 500}]})
        ```
    """
    for pattern, entries in script.items():
        steps: list[Step] = []
        odds: dict[Step, float] = {}
        then: list[Step] = []
        for entry in entries:
            settings = dict(entry)
            chance, forever = settings.pop("chance", None), settings.pop("then", False)
            step = _read(settings, pattern)
            if chance is not None:
                odds[step] = odds.get(step, 0) + float(chance)
            else:
                (then if forever else steps).append(step)
        if odds and (steps or then):
            msg = f"{pattern}: either every step has a chance or none has"
            raise ValueError(msg)
        if odds:
            simulator.chaos(pattern, odds)
        elif then:
            simulator.script(pattern, *steps, then=then[-1])
        else:
            simulator.script(pattern, *steps)


def _read(value: Any, where: str) -> Any:
    """Turn nested JSON into steps and delays."""
    if isinstance(value, list):
        return tuple(_read(item, where) for item in value)
    if not isinstance(value, dict):
        return value
    settings = {name: _read(item, where) for name, item in value.items()}
    for key, known in (("step", STEPS), ("delay", _DELAYS), ("date", {"HttpDate": HttpDate})):
        name = settings.pop(key, None)
        if name is None:
            continue
        if name not in known:
            msg = f"{where}: there is no {key} {name!r}; there are {', '.join(sorted(known))}"
            raise ValueError(msg)
        positional = settings.pop("parts", None) or settings.pop("phases", None) or ()
        try:
            return known[name](*positional, **settings)
        except TypeError as error:
            msg = f"{where}: {name}: {error}"
            raise ValueError(msg) from None
    return settings
