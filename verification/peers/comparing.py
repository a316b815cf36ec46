"""Asks both models and compares what was sent, what came and what was raised."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from langchain_core import exceptions
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage
from pydantic import BaseModel

from langchain_resilient import ResilientChatModel, TimeLimits
from verification.kit.scripted_targets import target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from langchain_core.outputs import LLMResult

    from langchain_resilient.testing import ProviderSimulator
    from verification.peers.cases import Case

MODELS = {"openai": "gpt-4o", "together": "Qwen/Qwen3-Next-80B-A3B-Instruct"}

WAYS = ("invoke", "stream")

_FAMILY = {
    name
    for name, kind in vars(exceptions).items()
    if isinstance(kind, type) and issubclass(kind, exceptions.ModelError)
}


class Difference(NamedTuple):
    """One field that is not the same.

    Attributes:
        peer: `openai` or `together`.
        case: The name of the call.
        way: How it was asked.
        field: Which one, as `body.stream` or `message.response_metadata.id`.
        theirs: Its value there; None where it is missing.
        ours: Its value here.
    """

    peer: str
    case: str
    way: str
    field: str
    theirs: Any
    ours: Any


class _Outcome(NamedTuple):
    """What one model did."""

    body: Mapping[str, Any]
    result: Mapping[str, Any]


def peer_model(provider: str) -> Callable[..., Any]:
    """The class of the other model.

    Raises:
        ImportError: If its package is not installed.
    """
    if provider == "openai":
        from langchain_openai import ChatOpenAI

        return ChatOpenAI
    from langchain_together import ChatTogether

    kind: Callable[..., Any] = ChatTogether
    return kind


def differences(sim: ProviderSimulator, provider: str, case: Case) -> Iterator[Difference]:
    """Ask both models in both ways; yields what differs.

    Args:
        sim: The servers; it is reset.
        provider: Whose model.
        case: The call.
    """
    for way in WAYS:
        if way == "stream" and (case.schema is not None or case.fails):
            continue
        theirs = _outcome(sim, provider, case, way, _theirs(sim, provider, case))
        ours = _outcome(sim, provider, case, way, _ours(sim, provider, case))
        for part, pair in (("body", (theirs.body, ours.body)), ("", (theirs.result, ours.result))):
            a, b = (dict(_flat(value, part)) for value in pair)
            for field in sorted(a.keys() | b.keys()):
                if a.get(field) != b.get(field):
                    yield Difference(provider, case.name, way, field, a.get(field), b.get(field))


def _theirs(sim: ProviderSimulator, provider: str, case: Case) -> Any:
    base = sim.base_url(provider)
    url = base if base.endswith("/v1") else f"{base}/v1"
    return peer_model(provider)(
        model=MODELS[provider],
        base_url=url,
        api_key="k",
        max_retries=0,
        stream_usage=True,
        **case.fields,
    )


def _ours(sim: ProviderSimulator, provider: str, case: Case) -> Any:
    one = target(sim, f"{provider}:{MODELS[provider]}", api_key="k")
    limits = TimeLimits(first_text=5.0)
    return ResilientChatModel(
        targets=[one], hedge=None, max_retries=0, share_learning=False, timeout=5.0,
        time_limits=limits, **case.fields,
    )  # fmt: skip


def _outcome(sim: ProviderSimulator, provider: str, case: Case, way: str, llm: Any) -> _Outcome:
    sim.reset()
    if case.step is not None:
        sim.script(f"{provider}:*", then=case.step)
    if case.tools is not None:
        llm = llm.bind_tools(**case.tools)
    if case.schema is not None:
        method = {} if case.method is None else {"method": case.method}
        llm = llm.with_structured_output(case.schema, **method)
    heard = _Ends()
    try:
        result = {"message": _fields(_ask(llm.with_config(callbacks=[heard]), case, way))}
        result |= {"llm_output": heard.output}
    except Exception as error:  # noqa: BLE001  # which one it is, is what is compared
        result = {"error": _family(error)}
    return _Outcome(sim.requests[0].body if sim.requests else {}, result)


class _Ends(BaseCallbackHandler):
    """Hears what callbacks are told at the end of a run."""

    output: Any = None

    def on_llm_end(self, response: LLMResult, **_: Any) -> None:
        output = response.llm_output or {}
        self.output = {name: value for name, value in output.items() if name != "id"}


def _ask(llm: Any, case: Case, way: str) -> Any:
    if way == "invoke":
        return llm.invoke(case.prompt, **case.call)
    chunks = list(llm.stream(case.prompt, **case.call))
    total = chunks[0]
    for chunk in chunks[1:]:
        total += chunk
    return total


_SERIAL = re.compile(r"\d{10,}")


def _fields(result: Any) -> Any:
    """What a user can see of a message; ids count as equal, since each request has its own."""
    if isinstance(result, BaseModel) and not isinstance(result, AIMessage):
        return {"parsed": result.model_dump()}
    if not isinstance(result, AIMessage):
        return {"parsed": result}
    metadata = {k: v for k, v in result.response_metadata.items() if k != "created"}
    return {
        "content": result.content,
        "tool_calls": result.tool_calls,
        "invalid_tool_calls": [
            {k: v for k, v in one.items() if k != "error"} for one in result.invalid_tool_calls
        ],
        "usage_metadata": result.usage_metadata,
        "response_metadata": {
            k: _SERIAL.sub("N", v) if isinstance(v, str) else v for k, v in metadata.items()
        },
        "additional_kwargs": {
            k: v for k, v in result.additional_kwargs.items() if k != "tool_calls"
        },
        "name": result.name,
    }


def _family(error: BaseException) -> dict[str, bool]:
    """The names of LangChain's errors that an `except` would catch it by."""
    names = {base.__name__ for base in type(error).__mro__} & _FAMILY
    return dict.fromkeys(sorted(names) or [type(error).__name__], True)


def _flat(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Write nested dicts as one, with dotted names; empty ones and None are not there."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flat(inner, f"{path}.{name}" if path else str(name))
    elif value is not None and value != []:
        yield path, value
