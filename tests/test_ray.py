"""`map_prompts`: a dataset of Ray, answered by actors; what needs no Ray is tested without it."""

from __future__ import annotations

import builtins
import json
from pathlib import Path

import pytest

from langchain_resilient import MissingExtraError, ResilientChatModel, Shared, SpendCap
from langchain_resilient import ray as ours
from langchain_resilient.testing import ProviderSimulator, answer_to
from verification.kit.scripted_targets import chain, target


@pytest.fixture
def sim():
    with ProviderSimulator() as simulator:
        yield simulator


@pytest.fixture
def llm(sim):
    return chain(sim, "openai:m")


def node(host: str = "a", cpus: float = 2) -> dict:
    return {"Alive": True, "NodeManagerHostname": host, "Resources": {"CPU": cpus}}


def test_without_ray_the_extra_is_named(llm, monkeypatch):
    """As it is installed."""

    def absent(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(ours, "import_module", absent)
    with pytest.raises(MissingExtraError, match=r"pip install 'langchain-resilient\[ray\]'"):
        ours.map_prompts(None, llm)


def test_importing_it_imports_no_ray(monkeypatch):
    """Which takes seconds: a program may import it for later."""
    real = builtins.__import__

    def watched(name, *args, **kwargs):
        assert name.partition(".")[0] not in {"ray", "pyarrow"}
        return real(name, *args, **kwargs)

    source = Path(ours.__file__).read_text()
    monkeypatch.setattr(builtins, "__import__", watched)
    exec(source, {"__name__": "copy"})  # noqa: S102  # our own


@pytest.mark.parametrize(
    ("workers", "lane", "size"),
    [
        (None, None, (2, 2)),
        (3, None, (3, 3)),
        ((1, 4), None, (1, 4)),
        (None, "batch", (1, 1)),
    ],
    ids=["nodes", "number", "range", "lane"],
)
def test_the_pool_has_an_actor_for_each_node(workers, lane, size):
    """That has a processor; the lane has one worker."""
    nodes = [node(), node("b"), node("head", 0)]
    assert ours._pool_size(workers, nodes, lane) == size


@pytest.mark.parametrize(
    ("workers", "lane"), [(0, None), ((3, 2), None), (2, "batch")], ids=["none", "turned", "lane"]
)
def test_another_pool_is_refused(workers, lane):
    """Before anything runs."""
    with pytest.raises(ValueError, match="workers"):
        ours._pool_size(workers, [node()], lane)


def test_a_file_is_the_journal_of_one_machine(llm, tmp_path):
    """Two nodes of one machine are well; several machines are told to share a folder."""
    assert ours._one_machine([node(), node()], "run.db") == "a"
    with pytest.raises(ValueError, match="has 2 machines: give a folder"):
        ours._one_machine([node("a"), node("b")], "run.db")
    with pytest.raises(ValueError, match="is a file on elsewhere"):
        ours.TableAsker({"llm": llm, "journal": str(tmp_path / "run.db")}, "elsewhere")


def test_each_worker_has_its_part_of_the_limits(sim):
    """Of what the user said of all: requests, tokens, what is under way, dollars."""
    limits = {"requests_per_minute": 60, "tokens_per_minute": 900, "max_concurrency": 8}
    first = target(sim, "openai:m", spend_cap=SpendCap(3), price=(1, 1), **limits)
    targets = [first, target(sim, "together:n", price=(1, 1))]
    llm = chain(sim, "openai:m").model_copy(update={"targets": targets, "spend_cap": SpendCap(6)})
    part = ours._share_of(llm.bind(temperature=0), 3).bound
    first, second = part.targets
    assert (first.requests_per_minute, first.tokens_per_minute) == (20, 300)
    assert (first.max_concurrency, first.spend_cap.dollars, part.spend_cap.dollars) == (2, 1, 2)
    assert second == targets[1]
    assert part.invoke("hi").text == answer_to("hi")
    assert ours._share_of(llm, 1) is llm
    plain = chain(sim, "openai:m")
    assert ours._share_of(plain, 3) is plain


def test_a_model_with_a_shared_state_keeps_the_whole_limit(sim):
    """Redis hands out the parts."""
    llm = ResilientChatModel(targets=[target(sim, "openai:m", requests_per_minute=60)])
    llm.__dict__["shared"] = Shared("redis://localhost:1/0")  # so that nobody connects
    assert ours._share_of(llm, 3) is llm


def test_a_table_gets_columns_of_fixed_types(llm):
    """Whatever is in them, an empty one too; what is not asked for is not read."""
    pa = pytest.importorskip("pyarrow", reason="comes with Ray Data")
    asker = ours.TableAsker({"llm": llm})
    table = asker(pa.table({"prompt": ["a", None], "answer": [1, 2]}))
    assert table.column_names == ["prompt", "input_answer", "answer", "error", "usage", "receipt"]
    assert table["answer"].to_pylist() == [answer_to("a"), None]
    empty = asker(pa.table({"prompt": pa.array([], pa.string())}))
    assert empty.schema.types[1:] == table.schema.types[2:]
    with pytest.raises(ValueError, match="no column 'prompt'; they have text"):
        asker(pa.table({"text": ["a"]}))


@pytest.mark.timeout(400)
def test_a_dataset_is_answered_and_resumed(llm, sim, tmp_path, monkeypatch):
    """By real actors: rows come back once, and a second run sends nothing."""
    ray = pytest.importorskip("ray", reason="pip install 'langchain-resilient[ray]'")
    pytest.importorskip("ray.data", reason="pip install 'langchain-resilient[ray]'")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        rows = [{"n": n, "prompt": f"q{n}"} for n in range(40)]
        ds = ray.data.from_items(rows)
        with pytest.raises(ValueError, match="no column 'question'"):
            ours.map_prompts(ds, llm, "question")
        with pytest.raises(TypeError, match=r"must be a ray.data.Dataset, not list"):
            ours.map_prompts(rows, llm)
        for _ in range(2):
            answered = ours.map_prompts(ds, llm, id="n", journal=tmp_path / "run", workers=2)
            taken = sorted(answered.take_all(), key=lambda row: row["n"])
            assert [row["answer"] for row in taken] == [answer_to(f"q{n}") for n in range(40)]
            assert json.loads(taken[0]["receipt"])["winner"] == "openai:m"
            assert taken[0]["error"] is None
        assert sim.count() == 40
    finally:
        ray.shutdown()
