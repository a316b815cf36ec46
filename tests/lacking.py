"""A simulated model without structured outputs, tools or JSON mode: it refuses them with a 400."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langchain_resilient.testing import Status, Step
from langchain_resilient.testing.steps.reply import AT_ONCE

if TYPE_CHECKING:
    from langchain_resilient.testing.dialects.base import Call
    from langchain_resilient.testing.exchange import Exchange

_WORDS = {
    "json_schema": "Invalid parameter: 'response_format' of type 'json_schema' is not supported "
    "with this model.",
    "json_object": "Invalid parameter: 'response_format' of type 'json_object' is not supported "
    "with this model.",
    "tools": "tools is not supported in this model.",
}


def used(body: dict[str, Any]) -> str:
    """How a request asks for JSON: by which of the features, or by the prompt alone."""
    shape = (body.get("response_format") or {}).get("type")
    return shape or ("tools" if body.get("tools") else "prompt")


@dataclass(frozen=True, repr=False)
class Lacks(Step):
    """Refuses requests that use a feature it has not; answers others.

    Attributes:
        features: Of `json_schema`, `json_object` and `tools`.
        otherwise: The step for other requests.
    """

    features: tuple[str, ...]
    otherwise: Step = AT_ONCE

    def choose(self, call: Call, at: float) -> Step:
        feature = used(call.body)
        if feature in self.features:
            return Status(400, message=_WORDS[feature], type="invalid_request_error")
        return self.otherwise.choose(call, at)

    async def play(self, exchange: Exchange) -> None:
        raise NotImplementedError
