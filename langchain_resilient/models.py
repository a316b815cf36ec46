"""Models as data: the families of the default chain, and the ends of models that are known.

Chosen in November 2026 from the providers' own pages and `genai-prices`. Update both tables
together: `tests/test_models.py` fails 90 days before a model of the default chain is shut down.
"""

from __future__ import annotations

from typing import NamedTuple

ANY_MODEL = "*"
"""As a successor: the newest chat model that the provider itself lists."""

DEFAULT_FAMILIES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("openai", ("gpt-6.1-sol", "gpt-6.2-sol", "gpt-6-sol", "gpt-5.6-sol", ANY_MODEL)),
    (
        "together",
        ("deepseek-ai/DeepSeek-V4.1-Flash", "zai-org/GLM-5.3", "moonshotai/Kimi-K3", ANY_MODEL),
    ),
    ("openai", ("gpt-6-luna", "gpt-6.1-terra", "gpt-5.6-luna", ANY_MODEL)),
    (
        "together",
        ("openai/gpt-oss-120b", "zai-org/GLM-5.3-Flash", "Qwen/Qwen3.8-Flash", ANY_MODEL),
    ),
)
"""Two providers with a strong and a light model each, interleaved, so that one provider's outage
costs one hop. Of each the ids that may serve it, today's first."""


class Retirement(NamedTuple):
    """When a model is shut down.

    Attributes:
        date: The day, as `YYYY-MM-DD`.
        successor: What the provider recommends instead; empty where it names none.
    """

    date: str
    successor: str = ""


_ENDS: dict[str, dict[tuple[str, str], tuple[str, ...]]] = {
    # By provider: (date, successor) and the ids that end then.
    "openai": {
        ("2026-07-23", "gpt-6.1-sol"): (
            "gpt-5-chat-latest", "gpt-5.1-chat-latest", "gpt-5-codex", "gpt-5.1-codex",
            "gpt-5.1-codex-max", "gpt-5.2-codex", "o3-deep-research",
        ),
        ("2026-07-23", "gpt-6.1-terra"): ("gpt-5.1-codex-mini", "o4-mini-deep-research"),
        ("2026-08-10", "gpt-6.1-sol"): ("gpt-5.2-chat-latest", "gpt-5.3-chat-latest"),
        ("2026-10-23", "gpt-6.1-sol"): (
            "gpt-4", "gpt-4-0613", "gpt-4-1106-preview", "gpt-4-turbo", "gpt-4-turbo-2024-04-09",
            "gpt-4o-2024-05-13", "o1", "o1-2024-12-17", "o1-pro", "o1-pro-2025-03-19",
            "o3-mini", "o3-mini-2025-01-31",
        ),
        ("2026-10-23", "gpt-6.1-terra"): (
            "gpt-3.5-turbo", "gpt-3.5-turbo-0125", "gpt-3.5-turbo-16k",
            "o4-mini", "o4-mini-2025-04-16",
        ),
        ("2026-10-23", "gpt-6-luna"): ("gpt-4.1-nano", "gpt-4.1-nano-2025-04-14"),
        ("2026-12-11", "gpt-6.1-sol"): (
            "gpt-5", "gpt-5-2025-08-07", "gpt-5-pro", "gpt-5-pro-2025-10-06",
            "o3", "o3-2025-04-16", "o3-pro", "o3-pro-2025-06-10",
        ),
        ("2026-12-11", "gpt-6.1-terra"): ("gpt-5-mini", "gpt-5-mini-2025-08-07"),
        ("2026-12-11", "gpt-6-luna"): ("gpt-5-nano", "gpt-5-nano-2025-08-07"),
        ("2027-01-14", "gpt-6-luna"): (
            "gpt-4o", "gpt-4o-2024-08-06", "gpt-4o-2024-11-20",
            "gpt-4o-mini", "gpt-4o-mini-2024-07-18", "gpt-4.1", "gpt-4.1-2025-04-14",
            "gpt-4.1-mini", "gpt-4.1-mini-2025-04-14",
        ),
        ("2027-04-01", "gpt-6.1-sol"): ("gpt-5.1", "gpt-5.1-2025-11-13", "gpt-5.3-codex"),
        ("2027-04-01", "gpt-6-luna"): ("gpt-5.4-nano", "gpt-5.4-nano-2026-03-17"),
    },
    "together": {
        ("2026-02-06", "Qwen/Qwen3.8-Flash"): ("Qwen/Qwen2.5-72B-Instruct-Turbo",),
        ("2026-02-25", ""): ("meta-llama/Meta-Llama-3.1-70B-Instruct-Turbo",),
        ("2026-03-06", "Qwen/Qwen3.5-9B"): ("meta-llama/Meta-Llama-3.1-8B-Instruct-Turbo",),
        ("2026-04-02", "zai-org/GLM-5.3"): ("zai-org/GLM-4.7",),
        ("2026-04-16", "openai/gpt-oss-120b"): ("mistralai/Mixtral-8x7B-Instruct-v0.1",),
        ("2026-05-14", "deepseek-ai/DeepSeek-V4.1-Flash"): ("deepseek-ai/DeepSeek-V3.1",),
        ("2026-06-22", "zai-org/GLM-5.3"): ("zai-org/GLM-5",),
        ("2026-07-10", "zai-org/GLM-5.3"): ("zai-org/GLM-5.1",),
        ("2026-08-19", "moonshotai/Kimi-K3"): ("moonshotai/Kimi-K2.6",),
        ("2026-09-15", "openai/gpt-oss-120b"): ("openai/gpt-oss-20b",),
        ("2026-10-22", "openai/gpt-oss-120b"): ("meta-llama/Llama-3.3-70B-Instruct-Turbo",),
        ("2026-10-22", "deepseek-ai/DeepSeek-V4.1-Flash"): (
            "deepseek-ai/DeepSeek-V4-Flash-0731",
        ),
        ("2026-11-04", "Qwen/Qwen3.8-Flash"): ("Qwen/Qwen3.8-2.4T-A95B",),
        ("2026-11-06", ""): ("thinkingmachines/Inkling",),
        ("2026-11-06", "MiniMaxAI/MiniMax-M3.1-Flash"): ("MiniMaxAI/MiniMax-M3",),
    },
}  # fmt: skip

RETIREMENTS: dict[tuple[str, str], Retirement] = {
    (provider, model): Retirement(*end)
    for provider, ends in _ENDS.items()
    for end, models in ends.items()
    for model in models
}
"""By provider and model: the ends that the providers have announced. What `GET /v1/models` says
goes before it."""
