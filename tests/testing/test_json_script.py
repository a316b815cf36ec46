"""Scripts written as JSON."""

from __future__ import annotations

import pytest

from langchain_resilient.testing import ProviderSimulator, load_script
from tests.testing.wire_client import ask, chat


async def test_a_script_from_json(sim: ProviderSimulator) -> None:
    """Steps in order, the last for ever, delays and nested steps."""
    load_script(
        sim,
        {
            "openai:gpt-4": [
                {"step": "Status", "code": 500, "retry_after": {"date": "HttpDate", "seconds": 5}},
                {"step": "Cut", "after": 1, "reply": {"step": "Reply", "text": "a b"}},
                {
                    "step": "Reply",
                    "text": "later",
                    "first_text": {
                        "delay": "Mixture",
                        "parts": [[1, 0.0]],
                    },
                    "then": True,
                },
            ],
            "together:*": [{"step": "Status", "code": 503, "chance": 1.0}],
        },
    )
    assert (await ask(sim)).headers["retry-after"].endswith("GMT")
    assert (await ask(sim, chat(stream=True))).text == "a"
    assert [(await ask(sim)).text for _ in range(2)] == ["later", "later"]
    assert (await ask(sim, dialect="together")).status == 503


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ({"*": [{"step": "Explode"}]}, "there is no step 'Explode'"),
        ({"*": [{"step": "Status", "colour": "red"}]}, "colour"),
        (
            {"*": [{"step": "Reply"}, {"step": "Reply", "chance": 0.5}]},
            "either every step has a chance",
        ),
    ],
)
def test_a_wrong_script_is_explained(
    script: dict[str, list[dict[str, object]]], words: str
) -> None:
    """With the pattern where it went wrong."""
    with pytest.raises(ValueError, match=words):
        load_script(ProviderSimulator(), script)
