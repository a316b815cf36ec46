"""How a model's settings are described: the same in every process, and in plain data."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from pydantic import BaseModel

from langchain_resilient import Hedge, ResilientChatModel, Target
from langchain_resilient.configuration import as_plain_data, function_identity


def one(message: Any) -> bool:
    """A check."""
    return bool(message)


def with_limit(limit: int) -> Any:
    return lambda message: len(message) > limit


class Judge:
    """A check that is an object."""

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def __repr__(self) -> str:
        return f"Judge({self.limit})"

    def __call__(self, message: Any) -> bool:
        return len(message) > self.limit

    def judge(self, message: Any) -> bool:
        return bool(message)


DIFFERENT = [
    one,
    lambda message: len(message) > 1,
    lambda message: not message,
    with_limit(1),
    with_limit(2),
    partial(one, 1),
    partial(one, 2),
    Judge(1),
    Judge(2),
    Judge(1).judge,
    print,
    Judge,
]


def test_functions_that_differ_are_told_apart():
    """Even where their names are the same."""
    texts = [function_identity(function) for function in DIFFERENT]
    assert len(set(texts)) == len(texts)
    assert not any(" at 0x" in text for text in texts)


def test_the_same_function_is_the_same():
    """However often it is made."""
    assert function_identity(with_limit(1)) == function_identity(with_limit(1))
    assert function_identity(Judge(1)) == function_identity(Judge(1))
    assert function_identity(print) == "builtins.print"


def test_the_caches_key_is_the_same_in_every_process():
    """An address of a function would make it another each time, and by chance somebody else's."""
    code = (
        "from langchain_resilient import ResilientChatModel as R\n"
        "def f(n): return lambda m: [len(x) > n for x in (m, 'a')]\n"
        "print(R(targets=['text:a'], check=f(3))._get_llm_string())"
    )
    keys = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    }
    assert len(keys) == 1
    assert " at 0x" not in keys.pop()
    one_key = ResilientChatModel(targets=["text:a"], check=with_limit(1))._get_llm_string()
    assert one_key != ResilientChatModel(targets=["text:a"], check=with_limit(2))._get_llm_string()


class Form(BaseModel):
    """A form."""

    days: timedelta = timedelta(1)


@pytest.mark.parametrize(("value", "expected"), [
    (None, None),
    (0.5, 0.5),
    ({"a": [1, ("b", {3})]}, {"a": [1, ["b", [3]]]}),
    (Form, "Form"),
    (Form(), {"days": "P1D"}),
    (one, "one"),
    (Hedge(delay=1), {**Hedge(delay=1).model_dump(warnings=False), "delay": 1}),
    (Target("text:a", api_key="sk-secret"), {"provider": "text", "model": "a"}),
], ids=lambda x: type(x).__name__)  # fmt: skip
def test_arguments_become_plain_data(value, expected):
    """Without keys and addresses."""
    plain = as_plain_data(value)
    assert plain == expected
    assert json.loads(json.dumps(plain)) == plain
    assert "secret" not in json.dumps(plain)
