"""The callers: they ask the model as an application does, and note down what they are told."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from langchain_resilient.errors import ResilientError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from langchain_core.messages import BaseMessage

    from langchain_resilient.chat_model import ResilientChatModel
    from tests.whole_stack.scenario import Call


@dataclass
class Told:
    """What became of a call. Times are the loop's.

    Attributes:
        call: Who asked.
        began: When.
        ended: When the caller had its answer, or knew that it will have none.
        pieces: What came when, of a stream.
        texts: The answers, as many as prompts; of a stream that broke, what came of it.
        receipts: One for each answer, or for the error.
        error: What was raised, if anything was.
        left: Whether the caller went away of its own accord.
    """

    call: Call
    began: float
    ended: float = 0.0
    pieces: list[tuple[float, str]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    receipts: list[dict[str, Any]] = field(default_factory=list)
    error: BaseException | None = None
    left: bool = False


async def ask_all(model: ResilientChatModel, calls: Iterable[Call]) -> list[Told]:
    """Make all calls, each at its time, and wait for the last."""
    loop = asyncio.get_running_loop()
    start, told, tasks = loop.time(), [], []
    for call in sorted(calls, key=lambda one: one.at):
        await asyncio.sleep(max(0.0, start + call.at - loop.time()))
        told.append(Told(call, loop.time()))
        tasks.append(loop.create_task(ask(model, told[-1])))
        if call.cancel_after is not None:
            loop.call_later(call.cancel_after, _cancel, tasks[-1], call.cancel_twice)
    await asyncio.gather(*tasks)
    return told


def _cancel(task: asyncio.Task[None], again: bool) -> None:
    task.cancel()
    if again:
        asyncio.get_running_loop().call_soon(task.cancel)


async def ask(model: ResilientChatModel, told: Told) -> None:
    """Make one call; never raises."""
    call, clock = told.call, asyncio.get_running_loop().time
    own: dict[str, Any] = {} if call.timeout is None else {"timeout": call.timeout}
    try:
        if call.how == "astream":
            await _read(model, told, own)
        elif call.how == "abatch":
            for answer in await model.abatch(list(call.prompts), **own):
                _note(told, answer)
        else:
            _note(told, await model.ainvoke(call.prompts[0], **own))
    except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  # whatever it is, it is told
        told.error = error
        if isinstance(error, ResilientError) and error.receipt is not None:
            told.receipts.append(error.receipt.as_dict())
    told.ended = clock()


async def _read(model: ResilientChatModel, told: Told, own: dict[str, Any]) -> None:
    call, clock = told.call, asyncio.get_running_loop().time
    told.texts.append("")
    async for chunk in model.astream(call.prompts[0], **own):
        told.pieces.append((clock(), chunk.text))
        told.texts[0] += chunk.text
        _note_receipt(told, chunk)
        if call.leave_after is not None and len(told.pieces) >= call.leave_after:
            told.left = True
            return
        if call.pause:
            await asyncio.sleep(call.pause)


def _note(told: Told, answer: BaseMessage) -> None:
    told.texts.append(answer.text)
    _note_receipt(told, answer)


def _note_receipt(told: Told, message: BaseMessage) -> None:
    receipt = message.response_metadata.get("resilience")
    if receipt is not None:
        told.receipts.append(receipt)
