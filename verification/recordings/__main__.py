"""Count what the recorded exchanges hold, and what became of it: `make recordings`."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

from langchain_resilient.wire.accumulator import ResponseAccumulator
from langchain_resilient.wire.output import to_chat_result
from verification.recordings import exchanges, losses


def kinds(result: list[list[dict[str, Any]]]) -> list[str]:
    """Name what an exchange is, and what its answers hold."""
    if not result:
        return ["errors"]
    expected = [exchanges.Expected(chunks) for chunks in result]
    streamed = any("delta" in choice for choice in result[0][0].get("choices") or [{}])
    return [
        "streams" if streamed or len(result[0]) > 1 else "plain",
        *["answers"] * len(result),
        *["messages"] * sum(len(convert(chunks)) for chunks in result),
        *["tool calls"] * any(one.calls for one in expected),
        *["reasoning"] * any(one.reasoning or one.details for one in expected),
        *["logprobs"] * any(one.logprobs for one in expected),
        *["refusals"] * any(one.refusal for one in expected),
        *["usage"] * any(one.usage for one in expected),
    ]


def convert(chunks: list[dict[str, Any]]) -> list[Any]:
    """The messages of one answer."""
    response = ResponseAccumulator()
    for chunk in chunks:
        response.add(chunk)
    return to_chat_result(response, "openai", "asked").generations


COLUMNS = (
    "exchanges", "errors", "plain", "streams", "answers", "messages", "tool calls", "reasoning",
    "logprobs", "refusals", "usage",
)  # fmt: skip


def main() -> int:
    """Print a row a provider, and what was left out for which reason."""
    if not exchanges.FOLDER.is_dir():
        print(exchanges.MISSING)
        return 0
    counts: dict[str, Counter[str]] = {}
    paths: Counter[str] = Counter()
    for exchange in exchanges.load():
        answers = exchanges.answers(exchange)
        row = counts.setdefault(exchange["provider"], Counter())
        row.update(["exchanges", *kinds(answers)])
        for chunks in answers:
            paths.update(set().union(*map(losses.fields, chunks)))
    counts["all"] = sum(counts.values(), Counter())
    print(f"{'':<18}" + "".join(f"{name:>11}" for name in COLUMNS))
    for name, row in counts.items():
        print(f"{name:<18}" + "".join(f"{row[column]:>11,}" for column in COLUMNS))
    return fields(paths)


def fields(paths: Counter[str]) -> int:
    """Print what became of the fields; 1 if any is lost."""
    rules = {path: losses.rule_for(path) for path in paths}
    placed = [path for path, rule in rules.items() if rule in losses.PLACES]
    lost = [path for path, rule in rules.items() if rule is None]
    print(f"\n{len(paths)} fields: {len(placed)} have a place in the message, {len(lost)} are lost")
    print(f"{len(paths) - len(placed) - len(lost)} are left out:")
    for rule in sorted({rule for rule in rules.values() if rule in losses.REASONS}):
        number = sum(item == rule for item in rules.values())
        print(f"  {number:>4}  {rule}: {losses.REASONS[rule]}")
    return int(bool(lost))


if __name__ == "__main__":
    sys.exit(main())
