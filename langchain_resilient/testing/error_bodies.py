"""The error bodies of the providers, as they were recorded or documented.

Each dialect has a table from a *kind* to an `ErrorBody`. A kind is a status code as text (`"500"`)
or a name (`"quota"`). Messages hold fields such as `{model}` or `{limit}`, filled in when sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

BAD_GATEWAY_PAGE = """<!DOCTYPE html>
<html lang="en-US">
<head><title>{host} | {code}: {reason}</title><meta charset="UTF-8" /></head>
<body>
<h1>{reason} <span>Error code {code}</span></h1>
<p>The web server reported a bad gateway error.</p>
<footer>Cloudflare Ray ID: <strong>{serial}</strong></footer>
</body>
</html>
"""
"""The page that Cloudflare sends for a provider that does not answer."""


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """An error response: a status code and the words for it.

    Attributes:
        status: HTTP status code.
        message: What the error says; may hold fields such as `{model}`.
        type: The error's `type`.
        code: The error's `code`, a number at some gateways.
        param: The request's field that is at fault.
        text: If set, the whole body, instead of an error object: gateways answer like that.
        html: Whether `text` is a page.
    """

    status: int
    message: str = ""
    type: str | None = "invalid_request_error"
    code: str | int | None = None
    param: str | None = None
    text: str | None = None
    html: bool = False

    def fields(self) -> dict[str, Any]:
        """Return the error object that both providers send."""
        return {
            "message": self.message,
            "type": self.type,
            "param": self.param,
            "code": self.code,
        }

    def filled(self, details: Mapping[str, object]) -> ErrorBody:
        """Return the error with the fields of its texts filled in."""
        known = _Details(details)
        return replace(
            self,
            message=self.message.format_map(known),
            text=self.text.format_map(known) if self.text is not None else None,
            param=self.param.format_map(known) if self.param is not None else None,
        )


class _Details(dict[str, object]):
    """Fills in "unknown" for a field that nothing is known about."""

    def __missing__(self, key: str) -> str:
        return "unknown"


def invalid_request(message: str, param: str | None = None, code: str | None = None) -> ErrorBody:
    """Return a 400 for a request that breaks a rule."""
    return ErrorBody(400, message, code=code, param=param)


def _cloudflare(status: int) -> ErrorBody:
    return ErrorBody(status, text=f"error code: {status}")


_SHARED = {
    "404_url": ErrorBody(404, "Invalid URL ({method} {path})"),
    "405": ErrorBody(405, "Not allowed to {method} on {path}."),
    "408": ErrorBody(408, "The request timed out.", "timeout"),
    "409": ErrorBody(409, "The request conflicts with another one under way.", "conflict_error"),
    "502": ErrorBody(502, text=BAD_GATEWAY_PAGE, html=True),
    "529": ErrorBody(529, "The service is overloaded.", "overloaded_error"),
    **{str(status): _cloudflare(status) for status in range(520, 525)},
}

_VISIT = "Visit https://platform.openai.com/account/rate-limits to learn more."
_OPENAI_SORRY = "The server had an error while processing your request. Sorry about that!"

OPENAI: dict[str, ErrorBody] = {
    **_SHARED,
    "400": ErrorBody(
        400,
        "We could not parse the JSON body of your request. (HINT: This likely means you aren't "
        "using your HTTP library correctly. The OpenAI API expects a JSON payload, but what was "
        "sent was not valid JSON.)",
    ),
    "401": ErrorBody(
        401,
        "Incorrect API key provided: {key}. You can find your API key at "
        "https://platform.openai.com/account/api-keys.",
        code="invalid_api_key",
    ),
    "401_missing": ErrorBody(
        401,
        "You didn't provide an API key. You need to provide your API key in an Authorization "
        "header using Bearer auth (i.e. Authorization: Bearer YOUR_KEY).",
    ),
    "402": ErrorBody(
        402,
        "Your credit balance is exhausted, please check your plan and billing details.",
        "insufficient_quota",
        "credit_balance_exhausted",
    ),
    "403": ErrorBody(
        403,
        "Country, region, or territory not supported",
        "request_forbidden",
        "unsupported_country_region_territory",
    ),
    "404": ErrorBody(
        404,
        "The model `{model}` does not exist or you do not have access to it.",
        code="model_not_found",
    ),
    "413": ErrorBody(
        413, "Maximum content size limit (26214400) exceeded (31457280 bytes read)", "server_error"
    ),
    "422": ErrorBody(422, "Unprocessable entity: the request is well-formed but cannot be served."),
    "429": ErrorBody(
        429,
        "Rate limit reached for {model} in organization org-simulated on requests per min (RPM): "
        "Limit {limit}, Used {limit}, Requested 1. Please try again in {wait}. " + _VISIT,
        "requests",
        "rate_limit_exceeded",
    ),
    "429_tokens": ErrorBody(
        429,
        "Rate limit reached for {model} in organization org-simulated on tokens per min (TPM): "
        "Limit {limit}, Used {used}, Requested {requested}. Please try again in {wait}. " + _VISIT,
        "tokens",
        "rate_limit_exceeded",
    ),
    "request_too_large": ErrorBody(
        429,
        "Request too large for {model} in organization org-simulated on tokens per min (TPM): "
        "Limit {limit}, Requested {requested}. The input or output tokens must be reduced in "
        "order to run successfully. " + _VISIT,
        "tokens",
        "rate_limit_exceeded",
    ),
    "quota": ErrorBody(
        429,
        "You exceeded your current quota, please check your plan and billing details. For more "
        "information on this error, read the docs: "
        "https://platform.openai.com/docs/guides/error-codes/api-errors.",
        "insufficient_quota",
        "insufficient_quota",
    ),
    "500": ErrorBody(500, _OPENAI_SORRY, "server_error"),
    "503": ErrorBody(
        503,
        text="upstream connect error or disconnect/reset before headers. "
        "reset reason: connection termination",
    ),
    "504": ErrorBody(504, "Gateway timeout.", "cf_gateway_timeout", 504),
    "overloaded": ErrorBody(
        503,
        "Our servers are currently overloaded. Please try again later.",
        "server_error",
        "server_is_overloaded",
    ),
    "slow_down": ErrorBody(
        429, "Slow down: you are ramping up your requests too fast.", "requests", "slow_down"
    ),
    "context_too_long": ErrorBody(
        400,
        "This model's maximum context length is {limit} tokens. However, your messages resulted "
        "in {tokens} tokens. Please reduce the length of the messages.",
        code="context_length_exceeded",
        param="messages",
    ),
    "content_filter": ErrorBody(
        400,
        "Your request was rejected as a result of our safety system.",
        code="content_policy_violation",
    ),
    "unsupported_parameter": ErrorBody(
        400,
        "Unsupported parameter: '{param}' is not supported with this model.",
        code="unsupported_parameter",
        param="{param}",
    ),
    "no_streaming": ErrorBody(
        400,
        "Your organization must be verified to stream this model. Please go to: "
        "https://platform.openai.com/settings/organization/general and click on Verify "
        "Organization.",
        code="unsupported_value",
        param="stream",
    ),
    # As in https://github.com/web-infra-dev/midscene/issues/259
    "no_response_format": ErrorBody(
        400,
        "Invalid parameter: 'response_format' of type '{feature}' is not supported with this "
        "model. Learn more about supported models at the Structured Outputs guide: "
        "https://platform.openai.com/docs/guides/structured-outputs",
        param="response_format",
    ),
    # As o1-mini was recorded: a 404 that is not about the model.
    "no_tools": ErrorBody(
        404,
        "tools is not supported in this model. For a list of supported models, refer to "
        "https://platform.openai.com/docs/guides/function-calling#models-supporting-function-"
        "calling.",
    ),
    "no_prefill": ErrorBody(
        400,
        "This model does not support assistant message prefill. The conversation must end with a "
        "user message.",
        param="messages",
    ),
}

_TOGETHER_MODELS = (
    "Please visit https://api.together.ai/models to view the list of supported models."
)

TOGETHER: dict[str, ErrorBody] = {
    **_SHARED,
    "400": ErrorBody(400, "Input validation error", code="invalid_request"),
    "401": ErrorBody(
        401,
        "Invalid API key provided. You can find your API key at "
        "https://api.together.ai/settings/api-keys.",
        code="invalid_api_key",
    ),
    "402": ErrorBody(
        402,
        "Credit limit exceeded, please navigate to https://api.together.ai/settings/billing to "
        "add credit or raise your spending limit.",
        "credit_limit",
    ),
    "403": ErrorBody(403, "You do not have access to this resource.", "forbidden"),
    "404": ErrorBody(
        404, "Unable to access model {model}. " + _TOGETHER_MODELS, code="model_not_available"
    ),
    "413": ErrorBody(413, "Request entity too large."),
    "422": ErrorBody(422, "Input validation error: the request cannot be served.", None),
    "429": ErrorBody(
        429,
        "You have been rate limited. Your rate limit is {limit} queries per minute. Please "
        "navigate to https://api.together.ai/settings/billing to upgrade to a paid plan.",
        "credit_limit",
    ),
    "429_tokens": ErrorBody(
        429,
        "You have reached the rate limit specific to this model {model}. The maximum rate limit "
        "for this model is {limit} tokens per minute.",
        "model_rate_limit",
    ),
    "request_too_large": ErrorBody(
        429,
        "Request too large for {model}: limit {limit} tokens per minute, requested {requested}.",
        "dynamic_token_limited",
    ),
    "500": ErrorBody(500, "Internal server error", "server_error"),
    "503": ErrorBody(503, "The server is overloaded or not ready yet.", "service_unavailable"),
    "504": ErrorBody(504, text="error code: 504"),
    "overloaded": ErrorBody(
        503, "The server is overloaded or not ready yet.", "service_unavailable"
    ),
    "slow_down": ErrorBody(
        429, "Your request rate for {model} grew too fast.", "dynamic_request_limited"
    ),
    "context_too_long": ErrorBody(
        400,
        "Input validation error: `inputs` tokens + `max_new_tokens` must be <= {limit}. Given: "
        "{tokens} `inputs` tokens and {wanted} `max_new_tokens`",
    ),
    "content_filter": ErrorBody(
        400, "Your request was blocked by the safety model.", code="blocked"
    ),
    "unsupported_parameter": ErrorBody(
        400, "Model {model} does not support '{param}'.", param="{param}"
    ),
    "no_streaming": ErrorBody(400, "Model {model} does not support streaming.", param="stream"),
    # No public record of Together's own words for these two: they are those for any parameter.
    "no_response_format": ErrorBody(
        400,
        "Model {model} does not support 'response_format' of type '{feature}'.",
        param="response_format",
    ),
    "no_tools": ErrorBody(400, "Model {model} does not support 'tools'.", param="tools"),
    "no_prefill": ErrorBody(
        400, "The last message must not be from the assistant.", param="messages"
    ),
}
TOGETHER["401_missing"] = TOGETHER["401"]
TOGETHER["quota"] = TOGETHER["402"]
