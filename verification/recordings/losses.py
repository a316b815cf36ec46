"""What "without loss" means: a place for every field that a server sent, or a reason for none.

A field is a path through an answer's JSON, list indexes left out; a rule holds for the path and all
below it, and the longest rule decides. A path without a rule is a loss. What is null or empty says
nothing. That the values in the places are right, `test_recordings.py` compares one by one.
"""

from __future__ import annotations

from typing import Any

PLACES = {
    "id": 'response_metadata["id"]',
    "model": 'response_metadata["model_name"]',
    "system_fingerprint": 'response_metadata["system_fingerprint"]',
    "service_tier": 'response_metadata["service_tier"]',
    "warnings": 'response_metadata["warnings"]',
    "moderation": 'response_metadata["moderation"]',
    "usage": 'response_metadata["token_usage"], as sent, and usage_metadata',
    "error": "the fault",
    "choices[].index": "the place among the generations",
    "choices[].finish_reason": 'response_metadata["finish_reason"]',
    "choices[].logprobs": 'response_metadata["logprobs"]',
    "choices[].seed": 'response_metadata["seed"]',
    "choices[].text": "content: Together repeats it beside the delta",
    **{
        f"choices[].{body}.{name}": place
        for body in ("delta", "message")
        for name, place in {
            "content": "content",
            "refusal": 'additional_kwargs["refusal"]',
            "reasoning": 'additional_kwargs["reasoning_content"]',
            "reasoning_content": 'additional_kwargs["reasoning_content"]',
            "reasoning_details": 'additional_kwargs["reasoning_details"]',
            "tool_calls[].id": "tool_calls",
            "tool_calls[].index": "the order of tool_calls",
            "tool_calls[].function.name": "tool_calls",
            "tool_calls[].function.arguments": "tool_calls",
            "function_call": 'additional_kwargs["function_call"]',
            "audio": 'additional_kwargs["audio"]',
            "annotations": 'additional_kwargs["annotations"]',
        }.items()
    },
}

_AZURE = "Azure's verdict on a prompt or answer that it let through; a filtered one is a fault"
_MAKER = "another maker's extension, in neither provider's API"
_FUNCTION = "always a function: LangChain's tool calls know no other"
_TIMES = "how long the server took: the receipt has what the caller saw"
REASONS = {
    "object": "names the kind of JSON, which a message's class does",
    "created": "the server's clock; the receipt has the caller's",
    "obfuscation": "OpenAI's random padding against guessing by length",
    "p": "the same padding of another maker",
    "choices[].message.padding": "the same padding of another maker",
    "choices[].delta.role": "always the assistant: the message's class says so",
    "choices[].message.role": "always the assistant: the message's class says so",
    "choices[].delta.token_id": "Together's number of a token whose text is in the content",
    "choices[].delta.tool_calls[].type": _FUNCTION,
    "choices[].message.tool_calls[].type": _FUNCTION,
    "choices[].content_filter_results": _AZURE,
    "prompt_filter_results": _AZURE,
    "choices[].matched_stop": _MAKER,
    "choices[].stop_reason": _MAKER,
    "choices[].native_finish_reason": f"the upstream's word for finish_reason; {_MAKER}",
    "choices[].delta.provider_metadata": f"a gateway's own routing and bills; {_MAKER}",
    "choices[].message.provider_metadata": f"a gateway's own routing and bills; {_MAKER}",
    "choices[].message.reasoning_encrypted": _MAKER,
    "provider": f"which upstream a gateway asked; {_MAKER}",
    "generationId": _MAKER,
    "request_id": _MAKER,
    "copilot_usage": f"a second bill beside usage; {_MAKER}",
    "cost": f"a second bill beside usage; {_MAKER}",
    "metadata": "Together's `weight_version`, which is `default`",
    "venice_parameters": f"the request's own options, echoed; {_MAKER}",
    "x_groq": f"usage once more, and an id; {_MAKER}",
    "__verbose": f"llama.cpp's debugging output; {_MAKER}",
    "timings": f"{_TIMES}; {_MAKER}",
    "time_info": f"{_TIMES}; {_MAKER}",
    "latency_checkpoint": f"{_TIMES}; {_MAKER}",
}
FROM_OTHERS = frozenset(rule for rule, why in REASONS.items() if _MAKER in why or why == _AZURE)


def fields(value: Any, path: str = "") -> set[str]:
    """The paths of a JSON value at which something is said."""
    if isinstance(value, dict):
        inner = (fields(v, f"{path}.{k}" if path else str(k)) for k, v in value.items())
        return set().union(*inner)
    if isinstance(value, list):
        return set().union(*(fields(v, f"{path}[]") for v in value))
    return set() if value in (None, "") else {path}


def rule_for(path: str) -> str | None:
    """The longest rule for a path: one of `PLACES` or of `REASONS`; None where it is lost."""
    rules = [rule for rule in (*PLACES, *REASONS) if path == rule or path.startswith(_below(rule))]
    return max(rules, key=len, default=None)


def _below(rule: str) -> tuple[str, str]:
    return f"{rule}.", f"{rule}["
