"""OpenAI's models at Azure: by deployment, with a key or a token of Entra."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from langchain_resilient.providers import address_of
from langchain_resilient.providers.compatible import CompatibleProvider

if TYPE_CHECKING:
    from langchain_resilient.options import Target


class AzureProvider(CompatibleProvider):
    """Serves `"azure:deployment"` at `azure_endpoint` or `AZURE_OPENAI_ENDPOINT`.

    With an `api_version` it is Azure's own API, else its `/openai/v1`, which knows none.
    """

    def __init__(self, target: Target) -> None:
        self._version = target.api_version or os.environ.get("OPENAI_API_VERSION")
        super().__init__(target)

    def completions_url(self, base_url: str) -> str:
        """Return the URL of chat completions at an endpoint, with or without a path."""
        base, _, path = base_url.rstrip("/").partition("/openai")
        if address_of(self.target).variable == "AZURE_OPENAI_ENDPOINT":
            path = ""  # it was added to the endpoint
        if path.startswith("/deployments/"):
            return f"{base}/openai{path}{self.path}"
        if path.startswith("/v1") or not self._version:
            return f"{base}/openai/v1{self.path}"
        return f"{base}/openai/deployments/{quote(self.target.model, safe='')}{self.path}"

    def query(self) -> dict[str, str]:
        """The version, for the API that wants one."""
        version = {"api-version": self._version or ""} if self._is_versioned() else {}
        return {**version, **super().query()}

    def _is_versioned(self) -> bool:
        return bool(self._version) and "/openai/deployments/" in self._url

    def _watch_models(self) -> None:
        """A deployment has a name of the user's own, which no list of models holds."""

    def create_client(self, sdk: Any, **settings: Any) -> Any:
        """Create an `AsyncOpenAI` that sends a key as Azure's own API wants it."""
        return super().create_client(_class_of(sdk) if self._is_versioned() else sdk, **settings)


class _SDK:
    """Gives `create_client` another client class than the SDK's own."""

    def __init__(self, client_class: Any) -> None:
        self.AsyncOpenAI = client_class


def _class_of(sdk: Any) -> Any:
    class AsyncAzure(sdk.AsyncOpenAI):  # type: ignore[misc]  # imported late
        @property
        def auth_headers(self) -> dict[str, str]:
            return {"api-key": self.api_key}

        def _auth_headers(self, security: Any) -> dict[str, str]:  # noqa: ARG002
            return {"api-key": self.api_key}

        def _validate_headers(self, headers: Any, custom_headers: Any) -> None:
            """It has one."""

    return _SDK(AsyncAzure)
