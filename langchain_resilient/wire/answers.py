"""From a finished draft to LangChain's `ChatResult`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeVar

from langchain_core.messages import AIMessage
from langchain_core.messages.tool import invalid_tool_call, tool_call
from langchain_core.outputs import ChatGeneration, ChatResult

from langchain_resilient.wire import native
from langchain_resilient.wire.usage import usage_metadata

if TYPE_CHECKING:
    from langchain_core.messages import InvalidToolCall, ToolCall

    from langchain_resilient.wire.calls import Call
    from langchain_resilient.wire.choice import Choice
    from langchain_resilient.wire.draft import Draft

Stampable = TypeVar("Stampable", ChatResult, ChatGeneration, AIMessage)


def to_result(draft: Draft, provider: str, model_name: str) -> ChatResult:
    """Turn a whole answer into LangChain's form, with one generation a choice.

    The message has no id: LangChain gives it one that is unique, which the ids of some servers are
    not, and agents replace messages that have the same. The provider's own stands in
    `response_metadata["id"]`. Usage is on the first message only, since tracers add it up.

    Args:
        draft: An answer without a fault.
        provider: The true provider's name, e.g. `"openai"`; LangChain chooses a translator by it.
        model_name: The model that was asked, for providers that do not say which one answered.

    Example:
        ```python
        to_result(draft, "openai", "gpt-4o").generations[0].message.content  # 'Hi'
        ```
    """
    if draft.native:
        return _native_result(draft, provider, model_name)
    usage = usage_metadata(draft.usage)
    generations: list[ChatGeneration] = []
    for index in sorted(draft.choices):
        choice = draft.choices[index]
        message = to_message(choice, metadata(draft, choice, provider, model_name))
        message.usage_metadata = None if generations else usage
        generations.append(_generation(message, choice))
    output = {
        "token_usage": draft.usage,
        "model_name": draft.model or model_name,
        "model_provider": provider,
    }
    return ChatResult(generations=generations, llm_output=output)


def to_message(choice: Choice, response_metadata: dict[str, Any]) -> AIMessage:
    """Turn one choice into a message, which takes over the metadata and adds the logprobs."""
    if choice.logprobs is not None:
        response_metadata["logprobs"] = choice.logprobs
    calls, invalid = parse_calls(choice.tools.calls)
    return AIMessage(
        content=choice.text,
        additional_kwargs=choice.extras(),
        response_metadata=response_metadata,
        tool_calls=calls,
        invalid_tool_calls=invalid,
    )


def metadata(draft: Draft, choice: Choice, provider: str, model_name: str) -> dict[str, Any]:
    """Collect what a message says about its answer; in a stream, on one chunk only.

    LangChain joins the strings and adds the numbers of chunks, so none of it may come twice.
    """
    known = {
        "finish_reason": choice.finish_reason,
        "id": draft.id,
        "system_fingerprint": draft.system_fingerprint,
        "service_tier": draft.service_tier,
        "warnings": draft.warnings,
        "moderation": draft.moderation,
        "seed": choice.seed,
        # LangChain puts it there under `invoke`; it has costs and counts that usage_metadata lacks.
        "token_usage": draft.usage if choice is draft.choices[0] else None,
    }
    head = {"model_provider": provider, "model_name": draft.model or model_name}
    return head | {name: value for name, value in known.items() if value}


def parse_calls(calls: list[Call]) -> tuple[list[ToolCall], list[InvalidToolCall]]:
    """Sort calls into those whose arguments are a JSON object, or nothing, and the others."""
    good, bad = [], []
    for call in calls:
        error = "the arguments are not a JSON object"
        try:
            # Not strict: models put raw line breaks into strings, and LangChain lets them.
            args = json.loads(call.args, strict=False) if call.args else {}
        except (ValueError, RecursionError) as failure:
            args, error = None, f"the arguments are not JSON: {failure}"
        if isinstance(args, dict):
            good.append(tool_call(name=call.name, args=args, id=call.id))
        else:
            bad.append(invalid_tool_call(name=call.name, args=call.args, id=call.id, error=error))
    return good, bad


def stamp(answer: Stampable, receipt: dict[str, Any]) -> Stampable:
    """Put a receipt on an answer, on one message of it.

    Args:
        answer: A result, a generation, a message, or the **last** chunk of a stream.
        receipt: `Receipt.as_dict()`.

    Returns:
        The same object.
    """
    found: Any = answer.generations[0] if isinstance(answer, ChatResult) else answer
    message = found if isinstance(found, AIMessage) else found.message
    message.response_metadata[native.RECEIPT_KEY] = receipt
    return answer


def _generation(message: AIMessage, choice: Choice) -> ChatGeneration:
    # LangChain copies this into the metadata: what is not known must not stand there as None.
    known = {"finish_reason": choice.finish_reason, "logprobs": choice.logprobs}
    info = {name: value for name, value in known.items() if value is not None}
    return ChatGeneration(message=message, generation_info=info or None)


def _native_result(draft: Draft, provider: str, model_name: str) -> ChatResult:
    message = native.whole(draft.native, provider, model_name)
    told = message.response_metadata
    output = {
        "token_usage": native.usage(draft.native),
        "model_name": told["model_name"],
        "model_provider": told["model_provider"],
    }
    return ChatResult(generations=[ChatGeneration(message=message)], llm_output=output)
