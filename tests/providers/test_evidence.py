"""Secrets are taken out of exceptions without breaking them."""

from __future__ import annotations

from typing import NamedTuple

from langchain_resilient.providers.errors import scrub


class Key(NamedTuple):
    """As aiohttp's ConnectionKey."""

    host: str
    port: int


def test_a_named_tuple_in_an_exception_is_left_alone():
    """The one aiohttp keeps in `args`: copying it as a plain tuple raises."""
    error = OSError(Key("host", 1), "the key sk-canary-12345678 is wrong")
    scrub(error, ["sk-canary-12345678"])
    assert error.args == (Key("host", 1), "the key [key] is wrong")
