"""What a chain can do, as LangChain's `model.profile` says it: what all its targets can.

What is known of a model comes from LangChain's own integrations, as far as they are installed; its
context window also from `genai-prices`, and from `Target.context_window` before either.
"""

from __future__ import annotations

import os
import threading
from functools import cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_resilient.prices import price_for

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from langchain_resilient.options import Target


_INTEGRATIONS = {
    "anthropic": "langchain_anthropic",
    "azure": "langchain_openai",
    "deepseek": "langchain_deepseek",
    "fireworks": "langchain_fireworks",
    "google": "langchain_google_genai",
    "groq": "langchain_groq",
    "huggingface": "langchain_huggingface",
    "mistral": "langchain_mistralai",
    "nvidia": "langchain_nvidia_ai_endpoints",
    "openai": "langchain_openai",
    "openrouter": "langchain_openrouter",
    "perplexity": "langchain_perplexity",
    "together": "langchain_together",
    "xai": "langchain_xai",
}
"""The packages in which LangChain keeps the profiles of a provider's models."""

_ASSUMED = {
    "text_inputs": True,
    "text_outputs": True,
    "tool_calling": True,
    "structured_output": True,
}
"""What a model is taken for of which nothing is known: one that a chat is held with. JSON that it
does not give by a schema is asked for in other ways."""

_SIZES = ("max_input_tokens", "max_output_tokens")


class ChainProfile(dict[str, Any]):
    """What all targets of a chain can do: a dict that is filled when it is first read.

    It takes data that no call needs, and LangChain asks for a profile when a model is made.

    Args:
        targets: The chain.

    Example:
        ```python
        ResilientChatModel(targets=["openai:gpt-6-luna"]).profile["max_input_tokens"]  # 1050000
        ```
    """

    def __init__(self, targets: tuple[Target, ...]) -> None:
        super().__init__()
        self._targets: tuple[Target, ...] | None = targets
        self._lock = threading.Lock()
        self._source = targets

    def _fill(self) -> ChainProfile:
        with self._lock:
            if self._targets is not None:
                super().update(chain_profile(self._targets) or {})
                self._targets = None
        return self

    def __getitem__(self, key: str) -> Any:
        self._fill()
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        """Return an entry."""
        self._fill()
        return super().get(key, default)

    def __contains__(self, key: object) -> bool:
        self._fill()
        return super().__contains__(key)

    def __iter__(self) -> Iterator[str]:
        self._fill()
        return super().__iter__()

    def __len__(self) -> int:
        self._fill()
        return super().__len__()

    def keys(self) -> Any:
        """Return the names of what is known."""
        self._fill()
        return super().keys()

    def values(self) -> Any:
        """Return what is known."""
        self._fill()
        return super().values()

    def items(self) -> Any:
        """Return both."""
        self._fill()
        return super().items()

    def copy(self) -> dict[str, Any]:
        """Return a plain dict."""
        return dict(self.items())

    def __eq__(self, other: object) -> bool:
        if isinstance(other, ChainProfile):
            return self._source == other._source or dict(self) == dict(other)
        return dict(self) == other

    __hash__ = None  # as of any dict

    def __repr__(self) -> str:
        return "..." if self._targets is not None else super().__repr__()

    def __copy__(self) -> ChainProfile:
        return ChainProfile(self._source)

    def __deepcopy__(self, memo: object) -> ChainProfile:
        return ChainProfile(self._source)

    def __reduce__(self) -> tuple[type[ChainProfile], tuple[Any, ...]]:
        return ChainProfile, (self._source,)


def chain_profile(targets: Iterable[Target]) -> dict[str, Any] | None:
    """Put together what all of some targets can do.

    Args:
        targets: The chain. Fixed texts in it take anything, and do not count.

    Returns:
        The smallest sizes of those that are known, and the abilities that all have; of one target
        its whole profile. None if there is none.
    """
    profiles = [target_profile(target) for target in targets if target.provider != "text"]
    if len(profiles) < 2:  # noqa: PLR2004
        return profiles[0] if profiles else None
    merged: dict[str, Any] = {}
    for name in _SIZES:
        known = [profile[name] for profile in profiles if profile.get(name)]
        if known:
            merged[name] = min(known)
    for name in dict.fromkeys(name for profile in profiles for name in profile):
        values = [profile.get(name) for profile in profiles]
        if any(value is False for value in values):
            merged[name] = False
        elif all(value is True for value in values):
            merged[name] = True
        elif all(isinstance(value, list) for value in values):
            merged[name] = [x for x in values[0] or () if all(x in (v or ()) for v in values)]
    return merged


def target_profile(target: Target) -> dict[str, Any]:
    """Tell what one target can do."""
    known = _known(target)
    profile: dict[str, Any] = dict(known or _ASSUMED)
    window = target.context_window or profile.get("max_input_tokens")
    if window is None and target.provider != "local":
        price = price_for(target)
        window = price.context_window if price is not None else None
    elif window is None:
        window = int(os.environ.get("LANGCHAIN_RESILIENT_CONTEXT") or 4096)
    if window:
        profile["max_input_tokens"] = window
    return profile


def _known(target: Target) -> Mapping[str, Any] | None:
    if target.runnable is not None:
        from langchain_resilient.providers.langchain import chat_model_of  # noqa: PLC0415

        return getattr(chat_model_of(target.runnable), "profile", None)
    package = _INTEGRATIONS.get(target.provider)
    from langchain_resilient.providers.families import current_model  # noqa: PLC0415  # keeps import light

    return _profiles_in(package).get(current_model(target)) if package else None


@cache
def _profiles_in(package: str) -> Mapping[str, Mapping[str, Any]]:
    """Read a package's profiles, which are plain data, without importing its SDK.

    Returns:
        The profiles by model; none if the package is not installed or keeps them otherwise.
    """
    try:
        spec = find_spec(package)
        folder = next(iter(spec.submodule_search_locations or ())) if spec else ""
        data = spec_from_file_location(
            f"_{package}_profiles", Path(folder) / "data" / "_profiles.py"
        )
        if data is None or data.loader is None:
            return {}
        module = module_from_spec(data)
        data.loader.exec_module(module)
        profiles = module._PROFILES  # noqa: SLF001  # LangChain's integrations read it so too
    except Exception:  # noqa: BLE001  # whatever an integration has made of it
        return {}
    return profiles if isinstance(profiles, dict) else {}
