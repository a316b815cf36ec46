"""An agent that changes its target at every turn, over a 4 x 4 matrix: `make turns`.

Each cell is a conversation of five turns with tools, asked in turn of two targets: OpenAI's
Responses API, its chat completions, a thinking model of Together, and a wrapped LangChain model.
Every turn must be answered by the one target that was asked, with one request and no refusal: what
the one has thought goes back to it, and to no other. The simulator refuses what the APIs refuse,
foreign thoughts among it.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from langchain_core.messages import AIMessage, HumanMessage, ToolMessage, message_chunk_to_message

from langchain_resilient import ResilientChatModel, Target
from langchain_resilient.testing import ProviderSimulator
from verification.kit.report import Table

if TYPE_CHECKING:
    from collections.abc import Iterable

    from langchain_core.messages import BaseMessage
    from langchain_core.runnables import Runnable

KINDS = ("responses", "chat", "together", "wrapped")
VERSIONS = (None, "v1")
Way = Literal["invoke", "stream"]
WAYS: tuple[Way, ...] = ("invoke", "stream")
TURNS = 5


def target_of(sim: ProviderSimulator, kind: str) -> Target:
    """Make the target of one kind at a simulator."""
    url = sim.base_url("together" if kind == "together" else "openai")
    if kind == "responses":
        return Target("openai:gpt-6-luna", base_url=url, api_key="k")  # it goes there for tools
    if kind == "chat":
        # Its chat completions take tools while it does not reason.
        return Target(
            "openai:gpt-6.1-terra", base_url=url, api_key="k", api="chat", reasoning_effort="none"
        )
    if kind == "together":
        return Target("together:deepseek-ai/DeepSeek-V4.1-Flash", base_url=url, api_key="k")
    from langchain_openai import ChatOpenAI

    wrapped = ChatOpenAI(
        model="gpt-6.1-sol", base_url=url, api_key="k", store=False, max_retries=0,
        include=["reasoning.encrypted_content"], use_responses_api=True,
    )  # fmt: skip
    return Target(wrapped, name="wrapped")


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def asked(llm: Runnable[Any, Any], history: list[BaseMessage], way: Way) -> AIMessage:
    """Ask once, in one of the ways."""
    if way == "invoke":
        answer: AIMessage = llm.invoke(history)
        return answer
    chunks = list(llm.stream(history))
    whole = chunks[0] + chunks[1:] if len(chunks) > 1 else chunks[0]
    message = message_chunk_to_message(whole)
    assert isinstance(message, AIMessage)
    return message


class Cell(NamedTuple):
    """What came of one conversation.

    Attributes:
        answered: Turns that were answered.
        refused: Requests that a provider refused.
        problems: What went wrong, in words.
    """

    answered: int
    refused: int
    problems: tuple[str, ...]


class Conversation:
    """One conversation between a user, some tools and two targets in turn.

    Args:
        sim: Where the targets are.
        kinds: Who is asked, over and over in this order.
        version: The models' `output_version`.
        way: How they are asked.
    """

    def __init__(
        self, sim: ProviderSimulator, kinds: Iterable[str], version: str | None, way: Way
    ) -> None:
        fields: dict[str, Any] = {"output_version": version} if version else {}
        models = [
            ResilientChatModel(targets=[target_of(sim, kind)], hedge=None, **fields)
            for kind in kinds
        ]
        self._models = itertools.cycle([model.bind_tools([add]) for model in models])
        self._sim = sim
        self._way: Way = way
        self.history: list[BaseMessage] = []
        self.answered = 0
        self.problems: list[str] = []

    def turn(self, *said: str) -> None:
        """Ask the next target; its tools are called."""
        self.history += map(HumanMessage, said)
        answer = asked(next(self._models), self.history, self._way)
        attempts = answer.response_metadata["resilience"]["attempts"]
        if [attempt.get("fault") for attempt in attempts] != [None]:
            self.problems.append(f"attempts: {attempts}")
        self.answered += bool(answer.text or answer.tool_calls)
        self.history.append(answer)
        for call in answer.tool_calls:
            self.history.append(ToolMessage(str(add(**call["args"])), tool_call_id=call["id"]))

    def says(self, *words: str) -> None:
        """Check the last answer."""
        text = self.history[-1].text
        self.problems += [f"{word!r} is not in {text!r}" for word in words if word not in text]

    def run(self) -> Cell:
        """Hold all of it."""
        sim = self._sim
        before, good = sim.count(), sim.count(status=200)
        try:
            self.turn("What is add(1, 2)?")
            self.turn()
            self.says("3")
            self.turn("And what are add(3, 4) and add(5, 6)?")
            self.turn()
            self.says("7", "11")
            self.turn("Thank you.")
        except Exception as error:  # noqa: BLE001  # whatever it is, it is what this looks for
            self.problems.append(f"{type(error).__name__}: {error}"[:300])
        sim.wait_idle()
        sent, fine = sim.count() - before, sim.count(status=200) - good
        if sent != TURNS:
            self.problems.append(f"{sent} requests for {TURNS} turns")
        return Cell(self.answered, sent - fine, tuple(self.problems))


def main() -> int:
    """Run all cells and print the matrix."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    table = Table(("first, then", "<14"), *((kind, ">14") for kind in KINDS))
    answered = refused = cells = 0
    failed: list[str] = []
    with ProviderSimulator() as sim:
        for version, way in itertools.product(VERSIONS, WAYS):
            print(f"{way}, output_version={version!r}: turns answered of {TURNS}, refusals")
            print(table.header())
            for first in KINDS:
                row = [Conversation(sim, (first, then), version, way).run() for then in KINDS]
                print(table.line(first, *(f"{cell.answered}, {cell.refused}" for cell in row)))
                for then, cell in zip(KINDS, row, strict=True):
                    cells, answered = cells + 1, answered + cell.answered
                    refused += cell.refused
                    failed += [f"{first}, {then}, {way}, {version}: {p}" for p in cell.problems]
            print()
    print(
        f"{cells} conversations: {answered} of {cells * TURNS} turns answered, {refused} refusals"
    )
    print(*failed, sep="\n")
    return int(bool(failed or refused or answered != cells * TURNS))


if __name__ == "__main__":
    sys.exit(main())
