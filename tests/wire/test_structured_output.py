"""Structured output, from what is asked to what is read."""

from typing import Annotated, TypedDict

import pytest
from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.runnables import RunnableGenerator, RunnableLambda
from pydantic import BaseModel, Field
from pydantic.v1 import BaseModel as BaseModelV1

from langchain_resilient.wire.structured_output import (
    structured_params,
    structured_parser,
    to_response_format,
    with_raw,
)


class Joke(BaseModel):
    """A joke."""

    setup: str
    default: str | None = Field(default=None, description="The punchline.")


class OldJoke(BaseModelV1):
    """A joke."""

    setup: str


class DictJoke(TypedDict):
    """A joke."""

    setup: Annotated[str, ..., "How it begins"]


JSON_JOKE = {
    "title": "Joke",
    "description": "A joke.",
    "type": "object",
    "properties": {"setup": {"type": "string"}},
    "required": ["setup"],
}
NAMELESS = {"type": "object", "properties": {"setup": {"type": "string"}}}

SCHEMAS = [Joke, OldJoke, DictJoke, JSON_JOKE, NAMELESS]
METHODS = ["function_calling", "json_schema", "json_mode"]


def answer(schema, method):
    """What a model says to such a request."""
    if method != "function_calling":
        return AIMessage('{"setup": "Why?"}')
    name = structured_params(schema, method)["tools"][0]["function"]["name"]
    return AIMessage("", tool_calls=[{"name": name, "args": {"setup": "Why?"}, "id": "1"}])


@pytest.mark.parametrize("schema", SCHEMAS)
@pytest.mark.parametrize("method", METHODS)
def test_every_schema_by_every_method(schema, method):
    """Classes give objects, everything else gives dicts."""
    message = structured_parser(schema, method).invoke(answer(schema, method))
    if isinstance(schema, type) and schema is not DictJoke:
        assert isinstance(message, schema)
        assert message.setup == "Why?"
    else:
        assert message == {"setup": "Why?"}


@pytest.mark.parametrize("schema", SCHEMAS)
def test_the_tool_must_be_called(schema):
    """Function calling binds one tool and demands that one, once."""
    params = structured_params(schema, "function_calling")
    name = params["tools"][0]["function"]["name"]
    assert params["tool_choice"] == {"type": "function", "function": {"name": name}}
    assert params["parallel_tool_calls"] is False
    assert params["ls_structured_output_format"]["kwargs"]["method"] == "function_calling"


def test_strict_schemas_of_classes():
    """For pydantic classes the schema is strict, with every field required and no default."""
    value = to_response_format(Joke)["json_schema"]
    assert value["name"] == "Joke"
    assert value["strict"] is True
    assert value["schema"]["required"] == ["setup", "default"]
    assert value["schema"]["additionalProperties"] is False
    # The user's own field keeps its unlucky name.
    assert "default" in value["schema"]["properties"]
    assert "default" not in value["schema"]["properties"]["default"]


@pytest.mark.parametrize("schema", [DictJoke, JSON_JOKE, NAMELESS])
def test_other_schemas_are_not_strict(schema):
    """Schemas that were not made for it are not made strict unless asked."""
    assert to_response_format(schema)["json_schema"]["strict"] is False
    assert to_response_format(schema, strict=True)["json_schema"]["strict"] is True


def test_response_formats_as_openai_has_them():
    """A ready response_format, or its inner part, is taken as it is."""
    inner = {"name": "Joke", "schema": NAMELESS, "strict": True}
    ready = {"type": "json_schema", "json_schema": inner}
    assert to_response_format(ready) == to_response_format(inner) == ready
    with pytest.raises(ValueError, match="strict=False was given, but the schema itself says"):
        to_response_format(ready, strict=False)


def test_json_mode():
    """JSON mode asks for any object, and needs no schema."""
    assert to_response_format(Joke, "json_mode") == {"type": "json_object"}
    params = structured_params(None, "json_mode")
    assert params["response_format"] == {"type": "json_object"}
    assert structured_parser(None, "json_mode").invoke(AIMessage('{"a": 1}')) == {"a": 1}


def test_schema_in_a_list_content():
    """Content blocks of output_version v1 are read like a string."""
    message = AIMessage([{"type": "text", "text": '{"setup": "Why?"}'}])
    assert structured_parser(Joke, "json_schema").invoke(message).setup == "Why?"


@pytest.mark.parametrize("method", METHODS)
def test_refusals(method):
    """A refusal is told as one, by every parser."""
    message = AIMessage("", additional_kwargs={"refusal": "I will not."})
    with pytest.raises(OutputParserException, match=r"the model refused: I will not\."):
        structured_parser(Joke, method).invoke(message)


def refusals(_):
    """A stream that refuses."""
    for piece in ["I ", "will not."]:
        yield AIMessageChunk("", additional_kwargs={"refusal": piece})


async def arefusals(_):
    """The same."""
    for piece in refusals(_):
        yield piece


async def test_refusals_in_streams():
    """The pieces of a refusal are told together, at the end."""
    chain = RunnableGenerator(refusals, arefusals) | structured_parser(Joke, "json_schema")
    with pytest.raises(OutputParserException, match=r"the model refused: I will not\."):
        list(chain.stream(""))
    with pytest.raises(OutputParserException, match=r"the model refused: I will not\."):
        _ = [chunk async for chunk in chain.astream("")]


def test_streams_give_partial_answers():
    """A dict grows while it is streamed."""

    def chunks(_):
        for piece in ['{"setup": "Wh', 'y?"}']:
            yield AIMessageChunk(piece)

    chain = RunnableGenerator(chunks) | structured_parser(JSON_JOKE, "json_schema")
    assert list(chain.stream("")) == [{"setup": "Wh"}, {"setup": "Why?"}]


def test_with_raw():
    """The message comes with what was read of it, and with the error where nothing was."""
    parser = structured_parser(Joke, "json_schema")
    good, bad = AIMessage('{"setup": "Why?"}'), AIMessage("no")
    message = with_raw(RunnableLambda(lambda _: good), parser).invoke("")
    assert message == {"raw": good, "parsed": Joke(setup="Why?"), "parsing_error": None}
    message = with_raw(RunnableLambda(lambda _: bad), parser).invoke("")
    assert (message["raw"], message["parsed"]) == (bad, None)
    assert isinstance(message["parsing_error"], OutputParserException)


def test_no_tool_call():
    """Without the call there is nothing to give, and None would say that all is well."""
    with pytest.raises(OutputParserException, match="the tool 'Joke' was not called"):
        structured_parser(Joke, "function_calling").invoke(AIMessage("hello"))


def test_wrong_arguments():
    """An unknown method and a missing schema are refused by name."""
    with pytest.raises(ValueError, match="method='magic' is unknown"):
        structured_params(Joke, "magic")
    with pytest.raises(ValueError, match="schema=None is possible only"):
        structured_parser(None, "json_schema")
