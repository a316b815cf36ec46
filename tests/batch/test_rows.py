"""Rows become prompts, answers become columns; whoever asks again asks for what is missing only."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate, PromptTemplate
from langchain_core.runnables import RunnableLambda
from pydantic import BaseModel

from langchain_resilient import JournalError
from langchain_resilient.batch.row_asker import RowAsker, RowJournal, journal_path
from langchain_resilient.batch.rows import (
    RowPrompts,
    columns_of,
    free_names,
    parts_of,
    with_model,
)
from langchain_resilient.testing import ProviderSimulator, Reply, Status, answer_to
from verification.kit.scripted_targets import chain


@pytest.fixture
def sim():
    with ProviderSimulator() as simulator:
        yield simulator


@pytest.fixture
def llm(sim):
    return chain(sim, "openai:m", max_retries=0)


@pytest.fixture
def asking():
    """Makes askers, and closes them."""
    askers = []

    def make(*args, **kwargs):
        askers.append(RowAsker(*args, **kwargs))
        return askers[-1]

    yield make
    for asker in askers:
        asker.close()


def prompts_of(sim):
    return sorted(request.body["messages"][-1]["content"] for request in sim.requests)


# -- rows to prompts ------------------------------------------------------------------------------

TALK = [
    {"role": "system", "content": "Be brief.", "name": None, "tool_calls": None},
    {"role": "user", "content": "Hi", "name": None, "tool_calls": None},
]
SAID = [SystemMessage("Be brief."), HumanMessage("Hi")]
ROW = {"prompt": "Hi", "talk": TALK, "json": json.dumps(TALK[1:]), "text": "sun", "to": "French",
       "how": "Say {text} in {to}", "n": 7, "none": None}  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "prompt"),
    [
        ({}, "Hi"),
        ({"prompt": "talk"}, SAID),
        ({"messages": "talk"}, SAID),
        ({"messages": "json"}, SAID[1:]),
        ({"template": "Say {text} in {to}"}, "Human: Say sun in French"),
        ({"template": "{n} {{times}}"}, "Human: 7 {times}"),
        ({"template": "how"}, "Human: Say sun in French"),
        ({"template": PromptTemplate.from_template("Say {text}")}, "Say sun"),
    ],
    ids=["text", "list", "messages", "json", "template", "braces", "column", "object"],
)
def test_a_row_is_a_prompt(fields, prompt):
    """A text, messages, or a template that its columns fill."""
    made = RowPrompts(**fields).prompt_of(ROW)
    assert made == prompt or made.to_string() == prompt


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"prompt": "n"}, "'n' holds no text"),
        ({"prompt": "none"}, "'none' holds no text"),
        ({"messages": "none"}, "'none' holds no messages"),
        ({"messages": "text"}, "'text' is not JSON"),
        ({"template": "Say {none}"}, "'none' is empty, which the template needs"),
        ({"template": "none"}, "'none' holds no text"),
    ],
    ids=["number", "null", "no messages", "no JSON", "null field", "null template"],
)
def test_a_row_without_a_prompt_says_why(fields, words):
    """In words that become its error."""
    with pytest.raises(ValueError, match=words):
        RowPrompts(**fields).prompt_of(ROW)


def test_columns_that_are_read_are_known_and_must_be_there():
    """So that a table of images is not turned into Python for a column of texts."""
    prompts = RowPrompts(template="Say {text} in {to}", options="o", id="i")
    assert prompts.columns == {"text", "to", "o", "i"}
    with pytest.raises(ValueError, match=r"no column 'i', 'o'; they have text, to"):
        prompts.check_columns(["text", "to"])
    by_row = RowPrompts(template="how")
    assert by_row.columns is None
    with pytest.raises(ValueError, match="no column 'how'"):
        by_row.check_columns(["text"])
    with pytest.raises(ValueError, match="not both"):
        RowPrompts(template="{x}", messages="m")


@pytest.mark.parametrize(
    ("value", "options"),
    [
        (None, {}),
        ({"temperature": 0.5, "stop": None}, {"temperature": 0.5}),
        ('{"max_tokens": 3}', {"max_tokens": 3}),
    ],
    ids=["none", "struct", "json"],
)
def test_a_row_has_arguments_of_its_own(value, options):
    """A struct of Arrow has all fields in all rows; None stands for no field."""
    assert RowPrompts(options="o").options_of({"o": value}) == options


@pytest.mark.parametrize(
    "value", [[1], 7, "x", '"x"', {"temprature": 1}, {"journal": "x"}], ids=str
)
def test_arguments_that_are_none_are_refused(value):
    """Misspelt ones too, and those of a whole batch."""
    with pytest.raises((ValueError, TypeError)):
        RowPrompts(options="o").options_of({"o": value})


# -- answers to columns ---------------------------------------------------------------------------


def test_an_answer_is_texts_and_numbers():
    """Half of a surrogate pair, which no column holds, is replaced; nothing else is lost."""
    usage = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
    message = AIMessage(
        "a\ud800",
        usage_metadata={**usage, "input_token_details": {"cache_read": 1}},
        response_metadata={"resilience": {"winner": "w"}},
        tool_calls=[{"name": "f", "args": {"x": 1}, "id": "1"}],
    )
    columns = columns_of(message, StrOutputParser())
    assert (columns["answer"], columns["error"], columns["usage"]) == ("a?", None, usage)
    assert json.loads(columns["receipt"]) == {"winner": "w"}
    assert json.loads(columns["tool_calls"])[0]["args"] == {"x": 1}
    assert columns["parsed"] == "a?"


def test_an_error_is_one_text():
    """A parser's too, beside the answer that it could not read."""
    assert columns_of(ValueError("no"))["error"] == "ValueError: no"
    columns = columns_of(AIMessage("x"), RunnableLambda(json.loads))
    assert columns["answer"] == "x"
    assert columns["error"]


def test_columns_of_the_same_name_are_renamed():
    """None is overwritten."""
    added = ("answer", "error")
    present = ["id", "answer", "input_answer", "error"]
    assert free_names(present, added) == ["id", "input_answer", "input_input_answer", "input_error"]


# -- chains ---------------------------------------------------------------------------------------


class City(BaseModel):
    """A city."""

    name: str


def test_a_chain_is_taken_apart_and_put_together(llm):
    """Prompts before one model, what is bound to it, parsers after it."""
    whole = ChatPromptTemplate.from_template("{x}") | llm.bind(temperature=0.1).with_config(
        tags=["t"]
    )
    parts = parts_of(whole | StrOutputParser())
    assert parts.model is llm
    assert (parts.kwargs, parts.config["tags"]) == ({"temperature": 0.1}, ["t"])
    assert parts.before is not None
    assert isinstance(parts.after, StrOutputParser)
    other = llm.model_copy(update={"max_tokens": 3})
    again = parts_of(with_model(whole, other))
    assert (again.model, again.kwargs) == (other, {"temperature": 0.1})


@pytest.mark.parametrize(
    "make",
    [
        lambda llm: RunnableLambda(str),
        lambda llm: llm | StrOutputParser() | llm,
        lambda llm: llm.with_structured_output(City, include_raw=True),
        lambda llm: "gpt",
    ],
    ids=["none", "two", "raw", "text"],
)
def test_what_is_no_chain_of_one_model_is_refused(llm, make):
    """With what is."""
    with pytest.raises(TypeError, match="ResilientChatModel"):
        parts_of(make(llm))


# -- asking ---------------------------------------------------------------------------------------


def test_rows_get_answers_in_their_order(llm, sim, asking):
    """A row that is no prompt gets an error, and so does one that nobody answers."""
    sim.script("openai:m", Reply(), Status(400), then=Reply())
    rows = [{"prompt": "a"}, {"prompt": None}, {"prompt": "bad"}, {"prompt": "b"}]
    answers = asking(llm, max_concurrency=1).ask(rows)
    assert [row["answer"] for row in answers] == [answer_to("a"), None, None, answer_to("b")]
    assert [bool(row["error"]) for row in answers] == [False, True, True, False]
    assert json.loads(answers[2]["receipt"])["attempts"]
    assert set(answers[0]) == {"answer", "error", "usage", "receipt"}


def test_the_first_error_is_raised_where_that_is_wanted(llm, sim, asking):
    """And the next rows raise too: the batch has ended."""
    sim.script("openai:m", then=Status(400))
    asker = asking(llm, return_exceptions=False)
    for _ in range(2):
        with pytest.raises(Exception, match="400"):
            asker.ask([{"prompt": "bad"}, {"prompt": "a"}])
    with pytest.raises(ValueError, match="holds no text"):
        asking(llm, return_exceptions=False).ask([{"prompt": None}])


def test_rows_have_arguments_of_their_own(llm, sim, asking):
    """Beside those of all."""
    asker = asking(llm, RowPrompts(options="o"), kwargs={"max_tokens": 50})
    rows = [{"prompt": "a", "o": {"temperature": 0.25}}, {"prompt": "b", "o": None},
            {"prompt": "c", "o": {"temprature": 1}}]  # fmt: skip
    answers = asker.ask(rows)
    bodies = {r.body["messages"][-1]["content"]: r.body for r in sim.requests}
    assert [bodies[name].get("temperature") for name in "ab"] == [0.25, None]
    assert all(50 in body.values() for body in bodies.values())
    assert answers[2]["error"].startswith("TypeError: ")


def test_a_schema_gives_parsed_rows(llm, sim, asking):
    """As JSON; resumed ones too."""
    sim.script("openai:m", then=Reply(text='{"name": "Rome"}'))
    asker = asking(llm.with_structured_output(City))
    assert asker.added[-1] == "parsed"
    assert json.loads(asker.ask([{"prompt": "a"}])[0]["parsed"]) == {"name": "Rome"}


def test_a_chain_takes_the_whole_row(llm, sim, asking):
    """Its prompt says which columns it wants."""
    asker = asking(ChatPromptTemplate.from_template("{x} {y}") | llm)
    assert asker.columns is None
    asker.check_columns([])
    asker.ask([{"x": 1, "y": 2}])
    assert prompts_of(sim) == ["1 2"]


def test_many_threads_share_one_batch(llm, sim, asking):
    """At most `max_concurrency` rows are under way in all."""
    asker = asking(llm, max_concurrency=2)
    tables = [[{"prompt": f"{t} {n}"} for n in range(5)] for t in range(4)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(asker.ask, tables))
    assert [[row["answer"] for row in table] for table in answers] == [
        [answer_to(row["prompt"]) for row in table] for table in tables
    ]
    assert sim.count() == 20


# -- the journal ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["run.db", "run", "run/"])
def test_what_was_recorded_is_not_asked_again(llm, sim, asking, tmp_path, name):
    """By nobody, in whatever order; rows of one prompt are told apart by their names."""
    rows = [{"prompt": "a", "id": 1}, {"prompt": "a", "id": 2}, {"prompt": "b", "id": 3}]
    journal = f"{tmp_path}/{name}"
    first = asking(llm, RowPrompts(id="id"), journal=journal)
    second = asking(llm, RowPrompts(id="id"), journal=journal)
    second.ask(rows[:1])
    before = first.ask(rows[::-1])
    assert sim.count() == 3
    assert second.ask(rows) == before[::-1]
    assert asking(llm, RowPrompts(id="id"), journal=journal).ask(rows) == before[::-1]
    assert sim.count() == 3
    second.ask([{"prompt": "changed", "id": 1}])
    assert sim.count() == 4


def test_rows_without_names_share_an_answer(llm, sim, asking, tmp_path):
    """If they say the same: arguments count."""
    asker = asking(llm, RowPrompts(options="o"), journal=tmp_path / "run.db", max_concurrency=1)
    rows = [{"prompt": "a", "o": o} for o in (None, None, {"max_tokens": 2}, {"max_tokens": 2})]
    answers = [row["answer"] for row in asker.ask(rows)]
    assert sim.count() == 2
    assert answers[0] == answers[1] != answers[2] == answers[3]


def test_failures_are_asked_again(llm, sim, asking, tmp_path):
    """And answers of them are kept."""
    sim.script("openai:m", Status(400))
    asker = asking(llm, journal=tmp_path / "run")
    errors = [bool(asker.ask([{"prompt": "a"}])[0]["error"]) for _ in range(3)]
    assert (errors, sim.count()) == ([True, False, False], 2)


def test_a_journal_that_cannot_be_used_is_raised(llm, asking, tmp_path):
    """Each time."""
    (tmp_path / "run.db").write_text("Dear diary" * 99)
    asker = asking(llm, journal=tmp_path / "run.db")
    for _ in range(2):
        with pytest.raises(JournalError):
            asker.ask([{"prompt": "a"}])


async def test_one_batch_of_all_rows_tells_equal_ones_apart(tmp_path):
    """As a batch of a provider needs: each has a name of its own there."""
    async with RowJournal(tmp_path / "run.db", alone=True) as journal:
        journal.ids = {0: "1", 1: "1", 2: None, 3: None}
        names = {journal.custom_id(n, await asyncio.sleep(0, _keys())) for n in range(4)}
        assert len(names) == 4


def _keys():
    from langchain_resilient.batch.journal_keys import RequestKeys

    return RequestKeys("0" * 64, "a" * 64)


def test_the_path_says_whether_a_journal_is_a_folder(tmp_path):
    """One that is there, one without a suffix, one that ends as folders do."""
    (tmp_path / "there.d").mkdir()
    found = {
        name: journal_path(f"{tmp_path}/{name}")[1] for name in ("there.d", "run", "x.y/", "run.db")
    }
    assert found == {"there.d": True, "run": True, "x.y/": True, "run.db": False}
    with pytest.raises(ValueError, match="not a URL"):
        journal_path("s3://bucket/run")


def test_the_lane_wants_the_same_arguments_for_all(llm, tmp_path):
    """And a journal, as ever."""
    with pytest.raises(ValueError, match="leave out options="):
        RowAsker(llm, RowPrompts(options="o"), lane="batch", journal=tmp_path / "run.db")
    with pytest.raises(ValueError, match="needs journal="):
        RowAsker(llm, lane="batch")
