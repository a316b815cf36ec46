"""No cassette betrays anything, and their README says the truth."""

from __future__ import annotations

import base64
import gzip
import json
from collections import Counter
from types import SimpleNamespace

import pytest
from vcr.request import Request

from langchain_resilient import Target
from verification.cassettes import recording, store
from verification.cassettes.sources import table
from verification.cassettes.store import ENDING, FOLDER, Store, at_home, read

FILES = sorted(FOLDER.glob(f"*/*.{ENDING}"))
MAX_BYTES = 2_000_000
CANARIES = {
    "an API key": "sk-proj-canary0123456789",
    "a Together key": "tgp_v1_canary0123456789",
    "a bearer token": "Bearer canary0123456789",
    "an organisation": "org-canary0123456789",
    "a project": "proj_canary0123456789",
    "a user": "user-canary0123456789",
    "a request id": "req_canary0123456789",
    "a token of another service": "hf_canary0123456789",
    "a signed token": "eyJhbGciOiJI.eyJzdWIiOiIx",
    "an e-mail address": "canary@example.com",
    "an address in a network": "10.11.12.13",
    "a folder of a person": "/home/canary",
}


def exchange(text: str, **headers: str) -> tuple[Request, dict]:
    """An exchange that says `text` everywhere."""
    body = json.dumps({"id": "chatcmpl-1", "created": 7, "choices": [], "note": text})
    request = Request("POST", "http://127.0.0.1:1/openai/v1/chat/completions", body, headers)
    status = {"code": 200, "message": "OK"}
    response_headers = {name: [value] for name, value in headers.items()}
    return request, {"status": status, "headers": response_headers, "body": {"string": body}}


def saved(tmp_path, *exchanges) -> bytes:
    """The cassette that these make."""
    requests, responses = zip(*exchanges, strict=True)
    path = tmp_path / f"one.{ENDING}"
    both = {"requests": list(requests), "responses": list(responses)}
    Store.save_cassette(str(path), both, None)
    return path.read_bytes()


def test_there_are_cassettes():
    """So that the next tests cannot pass by finding none."""
    assert {path.parent.name for path in FILES} == {"openai", "together", "embedded"}
    assert len(FILES) > 90


@pytest.mark.parametrize("kind", store.SECRETS)
def test_each_pattern_finds_its_canary(kind):
    """A pattern that finds nothing guards nothing."""
    assert kind in store.found_in(f'{{"x": "{CANARIES[kind]}"}}')


@pytest.mark.parametrize("kind", store.SECRETS)
def test_a_secret_is_cleaned_out_of_bodies(kind, tmp_path):
    """Of requests and of responses."""
    text = gzip.decompress(saved(tmp_path, exchange(CANARIES[kind]))).decode()
    assert not store.found_in(text)


def test_a_secret_in_base64_is_seen():
    """Data URIs are looked into."""
    hidden = base64.b64encode(b"padding, then " + CANARIES["an API key"].encode()).decode()
    text = store.readable(f"data:image/png;base64,{hidden}")
    assert "an API key" in store.found_in(text)


@pytest.mark.parametrize("name", store.FORBIDDEN_HEADERS)
def test_headers_that_name_an_account_are_not_kept(name, tmp_path):
    """Of requests and of responses."""
    text = gzip.decompress(saved(tmp_path, exchange("hello", **{name.title(): "canary"}))).decode()
    assert "canary" not in text


def test_the_same_exchanges_give_the_same_bytes(tmp_path):
    """In whatever order they came."""
    one, other = exchange("one"), exchange("other")
    assert saved(tmp_path, one, other) == saved(tmp_path, other, one)


def test_the_port_of_the_day_is_forgotten():
    """The request has the address of the provider itself."""
    request, _ = exchange("hello")
    assert at_home(request).uri == "https://api.openai.com/v1/chat/completions"


def test_no_cassette_holds_anything_like_a_secret():
    """Every cassette, its base64 decoded as well."""
    fields = {}
    for path in FILES:
        text = store.readable(gzip.decompress(path.read_bytes()).decode())
        if kinds := store.found_in(text):
            fields[f"{path.parent.name}/{path.name}"] = kinds
    assert fields == {}


def test_every_header_in_a_cassette_is_one_of_those_named():
    """So no account, cookie or request id can stand in one."""
    kept = store.REQUEST_HEADERS | store.RESPONSE_HEADERS
    for path in FILES:
        for one in read(path):
            assert {*one["request"]["headers"], *one["response"]["headers"]} <= kept, path.name


def test_the_cassettes_are_small():
    """They live in the repository."""
    assert sum(path.stat().st_size for path in FILES) < MAX_BYTES


def test_the_readme_says_from_what_each_was_recorded():
    """Its table is the one that the cassettes and their sources give."""
    assert table() in (FOLDER / "README.md").read_text()


async def test_a_live_recording_sends_no_more_than_it_may(monkeypatch):
    """The request too many is not sent."""
    sent = []

    async def send(provider, request, *, stream):
        sent.append(request)

    monkeypatch.setattr(recording, "_open", send)
    monkeypatch.setattr(recording, "MAX_LIVE_CALLS", 2)
    monkeypatch.setattr(recording, "_calls", Counter())
    provider = SimpleNamespace(target=Target("openai:gpt-4o-mini"))
    for _ in range(2):
        await recording.counted(provider, None, stream=True)
    with pytest.raises(recording.TooManyCallsError):
        await recording.counted(provider, None, stream=True)
    assert len(sent) == 2
