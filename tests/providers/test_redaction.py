"""Secrets are taken out of what a provider raised or answered."""

from __future__ import annotations

import json
from typing import NamedTuple

import pytest

from langchain_resilient import FaultKind as K
from langchain_resilient import testing as t
from langchain_resilient.providers.errors import classify
from langchain_resilient.providers.redaction import redact_error
from tests.providers.asking import DIALECTS, ask, fault_of, http, provider_at, raised_from, sse


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    "shape", ["error", "flat", "text", "detail", "inside", "chunk", "garbage"], ids=str
)
async def test_the_targets_own_key_survives_nowhere(sim, dialect, shape, stream):
    """Whatever it looks like and wherever the server repeats it."""
    key = "correct horse battery staple"
    text = f"who gave you {key}?"
    error = json.dumps({"error": {"message": text, "param": key}})
    bodies = {
        "error": t.Status(401, message=text, param=key),
        "flat": t.Compatible(401, "flat", text),
        "text": t.Compatible(401, "text", text),
        "detail": t.Compatible(422, "detail", text),
        "inside": t.SseError(text),
        "chunk": t.Raw(sse(f'data: {{"choices":[{{"delta":{{"content":"{key}'), then="close"),
        "garbage": t.Raw(http(f"{key} {error}", kind="text/html"), then="close"),
    }
    sim.script("*", then=bodies[shape])
    with pytest.raises(Exception) as caught:  # noqa: PT011  # whichever it is
        await ask(provider_at(sim, f"{dialect}:m", api_key=key), stream=stream)
    fault = classify(caught.value)
    error = caught.value
    assert fault.kind is not K.INTERNAL
    for item in (fault.message, str(error), repr(error), repr(getattr(error, "body", ""))):
        assert key not in item


async def test_a_key_in_a_header_survives_nowhere_either(sim):
    """Azure's and many gateways' stands there."""
    sim.script("*", then=t.Status(401, message="I do not know hush-hush-0123."))
    provider = provider_at(sim, default_headers={"api-key": "hush-hush-0123", "x-team": "blue"})
    fault = await fault_of(provider)
    assert fault.message == "I do not know [key]."


def test_the_errors_behind_an_error_are_cleaned_too():
    """A transport refuses a header by repeating it, and the SDK wraps what it says."""
    error = raised_from(
        RuntimeError("Connection error."), ValueError("bad header b'Bearer x y z 1234'")
    )
    redact_error(error, ["x y z 1234"])
    assert classify(error).message == "Connection error. (ValueError: bad header b'Bearer [key]')"


async def test_a_short_key_is_no_secret(sim):
    """Local servers want "none" or "EMPTY"; to mask that would garble every message."""
    sim.script("*", then=t.Status(400, message="none of these"))
    assert (await fault_of(provider_at(sim, api_key="none"))).message == "none of these"


class Key(NamedTuple):
    """As aiohttp's ConnectionKey."""

    host: str
    port: int


def test_a_named_tuple_in_an_exception_is_left_alone():
    """The one aiohttp keeps in `args`: copying it as a plain tuple raises."""
    error = OSError(Key("host", 1), "the key sk-canary-12345678 is wrong")
    redact_error(error, ["sk-canary-12345678"])
    assert error.args == (Key("host", 1), "the key [key] is wrong")
