"""The judge of `make ray` sees what it is there for. The kills themselves need Ray, and minutes."""

from __future__ import annotations

import pytest

from langchain_resilient.testing import answer_to
from verification.ray import Verdict, judge, prompt_of

PROMPTS = [prompt_of(number) for number in range(3)]
REQUESTS = [(prompt, 1.0) for prompt in PROMPTS]
RECORDED = dict.fromkeys(PROMPTS, 2.0)
OUTPUT = [(prompt, answer_to(prompt)) for prompt in PROMPTS]


@pytest.mark.parametrize(
    ("requests", "recorded", "output", "found"),
    [
        (REQUESTS, RECORDED, OUTPUT, {}),
        ([*REQUESTS, (PROMPTS[0], 1.5)], RECORDED, OUTPUT, {}),
        ([*REQUESTS, (PROMPTS[0], 2.5)], RECORDED, OUTPUT, {"late": 1}),
        (REQUESTS, RECORDED, OUTPUT[1:], {"lost": 1}),
        (REQUESTS, RECORDED, [*OUTPUT[1:], (PROMPTS[0], None)], {"lost": 1}),
        (REQUESTS, RECORDED, [*OUTPUT[1:], (PROMPTS[0], "other")], {"lost": 1}),
        (REQUESTS, RECORDED, [*OUTPUT, OUTPUT[0]], {"doubles": 1}),
        (REQUESTS, {PROMPTS[0]: 2.0}, OUTPUT, {"unrecorded": 2}),
        (REQUESTS, RECORDED, [*OUTPUT, ("?", "x")], {"wrong": 1}),
    ],
    ids=["well", "in flight", "recorded", "missing", "none", "another's", "double", "unrecorded",
         "stranger"],
)  # fmt: skip
def test_each_defect_is_counted(requests, recorded, output, found):
    """And nothing else."""
    verdict = Verdict("actor", kills=1, rows=3)
    judge(verdict, requests, recorded, output)
    counts = {name: getattr(verdict, name) for name in ("late", "lost", "doubles", "unrecorded")}
    counts["wrong"] = len(verdict.wrong)
    assert {name: count for name, count in counts.items() if count} == found
    assert verdict.good is not bool(found)
