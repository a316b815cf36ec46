"""Servers that speak OpenAI's API, as data: one row each, so that `"groq:model"` just works.

To add one is to add a row: `docs/servers.md` and the registry are made from them. What a server
refuses beyond its row is learned from its own error.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_OWN = frozenset({"top_k", "min_p", "repetition_penalty"})
"""Sampling parameters that are not OpenAI's."""

_ODDS = frozenset({"logit_bias", "logprobs", "top_logprobs"})
"""What asks for or changes the odds of single tokens."""


@dataclass(frozen=True, slots=True)
class CompatibleServer:
    """What is special about one server.

    Attributes:
        name: The word before the colon in a target.
        title: What people call it.
        base_url: Its address; empty where each account has its own.
        keys: The environment variables with its key; the first that is set counts.
        base_url_env: The environment variables with another address.
        hosts: Its own hosts, to which its key may go; a leading dot stands for any subdomain.
        example: A target there.
        refuses: Parameters that are left out, each with one warning.
        renames: Parameters that it knows under another name.
        thinking_switch: Its models think or do not by `thinking`; `reasoning_effort` says how long.
        quiet_usage: It sends the usage of a stream unasked, and takes no `stream_options`.
        cache_marks: It passes `cache_control` marks on to models whose prompt cache wants them.
        responses: Whether it has the Responses API too, for `Target(api="responses")`.
        openai_models: Whether its models are OpenAI's own, with their rules.
        needs_key: Whether it answers nobody without a key.
        price_name: Its name in `genai-prices`; None where nothing is paid.
        endpoint_env: A variable with the address of an account, to which `endpoint_path` is added.
        endpoint_path: Where the API is below that.
        served_by: The module and class of its provider, below `providers`.
    """

    name: str
    title: str
    base_url: str
    keys: tuple[str, ...]
    base_url_env: tuple[str, ...]
    hosts: tuple[str, ...]
    example: str
    refuses: frozenset[str] = _OWN
    renames: Mapping[str, str] = field(default_factory=dict)
    thinking_switch: bool = False
    quiet_usage: bool = False
    cache_marks: bool = False
    responses: bool = False
    openai_models: bool = False
    needs_key: bool = True
    price_name: str | None = ""
    endpoint_env: str | None = None
    endpoint_path: str = ""
    served_by: str = "compatible:CompatibleProvider"


def _hosted(
    name: str, title: str, base_url: str, key: str, example: str, **special: Any
) -> CompatibleServer:
    """Make the row of a vendor with one public address."""
    host = base_url.partition("//")[2].partition("/")[0]
    word = key.removesuffix("_API_KEY")
    settings: dict[str, Any] = {
        "keys": (key,),
        "base_url_env": (f"{word}_BASE_URL",),
        "hosts": (host,),
        "price_name": name,
    }
    return CompatibleServer(
        name=name, title=title, base_url=base_url, example=f"{name}:{example}",
        **(settings | special),
    )  # fmt: skip


def _local(name: str, title: str, port: int, variable: str, **special: Any) -> CompatibleServer:
    """Make the row of a server on this machine."""
    settings: dict[str, Any] = {
        "keys": (f"{variable}_API_KEY",),
        "base_url_env": (f"{variable}_BASE_URL",),
        "example": f"{name}:my-model",
    }
    return CompatibleServer(
        name=name, title=title, base_url=f"http://localhost:{port}/v1", hosts=(),
        refuses=frozenset(), needs_key=False, price_name=None, responses=True,
        **(settings | special),
    )  # fmt: skip


SERVERS: tuple[CompatibleServer, ...] = (
    CompatibleServer(
        "azure", "Azure OpenAI (v1)", "",
        keys=("AZURE_OPENAI_API_KEY",),
        base_url_env=("AZURE_OPENAI_BASE_URL",),
        hosts=(".openai.azure.com", ".services.ai.azure.com", ".cognitiveservices.azure.com",
               ".openai.azure.us"),
        example="azure:my-deployment",
        renames={"max_tokens": "max_completion_tokens"},
        responses=True, openai_models=True, price_name="azure",
        endpoint_env="AZURE_OPENAI_ENDPOINT", endpoint_path="/openai/v1",
        served_by="compatible:AzureProvider",
    ),
    _hosted("anthropic", "Anthropic", "https://api.anthropic.com/v1", "ANTHROPIC_API_KEY",
            "claude-sonnet-5-5", refuses=_OWN | _ODDS | {"seed", "frequency_penalty",
                                                      "presence_penalty"}),
    _hosted("cerebras", "Cerebras", "https://api.cerebras.ai/v1", "CEREBRAS_API_KEY",
            "gpt-oss-120b", refuses=_OWN | {"logit_bias"}),
    _hosted("cohere", "Cohere", "https://api.cohere.ai/compatibility/v1", "COHERE_API_KEY",
            "command-a", refuses=_OWN | _ODDS, quiet_usage=False),
    _hosted("deepinfra", "DeepInfra", "https://api.deepinfra.com/v1/openai", "DEEPINFRA_API_KEY",
            "zai-org/GLM-5.3-Flash", refuses=frozenset()),
    _hosted("deepseek", "DeepSeek", "https://api.deepseek.com/v1", "DEEPSEEK_API_KEY",
            "deepseek-flash", thinking_switch=True, refuses=_OWN | {"logit_bias", "seed", "n"}),
    _hosted("fireworks", "Fireworks AI", "https://api.fireworks.ai/inference/v1",
            "FIREWORKS_API_KEY", "accounts/fireworks/models/deepseek-v4p1-flash",
            refuses=frozenset(), responses=True),
    _hosted("google", "Google Gemini", "https://generativelanguage.googleapis.com/v1beta/openai",
            "GEMINI_API_KEY", "gemini-3.8-flash", keys=("GEMINI_API_KEY", "GOOGLE_API_KEY"),
            refuses=_OWN | _ODDS | {"seed"}),
    _hosted("groq", "Groq", "https://api.groq.com/openai/v1", "GROQ_API_KEY",
            "openai/gpt-oss-120b", refuses=_OWN | _ODDS | {"n"}, responses=True),
    _hosted("huggingface", "Hugging Face", "https://router.huggingface.co/v1", "HF_TOKEN",
            "openai/gpt-oss-120b", base_url_env=("HF_BASE_URL",), responses=True),
    _hosted("mistral", "Mistral AI", "https://api.mistral.ai/v1", "MISTRAL_API_KEY",
            "mistral-large-latest", refuses=_OWN | _ODDS | {"user", "store", "service_tier"},
            renames={"seed": "random_seed", "max_completion_tokens": "max_tokens"},
            quiet_usage=True),
    _hosted("moonshot", "Moonshot AI", "https://api.moonshot.ai/v1", "MOONSHOT_API_KEY",
            "kimi-k3", thinking_switch=True, refuses=_OWN | _ODDS, price_name="moonshotai"),
    _hosted("nvidia", "NVIDIA", "https://integrate.api.nvidia.com/v1", "NVIDIA_API_KEY",
            "openai/gpt-oss-120b"),
    _hosted("openrouter", "OpenRouter", "https://openrouter.ai/api/v1", "OPENROUTER_API_KEY",
            "openai/gpt-6-luna", refuses=frozenset(), responses=True, cache_marks=True),
    _hosted("perplexity", "Perplexity", "https://api.perplexity.ai", "PERPLEXITY_API_KEY",
            "sonar", refuses=_OWN | _ODDS | {"seed", "n"}),
    _hosted("sambanova", "SambaNova", "https://api.sambanova.ai/v1", "SAMBANOVA_API_KEY",
            "gpt-oss-120b", refuses=_OWN | _ODDS),
    _hosted("vercel", "Vercel AI Gateway", "https://ai-gateway.vercel.sh/v1",
            "AI_GATEWAY_API_KEY", "openai/gpt-6-luna", price_name="", cache_marks=True),
    _hosted("xai", "xAI", "https://api.x.ai/v1", "XAI_API_KEY", "grok-4.7",
            refuses=_OWN | {"logit_bias"}, responses=True, price_name="x-ai"),
    _hosted("zai", "Z.ai", "https://api.z.ai/api/paas/v4", "ZAI_API_KEY", "glm-5.3-flash",
            thinking_switch=True, refuses=_OWN | _ODDS | {"n"}),
    _local("llamacpp", "llama.cpp (`llama-server`)", 8080, "LLAMACPP"),
    _local("lmstudio", "LM Studio", 1234, "LMSTUDIO"),
    _local("ollama", "Ollama", 11434, "OLLAMA"),
    _local("vllm", "vLLM", 8000, "VLLM"),
)  # fmt: skip
"""Every server, the local ones last."""

BY_NAME: dict[str, CompatibleServer] = {server.name: server for server in SERVERS}
