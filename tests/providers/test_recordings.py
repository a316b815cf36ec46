"""Errors as real servers sent them: each must become the kind that a person would call it."""

from __future__ import annotations

import json
from typing import Any

import httpx
import httpx2
import openai
import pytest
import together

from langchain_resilient import FaultKind as K
from langchain_resilient import Target
from langchain_resilient.providers import create_provider
from langchain_resilient.providers.request_template import RequestTemplate
from tests.providers.asking import fault_of
from verification.recordings.exchanges import FOLDER, MISSING, NO_ANSWERS, load

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=MISSING)

BY_CODE: dict[tuple[int, str | None], K] = {
    (200, "content_filter"): K.CONTENT_FILTER,
    (200, "server_error"): K.SERVER,
    (429, "insufficient_quota"): K.QUOTA,
}
BY_STATUS = {
    400: K.BAD_REQUEST,
    401: K.AUTH,
    404: K.NOT_FOUND,
    413: K.TOO_LARGE,
    422: K.BAD_REQUEST,
    429: K.RATE_LIMIT,
    500: K.SERVER,
    503: K.SERVER,
}
BY_WORDS = {
    "tools is not supported in this model": K.BAD_REQUEST,
    "The supported API model names are": K.NOT_FOUND,
}
KEPT_OUT = {"content-encoding", "content-length", "transfer-encoding"}


def error_in(body: str) -> dict[str, Any] | None:
    """The error object of a body or of a stream, read naively."""
    for text in (body, *(line[5:] for line in body.split("\n") if line.startswith("data:"))):
        try:
            parsed = json.loads(text)
        except ValueError:
            continue
        if isinstance(parsed, dict) and parsed.get("error"):
            error = parsed["error"]
            return error if isinstance(error, dict) else parsed
    return None


def errors():
    """Every exchange that ended in an error, and what it should be."""
    if not FOLDER.is_dir():
        return
    for exchange in load():
        status, body = exchange["response"]["status"], exchange["response"]["body"]
        error = error_in(body)
        if exchange["id"] in NO_ANSWERS and error is None:
            yield pytest.param(exchange, K.BROKEN, id=exchange["id"])
            continue
        if status < 300 and error is None:
            continue
        error = error or {}
        code = error.get("code") or error.get("type")
        kind = BY_CODE.get((status, code)) or BY_STATUS[status]
        kind = next((k for words, k in BY_WORDS.items() if words in body), kind)
        yield pytest.param(exchange, kind, id=exchange["id"])


def provider_for(exchange):
    """A provider whose SDK gets the recorded response from a transport that needs no network."""
    is_together = exchange["provider"] == "together"
    sdk, lib = (together, httpx) if is_together else (openai, httpx2)
    response = exchange["response"]
    headers = [
        (name, value)
        for name, values in response["headers"].items()
        for value in (values if isinstance(values, list) else [values])
        if name.lower() not in KEPT_OUT
    ]

    def answer(_):
        body = response["body"].encode()
        return lib.Response(response["status"], headers=headers, content=body)

    spec = "together:m" if is_together else "openai:m"
    provider: Any = create_provider(
        Target(spec, base_url="http://x.test/v1", api_key="sk-0123456789")
    )
    client = sdk.AsyncTogether if is_together else sdk.AsyncOpenAI
    http = lib.AsyncClient(transport=lib.MockTransport(answer))
    made = client(api_key="sk-0123456789", max_retries=0, http_client=http)
    provider._create_template = lambda: RequestTemplate(made, http, sdk, lib, "http://x.test/v1")
    return provider


ERRORS = list(errors())


@pytest.mark.parametrize(("exchange", "kind"), ERRORS)
async def test_a_recorded_error_is_of_the_kind_that_its_status_and_code_say(exchange, kind):
    """Through the SDK that would have met it, streamed or not as it was."""
    status, body = exchange["response"]["status"], exchange["response"]["body"]
    fault = await fault_of(provider_for(exchange), stream="data:" in body)
    # A 404 that speaks of the address, not of the model: nobody is there.
    no_such_address = status == 404 and "does not exist there" in fault.message
    assert fault.kind is (K.CONNECTION if no_such_address else kind)
    assert status in (fault.status, 200)
    for key in ("DEADBEEF", "fake_key", "sk-"):
        assert key not in fault.message


def test_there_are_recorded_errors():
    """A table that nothing is looked up in proves nothing."""
    assert len(ERRORS) >= 50
