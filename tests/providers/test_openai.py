"""The OpenAI provider over real sockets: its dialect, its keys, its connections."""

from __future__ import annotations

import asyncio
import json
import time
import warnings

import openai
import pytest
from pydantic import SecretStr

from langchain_resilient import DroppedParameterWarning, FaultKind, Target
from langchain_resilient import testing as t
from langchain_resilient.exchange import ChatRequest
from langchain_resilient.providers import create_provider
from langchain_resilient.providers.openai import OpenAIProvider
from langchain_resilient.testing import answer_to
from tests.providers.asking import (
    DIALECTS,
    TRANSPORTS,
    ask,
    fault_of,
    http,
    ids,
    listening,
    provider_at,
    request,
    until,
)

PLAIN = http('{"choices":[{"index":0,"message":{"content":"Hi"},"finish_reason":"stop"}]}')


@pytest.fixture
def public(sim, monkeypatch, no_environment):
    """The simulator stands in for api.openai.com."""
    url = f"{sim.base_url('openai')}/chat/completions"
    monkeypatch.setattr(OpenAIProvider, "public_url", url)
    return sim


def dropped(caught):
    """The parameters that were warned of, in order."""
    return [
        str(one.message).split("'")[1] for one in caught if one.category is DroppedParameterWarning
    ]


async def sent(provider, sim, asked=None, *, stream=True):
    """The body of the last of the requests that one answer took."""
    await ask(provider, asked, stream=stream)
    return sim.requests[-1].body


# -- answers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("stream", [True, False])
async def test_an_answer_comes_whole(sim, monkeypatch, stream, transport):
    """Streamed or plain, on either transport, with its token counts."""
    monkeypatch.setenv("LANGCHAIN_RESILIENT_TRANSPORT", transport)
    response = await ask(provider_at(sim), stream=stream)
    assert (response.text, response.fault()) == (answer_to("hello"), None)
    assert response.usage is not None


async def test_a_stream_that_is_answered_plainly_is_believed():
    """Some servers know no streams and do not say so."""
    async with listening(PLAIN) as server:
        response = await ask(create_provider(Target("openai:m", base_url=server.url)), stream=True)
    assert (response.text, response.fault()) == ("Hi", None)


async def test_success_may_be_any_2xx(sim):
    """One maker answers 201."""
    sim.script("*", then=t.Reply(status=201))
    assert (await ask(provider_at(sim))).fault() is None


async def test_an_open_answer_has_begun_and_no_more(sim):
    """The head is there, the text need not be: the race measures the time to the first text."""
    sim.script("*", then=t.Stall(after=0))
    answer = await asyncio.wait_for(provider_at(sim).open(request(), stream=True), 2)
    assert (await anext(answer))["choices"][0]["delta"]["role"] == "assistant"
    await answer.aclose()


# -- the request ------------------------------------------------------------------------------


async def test_the_body_is_the_request_in_the_apis_dialect(sim):
    """The model, the messages, the parameters, and usage at the end of a stream."""
    body = await sent(provider_at(sim, temperature=0.5), sim, request(top_p=0.9))
    assert body == {
        "model": "m",
        "messages": [{"role": "user", "content": "hello"}],
        "temperature": 0.5,
        "top_p": 0.9,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def test_a_plain_request_says_nothing_of_streams(sim):
    """OpenAI refuses `stream_options` without `stream`."""
    body = await sent(provider_at(sim), sim, stream=False)
    assert body.keys() == {"model", "messages"}


async def test_the_request_is_not_changed(sim):
    """Other attempts read the same one."""
    asked = ChatRequest(
        [{"role": "user", "content": "hello"}], {"max_tokens": 5}, {"stop": ["x"], "seed": 1}
    )
    before = json.dumps([asked.messages, asked.defaults, asked.overrides])
    sim.script("*", then=t.UnsupportedParameter("seed"))
    with pytest.warns(DroppedParameterWarning):
        await ask(provider_at(sim), asked)
    assert json.dumps([asked.messages, asked.defaults, asked.overrides]) == before


@pytest.mark.parametrize("step", [t.Status(500), t.Status(503, retry_after=0), t.Reset(),
                                  t.RateLimited(0.01), t.Status(409, should_retry=True),
                                  t.BadRequest(), t.NoAnswer(0.0)], ids=ids)  # fmt: skip
@pytest.mark.parametrize("dialect", DIALECTS)
async def test_one_open_is_one_request(sim, dialect, step):
    """The SDK's own retries would multiply ours and delay every fallback."""
    sim.script("*", step)
    await fault_of(provider_at(sim, f"{dialect}:m"))
    assert [seen.headers["x-stainless-retry-count"] for seen in sim.requests] == ["0"]


# -- what the API does not take ---------------------------------------------------------------

SAMPLING = {"top_k": 40, "min_p": 0.1, "repetition_penalty": 1.1, "temperature": 0.5}


async def test_what_openai_does_not_know_is_dropped_with_one_warning_each(public):
    """However many requests there are."""
    provider = create_provider(Target("openai:m", api_key="sk-0123456789", **SAMPLING))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        bodies = [await sent(provider, public) for _ in range(3)]
    assert sorted(dropped(caught)) == ["min_p", "repetition_penalty", "top_k"]
    assert "openai:m does not take" in str(caught[0].message)
    for body in bodies:
        assert {"top_k", "min_p", "repetition_penalty"}.isdisjoint(body)
        assert body["temperature"] == 0.5


async def test_compatible_servers_get_them():
    """Many know them well."""
    async with listening(PLAIN) as server:
        await ask(create_provider(Target("openai:m", base_url=server.url, **SAMPLING)))
    assert server.bodies[0].items() >= SAMPLING.items()


async def test_openai_gets_the_token_limit_under_its_new_name(public):
    """The old one is refused by its reasoning models."""
    provider = create_provider(Target("openai:m", api_key="sk-0123456789", max_tokens=7))
    body = await sent(provider, public)
    assert (body["max_completion_tokens"], "max_tokens" in body) == (7, False)


async def test_compatible_servers_get_the_token_limit_under_its_old_name(sim):
    """Many know no other."""
    body = await sent(provider_at(sim, max_tokens=7), sim)
    assert (body["max_tokens"], "max_completion_tokens" in body) == (7, False)


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_a_token_limit_that_is_refused_goes_by_its_other_name(sim, recwarn, name):
    """Nothing is lost, so nothing is said."""
    other = {"max_tokens", "max_completion_tokens"} - {name}
    sim.script("*", then=t.UnsupportedParameter(name))
    provider = provider_at(sim)
    bodies = [await sent(provider, sim, request(**{name: 7})) for _ in range(2)]
    assert [body.get(other.copy().pop()) for body in bodies] == [7, 7]
    assert sim.count() == 3
    assert dropped(recwarn.list) == []


async def test_a_token_limit_with_no_name_at_all_is_dropped(sim):
    """With one warning, though two names were refused."""
    sim.script("*", t.UnsupportedParameter("max_tokens"),
               t.UnsupportedParameter("max_completion_tokens"))  # fmt: skip
    provider = provider_at(sim, max_tokens=7)
    with pytest.warns(DroppedParameterWarning) as caught:
        bodies = [await sent(provider, sim) for _ in range(2)]
    assert {"max_tokens", "max_completion_tokens"}.isdisjoint({*bodies[0], *bodies[1]})
    assert len(dropped(caught)) == 1
    assert sim.count() == 4


async def test_a_parameter_that_one_model_refuses_is_learned(sim):
    """It costs one request, once."""
    sim.script("*", then=t.UnsupportedParameter("temperature"))
    provider = provider_at(sim, temperature=0.5, top_p=0.9)
    with pytest.warns(DroppedParameterWarning) as caught:
        bodies = [await sent(provider, sim) for _ in range(3)]
    assert dropped(caught) == ["temperature"]
    assert [("temperature" in body, body["top_p"]) for body in bodies] == [(False, 0.9)] * 3
    assert [seen.status for seen in sim.requests] == [400, 200, 200, 200]


async def test_requests_under_way_learn_with_it(sim):
    """They are refused too, and must not fail because another was first."""
    sim.script("*", then=t.UnsupportedParameter("temperature"))
    provider = provider_at(sim, temperature=0.5)
    with pytest.warns(DroppedParameterWarning) as caught:
        responses = await asyncio.gather(*(ask(provider) for _ in range(8)))
    assert [response.fault() for response in responses] == [None] * 8
    assert dropped(caught) == ["temperature"]


def refusal(status=400, **error):
    body = error.pop("body", None) or {"error": {"type": "invalid_request_error", **error}}
    headers = {"content-type": "application/json"}
    return t.Status(status, body=json.dumps(body), headers=headers)


EXTRA = {"detail": [{"type": "extra_forbidden", "loc": ["body", "top_p"],
                     "msg": "Extra inputs are not permitted"}]}  # fmt: skip


@pytest.mark.parametrize(("step", "names"), [
    (refusal(code="unsupported_parameter", param="top_p", message="No."), ["top_p"]),
    (refusal(code="unsupported_value", param="top_p", message="Only the default."), ["top_p"]),
    (refusal(code="unknown_parameter", param="top_p", message="No."), ["top_p"]),
    (refusal(message="Unrecognized request argument supplied: top_p"), ["top_p"]),
    (refusal(message="Unrecognized request arguments supplied: top_p, seed"), ["seed", "top_p"]),
    (refusal(message="Model m does not support 'top_p'.", param="top_p"), ["top_p"]),
    (refusal(message="property 'top_p' is unsupported"), ["top_p"]),
    (refusal(422, body=EXTRA), ["top_p"]),
    (refusal(message="`seed` and `top_p` are not supported"), ["seed", "top_p"]),
], ids=ids)  # fmt: skip
async def test_a_refused_parameter_is_known_in_many_words(sim, step, names):
    """By the error's `param`, or by the names in its message."""
    sim.script("*", step)
    with pytest.warns(DroppedParameterWarning) as caught:
        body = await sent(provider_at(sim, top_p=0.4, seed=1), sim)
    refused = sorted(set(dropped(caught)))
    assert refused == names == sorted({"top_p", "seed"} - body.keys())


@pytest.mark.parametrize("step", [
    refusal(message="top_p must be at most 3", param="top_p"),
    refusal(code="unsupported_parameter", param="tools", message="No."),
    refusal(code="unsupported_parameter", param="messages[0].name", message="No."),
    refusal(code="unsupported_parameter", param="min_p", message="No."),
    refusal(message="unknown variant `image_url`, expected `text`"),
    refusal(message="The user said: 'stop', and top_p is lovely"),
    refusal(500, code="unsupported_parameter", param="top_p", message="No."),
], ids=ids)  # fmt: skip
async def test_what_is_no_refusal_of_an_optional_parameter_is_raised(sim, recwarn, step):
    """A wrong value, what the request cannot do without, what was not sent: one request."""
    sim.script("*", step)
    asked = request(top_p=0.4, stop=["x"], tools=[{"type": "function", "function": {"name": "f"}}])
    with pytest.raises(openai.APIStatusError):
        await ask(provider_at(sim), asked)
    assert sim.count() == 1
    assert dropped(recwarn.list) == []


NAMED = [{"role": "user", "content": "hello", "name": "ann"}]
EXTRA_NAME = {"detail": [{"type": "extra_forbidden", "loc": ["body", "messages", 0, "user", "name"],
                          "msg": "Extra inputs are not permitted"}]}  # fmt: skip


@pytest.mark.parametrize("step", [
    refusal(code="unknown_parameter", param="messages[0].name", message="No."),
    refusal(message="'messages.0' : for 'role:user' the following must be satisfied[("
            "'messages.0' : property 'name' is unsupported)]"),
    refusal(message="Invalid 'messages[0].name': string does not match pattern."),
    refusal(422, body=EXTRA_NAME),
], ids=ids)  # fmt: skip
async def test_a_refused_name_of_a_message_is_left_out(sim, step):
    """And known from then on; the caller's messages keep theirs."""
    sim.script("*", step)
    provider = provider_at(sim)
    with pytest.warns(DroppedParameterWarning, match="`name` of a message") as caught:
        responses = [await ask(provider, ChatRequest(NAMED)) for _ in range(2)]
    assert [response.fault() for response in responses] == [None, None]
    assert [message.body["messages"][0].get("name") for message in sim.requests] == [
        "ann",
        None,
        None,
    ]
    assert (len(caught), NAMED[0]["name"]) == (1, "ann")


@pytest.mark.parametrize("body", ["", "{}", '{"detail": "Unprocessable Entity"}'])
async def test_a_422_without_words_is_tried_once_without_stream_options(sim, recwarn, body):
    """It is what such servers know least; the target is remembered if that was it."""
    sim.script("*", t.Status(422, body=body))
    provider = provider_at(sim)
    for _ in range(2):
        assert (await ask(provider, request())).fault() is None
    assert ["stream_options" in r.body for r in sim.requests] == [True, False, False]
    assert dropped(recwarn.list) == []


async def test_a_422_without_words_may_be_about_something_else(sim):
    """Then nothing is learned from it."""
    sim.script("*", t.Status(422, body=""), t.Status(422, body=""))
    provider = provider_at(sim)
    with pytest.raises(openai.APIStatusError):
        await ask(provider, request())
    assert (await ask(provider, request())).fault() is None
    assert ["stream_options" in r.body for r in sim.requests] == [True, False, True]


async def test_usage_that_a_server_will_not_count_is_no_loss(sim, recwarn):
    """The user never asked for `stream_options`: there is nothing to warn of."""
    sim.script("*", then=t.UnsupportedParameter("stream_options"))
    provider = provider_at(sim)
    for _ in range(2):
        assert "stream_options" not in await sent(provider, sim)
    assert sim.count() == 3
    assert dropped(recwarn.list) == []


async def test_a_refusal_to_stream_is_a_fault_of_its_own(sim):
    """The engine asks plainly then; to drop `stream` here would hide it."""
    sim.script("*", then=t.NoStreaming())
    provider = provider_at(sim)
    assert (await fault_of(provider)).kind is FaultKind.NO_STREAMING
    assert (await ask(provider, stream=False)).fault() is None


# -- keys and headers -------------------------------------------------------------------------


async def head_of(**fields):
    """The head of a request to a server of one's own, names in lower case."""
    async with listening(PLAIN) as server:
        await ask(create_provider(Target("openai:m", base_url=server.url, **fields)))
    (head,) = server.heads
    lines = [line.partition(": ") for line in head.split("\r\n")[1:] if line]
    return {name.lower(): value for name, _, value in lines}


KEYS = {
    "text": "sk-mine",
    "secret": SecretStr("sk-mine"),
    "newline": " sk-mine\n",
    "mark": "\ufeffsk-mine\r\n",
    "function": lambda: "\ufeffsk-mine",
}


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
async def test_the_targets_key_is_sent(key):
    """Without the newline or byte order mark that it was read with, which no header may hold."""
    assert (await head_of(api_key=key))["authorization"] == "Bearer sk-mine"


STRANGE = {
    "\u2028": "U+2028",
    "\xe9": "U+00E9",
    "\ufeff": "U+FEFF",
    "\n": "U+000A",
    "\x7f": "U+007F",
}


@pytest.mark.parametrize("character", STRANGE, ids=STRANGE.values())
@pytest.mark.parametrize("given", ["variable", "target", "function"])
async def test_a_key_that_no_header_can_hold_is_a_wrong_key(sim, monkeypatch, given, character):
    """Not a wrong request; and no more of it is told than that character."""
    key = f"sk-canary{character}1234567"
    where = {"base_url": sim.base_url("openai")}
    if given == "variable":
        monkeypatch.setenv("OPENAI_API_KEY", key)
        monkeypatch.setenv("OPENAI_BASE_URL", where.pop("base_url"))
    else:
        where["api_key"] = key if given == "target" else lambda: key
    provider = create_provider(Target("openai:m", **where))
    fault = await fault_of(provider)
    assert fault.kind is FaultKind.AUTH
    named = {"variable": "the key in OPENAI_API_KEY", "target": "its api_key", "function": "gave"}
    assert f"{named[given]} holds a character that no key can" in fault.message
    assert STRANGE[character] in fault.message
    assert "canary" not in repr(fault) + repr(fault.cause)
    assert "1234567" not in repr(fault) + repr(fault.cause)
    assert sim.requests == []


async def test_a_list_of_models_is_not_asked_for_with_such_a_key(sim):
    """The command `targets --check` shows what is wrong."""
    where = {"base_url": sim.base_url("openai"), "api_key": "sk-canary\u20281234567"}
    provider = create_provider(Target("openai:m", **where))
    with pytest.raises(Exception, match="its api_key holds a character that no key can"):
        provider.fetch_models()


async def test_the_environments_key_goes_to_openai(public, monkeypatch):
    """The simulator knows keys by a digest only."""
    await ask(create_provider(Target("openai:m", api_key="sk-from-env")))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-from-env")
    await ask(create_provider(Target("openai:m")))
    assert public.requests[0].key == public.requests[1].key


async def test_the_environments_secrets_never_go_to_another_server(monkeypatch):
    """Neither key nor organization, project or headers: they are between the user and OpenAI."""
    secrets = {
        "OPENAI_API_KEY": "sk-from-env",
        "OPENAI_ADMIN_KEY": "admin-from-env",
        "OPENAI_ORG_ID": "org-from-env",
        "OPENAI_PROJECT_ID": "proj-from-env",
        "OPENAI_CUSTOM_HEADERS": "Authorization: Bearer hidden-from-env\nX-Other: from-env",
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    head = await head_of()
    assert head["authorization"] == "Bearer none"
    assert "from-env" not in str(head)


async def test_the_environments_server_gets_the_environments_key(sim, monkeypatch):
    """Whoever set both meant it."""
    async with listening(PLAIN) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1/")
        monkeypatch.setenv("OPENAI_API_KEY", "sk-from-env")
        await ask(create_provider(Target("openai:m")))
    (head,) = server.heads
    assert head.startswith("POST /v1/chat/completions ")
    assert "Bearer sk-from-env" in head


async def test_an_empty_base_url_in_the_environment_is_none(public, monkeypatch):
    """The SDK takes it for an address."""
    monkeypatch.setenv("OPENAI_BASE_URL", "")
    assert (await ask(create_provider(Target("openai:m", api_key="sk-0123456789")))).text


async def test_organization_and_headers_of_the_target_are_sent():
    """They are its own."""
    head = await head_of(organization="org-1", default_headers={"X-Team": "blue"})
    assert (head["openai-organization"], head["x-team"]) == ("org-1", "blue")


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_does_not_carry_the_key_away(sim, monkeypatch, dialect, status, transport):
    """The other server never hears of us."""
    monkeypatch.setenv("LANGCHAIN_RESILIENT_TRANSPORT", transport)
    async with listening(PLAIN) as thief:
        sim.script("*", then=t.Status(status, headers={"location": thief.url}))
        fault = await fault_of(provider_at(sim, f"{dialect}:m"))
    assert fault.status == status
    assert thief.heads == []


def test_a_provider_shows_no_key():
    """Not even to a debugger that prints it."""
    target = Target("openai:m", api_key="sk-0123456789")
    assert "0123456789" not in repr(create_provider(target)) + repr(target)


# -- connections ------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("stream", [True, False])
async def test_a_connection_serves_again_and_again(sim, monkeypatch, dialect, stream, transport):
    """A new one would cost a handshake before the first text."""
    monkeypatch.setenv("LANGCHAIN_RESILIENT_TRANSPORT", transport)
    provider = provider_at(sim, f"{dialect}:m")
    used = set()
    for _ in range(20):
        await ask(provider, stream=stream)
        used |= sim._server.connections
    assert len(used) == 1


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("dialect", DIALECTS)
async def test_to_close_a_stream_early_stops_the_provider(sim, monkeypatch, dialect, transport):
    """Within half a second; nobody pays for what nobody reads."""
    monkeypatch.setenv("LANGCHAIN_RESILIENT_TRANSPORT", transport)
    sim.script("*", then=t.Reply(words=1000, chunk_gap=0.01))
    answer = await provider_at(sim, f"{dialect}:m").open(request(), stream=True)
    for _ in range(3):
        await anext(answer)
    began = time.perf_counter()
    await answer.aclose()
    await sim.await_idle(0.5)
    assert time.perf_counter() - began < 0.5
    assert sim.aborted == 1


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("step", [t.NoAnswer(), t.Stall(after=2), t.KeepAlives(0.01)], ids=ids)
@pytest.mark.parametrize("stream", [True, False])
async def test_to_cancel_an_attempt_stops_the_provider(  # noqa: PLR0917  # a table
    sim, monkeypatch, dialect, step, stream, transport
):
    """Before its head, in the middle of its answer, between keep-alives; no connection is left."""
    monkeypatch.setenv("LANGCHAIN_RESILIENT_TRANSPORT", transport)
    sim.script("*", then=step)
    task = asyncio.create_task(ask(provider_at(sim, f"{dialect}:m"), stream=stream))
    await until(lambda: sim.in_flight)
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await sim.await_idle(0.5, sockets=0)
    assert sim.aborted == 1


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_many_requests_do_not_wait_for_each_other(sim, dialect):
    """Together's own limit of 100 connections would queue a larger batch."""
    sim.script("*", then=t.NoAnswer())
    provider = provider_at(sim, f"{dialect}:m")
    tasks = [asyncio.create_task(ask(provider)) for _ in range(120)]
    await until(lambda: sim.in_flight == 120, 20)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await sim.await_idle(5, sockets=0)
