"""The keywords of a call: those that a typing error hides in, and those that belong to a batch.

Every server has parameters of its own, so a name that nobody here knows is passed on; but one that
is nearly a known one is a misspelling, and would do nothing at best.
"""

from __future__ import annotations

from difflib import get_close_matches
from functools import lru_cache
from typing import TYPE_CHECKING

from langchain_resilient.sampling import SAMPLING_FIELDS

if TYPE_CHECKING:
    from collections.abc import Iterable


BATCH_KEYWORDS = frozenset(
    {"journal", "journal_match", "lane", "max_concurrency", "progress", "report",
     "return_exceptions", "tail_hedge", "within"}
)  # fmt: skip
"""Of the batch methods alone."""

CALL_KEYWORDS = frozenset(
    {"affinity", "hedge", "model", "model_kwargs", "on_break", "priority", "stream", "structure",
     "timeout", *SAMPLING_FIELDS}
)  # fmt: skip
"""Of every call."""

_OF_SERVERS = frozenset(
    {"audio", "bad_words", "best_of", "cache_control", "cache_salt", "chat_template",
     "chat_template_kwargs", "compliance", "context_length_exceeded_behavior", "conversation",
     "documents", "dynatemp", "echo", "enable_thinking", "extra_body", "extra_headers",
     "extra_query", "function_call", "functions", "grammar", "guided_choice",
     "guided_decoding_backend", "guided_grammar", "guided_json", "guided_regex", "ignore_eos",
     "include", "include_reasoning", "input", "instructions", "json_schema", "keep_alive",
     "length_penalty", "logit_bias", "max_completion_tokens", "max_output_tokens",
     "max_tokens", "metadata", "min_tokens", "mirostat", "modalities", "models", "moderation",
     "nvext",
     "options", "parallel_tool_calls", "plugins", "prediction", "previous_response_id",
     "prompt", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "prompt_id",
     "provider", "reasoning", "reasoning_effort", "reasoning_format", "repeat_penalty",
     "response_format", "route",
     "safe_prompt", "safety_identifier", "safety_model", "service_tier",
     "skip_special_tokens", "stop_sequences", "stop_token_ids", "store", "stream_options",
     "stream_usage", "strict", "structured_outputs", "suffix", "system", "text", "thinking",
     "tool_choice", "tools", "top_a", "top_n", "transforms", "truncate", "truncation",
     "tuned_model", "typical_p", "use_beam_search", "user", "verbosity", "web_search_options"}
)  # fmt: skip
"""What OpenAI, Together, LangChain and the servers with OpenAI's API take."""

_KNOWN = BATCH_KEYWORDS | CALL_KEYWORDS | _OF_SERVERS

_NEAR = 0.8
"""From this likeness on (`difflib`) a name is a misspelling: one letter in a short word."""

_LONGEST = 2 * max(map(len, _KNOWN))
"""Longer names are none of these, and too long to compare."""


def refuse_misspelt(
    names: Iterable[str], *, batch: bool = False, also: frozenset[str] = frozenset()
) -> None:
    """Refuse keywords that are nearly known ones, and outside a batch those of a batch.

    Args:
        names: Of all keywords of a call.
        batch: Whether they were given to a batch method, or may reach one.
        also: Names that the method takes which they were given to.

    Raises:
        TypeError: Names the keyword and what was probably meant.

    Example:
        ```python
        refuse_misspelt({"temprature": 0})  # TypeError: ... did you mean 'temperature'?
        ```
    """
    for name in names:
        if name in BATCH_KEYWORDS and not batch:
            msg = (
                f"{name}= belongs to a batch: give it to batch(), abatch(), amap() or their "
                f"as_completed kind, or bind it to the model of a chain whose batch() is called"
            )
            raise TypeError(msg)
        if (meant := nearest_name(name, also)) is not None:
            msg = (
                f"unexpected keyword argument {name!r}: did you mean {meant!r}? A parameter of a "
                f"server that really has this name can be given in extra_body or model_kwargs"
            )
            raise TypeError(msg)


@lru_cache(maxsize=1024)
def nearest_name(name: str, also: frozenset[str] = frozenset()) -> str | None:
    """What was meant by a misspelt keyword; None if it is known, or like none.

    Args:
        name: The keyword.
        also: Names that are known beside those of every call.
    """
    if name in _KNOWN or name in also or len(name) > _LONGEST:
        return None
    for meant in get_close_matches(name, _KNOWN | also, 1, _NEAR):
        # A word more, as in `mirostat_tau`, is a name of its own.
        if not name.startswith(f"{meant}_") and not meant.startswith(f"{name}_"):
            return meant
    return None
