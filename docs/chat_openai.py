"""The fields of `ChatOpenAI`, and what to write for each of them here.

`tests/docs/test_chat_openai.py` holds this against the installed `langchain-openai`: no field is
missing, and both ways to write one send the same request.
"""

from __future__ import annotations

from typing import NamedTuple

from docs.tables import code, table
from langchain_resilient import ResilientChatModel, Target
from langchain_resilient.sampling import SAMPLING_FIELDS

SAME = (
    "temperature", "top_p", "max_tokens", "stop", "seed", "n", "logprobs", "top_logprobs",
    "logit_bias", "presence_penalty", "frequency_penalty", "reasoning_effort", "verbosity",
    "service_tier", "store", "stream_usage", "extra_body", "model_kwargs", "max_retries",
    "output_version", "streaming", "default_headers", "default_query",
    "http_async_client",
)  # fmt: skip
"""Fields that are called the same."""

LANGCHAINS = (
    "name", "cache", "verbose", "callbacks", "tags", "metadata", "custom_get_token_ids",
    "rate_limiter", "disable_streaming", "profile",
)  # fmt: skip
"""Those of every LangChain chat model."""


class Renamed(NamedTuple):
    """A field that is written in another way.

    Attributes:
        field: Its name, as users of `ChatOpenAI` write it.
        there: What they write, as an argument.
        here: What to write instead, as arguments of a `Target` or of the model.
        note: What differs; empty if nothing does.
    """

    field: str
    there: str
    here: str
    note: str = ""


RENAMED = (
    Renamed("model", 'model="gpt-6-luna"', 'targets=["openai:gpt-6-luna"]',
            "any number of them, in order of preference"),
    Renamed("api_key", 'api_key="sk-..."', 'Target(..., api_key="sk-...")',
            "`OPENAI_API_KEY` as there; several keys in a list, or a function; "
            "`api_key=` on the model too"),
    Renamed("base_url", 'base_url="https://..."', 'Target(..., base_url="https://...")',
            "`OPENAI_BASE_URL` as there, but a key from the environment is not sent to a "
            "`base_url` that is set in code"),
    Renamed("organization", 'organization="org-1"', 'Target(..., organization="org-1")'),
    Renamed("timeout", "timeout=30", "timeout=30",
            "there for each attempt, and reset by every keep-alive; here one deadline for the "
            "whole call. `TimeLimits` bounds single attempts"),
    Renamed("stream_chunk_timeout", "stream_chunk_timeout=20",
            "time_limits=TimeLimits(chunk_gap=20)", "then another target continues"),
    Renamed("use_responses_api", "use_responses_api=True", 'Target(..., api="responses")',
            "by default each request goes where it can be answered: "
            "see [OpenAI's two APIs](responses.md)"),
    Renamed("reasoning", 'reasoning={"effort": "low"}',
            'model_kwargs={"reasoning": {"effort": "low"}}',
            "`reasoning_effort=` is understood by all providers"),
    Renamed("include", 'include=["file_search_call.results"]',
            'model_kwargs={"include": ["file_search_call.results"]}',
            "encrypted reasoning is asked for besides"),
    Renamed("truncation", 'truncation="auto"', 'model_kwargs={"truncation": "auto"}'),
    Renamed("context_management", 'context_management=[{"type": "compaction"}]',
            'model_kwargs={"context_management": [{"type": "compaction"}]}'),
    Renamed("prompt_cache_options", 'prompt_cache_options={"mode": "explicit"}',
            'model_kwargs={"prompt_cache_options": {"mode": "explicit"}}'),
)  # fmt: skip

ABSENT = {
    "openai_proxy": "proxies come from `HTTPS_PROXY`, `ALL_PROXY` or `OPENAI_PROXY`",
    "http_client": "`http_async_client`: synchronous calls use it too. For certificates alone: "
    "`Target(ca_certificates=, client_certificate=)`",
    "http_socket_options": "a client of your own",
    "tiktoken_model_name": "`get_token_ids` goes by the first target",
    "include_response_headers": "rate limits are read from the headers; `response_metadata` has "
    "the response's id",
    "disabled_params": "what a server refuses is learned from its error and left out",
    "use_previous_response_id": "`previous_response_id=` on a call, with `store=True`",
}
"""Fields without an equivalent, and what does their work."""

INTERNAL = ("client", "async_client", "root_client", "root_async_client")
"""Fields that nobody sets: the SDK's clients."""


def page() -> str:
    """The tables."""
    same = table(("field", "on the model", "on a target", "on a call"), map(_same, SAME))
    renamed = table(
        ("`ChatOpenAI(...)`", "here", "difference"),
        [(code(row.there), code(row.here), row.note) for row in RENAMED],
    )
    absent = table(
        ("field", "instead"), [(code(name), instead) for name, instead in ABSENT.items()]
    )
    usual = f"What every LangChain chat model has ({', '.join(map(code, LANGCHAINS))})"
    return (
        f"## Called the same\n\n{same}\n{usual} works as usual.\n"
        f"\n## Written in another way\n\n{renamed}\n## Not here\n\n{absent}"
    )


def _same(name: str) -> tuple[str, ...]:
    places = (
        name in ResilientChatModel.model_fields,
        name in Target.model_fields,
        name in SAMPLING_FIELDS,
    )
    return (code(name), *("yes" if place else "" for place in places))
