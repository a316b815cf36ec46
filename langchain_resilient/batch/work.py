"""`Questions`: the work of a batch of prompts. Each is one ordinary `ainvoke` of the model."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from langchain_resilient.priority import PRIORITY

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel, LanguageModelInput
    from langchain_core.messages import AIMessage
    from langchain_core.runnables import RunnableConfig

    from langchain_resilient.batch.journals import Key
    from langchain_resilient.batch.ports import Journal
    from langchain_resilient.batch.progress import Meter
    from langchain_resilient.batch.tally import Tally

TAIL_HEDGE = "tail_hedge"
"""The tag of a run that asks a straggler a second time."""


class Configs:
    """The config of each call: one for all, or a list with one for each, as LangChain takes it.

    Args:
        config: What the caller gave.
        length: How many inputs there are, if that is known.

    Raises:
        ValueError: If a list has not one config for each input.
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
            warnings.warn(msg, RuntimeWarning, stacklevel=2)

    @property
    def max_concurrency(self) -> int | None:
        """What the first config says of it."""
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

    def again(self, index: int) -> RunnableConfig:
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


class Questions:
    """Asks a model each prompt of a batch, and counts and records what comes back.

    Args:
        model: Who is asked.
        configs: Of the calls.
        kwargs: Of the calls.
        tally: Counts.
        meter: Shows the count.
        journal: Keeps the answers; open.
        key: Names the questions in it.
    """

    def __init__(
        self,
        model: BaseChatModel,
        configs: Configs,
        kwargs: dict[str, Any],
        *,
        tally: Tally,
        meter: Meter,
        journal: Journal | None = None,
        key: Key | None = None,
    ) -> None:
        self._model = model
        self._configs = configs
        self._kwargs = kwargs
        self._tally = tally
        self._meter = meter
        self._journal = journal
        self._key = key
        self._keys: dict[int, str] = {}

    def find(self, index: int, item: LanguageModelInput) -> AIMessage | None:
        """Look for the answer in the journal."""
        if self._journal is None or self._key is None:
            return None
        try:
            prompt = self._model._convert_input(item)  # noqa: SLF001  # as LangChain's ainvoke does
        except ValueError:
            return None  # no prompt at all: the call will say so
        key = self._keys[index] = self._key(prompt.to_messages())
        found = self._journal.look_up(index, key)
        if found is not None:
            del self._keys[index]
            self._tally.restore()
            self._meter.tick()
        return found

    async def ask(self, index: int, item: LanguageModelInput, *, again: bool) -> AIMessage:
        """Ask the model, in the second row at a rate limit."""
        PRIORITY.set("batch")  # of this worker's context, which is nobody else's
        if again:
            self._tally.ask_again()
        config = self._configs.again(index) if again else self._configs.at(index)
        return await self._model.ainvoke(item, config, **self._kwargs)

    async def keep(self, index: int, result: AIMessage | Exception) -> None:
        """Record an answer, then count it: what is reported as done is on disk."""
        key = self._keys.pop(index, None)
        if self._journal is not None and key is not None:
            await self._record(self._journal, index, key, result)
        self._tally.add(result)
        self._meter.tick()

    @staticmethod
    async def _record(
        journal: Journal, index: int, key: str, result: AIMessage | Exception
    ) -> None:
        if not isinstance(result, Exception):
            await journal.record(index, key, result)
        elif (record_failure := getattr(journal, "record_failure", None)) is not None:
            await record_failure(index, key, result)
