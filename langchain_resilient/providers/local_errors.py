"""Why the local model cannot answer, with the codes that the larger APIs use for the same."""

from __future__ import annotations

from typing import Any


class MissingExtraError(ImportError):
    """An optional package is not installed; the message says which extra brings it."""


class LocalModelError(Exception):
    """The local model cannot answer, told like an HTTP API would.

    Attributes:
        status_code: 400 for the request, 404 for a missing file, 500 and 503 for the model.
        code: E.g. `"context_length_exceeded"`.
        counts: What llama.cpp counted: `{"n_ctx", "n_prompt_tokens"}`, in tokens.
        body: `{"message", "type", "code"}` and the counts, the error object of an API.
    """

    def __init__(
        self, message: str, status_code: int = 503, code: str = "model_unavailable"
    ) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.code = code
        self.counts: dict[str, Any] = {}

    @property
    def body(self) -> dict[str, Any]:
        """As an API would send it."""
        return {"message": str(self), "type": self.code, "code": self.code, **self.counts}


def as_error(told: Any) -> LocalModelError:
    """Turn llama.cpp's error object into an exception with the codes of the larger APIs."""
    if not isinstance(told, dict):
        return LocalModelError(str(told), 500, "server_error")
    message, kind = str(told.get("message")), str(told.get("type"))
    if kind == "exceed_context_size_error" or "ontext size has been exceeded" in message:
        error = LocalModelError(message, 400, "context_length_exceeded")
        error.counts = {name: told[name] for name in ("n_ctx", "n_prompt_tokens") if name in told}
        return error
    status = told.get("code")
    return LocalModelError(message, status if isinstance(status, int) else 500, kind)
