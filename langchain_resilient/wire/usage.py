"""Token counts: from a provider's own dict to LangChain's `UsageMetadata`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from langchain_core.messages.ai import UsageMetadata


_MOST = 10**15
"""Tokens; a larger number, or none at all (NaN), is no count, and would overflow a price."""


def count(usage: Mapping[str, Any] | None, *names: str) -> int | None:
    """Return the first of these counts that is a number, in tokens; None where none is."""
    for name in names:
        value = usage.get(name) if usage else None
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _MOST:
            return int(value)
    return None


def usage_metadata(usage: Mapping[str, Any] | None) -> UsageMetadata | None:
    """Convert what a provider sent as `usage`.

    Args:
        usage: Chat completions' token counts, or None.

    Returns:
        LangChain's counts with the details that the provider gave; None where it counted nothing.

    Example:
        ```python
        usage_metadata({"prompt_tokens": 3, "completion_tokens": 2})["total_tokens"]  # 5
        ```
    """
    given, made = count(usage, "prompt_tokens"), count(usage, "completion_tokens")
    total = count(usage, "total_tokens")
    if usage is None or (given is None and made is None and total is None):
        return None
    found: UsageMetadata = {
        "input_tokens": given or 0,
        "output_tokens": made or 0,
        "total_tokens": total if total is not None else (given or 0) + (made or 0),
    }
    if into := _input_details(usage):
        found["input_token_details"] = into  # type: ignore[typeddict-item]
    if out := _output_details(usage, _dict(usage.get("completion_tokens_details"))):
        found["output_token_details"] = out  # type: ignore[typeddict-item]
    return found


def cache_counts(usage: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """How many tokens of the prompt were read from the provider's cache, and written to it."""
    details = _dict(usage.get("prompt_tokens_details"))
    read = count(details, "cached_tokens")
    if read is None:  # Together and Kimi, DeepSeek, Anthropic's names behind gateways
        read = count(usage, "cached_tokens", "prompt_cache_hit_tokens", "cache_read_input_tokens")
    written = count(details, "cache_write_tokens", "cache_creation_tokens")
    if written is None:
        written = count(usage, "cache_creation_input_tokens")
    return read, written


def _input_details(usage: Mapping[str, Any]) -> dict[str, int]:
    read, written = cache_counts(usage)
    audio = count(_dict(usage.get("prompt_tokens_details")), "audio_tokens")
    return _known(audio=audio, cache_creation=written, cache_read=read)


def _output_details(usage: Mapping[str, Any], details: dict[str, Any]) -> dict[str, int]:
    reasoning = count(details, "reasoning_tokens")
    if reasoning is None:
        reasoning = count(usage, "reasoning_tokens")
    return _known(audio=count(details, "audio_tokens"), reasoning=reasoning)


def _known(**counts: int | None) -> dict[str, int]:
    return {name: value for name, value in counts.items() if value is not None}


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
