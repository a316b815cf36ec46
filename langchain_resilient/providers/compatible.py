"""The servers of `langchain_resilient.providers.servers`, through the official `openai` SDK.

Azure is one of them: by deployment, with a key or a token of Entra.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote

from langchain_resilient.providers import address_of
from langchain_resilient.providers.openai import OpenAIProvider
from langchain_resilient.providers.servers import BY_NAME
from langchain_resilient.wire.responses_request import needs_responses

if TYPE_CHECKING:
    from langchain_resilient.options import Target


_STREAM_OPTIONS = {"include_usage": True}


class CompatibleProvider(OpenAIProvider):
    """Serves `"name:model"` for every server that has a row.

    Raises:
        ValueError: If the target asks for the Responses API, which its server lacks, or its server
            has no address that is the same for everyone, and none was given.
    """

    proxy_variable: ClassVar[str | None] = None
    batch_endpoint: ClassVar[str | None] = None  # some have batches, each in a way of its own

    def __init__(self, target: Target) -> None:
        self._server = BY_NAME[target.provider]
        if target.api == "responses" and not self._server.responses:
            msg = f"{target.name}: {self._server.title} has no Responses API; leave out `api`"
            raise ValueError(msg)
        super().__init__(target)
        if self.base_url is None:
            variables = " or ".join(
                name
                for name in (self._server.endpoint_env, *self._server.base_url_env)
                if name is not None
            )
            msg = f"{target.name}: give its base_url, or set {variables}"
            raise ValueError(msg)

    def takes_marks(self) -> bool:
        """Whether the server wants cache marks, as its row says."""
        return self._server.cache_marks

    def create_client(self, sdk: Any, **settings: Any) -> Any:
        """Create an `AsyncOpenAI` that knows nothing of OpenAI's own settings."""
        client = super().create_client(sdk, **settings)
        client.organization, client.project = self.organization, None
        # The SDK adds the environment's headers for OpenAI, which may hold a key.
        client._custom_headers = dict(settings["default_headers"] or {})  # noqa: SLF001
        return client

    def adapt_body(self, body: dict[str, Any], *, stream: bool) -> dict[str, Any]:
        """Adapt the body to the server, as its row says."""
        server = self._server
        body["model"] = self.target.model
        for ours, theirs in server.renames.items():
            if ours in body:
                body[theirs] = body.pop(ours)
        effort = body.get("reasoning_effort") if server.thinking_switch else None
        if effort is not None:
            off = effort in {"none", "minimal"}
            body.setdefault("thinking", {"type": "disabled" if off else "enabled"})
            if off:
                del body["reasoning_effort"]
        self.drop_parameters(server.refuses & body.keys())
        if stream:
            body["stream"] = True
        if server.quiet_usage or not stream:
            body.pop("stream_options", None)
        else:
            body.setdefault("stream_options", _STREAM_OPTIONS)
        return body

    def _prefers_responses(self, body: dict[str, Any]) -> bool:
        if self._server.openai_models or self.target.api != "auto":
            return super()._prefers_responses(body)
        # The rules by which OpenAI's models choose are not others'.
        return needs_responses(body) or self._knows("all")


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
