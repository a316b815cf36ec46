"""Nothing that is kept, dumped, traced or shown holds a key."""

from __future__ import annotations

import asyncio
import base64
import copy
import gzip
import json
import pickle
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import langchain_core.load
import pytest
import vcr
from langchain_core.caches import InMemoryCache
from langchain_core.globals import set_debug, set_llm_cache, set_verbose
from langchain_core.tracers import BaseTracer
from pydantic import BaseModel

from langchain_resilient import ResilientChatModel, ResilientError, Target
from langchain_resilient.runtime.shared_state import loop_reaper, reset
from langchain_resilient.testing import Cut, InvalidKey, NoAnswer, Reply, Reset, Status
from tests.security.canary import Echo, leaks, new_key
from verification.cassettes.store import Store

if TYPE_CHECKING:
    from langchain_resilient.testing import ProviderSimulator

KEY = new_key()
FAULTS = (InvalidKey(), Status(403), Status(429), Status(500), Cut(after=2), Reset(), NoAnswer(),
          Echo(KEY, "error", 401), Echo(KEY, "header", 500))  # fmt: skip


def model(sim: ProviderSimulator, **fields: Any) -> ResilientChatModel:
    """The first target misbehaves, the second answers; both have the key in every place."""
    headers = {"api-key": KEY}
    chain = [
        Target(f"{d}:{m}", base_url=sim.base_url(d), api_key=KEY, default_headers=headers)
        for d, m in (("openai", "bad"), ("together", "good"))
    ]
    return ResilientChatModel(targets=chain, **{"hedge": 0.2, "timeout": 10.0, **fields})


class Tree(BaseTracer):
    """Keeps every run as the JSON that LangSmith would be sent."""

    def __init__(self) -> None:
        super().__init__(_schema_format="original+chat")
        self.told: list[str] = []

    def _persist_run(self, run: Any) -> None:
        try:
            whole = run.model_dump_json(serialize_as_any=True, fallback=repr)
        except ValueError:  # pydantic 2.11 takes one that stands there twice for a circle
            whole = repr(vars(run))
        self.told.append(repr(run) + whole)


class Answer(BaseModel):
    """What a structured answer must fit."""

    word: str


def test_traces_events_and_logs_hold_no_key(sim, logged, capsys):
    """Under every fault: invoke, stream, events, structured output; debug and verbose on."""
    tracer, seen, llm = Tree(), [], model(sim)
    config = {"callbacks": [tracer]}

    async def ask() -> None:
        seen.append(repr(await llm.ainvoke("hello", config)))
        seen.extend([repr(chunk) async for chunk in llm.astream("hello", config)])
        seen.extend([repr(one) async for one in llm.astream_events("hello", config)])
        structured = llm.with_structured_output(Answer)
        try:
            seen.append(repr(await structured.ainvoke("hello", config)))
        except ResilientError as error:
            seen.append(repr(error) + repr(error.receipt))
        await loop_reaper().drain()

    set_debug(value=True)
    set_verbose(value=True)
    try:
        for step in FAULTS:
            sim.script("openai:bad", then=step)
            asyncio.run(ask())
    finally:
        set_debug(value=False)
        set_verbose(value=False)
    ours = [line for line in logged.getvalue().splitlines() if "x-echo" not in line.lower()]
    lines = [line for line in ours if "request_id" not in line.lower()]
    stats = llm.stats()
    left = [*tracer.told, *seen, *lines, *capsys.readouterr(), repr(stats), str(stats)]
    left += [stats._repr_html_(), repr(llm)]
    assert tracer.told
    assert leaks(KEY, *left) == []


def test_opentelemetry_holds_no_key(sim):
    """Spans of calls and of attempts, with their events and attributes."""
    export = pytest.importorskip("opentelemetry.sdk.trace.export")
    memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    sdk = pytest.importorskip("opentelemetry.sdk.trace")
    from langchain_resilient.observability.otel import OTel

    kept, provider = memory.InMemorySpanExporter(), sdk.TracerProvider()
    provider.add_span_processor(export.SimpleSpanProcessor(kept))
    llm = model(sim, observers=[OTel(provider)])
    for step in FAULTS:
        sim.script("openai:bad", then=step)
        llm.invoke("hello")
    spans = [span.to_json() for span in kept.get_finished_spans()]
    assert len(spans) >= len(FAULTS)
    assert leaks(KEY, *spans) == []


def test_dumps_hold_no_key(sim):
    """Of a model and of its targets, by pydantic and by LangChain."""
    llm = model(sim)
    both = [llm, *llm.targets, copy.deepcopy(llm), llm.bind(stop=["x"])]
    left = [f"{one!r}{one!s}{one}" for one in both]
    left += [repr(one.model_dump()) + one.model_dump_json() for one in (llm, *llm.targets)]
    left += [langchain_core.load.dumps(llm), repr(langchain_core.load.dumpd(llm))]
    left += [repr(llm._identifying_params), llm._get_llm_string(), repr(llm._get_ls_params())]
    left += [repr([target.identity() for target in llm.targets])]
    assert leaks(KEY, *left) == []


def test_langchains_cache_holds_no_key(sim):
    """Neither in what it is asked for nor in what it keeps."""
    cache = InMemoryCache()
    set_llm_cache(cache)
    try:
        model(sim).invoke("hello")
    finally:
        set_llm_cache(None)
    assert len(cache._cache) == 1
    assert leaks(KEY, repr(cache._cache)) == []


def test_journals_and_reports_hold_no_key(sim, tmp_path):
    """All bytes of the database, its log and its index, while it is open and afterwards."""
    llm, path, results = model(sim, max_retries=0), tmp_path / "run.db", []
    prompts = [str(number) for number in range(20)]
    files: list[bytes] = []
    sim.script("openai:bad", *FAULTS, then=Reply("fine"))
    sim.script("together:good", *FAULTS, then=Reply("fine"))
    for number, _ in enumerate(
        llm.batch_as_completed(prompts, journal=path, return_exceptions=True, report=results.append)
    ):
        if number % 5 == 0:
            files += [one.read_bytes() for one in tmp_path.iterdir()]
    files += [one.read_bytes() for one in tmp_path.iterdir()]
    with closing(sqlite3.connect(path)) as db:
        rows = db.execute("SELECT * FROM items").fetchall()
    assert len(rows) == 20
    assert leaks(KEY, *files, repr(rows), repr(results), *map(str, results)) == []


@pytest.mark.parametrize("dialect", ["openai", "together"])
async def test_cassettes_hold_no_key(sim, monkeypatch, tmp_path, dialect):
    """Recorded by the repository's own recorder, of a server that says the key back."""
    monkeypatch.setenv("LANGCHAIN_RESILIENT_TRANSPORT", "httpx")
    sim.script("*", Echo(KEY, "error", 401), Echo(KEY, "header", 500), then=Reply(f"No {KEY}."))
    recorder = vcr.VCR()
    recorder.register_persister(Store)
    target = Target(f"{dialect}:m", base_url=sim.base_url(dialect), api_key=KEY)
    llm = ResilientChatModel(targets=[target], max_retries=0, timeout=5.0)
    path = tmp_path / "one.json.gz"
    with recorder.use_cassette(str(path), record_mode="all"):
        for _ in range(2):
            with pytest.raises(ResilientError):
                await llm.ainvoke("hello")
            reset(0)
    assert path.exists()
    assert leaks(KEY, gzip.decompress(path.read_bytes())) == []


def test_a_pickled_model_holds_the_keys_it_was_given_and_no_others(sim, monkeypatch):
    """A worker could not ask without them; a key of the environment is read anew where it is."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    llm = ResilientChatModel(targets=["openai:m"])
    llm.stats()  # with its runtime
    assert leaks(KEY, pickle.dumps(llm)) == []
    given = pickle.loads(pickle.dumps(model(sim)))  # noqa: S301  # our own
    assert given.targets[0].api_key.get_secret_value() == KEY


def test_the_search_finds_what_it_looks_for():
    """In each of the forms that it claims to know."""
    wrapped = base64.b64encode(f"Bearer {KEY} and more".encode()).decode()
    assert leaks(KEY, f"x{KEY}y") == ["plain"]
    assert len(leaks(KEY, wrapped)) == 1
    assert leaks(KEY, json.dumps({"k": KEY}).replace("/", r"\/")) == ["JSON with an escaped slash"]
    assert leaks(KEY, "nothing") == []
