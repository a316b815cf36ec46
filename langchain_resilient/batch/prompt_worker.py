"""What is done with one prompt of a batch: look into the journal, ask the model, record, count."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from langchain_resilient import notices
from langchain_resilient.batch.journal_keys import key_function
from langchain_resilient.batch.report import Money, as_wasted
from langchain_resilient.runtime.call import PRIORITY, RECEIPTS, Receipts
from langchain_resilient.runtime.token_estimate import estimate_text_tokens

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

    from langchain_core.language_models import BaseChatModel, LanguageModelInput
    from langchain_core.messages import AIMessage, BaseMessage
    from langchain_core.runnables import RunnableConfig

    from langchain_resilient.batch.journal import Journal
    from langchain_resilient.batch.journal_file import PaidMark
    from langchain_resilient.batch.journal_keys import RequestKeys
    from langchain_resilient.batch.progress import ProgressMeter
    from langchain_resilient.batch.report import BatchStats
    from langchain_resilient.receipt import Receipt
    from langchain_resilient.runtime.call import StoredAnswer

logger: logging.Logger = logging.getLogger("langchain_resilient")

TAIL_HEDGE = "tail_hedge"
"""Tag of the LangChain run that asks a straggler a second time."""


class PromptWorker:
    """What a batch does with each prompt: restore, ask, record.

    Args:
        model: The model that is asked.
        configs: The LangChain config of each call.
        kwargs: The arguments of each call.
        stats: Counts what happens.
        meter: Shows the count.
        journal: Keeps the answers; already open. None to keep none.
        each: More arguments of single calls, by the prompt's index.

    Raises:
        ValueError: If there is a journal, and an argument of all calls cannot be part of its keys.
    """

    def __init__(
        self,
        model: BaseChatModel,
        configs: PromptConfigs,
        kwargs: dict[str, Any],
        *,
        stats: BatchStats,
        meter: ProgressMeter,
        journal: Journal | None = None,
        each: Mapping[int, Mapping[str, Any]] | None = None,
    ) -> None:
        self._model = model
        self._configs = configs
        self._kwargs = kwargs
        self._stats = stats
        self._meter = meter
        self._journal = journal
        self._each = each
        self._make_keys = None if journal is None else key_function(model, kwargs)
        # Of the prompts that are being asked.
        self._keys: dict[int, RequestKeys] = {}
        self._receipts: dict[int, Receipt] = {}

    def restore(self, index: int, prompt: LanguageModelInput) -> AIMessage | None:
        """Return the answer that the journal holds, if any; then nothing else is called."""
        if self._journal is None or self._make_keys is None:
            return None
        try:
            # As LangChain's `ainvoke` does.
            messages = self._model._convert_input(prompt).to_messages()  # noqa: SLF001
        except Exception:  # noqa: BLE001  # LangChain raises several kinds
            return None  # not a prompt at all: the call will say so
        make_keys = self._make_keys
        if self._each and index in self._each:
            make_keys = key_function(self._model, self._kwargs_of(index))
        keys = make_keys(messages)
        answer = self._journal.look_up(index, keys)
        self._stats.earlier = self._journal.earlier
        if answer is None:
            self._keys[index] = keys
            return None
        self._stats.count_restored()
        self._meter.tick()
        return answer

    def _kwargs_of(self, index: int) -> dict[str, Any]:
        if not self._each or index not in self._each:
            return self._kwargs
        return {**self._kwargs, **self._each[index]}

    def take_keys(self, index: int) -> RequestKeys | None:
        """Give up the keys of a prompt, which somebody else keeps until `give_keys`."""
        return self._keys.pop(index, None)

    def give_keys(self, index: int, keys: RequestKeys | None) -> None:
        """Give them back, before the prompt is asked or recorded."""
        if keys is not None:
            self._keys[index] = keys

    def show(self) -> None:
        """Show how far the batch is."""
        self._meter.tick()

    def messages_of(self, prompt: LanguageModelInput) -> list[BaseMessage]:
        """Return a prompt as messages."""
        return self._model._convert_input(prompt).to_messages()  # noqa: SLF001  # as in `restore`

    async def ask(
        self,
        index: int,
        prompt: LanguageModelInput,
        *,
        hedge: bool,
        stored: StoredAnswer | None = None,
    ) -> AIMessage:
        """Ask the model, behind interactive calls where a rate limit makes them queue.

        Args:
            index: The prompt's position in the batch.
            prompt: The prompt.
            hedge: Whether another worker is asking the same prompt already. The first answer wins,
                and the other call is cancelled.
            stored: An answer that came by a batch of a provider: it is judged, and nobody is asked.

        Raises:
            StoredAnswerError: If that is not good enough.
            Exception: The call's; it is the prompt's result.
        """
        PRIORITY.set("batch")  # each worker has a context of its own
        if hedge:
            self._stats.count_tail_hedge()
        config = self._configs.of_hedge(index) if hedge else self._configs.at(index)
        receipts = Receipts()
        receipts.stored = stored
        RECEIPTS.set(receipts)
        calling = self._model.ainvoke(prompt, config, **self._kwargs_of(index))
        try:
            answer = await (calling if self._journal is None else _keep_if_whole(calling, receipts))
        except asyncio.CancelledError:
            if receipts:
                self._record_cancelled(index, prompt, receipts[0])
            raise
        if receipts:  # an answer out of LangChain's cache has none
            self._receipts[index] = receipts[0]
        return answer

    def _record_cancelled(self, index: int, prompt: LanguageModelInput, receipt: Receipt) -> None:
        """Count what a call cost that nobody gets an answer of: it will be asked again, or lost."""
        text = self._model._convert_input(prompt).to_string()  # noqa: SLF001  # as in `restore`
        receipt = as_wasted(receipt, estimate_text_tokens(text))
        self._stats.add_cancelled(receipt)
        keys = self._keys.get(index)
        if self._journal is not None and keys is not None:
            spent, _ = self._stats.money_of(receipt)
            self._journal.record_cancelled(index, keys, Money(spent, spent))

    def record_lost(self, index: int, receipt: Receipt, paid: PaidMark | None = None) -> None:
        """Count what an answer cost that is not the prompt's result.

        Args:
            index: The prompt's position.
            receipt: Of the answer.
            paid: Of the provider's batch that gave it.
        """
        keys = self._keys.pop(index, None)
        if receipt.lane is None:
            self._stats.add_cancelled(receipt)
        else:
            self._stats.add_batched(receipt)
        if self._journal is not None and keys is not None:
            spent, _ = self._stats.money_of(receipt)
            self._journal.record_cancelled(index, keys, Money(spent, spent), paid)

    async def record(
        self, index: int, result: AIMessage | Exception, paid: PaidMark | None = None
    ) -> None:
        """Record a result, then count it: what is reported as done is on disk.

        Called once for each prompt that was asked, before its result is reported. An exception of
        this ends the whole batch.

        Args:
            index: The prompt's position.
            result: Its answer, or its error.
            paid: Of the provider's batch that gave the answer.
        """
        keys = self._keys.pop(index, None)
        receipt = self._receipts.pop(index, None)
        if isinstance(result, Exception):
            receipt = getattr(result, "receipt", None)
        if self._journal is not None and keys is not None:
            money = self._stats.money_of(receipt)
            if isinstance(result, Exception):
                await self._journal.record_failure(index, keys, result, money)
            else:
                more = {} if paid is None else {"paid": paid}
                await self._journal.record(index, keys, result, money, **more)
        self._stats.add(result, receipt)
        self._meter.tick()


async def _keep_if_whole(calling: Coroutine[Any, Any, AIMessage], receipts: Receipts) -> AIMessage:
    """Await a call. If it is cancelled while its answer is whole already, return that: it is paid.

    Args:
        calling: The call.
        receipts: What it tells of itself.

    Raises:
        CancelledError: If there is no answer yet; the call is over then.
    """
    call = asyncio.ensure_future(calling)
    try:
        await asyncio.wait({call})
    except asyncio.CancelledError:
        if not (call.done() or receipts.answered):
            call.cancel()
            await asyncio.wait({call})
            raise
        await asyncio.wait({call})  # only LangChain's callbacks are left to do
    finally:
        call.cancel()  # for a second cancel; of one that is done it does nothing
    return call.result()


class PromptConfigs:
    """The LangChain config of each call: one for all prompts, or a list with one for each.

    Args:
        config: What the caller passed.
        length: The number of inputs, if known.

    Raises:
        ValueError: If a list does not have one config for each input.
    """

    def __init__(
        self, config: RunnableConfig | Sequence[RunnableConfig] | None, length: int | None
    ) -> None:
        self._each = config if isinstance(config, Sequence) else None
        self._first: RunnableConfig = {} if config is None or self._each is not None else config  # type: ignore[assignment]
        self._others = _without_run_id(self._first)
        if self._each is not None and length not in {None, len(self._each)}:
            raise ValueError(_wrong_length(len(self._each), length))
        if self._first.get("run_id") is not None and length != 1:
            msg = "Provided run_id be used only for the first element of the batch."
            notices.warn(msg, RuntimeWarning)

    @property
    def max_concurrency(self) -> int | None:
        """The `max_concurrency` of the first config."""
        first = self._first if not self._each else self._each[0]
        return (first or {}).get("max_concurrency")

    def at(self, index: int) -> RunnableConfig:
        """Return the config of one input.

        Raises:
            ValueError: If there are fewer configs than inputs.
        """
        if self._each is None:
            return self._others if index else self._first
        if index >= len(self._each):
            raise ValueError(_wrong_length(len(self._each), None))
        return self._each[index] or {}

    def of_hedge(self, index: int) -> RunnableConfig:
        """Return the config of a second call for an input: a run of its own, with a tag."""
        config = _without_run_id(self.at(index))
        return {**config, "tags": [*(config.get("tags") or ()), TAIL_HEDGE]}


def _without_run_id(config: RunnableConfig) -> RunnableConfig:
    return {k: v for k, v in config.items() if k != "run_id"}  # type: ignore[return-value]


def _wrong_length(configs: int, inputs: int | None) -> str:
    count = "more" if inputs is None else str(inputs)
    return (
        "config must be a list of the same length as inputs, "
        f"but got {configs} configs for {count} inputs"
    )
