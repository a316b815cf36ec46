"""The numbers in an error about a request that is too long, in everybody's own sentence."""

from __future__ import annotations

import pytest

from langchain_resilient import FaultKind
from langchain_resilient import testing as t
from langchain_resilient.providers.error_details import token_counts
from langchain_resilient.providers.errors import AnswerError, classify
from langchain_resilient.providers.local.model import to_error
from tests.providers.asking import DIALECTS, fault_of, provider_at

SENTENCES = """
# OpenAI, Azure, DeepSeek, vLLM
8192 9000 This model's maximum context length is 8192 tokens. However, your messages resulted in
    9000 tokens. Please reduce the length of the messages.
4097 3703 This model's maximum context length is 4097 tokens. However, you requested 4203 tokens
    (3703 in the messages, 500 in the completion).
4097 6283 This model's maximum context length is 4097 tokens, however you requested 6539 tokens
    (6283 in your prompt; 256 for the completion).
272000 300000 Input tokens exceed the configured limit of 272000 tokens. Your messages resulted
    in 300000 tokens.
4096 100 'max_tokens' is too large: 5000. This model's maximum context length is 4096 tokens and
    your request has 100 input tokens (5000 > 4096 - 100).
8192 9000 You passed 9000 input tokens and requested 100 output tokens. However, the model's
    context length is only 8192 tokens
8192 9000 The decoder prompt (length 9000) is longer than the maximum model length of 8192.
# Together, text-generation-inference
8193 9000 Input validation error: `inputs` tokens + `max_new_tokens` must be <= 8193. Given:
    9000 `inputs` tokens and 0 `max_new_tokens`
4095 5000 `inputs` must have less than 4096 tokens. Given: 5000
4095 - `inputs` must have less than 4096 tokens.
# Anthropic
200000 200001 prompt is too long: 200001 tokens > 200000 maximum
200000 178959 input length and `max_tokens` exceed context limit: 178959 + 64000 > 200000,
    decrease input length or `max_tokens` and try again
# llama.cpp, its Python bindings, oMLX, Ollama
4096 9000 request (9000 tokens) exceeds the available context size (4096 tokens), try increasing
    it
2048 2285 Requested tokens (2285) exceed context window of 2048
32768 41911 Prompt too long: 41911 tokens exceeds max context window of 32768 tokens
8191 9000 The prompt is too long: 9000, model maximum context length: 8191
# OpenRouter, xAI, Mistral, Google, Cohere, Moonshot, GitHub Copilot
131072 7884 This endpoint's maximum context length is 131072 tokens. However, you requested
    about 138956 tokens (7884 of text input, 131072 in the output).
131072 200000 This model's maximum prompt length is 131072 but the request contains 200000
    tokens.
32768 40000 Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768
    maximum context length
1048576 1200000 The input token count (1200000) exceeds the maximum number of tokens allowed
    (1048576).
4081 5000 too many tokens: total number of tokens in the prompt cannot exceed 4081 - received
    5000
262144 300000 Invalid request: Your request exceeded model token limit: 262144 (requested: 300000)
128000 130000 prompt token count of 130000 exceeds the limit of 128000
# those that name no number
- - Input is too long for requested model.
- - Please reduce the length of the messages or completion.
"""
"""Limit, count, and the sentence they stand in; a dash for what it does not tell."""


def sentences():
    lines = (line for line in SENTENCES.replace("\n    ", " ").splitlines() if line)
    for line in lines:
        if not line.startswith("#"):
            limit, given, sentence = line.split(" ", 2)
            yield sentence, *(None if n == "-" else int(n) for n in (limit, given))


@pytest.mark.parametrize(
    ("sentence", "limit", "given"), list(sentences()), ids=lambda v: str(v)[:40]
)
def test_the_numbers_of_a_sentence_are_read(sentence, limit, given):
    """And the error is known for what it is."""
    fault = classify(AnswerError(sentence, {"message": sentence}, status_code=400))
    assert (fault.kind, fault.limit, fault.given) == (FaultKind.CONTEXT_LENGTH, limit, given)


MINUTE = "Request too large for gpt-4 on tokens per min (TPM): "


@pytest.mark.parametrize(
    ("numbers", "limit"),
    [
        ("Limit 10000, Requested 12000. Visit", 10_000),
        ("Limit 6,000, Used 12, Requested 7,000, please", 6000),
    ],
)
def test_a_request_above_the_minutes_tokens_names_its_limit_too(numbers, limit):
    """It can never pass; what it counts beside the prompt is not told apart."""
    fault = classify(AnswerError("", {"message": MINUTE + numbers}, status_code=429))
    assert (fault.kind, fault.limit, fault.given) == (FaultKind.TOO_LARGE, limit, None)


def test_other_errors_name_no_limit():
    """A number in them is about something else."""
    message = "Rate limit reached: Limit 3, Requested 1. The maximum context length is 8192."
    fault = classify(AnswerError(message, {"message": message}, status_code=429))
    assert (fault.kind, fault.limit) == (FaultKind.RATE_LIMIT, None)


def test_fields_go_before_words():
    """llama.cpp has the numbers in fields of their own."""
    words = "the request exceeds the available context size. try increasing the context size"
    assert token_counts({"n_ctx": 256, "n_prompt_tokens": 1407}, words) == (256, 1407)


def test_the_embedded_models_numbers_are_kept():
    """From llama.cpp's error object to the fault."""
    fields = {
        "code": 400,
        "message": "the request exceeds the available context size, try increasing it",
        "type": "exceed_context_size_error",
        "n_prompt_tokens": 5000,
        "n_ctx": 2048,
    }
    fault = classify(to_error(fields))
    assert (fault.kind, fault.limit, fault.given) == (FaultKind.CONTEXT_LENGTH, 2048, 5000)


@pytest.mark.parametrize("text", ["maximum context length is 10", "maximum context length is 0"])
def test_a_window_too_small_to_be_one_is_none(text):
    """Or every request would be kept from the target."""
    assert token_counts({}, text) == (None, None)


def test_a_number_of_thousands_of_digits_is_no_number():
    """Nor does a megabyte of text take time."""
    text = "maximum context length is " + "9" * 100_000
    assert token_counts({}, text) == (None, None)


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_the_numbers_come_through_either_sdk(sim, dialect):
    """Limit and count, in the words of OpenAI and of Together."""
    sim.script(f"{dialect}:m", then=t.ContextTooLong(limit=100))
    fault = await fault_of(provider_at(sim, f"{dialect}:m"))
    assert fault.limit == 100
    assert fault.given is not None
