"""Error responses: the providers' own bodies, headers and hints."""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from typing import Any

import pytest

from langchain_resilient.testing import (
    BadRequest,
    Compatible,
    ContentFilter,
    ContextTooLong,
    Html,
    HttpDate,
    InvalidKey,
    Lacks,
    ModelNotFound,
    NoStreaming,
    Overloaded,
    ProviderSimulator,
    Quota,
    RateLimited,
    RejectPrefill,
    Reply,
    RequestTooLarge,
    SlowDown,
    Status,
    Step,
    UnsupportedParameter,
)
from tests.testing.wire_client import ask, chat

DIALECTS = ["openai", "together"]
SCHEMA = {"name": "Joke", "schema": {"type": "object", "properties": {}}}
WANTING: dict[str, dict[str, Any]] = {
    "json_schema": {"response_format": {"type": "json_schema", "json_schema": SCHEMA}},
    "json_object": {"response_format": {"type": "json_object"}},
    "tools": {"tools": [{"type": "function", "function": {"name": "Joke", "parameters": {}}}]},
}
CODES = [
    400,
    401,
    402,
    403,
    404,
    408,
    409,
    413,
    422,
    429,
    500,
    502,
    503,
    504,
    *range(520, 525),
    529,
]


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("code", CODES)
async def test_every_status_has_a_body(sim: ProviderSimulator, code: int, dialect: str) -> None:
    """JSON comes as an error object; pages and plain text come from the gateways before."""
    sim.script("*", then=Status(code))
    wire = await ask(sim, chat(stream=True), dialect=dialect)
    assert (wire.status, wire.end) == (code, "complete")
    if wire.headers["content-type"].startswith("application/json"):
        assert {"message", "type", "param", "code"} <= wire.error.keys()
        assert wire.error["message"]
    else:
        assert wire.body


@pytest.mark.parametrize(
    ("step", "dialect", "status", "expected"),
    [
        (Quota(), "openai", 429, {"type": "insufficient_quota", "code": "insufficient_quota"}),
        (Quota(), "together", 402, {"type": "credit_limit", "code": None}),
        (RateLimited(), "openai", 429, {"type": "requests", "code": "rate_limit_exceeded"}),
        (
            RateLimited(of="tokens"),
            "openai",
            429,
            {"type": "tokens", "code": "rate_limit_exceeded"},
        ),
        (RateLimited(), "together", 429, {"type": "credit_limit", "code": None}),
        (RequestTooLarge(), "openai", 429, {"type": "tokens", "code": "rate_limit_exceeded"}),
        (Overloaded(), "openai", 503, {"type": "server_error", "code": "server_is_overloaded"}),
        (Overloaded(), "together", 503, {"type": "service_unavailable"}),
        (SlowDown(), "openai", 429, {"code": "slow_down"}),
        (SlowDown(), "together", 429, {"type": "dynamic_request_limited"}),
        (ModelNotFound(), "openai", 404, {"code": "model_not_found"}),
        (ModelNotFound(), "together", 404, {"code": "model_not_available"}),
        (InvalidKey(), "openai", 401, {"code": "invalid_api_key"}),
        (InvalidKey(), "together", 401, {"code": "invalid_api_key"}),
        (ContextTooLong(100), "openai", 400, {"code": "context_length_exceeded"}),
        (ContextTooLong(100, code=422), "together", 422, {"type": "invalid_request_error"}),
        (ContentFilter(), "openai", 400, {"code": "content_policy_violation"}),
        (BadRequest(), "openai", 400, {"type": "invalid_request_error"}),
        (Status(500), "openai", 500, {"type": "server_error", "code": None}),
    ],
)
async def test_refusals_by_name(
    sim: ProviderSimulator, step: Step, dialect: str, status: int, expected: dict[str, Any]
) -> None:
    """Each says what its provider says."""
    sim.script("*", then=step)
    wire = await ask(sim, dialect=dialect)
    assert wire.status == status
    assert wire.error.items() >= expected.items()
    assert ("id" in wire.json) == (dialect == "together")


async def test_context_messages_speak_of_the_limit(sim: ProviderSimulator) -> None:
    """Each provider has its own sentence for it."""
    sim.script("*", then=ContextTooLong(100))
    openai = (await ask(sim)).error["message"]
    assert openai.startswith("This model's maximum context length is 100 tokens.")
    together = (await ask(sim, chat(max_tokens=9), dialect="together")).error["message"]
    assert "`inputs` tokens + `max_new_tokens` must be <= 100." in together
    assert together.endswith("and 9 `max_new_tokens`")


@pytest.mark.parametrize(
    ("retry_after", "header"),
    [
        (30, "30"),
        (0, "0"),
        (0.5, "0.5"),
        (2.0, "2"),
        (-5, "-5"),
        ("soon", "soon"),
        ("", ""),
        (10**9, "1000000000"),
    ],
)
async def test_retry_after_comes_in_any_form(
    sim: ProviderSimulator, retry_after: Any, header: str
) -> None:
    """Seconds, fractions, negative numbers and garbage."""
    sim.script("*", then=Status(429, retry_after=retry_after))
    assert (await ask(sim)).headers["retry-after"].strip() == header


async def test_no_hints_unless_asked(sim: ProviderSimulator) -> None:
    """A bare status says nothing about when to come back."""
    sim.script("*", then=Status(429))
    headers = (await ask(sim)).headers
    assert not [name for name in headers if "retry" in name or "ratelimit" in name]


async def test_a_retry_after_date_is_counted_from_the_wall_clock() -> None:
    """The clock is injected: nothing here reads the time by itself."""
    async with ProviderSimulator(wall_clock=lambda: 1_800_000_000) as sim:
        sim.script("*", then=Status(503, retry_after=HttpDate(90)))
        date = parsedate_to_datetime((await ask(sim)).headers["retry-after"])
    assert date.timestamp() == 1_800_000_090


@pytest.mark.parametrize(
    ("reset", "openai", "together"),
    [
        (0.006, "6ms", "0.006"),
        (8.64, "8.64s", "8.64"),
        (67.606, "1m7.606s", "67.606"),
        (299439.057, "83h10m39.057s", "299439"),
        (0, "0s", "0"),
        ("whenever", "whenever", "whenever"),
    ],
)
async def test_resets_are_written_as_the_dialect_does(
    sim: ProviderSimulator, reset: Any, openai: str, together: str
) -> None:
    """Go durations at OpenAI, seconds at Together."""
    sim.script("*", then=Status(429, reset=reset))
    assert (await ask(sim)).headers["x-ratelimit-reset-requests"] == openai
    assert (await ask(sim, dialect="together")).headers["x-ratelimit-reset"] == together


async def test_the_other_hints(sim: ProviderSimulator) -> None:
    """`retry-after-ms`, `x-should-retry` and any header at all, which wins."""
    step = Status(500, retry_after=1, retry_after_ms=0, should_retry=False, headers={"X-A": "b"})
    sim.script("*", step, then=Status(429, retry_after=1, headers={"Retry-After": "7"}))
    headers = (await ask(sim)).headers
    assert (headers["retry-after"], headers["retry-after-ms"]) == ("1", "0")
    assert (headers["x-should-retry"], headers["x-a"]) == ("false", "b")
    assert (await ask(sim)).headers["retry-after"] == "7"


async def test_a_rate_limit_has_all_hints_of_its_provider(sim: ProviderSimulator) -> None:
    """OpenAI says it three times."""
    sim.script("*", then=RateLimited(20))
    headers = (await ask(sim)).headers
    assert (headers["retry-after"], headers["retry-after-ms"]) == ("20", "20000")
    assert headers["x-ratelimit-reset-requests"] == "20s"
    headers = (await ask(sim, dialect="together")).headers
    assert (headers["retry-after"], headers["x-ratelimit-reset"]) == ("20", "20")


async def test_a_request_too_large_gives_no_hint_but_a_full_bucket(sim: ProviderSimulator) -> None:
    """Waiting would never help."""
    sim.script("*", then=RequestTooLarge(30_000))
    wire = await ask(sim)
    assert "retry-after" not in wire.headers
    assert wire.headers["x-ratelimit-remaining-tokens"] == "30000"
    assert wire.headers["x-ratelimit-reset-tokens"] == "0s"
    assert wire.error["message"].startswith("Request too large for gpt-4 ")


async def test_a_status_can_say_anything(sim: ProviderSimulator) -> None:
    """Message, type, code and param, or a body of your own."""
    odd = Status(418, message="I am a teapot", type="t", error_code=7, param="p")
    sim.script("*", odd, Status(500, body="upstream died"), then=Status(502, message="gone"))
    assert (await ask(sim)).error == {
        "message": "I am a teapot",
        "type": "t",
        "param": "p",
        "code": 7,
    }
    wire = await ask(sim)
    assert (wire.body, wire.headers["content-type"]) == (
        b"upstream died",
        "text/plain; charset=utf-8",
    )
    assert (await ask(sim)).error["message"] == "gone"


async def test_only_what_has_the_parameter_is_refused(sim: ProviderSimulator) -> None:
    """Without it the model answers."""
    sim.script("*", then=UnsupportedParameter("temperature"))
    wire = await ask(sim, chat(temperature=0.5))
    assert wire.error["param"] == "temperature"
    assert wire.error["code"] == "unsupported_parameter"
    assert (await ask(sim)).status == 200


@pytest.mark.parametrize(
    ("dialect", "feature", "status"),
    [
        ("openai", "json_schema", 400),
        ("openai", "json_object", 400),
        ("openai", "tools", 404),
        ("together", "json_schema", 400),
        ("together", "tools", 400),
    ],
)
async def test_what_a_model_lacks_is_refused_in_the_words_of_its_provider(
    sim: ProviderSimulator, dialect: str, feature: Any, status: int
) -> None:
    """They name the feature, and stand where the provider puts them."""
    sim.script("*", then=Lacks(feature))
    refused = await ask(sim, chat(**WANTING[feature]), dialect=dialect)
    assert refused.status == status
    assert feature in refused.error["message"]
    assert refused.error["type"] == "invalid_request_error"


async def test_other_features_than_those_named_are_there(sim: ProviderSimulator) -> None:
    """Only the features named are refused, and of several each."""
    sim.script("*", then=Lacks(("json_schema", "tools"), Reply("{}")))
    statuses = [
        (await ask(sim, chat("Hello, in JSON", **wanting))).status for wanting in WANTING.values()
    ]
    assert statuses == [400, 200, 404]
    assert (await ask(sim)).text == "{}"


async def test_only_streams_are_refused(sim: ProviderSimulator) -> None:
    """The same model answers plainly."""
    sim.script("*", then=NoStreaming(otherwise=Reply("plain")))
    assert (await ask(sim, chat(stream=True))).error["param"] == "stream"
    assert (await ask(sim)).text == "plain"


async def test_only_prefill_is_refused(sim: ProviderSimulator) -> None:
    """A conversation must end with the user."""
    sim.script("*", then=RejectPrefill())
    body = chat()
    body["messages"].append({"role": "assistant", "content": "Well,"})
    assert (await ask(sim, body)).status == 400
    assert (await ask(sim)).status == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_a_content_filter_may_stop_the_answer(sim: ProviderSimulator, stream: bool) -> None:
    """Then the finish reason says so, in a 200."""
    sim.script("*", then=ContentFilter(after=1))
    wire = await ask(sim, chat(stream=stream))
    finish = wire.finish[0] if stream else wire.json["choices"][0]["finish_reason"]
    assert (wire.status, wire.text, finish) == (200, "Answer", "content_filter")


@pytest.mark.parametrize("code", [200, 502, 524])
async def test_a_page_instead_of_json(sim: ProviderSimulator, code: int) -> None:
    """As a proxy sends it."""
    sim.script("*", then=Html(code))
    wire = await ask(sim, chat(stream=True))
    assert (wire.status, wire.headers["content-type"]) == (code, "text/html; charset=UTF-8")
    assert wire.body.startswith(b"<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("shape", "keys"),
    [
        ("flat", {"code", "error"}),
        ("object", {"object", "message", "type", "param", "code"}),
        ("message", {"message"}),
        ("reason", {"code", "reason", "message", "metadata"}),
        ("detail", {"detail"}),
        ("string", {"error"}),
        ("code", {"error"}),
        ("upstream", {"error", "user_id"}),
    ],
)
async def test_errors_of_compatible_servers(
    sim: ProviderSimulator, shape: Any, keys: set[str]
) -> None:
    """Every maker has a shape of its own."""
    sim.script("*", then=Compatible(429, shape))
    wire = await ask(sim)
    assert (wire.status, wire.json.keys()) == (429, keys)


async def test_an_error_as_plain_text(sim: ProviderSimulator) -> None:
    """Some do not even send JSON."""
    sim.script("*", then=Compatible(401, "text", "Unauthorized: Invalid API key!"))
    assert (await ask(sim)).body == b"Unauthorized: Invalid API key!"


async def test_no_error_ever_shows_the_key(sim: ProviderSimulator) -> None:
    """Neither the body nor what is remembered."""
    sim.keys = {"good"}
    secret = {"authorization": "Bearer sk-very-secret", "x-api-key": "sk-very-secret"}
    wire = await ask(sim, headers=secret)
    assert wire.status == 401
    assert "very-secret" not in wire.body.decode() + repr(sim.requests) + repr(sim)
