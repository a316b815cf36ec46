"""What differs from ChatOpenAI and ChatTogether, and why; and the page of the docs that says so."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from verification.peers.comparing import Difference


class Reason(NamedTuple):
    """Why some fields differ.

    Attributes:
        peer: `openai`, `together`, or `*` for both.
        case: The name of the call, or a pattern.
        field: As in `Difference.field`, or a pattern.
        differs: What is other here, in the words of the docs.
        why: The reason.
        no_answer: Whether there is no answer there, so that every field of ours is news.
    """

    peer: str
    case: str
    field: str
    differs: str
    why: str
    no_answer: bool = False

    def explains(self, difference: Difference) -> bool:
        """Whether a difference is of this kind."""
        pairs = (
            (difference.peer, self.peer),
            (difference.case, self.case),
            (difference.field, self.field),
        )
        if self.no_answer and difference.theirs is not None and "error." not in difference.field:
            return False
        return all(fnmatchcase(text, pattern) for text, pattern in pairs)


_SCHEMA = ("*", "a schema by the default method")
_CLASS = ("*", "a class as response_format")

REASONS = (
    Reason(
        "*", "*", "body.stream*",
        "`invoke` sends `stream: true`, with `include_usage` where the provider knows it.",
        "Only a stream shows whether a target is alive: hedges, rescues and the limits for silence "
        "rest on it. The caller gets one whole message.",
    ),
    Reason(
        "openai", "*", "body.max_*tokens",
        "`max_tokens` is sent under that name to another address than OpenAI's own.",
        "Compatible servers often know only that name. To OpenAI it goes as "
        "`max_completion_tokens`, as there.",
    ),
    Reason(
        *_SCHEMA, "body.response_format.json_schema.*",
        "Of a pydantic schema `description` stands beside the schema; titles and defaults are left "
        "out.",
        "Strict mode refuses defaults at OpenAI's own servers; titles only cost tokens.",
    ),
    Reason(
        *_CLASS, "body.response_format.json_schema.*",
        "The same of a class that is given as `response_format`.",
        "As above.",
    ),
    Reason(
        "together", _CLASS[1], "message.usage_metadata.*",
        "A stream with a class as `response_format` has its `usage_metadata`.",
        "Together counts the tokens; there nobody reads them.",
    ),
    Reason(
        "together", _SCHEMA[1], "body.*",
        "`with_structured_output` asks Together by `response_format` and a JSON schema, not by a "
        "forced tool.",
        "Together enforces the schema; a tool is what is tried next where a model refuses that.",
    ),
    Reason(
        "together", "an extra field", "body.user",
        "`user` is not sent to Together.",
        "Its API has no such parameter: the package drops what a target does not know, with one "
        "warning, so that a chain over several providers works.",
    ),
    Reason(
        "together", "*", "body.parallel_tool_calls",
        "`parallel_tool_calls` is not sent to Together.",
        "Its SDK does not know it.",
    ),
    Reason(
        "together", "a paid service tier", "body.service_tier",
        "`service_tier` is not sent to Together.",
        "Its API has no such parameter.",
    ),
    Reason(
        "together", "log probabilities", "body.*logprobs",
        "`logprobs` and `top_logprobs` go to Together as the one number that it takes.",
        "Its `logprobs` is a count.",
    ),
    Reason(
        "together", "log probabilities", "message.response_metadata.logprobs.*",
        "Log probabilities of Together are of its alternatives too, and a list under each name, "
        "whole and streamed alike.",
        "So can they be added up.",
    ),
    Reason(
        "together", "log probabilities", "*",
        "A stream with log probabilities of Together gives an answer; there it raises `TypeError`.",
        "Together sends a number for each piece, not a list.",
        no_answer=True,
    ),
    Reason(
        "together", "a developer message", "body.messages",
        "A message of the role `developer` goes to Together as `system`.",
        "Together does not know that role.",
    ),
    Reason(
        "together", "a developer message", "*",
        "So it is answered; there it is sent as it is, and refused.",
        "As above.",
        no_answer=True,
    ),
    Reason(
        "together", "a cache mark", "body.messages",
        "`cache_control` marks are not sent to Together, nor to OpenAI's own address.",
        "They are for gateways to models whose prompt cache wants them; those get them.",
    ),
    Reason(
        "*", "*", "message.response_metadata.resilience.*",
        "`response_metadata` holds the receipt of the call (`resilience`).",
        "It says who answered, who was asked beside, and why.",
    ),
    Reason(
        "*", "*", "message.response_metadata.id",
        "The sum of a stream has the provider's id in `response_metadata`, as an invoked message.",
        "The two ways to ask give the same message.",
    ),
    Reason(
        "*", "*", "message.response_metadata.token_usage.*",
        "The sum of a stream has `token_usage` in `response_metadata`, as an invoked message.",
        "As above.",
    ),
    Reason(
        "*", "*", "message.response_metadata.normalized_finish_reason",
        "`response_metadata` says in LangChain's own words why an answer ended "
        "(`normalized_finish_reason`).",
        "langchain-core reads it from 1.8.4 on, and leaves it to the integrations to set it.",
    ),
    Reason(
        "*", "arguments that are no JSON", "message.*tool_calls",
        "A streamed call whose arguments end in the middle is an invalid call, as under `invoke`; "
        "there LangChain closes the brackets, and half a call is run as a whole one.",
        "A tool must not be run with arguments that the model has not finished.",
    ),
    Reason(
        "together", "*", "*.model_provider",
        "`model_provider` is `together`, not `openai`.",
        "It names who answered.",
    ),
    Reason(
        "together", "*", "message.response_metadata.seed",
        "`response_metadata` holds the seed that Together has used.",
        "With it an answer can be repeated.",
    ),
    Reason(
        "together", "*", "message.usage_metadata.input_token_details.cache_read",
        "`usage_metadata` counts the tokens that Together read from its cache.",
        "They cost less.",
    ),
    Reason(
        "together", _SCHEMA[1], "llm_output.token_usage.*",
        "The tokens of an answer in a schema are those of the other request.",
        "A schema and a forced tool are of different length.",
    ),
    Reason(
        "*", "filtered", "*",
        "An answer that the provider's filter cut off is no answer: another target is asked, and "
        "where none is left an error is raised.",
        "Part of a text that was cut off in the middle looks like a whole one.",
    ),
    Reason(
        "*", "ended by *", "*",
        "An answer that ends with a failure (`error`, `abort`, ...) or a filter (`SAFETY`, ...) in "
        "any provider's words is no answer; there it is a message.",
        "Its text was broken off, and another target may have the whole.",
    ),
    Reason(
        "*", "arguments *", "message.*",
        "Arguments in a fence, encoded twice or with a comma too many are read; what lacks a "
        "required one, or cannot be read, is asked again, and no half of it is a valid call.",
        "An agent would end silently, or run a call that was never meant.",
    ),
    Reason(
        "*", "arguments *", "error.*",
        "Arguments that are no object raise nothing; there they are a `ValidationError`.",
        "Another target may answer.",
    ),
    Reason(
        "*", "arguments *", "llm_output.*",
        "So there is an `llm_output`.",
        "As above.",
        no_answer=True,
    ),
    Reason(
        "*", "a choice in Anthropic's words", "*",
        '`tool_choice={"type": "any"}` and the like are translated.',
        "There they are sent as they are, and refused.",
    ),
    Reason(
        "*", "a function as a tool of the call", "*",
        "A function in `tools=` of a call is converted; there it is a `TypeError`.",
        "It means the same as in `bind_tools`.",
    ),
    Reason(
        "*", "a schema that holds itself", "body.response_format.json_schema.*",
        "Of a schema that holds itself titles are left out, and `description` stands beside it.",
        "As of any other.",
    ),
    Reason(
        "together", "a schema that holds itself", "*",
        "At Together it goes by `response_format` and its answer is parsed.",
        "There it is a forced tool, as any other schema is.",
    ),
    Reason(
        "*", "a schema with an open object", "*",
        "A schema with an open object (`dict[str, int]`) is sent with `strict: false`, as it is.",
        "Strict mode refuses it, or lets it hold nothing.",
    ),
    Reason(
        "*", "a schema as JSON mode", "error.*",
        "An answer that does not fit the schema is asked for again, then raises "
        "`InvalidAnswersError`, a `ModelError`, rather than `OutputParserException`.",
        "The schema is part of what counts as an answer, so that another target may fit it.",
    ),
    Reason(
        "*", "403", "error.ModelAuthenticationError",
        "A refused permission is caught by `except ModelAuthenticationError` too.",
        "To the caller both mean that the key cannot be used for this.",
    ),
    Reason(
        "together", "quota", "error.*",
        "402 is a `ModelRateLimitError`; there it is the SDK's own `APIStatusError`.",
        "An account without credit is like one that has used up its quota at OpenAI.",
    ),
    Reason(
        "*", "too long", "error.*",
        "A context that is too long raises `ContextOverflowError` by whatever words the provider "
        "says it; there only OpenAI's own words are known.",
        "LangChain's middleware shortens the history on that error.",
    ),
)  # fmt: skip
"""Everything that is allowed to differ."""


def unexplained(differences: Iterable[Difference]) -> list[Difference]:
    """Those that no reason is given for."""
    return [one for one in differences if not any(reason.explains(one) for reason in REASONS)]


_NAMES = {"*": "both", "openai": "ChatOpenAI", "together": "ChatTogether"}

_HEAD = """\
# Differences from ChatOpenAI and ChatTogether

`make peers` asks a `ResilientChatModel` of one target and the other model the same, over the same
simulated servers, whole and as a stream: messages of every kind, parameters, tools, schemas,
refusals and failures. Request bodies, all fields of the messages and the LangChain errors that an
`except` would catch are compared. What follows is everything that differs, and why; it is written
by `python -m verification.peers --write`, and anything else that differed would fail the run.

| from | what is other here | why |
| --- | --- | --- |
"""


def page() -> str:
    """Write `docs/differences.md`."""
    rows = (f"| {_NAMES[r.peer]} | {r.differs} | {r.why} |\n" for r in REASONS)
    return _HEAD + "".join(rows)
