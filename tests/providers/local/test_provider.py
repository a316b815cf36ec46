"""The local provider answers in the chat-completions dialect, and refuses as an API would.

The tests marked `local` run the real model; it is fetched once into the user's cache folder.
"""

from __future__ import annotations

import json
import warnings

import pytest

from langchain_resilient import FaultKind, Target
from langchain_resilient.errors import MissingExtraError
from langchain_resilient.providers import local
from langchain_resilient.providers.local import LocalModelError, LocalProvider
from langchain_resilient.providers.local.model import new_server
from tests.providers.local.asking import ask, chunks_of, fault_of, needs_xllamacpp, text_of

pytestmark = needs_xllamacpp


# -- answers ------------------------------------------------------------------------------------


@pytest.mark.local
async def test_streams_chunks_of_a_chat_completion(model):
    """The role first, then text, the finish reason, and usage; nothing specific to llama.cpp."""
    chunks = await chunks_of(ask("Say hello.", max_tokens=12))
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert text_of(chunks).strip()
    assert chunks[-2]["choices"][0]["finish_reason"] in ("stop", "length")
    assert chunks[-1]["usage"]["completion_tokens"] <= 12
    assert {c["object"] for c in chunks} == {"chat.completion.chunk"}
    assert {c["model"] for c in chunks} == {"smollm2"}
    assert not any({"timings", "prompt_progress"} & c.keys() for c in chunks)


@pytest.mark.local
@pytest.mark.parametrize("seed", range(4))
async def test_an_answer_starts_with_its_role(model, seed):
    """Even if its first token is a part of an emoji, for which llama.cpp sends no role."""
    request = ask("Answer only with this emoji: 😀", max_tokens=6, seed=seed, temperature=1.0)
    first, *rest = [c["choices"][0]["delta"] for c in await chunks_of(request) if c["choices"]]
    assert first["role"] == "assistant"
    assert not any("role" in delta for delta in rest)


@pytest.mark.local
async def test_answers_with_one_completion_without_streaming(model):
    """The same text in one dict."""
    (completion,) = await chunks_of(ask("Say hello.", max_tokens=8, seed=1), stream=False)
    streamed = text_of(await chunks_of(ask("Say hello.", max_tokens=8, seed=1)))
    assert completion["object"] == "chat.completion"
    assert completion["choices"][0]["message"]["content"] == streamed
    assert completion["usage"]["completion_tokens"] > 0


@pytest.mark.local
async def test_a_seed_repeats_an_answer(model):
    """Another seed gives another answer."""
    one, same, other = [
        text_of(await chunks_of(ask("Tell a story.", seed=s, max_tokens=24, temperature=1)))
        for s in (5, 5, 6)
    ]
    assert one == same != other


@pytest.mark.local
async def test_stops_before_a_stop_word(model):
    """The word itself is not part of the answer."""
    text = text_of(await chunks_of(ask("Why is the sky blue?", stop=["the"], seed=1)))
    assert text
    assert "the" not in text


@pytest.mark.local
@pytest.mark.parametrize("stream", [True, False])
async def test_an_answer_follows_its_schema(model, stream):
    """llama.cpp's grammar enforces it."""
    schema = {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "blue"]}, "size": {"type": "integer"}},
        "required": ["colour", "size"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "thing", "schema": schema}}
    chunks = await chunks_of(ask("Describe a ball.", response_format=form), stream=stream)
    text = text_of(chunks) if stream else chunks[0]["choices"][0]["message"]["content"]
    ball = json.loads(text)
    assert ball["colour"] in ("red", "blue")
    assert isinstance(ball["size"], int)


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"The {thing} in a city",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "maxLength": 30}},
                "required": ["city"],
            },
        },
    }
    for name, thing in (("get_weather", "weather"), ("get_time", "time"))
]


@pytest.mark.local
@pytest.mark.parametrize("tools", [TOOLS[:1], TOOLS])
async def test_a_forced_tool_is_called(model, tools):
    """Its arguments follow its schema."""
    request = ask("What is the weather in Paris?", tools=tools, tool_choice="required")
    (completion,) = await chunks_of(request, stream=False)
    choice = completion["choices"][0]
    (call,) = choice["message"]["tool_calls"]
    assert call["function"]["name"] in {t["function"]["name"] for t in tools}
    assert list(json.loads(call["function"]["arguments"])) == ["city"]
    assert choice["finish_reason"] == "tool_calls"


@pytest.mark.local
async def test_a_dropped_parameter_is_warned_of_once(model):
    """One warning for each target and parameter."""
    provider = LocalProvider(Target("local"))
    request = ask("Hi", tools=TOOLS, logit_bias={"5": 1}, reasoning_effort="low", max_tokens=1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            assert [c async for c in await provider.open(request, stream=True)]
    messages = sorted(str(w.message) for w in caught)
    assert [message.split("'")[1] for message in messages] == [
        "logit_bias",
        "reasoning_effort",
        "tools",
    ]


@pytest.mark.local
async def test_two_choices_are_generated_together(model):
    """`n` may be as large as the number of slots."""
    (completion,) = await chunks_of(ask("Hi", n=2, max_tokens=4), stream=False)
    assert [c["index"] for c in completion["choices"]] == [0, 1]


# -- refusals -----------------------------------------------------------------------------------


@pytest.mark.local
async def test_a_prompt_that_is_too_long_is_refused(model):
    """It is classified as at any API, so another target is asked."""
    fault = await fault_of(ask("cat " * 5000))
    assert (fault.kind, fault.status) == (FaultKind.CONTEXT_LENGTH, 400)


@pytest.mark.local
async def test_a_wrong_parameter_is_refused(model):
    """It is a bad request, with llama.cpp's reason."""
    fault = await fault_of(ask("Hi", temperature="hot"))
    assert fault.kind is FaultKind.BAD_REQUEST
    assert "temperature" in fault.message


@pytest.mark.local
async def test_an_impossible_schema_is_refused(model):
    """llama.cpp raises an exception, which becomes a bad request."""
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": "#/no"}}}
    assert (await fault_of(ask("Hi", response_format=form))).kind is FaultKind.BAD_REQUEST


async def test_a_missing_file_is_not_found(tmp_path):
    """The error names the path."""
    path = tmp_path / "no.gguf"
    fault = await fault_of(ask("Hi"), Target(f"local:{path}"))
    assert (fault.kind, fault.status) == (FaultKind.NOT_FOUND, 404)
    assert str(path) in fault.message


async def test_a_broken_file_is_unavailable(tmp_path, capfd):
    """llama.cpp writes nothing to stderr."""
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    fault = await fault_of(ask("Hi"), Target(f"local:{path}"))
    assert fault.status == 503
    assert "broken.gguf" in fault.message
    assert capfd.readouterr().err == ""


def test_a_missing_extra_is_reported(monkeypatch):
    """Before any request, with the command that installs it."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(MissingExtraError, match=r'pip install "langchain-resilient\[local\]"'):
        LocalProvider(Target("local"))


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            ModuleNotFoundError("No module named 'xllamacpp'"),
            r'pip install "langchain-resilient\[local',
        ),
        (
            ImportError("libgomp.so.1: cannot open shared object file: No such file or directory"),
            "xllamacpp is installed and cannot be loaded: libgomp.* apt-get install libgomp1$",
        ),
        (ImportError("undefined symbol: x"), "cannot be loaded: undefined symbol: x$"),
    ],
)
def test_what_it_lacks_is_told(error, told, monkeypatch, tmp_path):
    """A library of the system is no package of Python's; slim images lack the one for OpenMP."""

    def import_module(_name):
        raise error

    monkeypatch.setattr("importlib.import_module", import_module)
    with pytest.raises(LocalModelError, match=told):
        new_server(tmp_path / "any.gguf", "any")


def test_errors_survive_pickling():
    """They may be sent to another process."""
    import pickle

    error = pickle.loads(pickle.dumps(LocalModelError("no", 400, "bad")))  # noqa: S301  # our own
    assert (str(error), error.status_code, error.code) == ("no", 400, "bad")


def test_the_public_names_are_there():
    """Every name in `__all__` exists."""
    assert all(hasattr(local, name) for name in local.__all__)
