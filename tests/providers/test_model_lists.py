"""Models that are gone, who follows them, what providers list, and what is kept of it."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from langchain_resilient import ResilientChatModel, RetirementWarning, Target
from langchain_resilient.options import default_chain
from langchain_resilient.prices import price_for
from langchain_resilient.providers import create_provider, families, model_lists
from langchain_resilient.providers.model_lists import (
    DAY,
    ListedModel,
    ModelDirectory,
    directory_for,
    parse_list,
)
from langchain_resilient.testing import ProviderSimulator, Reply, Status
from tests.providers.asking import ask, fault_of, provider_at

KEYS = {"OPENAI_API_KEY": "sk-1", "TOGETHER_API_KEY": "t-1"}


def asked(sim):
    """The targets in the order in which they were asked."""
    return [f"{record.dialect}:{record.model}" for record in sim.requests]


@pytest.fixture
def vendors(monkeypatch):
    """A simulator in the place of both vendors."""
    with ProviderSimulator() as simulator:
        for name, key in KEYS.items():
            monkeypatch.setenv(name, key)
        monkeypatch.setenv("OPENAI_BASE_URL", simulator.base_url("openai"))
        monkeypatch.setenv("TOGETHER_BASE_URL", simulator.base_url("together"))
        yield simulator


def wait_until(condition):
    """Let the background thread do its work."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


# -- who follows -----------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("dialect", ["openai", "together"])
async def test_the_next_id_is_asked_at_once_and_remembered(sim, dialect, stream):
    """In the same attempt; the second request goes straight to who lives."""
    sim.retire(f"{dialect}:a", f"{dialect}:b")
    provider = provider_at(sim, f"{dialect}:a", successors=["b", "c"])
    assert (await ask(provider, stream=stream)).model == "c"
    assert asked(sim) == [f"{dialect}:{name}" for name in "abc"]
    await ask(provider, stream=stream)
    # Another model of the same process knows it too.
    await ask(provider_at(sim, f"{dialect}:a", successors=["b", "c"]), stream=stream)
    assert asked(sim)[3:] == [f"{dialect}:c"] * 2


async def test_requests_at_one_time_take_the_step_once(sim):
    """Ten that learn of one end go to one successor, and not through the whole family."""
    sim.retire("openai:a")
    provider = provider_at(sim, "openai:a", successors=["b", "c"])
    answers = await asyncio.gather(*(ask(provider) for _ in range(10)))
    assert {answer.model for answer in answers} == {"b"}


async def test_without_successors_a_404_is_a_404(sim):
    """Nobody's choice of a model is changed unasked."""
    sim.retire("openai:a")
    assert (await fault_of(provider_at(sim, "openai:a"))).kind == "not_found"
    assert asked(sim) == ["openai:a"]


async def test_a_family_that_is_gone_is_a_404_and_begins_anew(sim):
    """Whatever it was may pass."""
    sim.retire("openai:*")
    provider = provider_at(sim, "openai:a", successors=["b"])
    assert (await fault_of(provider)).kind == "not_found"
    sim.reset()
    fresh = provider_at(sim, "openai:a", successors=["b"])
    assert (await ask(fresh)).model == "a"


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (404, "The model `gpt-3.5-turbo` does not exist or you do not have access to it."),
        (410, "Gone."),
        (400, "The model `gpt-3.5-turbo` has been retired. Use gpt-6-luna."),
        (400, "Model gpt-3.5-turbo is no longer available."),
        (400, "The model gpt-3.5-turbo has been deprecated, learn more at example.com."),
        (400, "This model was discontinued."),
    ],
)
async def test_however_it_is_said(sim, status, message):
    """A dot inside an id ends no sentence."""
    sim.script("openai:a", then=Status(status, message=message))
    assert (await ask(provider_at(sim, "openai:a", successors=["b"]))).model == "b"


@pytest.mark.parametrize(
    "message",
    [
        "This model does not take images.",
        "The parameter 'functions' has been deprecated.",
        "temperature is not supported with this model",
    ],
)
async def test_what_a_living_model_refuses_is_no_end(sim, message):
    """Else one odd request would move everyone to another model."""
    sim.script("openai:a", then=Status(400, message=message))
    await fault_of(provider_at(sim, "openai:a", successors=["b"]))
    assert set(asked(sim)) == {"openai:a"}


async def test_what_is_gone_is_asked_again_after_a_day(sim, monkeypatch):
    """A model may come back."""
    sim.retire("openai:a")
    await ask(provider_at(sim, "openai:a", successors=["b"]))
    sim.reset()
    day = time.time() + DAY + 1
    monkeypatch.setattr(model_lists.time, "time", lambda: day)
    assert (await ask(provider_at(sim, "openai:a", successors=["b"]))).model == "a"


async def test_the_price_is_that_of_who_is_asked(sim):
    """Spend caps count what is paid."""
    sim.retire("openai:gpt-6-sol")
    target = Target(
        "openai:gpt-6-sol", successors=["gpt-6-luna"], base_url=sim.base_url("openai"), api_key="k"
    )
    before = price_for(target)
    await ask(create_provider(target))
    assert price_for(target).output == price_for(Target("openai:gpt-6-luna")).output
    assert before.output > price_for(target).output


# -- any model of the list -------------------------------------------------------------------------


async def test_the_list_spares_the_ids_that_it_lacks(sim):
    """It is asked for beside the second id: a family of ten costs some requests, not eleven.

    How many depends on how fast the list is.
    """
    names = [f"m{number}" for number in range(10)]
    sim.retire(*(f"openai:{name}" for name in names))
    sim.list_models("openai:gpt-9")
    provider = provider_at(sim, "openai:m0", successors=[*names[1:], "*"])
    assert (await ask(provider)).model == "gpt-9"
    assert len(asked(sim)) <= 6


async def test_where_all_named_are_gone_the_newest_listed_one_is_asked(sim):
    """Not one for pictures, nor one that is over."""
    sim.retire("openai:a", "openai:b")
    sim.list_models("openai:gpt-9", "openai:gpt-9-image", "openai:zz-audio")
    sim.list_models("openai:gpt-99", shutdown_date="2020-01-01")
    provider = provider_at(sim, "openai:a", successors=["b", "*"])
    assert (await ask(provider)).model == "gpt-9"
    assert asked(sim) == ["openai:a", "openai:b", "openai:gpt-9"]


async def test_a_list_that_cannot_be_had_changes_nothing(sim, monkeypatch):
    """The error is the model's."""

    async def refused(*_):
        msg = "no network"
        raise OSError(msg)

    sim.retire("openai:*")
    provider = provider_at(sim, "openai:a", successors=["*"])
    monkeypatch.setattr("langchain_resilient.providers.sdk.fetch_list_async", refused)
    assert (await fault_of(provider)).kind == "not_found"


# -- the default chain -----------------------------------------------------------------------------

PLACES = [(t.provider, (t.model, *t.successors[:-1])) for t in default_chain()]


async def timed(llm):
    """Seconds of a call, by the clock and of the processor, and its answer."""
    start = time.perf_counter(), time.process_time()
    answer = await llm.ainvoke("hello")
    return (time.perf_counter() - start[0], time.process_time() - start[1]), answer


@pytest.mark.parametrize("survivor", range(4))
async def test_three_of_four_places_dead_cost_20_ms(vendors, survivor):
    """Of the first call, when nobody knows yet; the best of ten, the simulator's time included.

    That is where a call by itself takes two milliseconds of CPU; in proportion on a slower machine.
    """
    for place, (provider, ids) in enumerate(PLACES):
        if place != survivor:
            vendors.retire(*(f"{provider}:{name}" for name in ids))
    alone = ResilientChatModel(targets=[default_chain()[survivor]], share_learning=False)
    for _ in range(2):  # imports and connections are nobody's time
        await alone.ainvoke("hello")
    excess, single = [], []
    for _ in range(10):
        own, _ = await timed(alone)
        single.append(own[1])
        model_lists.forget()
        families.forget()
        whole, answer = await timed(ResilientChatModel(share_learning=False))
        excess.append([ours - theirs for ours, theirs in zip(whole, own, strict=True)])
        assert answer.response_metadata["model_name"] in PLACES[survivor][1]
    on_the_clock, on_the_processor = map(min, zip(*excess, strict=True))
    assert on_the_processor <= max(0.02, 10 * min(single))
    assert on_the_clock <= 0.2  # nothing sleeps: on an idle machine it is the other figure


@pytest.mark.parametrize("only", ["OPENAI_API_KEY", "TOGETHER_API_KEY"])
@pytest.mark.filterwarnings("ignore::langchain_resilient.SkippedTargetWarning")
async def test_zero_configuration_answers_while_one_model_lives(vendors, monkeypatch, only):
    """With one key, and with a model that nobody knew of when this was written."""
    for name in KEYS.keys() - {only}:
        monkeypatch.delenv(name)
    provider = only.partition("_")[0].lower()
    vendors.retire(*(f"{p}:{name}" for p, ids in PLACES for name in ids))
    vendors.list_models(f"{provider}:gpt-99-nova")
    answer = await ResilientChatModel().ainvoke("hello")
    assert answer.response_metadata["model_name"] == "gpt-99-nova"


# -- lists -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "models"),
    [
        ({"data": [{"id": "m", "created": 3}]}, [ListedModel("m", 3.0)]),
        ([{"id": "m", "type": "chat"}], [ListedModel("m", kind="chat")]),
        ({"data": [{"id": "m", "shutdown_date": None}]}, [ListedModel("m")]),
        (
            {"data": [{"id": "m", "shutdown_date": "2027-01-14"}]},
            [ListedModel("m", end=model_lists.Retirement("2027-01-14"))],
        ),
        (
            {"data": [{"id": "m", "deprecation": "2027-01-14T12:00:00Z",
                       "deprecation_replacement_model": "n"}]},
            [ListedModel("m", end=model_lists.Retirement("2027-01-14", "n"))],
        ),
        ({"data": [{"id": "m", "active": False}, {"id": 7}, "x", {"id": "n"}]}, [ListedModel("n")]),
        ({"data": [{"id": "models/gemini-9"}]}, [ListedModel("gemini-9")]),
        ({"data": [{"id": "m", "shutdown_date": "soon", "created": "x", "type": 3}]},
         [ListedModel("m")]),
    ],
)  # fmt: skip
def test_every_makers_list_is_read(body, models):
    """OpenAI's, Together's bare one, Mistral's and Groq's fields, and nonsense."""
    assert parse_list(body) == models


@pytest.mark.parametrize("body", [{"data": {}}, {}, "x", None, 3])
def test_what_is_no_list_is_an_error(body):
    """And changes nothing."""
    with pytest.raises(ValueError, match="no list of models"):
        parse_list(body)


def test_the_list_is_asked_for_beside_the_first_answer_and_once_a_day(vendors, monkeypatch):
    """Never before it; a second model of the process does not ask again."""
    monkeypatch.setenv("LANGCHAIN_RESILIENT_MODEL_LISTS", "")
    fetched = []
    fetch = model_lists.fetch_list

    def counted(*args):
        fetched.append(asked(vendors))
        return fetch(*args)

    monkeypatch.setattr("langchain_resilient.providers.sdk.fetch_list", counted)
    vendors.list_models("openai:m", shutdown_date="2099-01-14")
    for _ in range(3):
        with ResilientChatModel(targets=["openai:m"]) as llm:
            llm.invoke("hello")
    directory = directory_for(vendors.base_url("openai") + "/models", "sk-1")
    wait_until(lambda: directory.listed)
    assert [before[:1] for before in fetched] == [["openai:m"]]
    assert directory.listed["m"].end.date == "2099-01-14"


def test_it_can_be_switched_off(vendors, monkeypatch):
    """For networks that count requests."""
    monkeypatch.setenv("LANGCHAIN_RESILIENT_MODEL_LISTS", "off")
    monkeypatch.setattr("langchain_resilient.providers.sdk.fetch_list", pytest.fail)
    ResilientChatModel(targets=["openai:m"]).invoke("hello")


def test_other_peoples_servers_are_not_asked(sim_target, monkeypatch):
    """Only the vendor's own has models that end by a date."""
    monkeypatch.setenv("LANGCHAIN_RESILIENT_MODEL_LISTS", "")
    monkeypatch.setattr(model_lists, "refresh_in_background", pytest.fail)
    monkeypatch.setattr("langchain_resilient.providers.sdk.refresh_in_background", pytest.fail)
    ResilientChatModel(targets=[sim_target]).invoke("hello")


@pytest.fixture
def sim_target():
    """A target with a base URL of its own."""
    with ProviderSimulator() as simulator:
        yield Target("openai:m", base_url=simulator.base_url("openai"), api_key="k")


# -- on disk ---------------------------------------------------------------------------------------


def test_what_was_learned_outlives_the_process(tmp_path):
    """List, date and the models that are gone; no key."""
    path = tmp_path / "models" / "x.json"
    first = ModelDirectory(path)
    first.record_list([ListedModel("m", 3.0, "chat", model_lists.Retirement("2099-01-14", "n"))])
    first.gone["old"] = time.time()
    first.save()
    second = ModelDirectory(path)
    second.load()
    assert second.listed == first.listed
    assert second.is_gone("old")
    assert not second.is_due()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"models": 3}', '{"models": {"m": 1}, "gone": {}, "asked": 0}']
)
def test_a_damaged_file_is_no_file(tmp_path, text):
    """It is written anew."""
    path = tmp_path / "x.json"
    path.write_text(text)
    directory = ModelDirectory(path)
    directory.load()
    assert directory.listed == {}
    directory.record_list([ListedModel("m")])
    assert json.loads(path.read_text())["models"].keys() == {"m"}


def test_a_folder_that_cannot_be_written_is_no_reason_to_fail(tmp_path):
    """A read-only home."""
    (tmp_path / "file").write_text("")
    ModelDirectory(tmp_path / "file" / "x.json").record_list([ListedModel("m")])


def test_a_files_name_tells_no_key(monkeypatch, tmp_path):
    """Two accounts have two files."""
    monkeypatch.undo()
    monkeypatch.setenv("LANGCHAIN_RESILIENT_CACHE", str(tmp_path))
    paths = {str(model_lists._path("https://x/models", key)) for key in ("sk-canary", "k2", None)}
    assert len(paths) == 3
    assert all(str(tmp_path) in path and "canary" not in path for path in paths)


# -- warnings --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("openai:gpt-4", "gpt-4 was shut down on 2026-10-23; use gpt-6.1-sol instead"),
        ("openai:gpt-5.1", "gpt-5.1 will be shut down on 2027-04-01; use gpt-6.1-sol instead"),
    ],
)
def test_a_known_end_is_warned_of_with_date_and_successor(spec, words, monkeypatch):
    """Once per process."""
    monkeypatch.setattr(families, "today", lambda: "2026-11-29")
    with pytest.warns(RetirementWarning, match=words):
        ResilientChatModel(targets=[spec], api_key="k")
    ResilientChatModel(targets=[spec], api_key="k")


def test_another_servers_model_of_that_name_has_no_end(recwarn):
    """What OpenAI shuts down, vLLM may serve."""
    ResilientChatModel(targets=[Target("openai:gpt-4", base_url="http://localhost:1", api_key="k")])
    assert not [w for w in recwarn if w.category is RetirementWarning]


def test_a_listed_end_is_warned_of_and_the_family_goes_on(vendors):
    """Where a successor is named it is asked from then on."""
    vendors.list_models("openai:m", "openai:n", shutdown_date="2099-01-14")
    target = Target("openai:m", successors=["n"])
    provider = create_provider(target)
    with pytest.warns(RetirementWarning, match="m will be .* 2099-01-14; n is asked from then"):
        provider.refresh_models()


def test_what_is_over_by_the_list_is_not_asked(vendors):
    """No request is wasted on it."""
    vendors.list_models("openai:m", shutdown_date="2020-01-14")
    vendors.list_models("openai:n")
    provider = create_provider(Target("openai:m", successors=["n"]))
    provider.refresh_models()
    assert provider.family.model == "n"
    vendors.script("openai:n", then=Reply("yes"))
    assert asyncio.run(ask(provider)).text == "yes"
    assert asked(vendors) == ["openai:n"]
