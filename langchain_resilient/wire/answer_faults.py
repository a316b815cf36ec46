"""What is wrong with an answer that has ended: its finish reason, its tool calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_resilient.faults import Fault, FaultKind
from langchain_resilient.wire.finish_reasons import Ending, ending_of
from langchain_resilient.wire.tool_call_assembler import read_arguments

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from langchain_resilient.exchange import ChatRequest


def fault_of_reason(reason: str | None) -> Fault | None:
    """Return the fault that a finish reason stands for; None for an answer that counts."""
    ending = ending_of(reason)
    if ending is Ending.FILTERED:
        return Fault(FaultKind.CONTENT_FILTER, "stopped by the provider's content filter")
    if ending is Ending.BROKEN:
        shown = str(reason)[:60]
        return Fault(FaultKind.BROKEN, f"the provider broke off: finish_reason {shown!r}")
    return None


def fault_of_calls(calls: Sequence[tuple[str, str]], request: ChatRequest | None) -> Fault | None:
    """Return the fault of an answer that has only tool calls; None if one of them can be run.

    Args:
        calls: Their names and arguments.
        request: What was asked: the schemas of its tools say which arguments a call needs.
    """
    needed = _needed_arguments(request)
    problems = [_call_problem(name, args, needed) for name, args in calls]
    if not all(problems):
        return None
    message = f"no tool call that can be run: {problems[0]}"
    return Fault(FaultKind.INVALID, message, kept=True)


def _needed_arguments(request: ChatRequest | None) -> dict[str, set[str]]:
    """Find the required arguments of each tool of a request."""
    if request is None:
        return {}
    needed = {}
    for tool in request.overrides.get("tools") or request.defaults.get("tools") or ():
        function = _as_dict(_as_dict(tool).get("function"))
        required = _as_dict(function.get("parameters")).get("required")
        if isinstance(required, list | tuple):
            needed[str(function.get("name"))] = {n for n in required if isinstance(n, str)}
    return needed


def _call_problem(name: str, text: str, needed: Mapping[str, set[str]]) -> str:
    """Say why a call cannot be run; empty if it can."""
    if not name:
        return "it has no name"
    try:
        args = read_arguments(text)
    except ValueError:
        return "its arguments are not JSON"
    if not isinstance(args, dict):
        return "its arguments are not a JSON object"
    missing = needed.get(name, set()) - args.keys()
    return f"it lacks {', '.join(sorted(missing))}" if missing else ""


def _as_dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
