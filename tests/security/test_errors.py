"""Servers say keys back, in every part of their answers: no error, receipt or report shows them."""

from __future__ import annotations

import asyncio
import copy
import inspect
import io
import json
import pickle
import traceback
from typing import TYPE_CHECKING, Any

import openai
import pytest
from langchain_openai import ChatOpenAI
from rich.console import Console
from rich.traceback import Traceback

from langchain_resilient import ResilientChatModel, ResilientError, Target, TimeLimits
from langchain_resilient.runtime.shared_state import loop_reaper
from tests.security.canary import Echo, echoes, leaks, new_key

if TYPE_CHECKING:
    from collections.abc import Iterator

    from langchain_resilient.testing import ProviderSimulator

KEY = new_key()
ECHOES = echoes(KEY)
DIALECTS = ("openai", "together")
OTHERS = ("openai", "together", "httpx", "httpx2", "httpcore", "httpcore2", "aiohttp")
"""Loggers that are not ours."""


def model(sim: ProviderSimulator, dialect: str, **fields: Any) -> ResilientChatModel:
    target = Target(f"{dialect}:m", base_url=sim.base_url(dialect), api_key=KEY, **fields)
    limits = TimeLimits(first_text=2.0, chunk_gap=2.0)
    return ResilientChatModel(targets=[target], max_retries=0, timeout=5.0, time_limits=limits)


async def _failures(llm: ResilientChatModel) -> list[ResilientError]:
    """Ask whole and streamed; the frames that are left must hold no key of ours."""
    results = []
    for way in (llm.ainvoke, _streamed(llm)):
        try:
            await way("hello")
        except ResilientError as error:
            results.append(error)
    await loop_reaper().drain()
    return results


def _streamed(llm: ResilientChatModel) -> Any:
    async def ask(prompt: str) -> None:
        async for _ in llm.astream(prompt):
            pass

    return ask


def failures(llm: ResilientChatModel) -> list[ResilientError]:
    outcome = asyncio.run(_failures(llm))
    assert len(outcome) == 2
    return outcome


def family(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and all that it was raised from."""
    seen: set[int] = set()
    left = [error, *getattr(error, "causes", ())]
    while left:
        one = left.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            yield one
            left += [one.__cause__, one.__context__]


def reports(error: ResilientError) -> Iterator[object]:
    """All that is written when a program dies of an error, with local variables."""
    yield "".join(traceback.format_exception(error))
    with_locals = traceback.TracebackException.from_exception(error, capture_locals=True)
    yield "".join(with_locals.format())
    for one in family(error):
        yield from (repr(one), str(one), repr(vars(one)), f"{one!s:>10}")
        yield from _frames(one)


def _frames(error: BaseException) -> Iterator[object]:
    """What a reporter such as Sentry's walks through: the locals, and their attributes."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        yield repr(frame.f_locals)
        for value in frame.f_locals.values():
            own = inspect.getattr_static(value, "__dict__", None)
            if not isinstance(value, ResilientError) and isinstance(own, dict):
                yield repr(getattr(value, "__dict__", None))


@pytest.mark.parametrize("transport", ["aiohttp", "httpx"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_no_error_repeats_a_key(sim, monkeypatch, dialect, transport):
    """Its text, repr, receipt and pickle; the SDK's error behind it; and reports with locals."""
    monkeypatch.setenv("LANGCHAIN_RESILIENT_TRANSPORT", transport)
    fields = {}
    for name, step in ECHOES.items():
        sim.script("*", then=step)
        for error in failures(model(sim, dialect)):
            receipt = error.receipt
            left = [*reports(error), receipt, json.dumps(receipt.as_dict()), str(receipt)]
            left += [pickle.dumps(error), pickle.dumps(error.causes), repr(copy.copy(error))]
            if seen := leaks(KEY, *left):
                fields[name] = seen
    assert fields == {}


def test_a_report_by_rich_shows_no_key(sim):
    """With local variables, as `rich.traceback.install(show_locals=True)` writes it."""
    sim.script("*", then=Echo(KEY, "error", 401))
    error = failures(model(sim, "openai"))[0]
    screen = io.StringIO()
    fault = Traceback.from_exception(type(error), error, error.__traceback__, show_locals=True)
    Console(file=screen, width=200).print(fault)
    assert "Incorrect API key" in screen.getvalue()
    assert leaks(KEY, screen.getvalue()) == []


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_sdks_error_still_tells_what_the_server_said(sim, dialect):
    """Only the key is gone from its request and its response."""
    sim.script("*", then=Echo(KEY, "error", 401))
    (cause,) = failures(model(sim, dialect))[0].causes
    assert cause.response.status_code == 401
    assert "Incorrect API key provided: [key]" in cause.response.json()["error"]["message"]
    assert cause.response.request.headers["authorization"] == "Bearer [key]"


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_key_in_a_default_header_is_a_key(sim, dialect):
    """Said back with its scheme or without it."""
    headers = {"Authorization": f"Custom {KEY}", "api-key": KEY}
    target = Target(f"{dialect}:m", base_url=sim.base_url(dialect), default_headers=headers)
    llm = ResilientChatModel(targets=[target], max_retries=0, timeout=5.0)
    sim.script("*", then=Echo(KEY, "error", 401))
    left = [one for error in failures(llm) for one in (*reports(error), error.receipt)]
    left += [repr(llm), repr(llm.model_dump()), llm.model_dump_json()]
    assert leaks(KEY, *left) == []


def test_one_of_several_keys_is_a_key(sim):
    """Each is asked in turn, and each is said back."""
    keys = [KEY, new_key("two-")]
    target = Target("openai:m", base_url=sim.base_url("openai"), api_key=keys)
    llm = ResilientChatModel(targets=[target], max_retries=1, timeout=5.0)
    sim.script("*", Echo(keys[1], "error", 401), then=Echo(keys[0], "error", 401))
    error = asyncio.run(_failures(llm))[0]
    left = [*reports(error), repr(error.receipt)]
    assert len(error.causes) == 2
    assert [leaks(key, *left) for key in keys] == [[], []]


async def test_a_langchain_models_own_key_is_a_key(sim):
    """A `ChatOpenAI` as a target holds its key itself."""
    fields = {}
    # It never closes its own client: the collector would, in the middle of another test.
    async with openai.DefaultAsyncHttpxClient() as client:
        inner = ChatOpenAI(
            model="m", api_key=KEY, base_url=sim.base_url("openai"), max_retries=0,
            http_async_client=client,
        )  # fmt: skip
        llm = ResilientChatModel(targets=[inner], max_retries=0, timeout=5.0)
        for name in ("error 401", "html 500", "header 401", "cut", "error object"):
            sim.script("*", then=ECHOES[name])
            errors = await _failures(llm)
            assert len(errors) == 2
            for error in errors:
                if seen := leaks(KEY, *reports(error), repr(error.receipt), pickle.dumps(error)):
                    fields[name] = seen
    assert fields == {}


@pytest.mark.parametrize("transport", ["aiohttp", "httpx"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_our_log_repeats_no_key(sim, monkeypatch, caplog, dialect, transport):
    """Whatever a server says back."""
    monkeypatch.setenv("LANGCHAIN_RESILIENT_TRANSPORT", transport)
    caplog.set_level("DEBUG")
    for step in ECHOES.values():
        sim.script("*", then=step)
        failures(model(sim, dialect))
    ours = [r for r in caplog.records if r.name.partition(".")[0] not in OTHERS]
    assert any(r.name == "langchain_resilient" for r in ours)
    assert leaks(KEY, *(r.getMessage() + repr(r.exc_info) for r in ours)) == []


@pytest.mark.parametrize("transport", ["aiohttp", "httpx"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_no_logger_shows_what_is_sent(sim, monkeypatch, logged, dialect, transport):
    """The SDKs' and transports' loggers at DEBUG show a key only if a server's head holds it."""
    monkeypatch.setenv("LANGCHAIN_RESILIENT_TRANSPORT", transport)
    for name, step in ECHOES.items():
        if name.partition(" ")[0] in ("error", "html", "text", "escapes", "page", "broken"):
            sim.script("*", then=step)
            failures(model(sim, dialect, default_headers={"api-key": KEY}))
    assert "HTTP Re" in logged.getvalue()
    assert leaks(KEY, logged.getvalue()) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"apikey": KEY},
        {"api_key": [KEY, 3]},
        {"api_key": (KEY, KEY)},
        {"temperature": KEY},
        {"base_url": f"ftp://{KEY}@host"},
        {"base_url": f"https://user:{KEY}@host/v1"},
        {"base_url": f"https://host/v1?key={KEY}"},
        {"default_headers": {"Authorization": [KEY]}},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_wrong_setting_is_refused_without_repeating_it(wrong):
    """It may be a key in the wrong place."""
    with pytest.raises(ValueError, match="validation error") as raised:
        Target("openai:m", **wrong)
    assert leaks(KEY, str(raised.value), repr(raised.value)) == []
