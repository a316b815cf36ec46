"""The batch methods of the chat model, all over one runner."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Callable,
    Generator,
    Iterable,
    Mapping,
    Sequence,
    Sized,
)
from contextlib import aclosing
from dataclasses import replace
from operator import itemgetter, length_hint
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal, Self, overload

from langchain_core.language_models import LanguageModelInput
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig, RunnableSequence
from pydantic import ConfigDict, PrivateAttr

from langchain_resilient.batch.options import (
    BatchOptions,
    JournalMatchOption,
    JournalOption,
    Progress,
    Within,
)
from langchain_resilient.prices import Price
from langchain_resilient.runtime.background_loop import background_loop
from langchain_resilient.runtime.keywords import BATCH_KEYWORDS, refuse_misspelt

if TYPE_CHECKING:
    from langchain_resilient.batch.report import BatchReport, BatchStats
    from langchain_resilient.runtime.batched import BatchDesk
else:
    # Annotations are evaluated at run time too, where a batch's modules need not be loaded.
    BatchReport = BatchStats = Any

Config = RunnableConfig | Sequence[RunnableConfig] | None
LaneOption = Literal["batch"] | None
ReportOption = Callable[[BatchReport], object] | None


AMAP_CONCURRENCY = 64
"""Prompts under way in `amap`, by default."""

BATCH_CONCURRENCY = 256
"""Prompts under way in the other methods, by default. LangChain sets no limit: a list of 10,000
would open 10,000 connections."""

_READ_AHEAD = 16
"""Results that may be ready before a synchronous consumer takes them."""


class BatchingChatModel(BaseChatModel):
    """A chat model with batches that are bounded, resumable and reported.

    All its batch methods take these keywords beside LangChain's. Inside a chain, bind them:
    `(prompt | llm.bind(progress=True) | parser).abatch(...)`.

    - `progress`: True for a bar (in a terminal or a notebook, with tqdm) or lines (in a log file);
      or a function that gets a `BatchProgress` at most ten times a second, and at the end.
    - `journal`: a path, or a `Journal`: answers are on disk before they are reported, and the same
      call after a crash sends only what is missing.
    - `journal_match`: `"prompt"` (default) uses an answer to the same prompt and call, whichever
      targets and parameters the model had; `"exact"` only one of a model that had the same.
    - `report`: a function that gets the `BatchReport` at the end, however the batch ends.
    - `tail_hedge`: whether free workers ask the stragglers at the end a second time, once they have
      run for 3 times the median, and for a second. That is fewer than `max_concurrency` more calls
      per batch, each a LangChain run with the tag `tail_hedge`, and none before 20 answers.
    - `lane`: `"batch"` sends the prompts in batches of the first target whose provider has them
      (OpenAI, Together): half the price, and hours. It needs a `journal`, and reads all prompts at
      once. What comes back with an error, too late, or not good enough is asked live.
    - `within`: the time in which all is to be answered, such as `"6h"`; None for as long as the
      provider takes.

    At most `max_concurrency` prompts are under way: the first config's, else 256, or 64 for `amap`.
    The first error cancels the others and is raised once nothing is left running, unless
    `return_exceptions`; cancellation and Ctrl-C stop a batch in the same way. What was done by then
    is in the journal and in `batch_report()`.
    """

    # This class is only subclassed, so its validators need not be built.
    model_config = ConfigDict(defer_build=True)

    _last_batch: BatchStats | None = PrivateAttr(default=None)

    def batch_report(self) -> BatchReport:
        """Return what the last batch of this model did; of one that still runs, until now.

        If several run at once, it is the one that began last: give each its own `report=`.

        Raises:
            LookupError: If there was no batch yet.

        Example:
            ```python
            answers = llm.batch(prompts, return_exceptions=True)
            print(llm.batch_report())
            ```
        """
        if self._last_batch is None:
            msg = "this model has run no batch yet"
            raise LookupError(msg)
        return self._last_batch.report()

    async def abatch(  # type: ignore[override]  # LangChain's type lets any keyword be None
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        progress: Progress = False,
        journal: JournalOption = None,
        journal_match: JournalMatchOption = None,
        report: ReportOption = None,
        tail_hedge: bool = True,
        lane: LaneOption = None,
        within: Within = None,
        **kwargs: Any,
    ) -> list[AIMessage]:
        """Answer many prompts at a time; the answers come in the order of the prompts.

        Args:
            inputs: The prompts.
            config: One for all, or a list with one for each.
            return_exceptions: Put an exception where an answer would be, instead of raising it.
            progress: See the class.
            journal: See the class.
            journal_match: See the class.
            report: See the class.
            tail_hedge: See the class.
            lane: See the class.
            within: See the class.
            **kwargs: Passed to each call.

        Raises:
            ValueError: If `config` is a list of another length, or `max_concurrency` is below 1.

        Example:
            ```python
            answers = await llm.abatch(prompts, {"max_concurrency": 64}, progress=True)
            ```
        """
        _refuse_lost_keywords()
        options = BatchOptions(
            return_exceptions, progress, journal, report, tail_hedge,
            journal_match=journal_match, lane=lane, within=within,
        )  # fmt: skip
        results = self._answers(inputs, config, options, kwargs)
        async with aclosing(results):
            return _in_input_order([result async for result in results])

    def batch(  # type: ignore[override]  # as above
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        progress: Progress = False,
        journal: JournalOption = None,
        journal_match: JournalMatchOption = None,
        report: ReportOption = None,
        tail_hedge: bool = True,
        lane: LaneOption = None,
        within: Within = None,
        **kwargs: Any,
    ) -> list[AIMessage]:
        """Answer many prompts at a time, as `abatch` does, on one background event loop."""
        _refuse_lost_keywords()
        options = BatchOptions(
            return_exceptions, progress, journal, report, tail_hedge,
            journal_match=journal_match, lane=lane, within=within,
        )  # fmt: skip
        results = self._answers(inputs, config, options, kwargs)
        return _in_input_order(list(background_loop().iterate(results, wait=True)))

    @overload
    def abatch_as_completed(
        self,
        inputs: Iterable[LanguageModelInput],
        config: Config = None,
        *,
        return_exceptions: Literal[False] = False,
        **kwargs: Any,
    ) -> AsyncGenerator[tuple[int, AIMessage], None]: ...

    @overload
    def abatch_as_completed(
        self,
        inputs: Iterable[LanguageModelInput],
        config: Config = None,
        *,
        return_exceptions: Literal[True],
        **kwargs: Any,
    ) -> AsyncGenerator[tuple[int, AIMessage | Exception], None]: ...

    async def abatch_as_completed(
        self,
        inputs: Iterable[LanguageModelInput],
        config: Config = None,
        *,
        return_exceptions: bool = False,
        progress: Progress = False,
        journal: JournalOption = None,
        journal_match: JournalMatchOption = None,
        report: ReportOption = None,
        tail_hedge: bool = True,
        lane: LaneOption = None,
        within: Within = None,
        **kwargs: Any,
    ) -> AsyncGenerator[tuple[int, Any], None]:
        """Yield `(index, answer)` as completed; takes the same as `abatch`, and any iterable."""
        options = BatchOptions(
            return_exceptions, progress, journal, report, tail_hedge,
            journal_match=journal_match, lane=lane, within=within,
        )  # fmt: skip
        results = self._answers(inputs, config, options, kwargs)
        async with aclosing(results):
            async for result in results:
                yield result

    @overload
    def batch_as_completed(
        self,
        inputs: Iterable[LanguageModelInput],
        config: Config = None,
        *,
        return_exceptions: Literal[False] = False,
        **kwargs: Any,
    ) -> Generator[tuple[int, AIMessage], None, None]: ...

    @overload
    def batch_as_completed(
        self,
        inputs: Iterable[LanguageModelInput],
        config: Config = None,
        *,
        return_exceptions: Literal[True],
        **kwargs: Any,
    ) -> Generator[tuple[int, AIMessage | Exception], None, None]: ...

    def batch_as_completed(
        self,
        inputs: Iterable[LanguageModelInput],
        config: Config = None,
        *,
        return_exceptions: bool = False,
        progress: Progress = False,
        journal: JournalOption = None,
        journal_match: JournalMatchOption = None,
        report: ReportOption = None,
        tail_hedge: bool = True,
        lane: LaneOption = None,
        within: Within = None,
        **kwargs: Any,
    ) -> Generator[tuple[int, Any], None, None]:
        """Yield `(index, answer)` as completed: `amap` for synchronous code.

        Takes the same as `abatch`, and any iterable, which is read by the background event loop's
        thread as prompts are needed.
        """
        options = BatchOptions(
            return_exceptions, progress, journal, report, tail_hedge,
            journal_match=journal_match, lane=lane, within=within,
        )  # fmt: skip
        results = self._answers(inputs, config, options, kwargs)
        yield from background_loop().iterate(results, ahead=_READ_AHEAD, wait=True)

    @overload
    def amap(
        self,
        inputs: Iterable[LanguageModelInput] | AsyncIterable[LanguageModelInput],
        config: Config = None,
        *,
        max_concurrency: int | None = None,
        return_exceptions: Literal[False] = False,
        **kwargs: Any,
    ) -> AsyncGenerator[tuple[int, AIMessage], None]: ...

    @overload
    def amap(
        self,
        inputs: Iterable[LanguageModelInput] | AsyncIterable[LanguageModelInput],
        config: Config = None,
        *,
        max_concurrency: int | None = None,
        return_exceptions: Literal[True],
        **kwargs: Any,
    ) -> AsyncGenerator[tuple[int, AIMessage | Exception], None]: ...

    async def amap(
        self,
        inputs: Iterable[LanguageModelInput] | AsyncIterable[LanguageModelInput],
        config: Config = None,
        *,
        max_concurrency: int | None = None,
        return_exceptions: bool = False,
        progress: Progress = False,
        journal: JournalOption = None,
        journal_match: JournalMatchOption = None,
        report: ReportOption = None,
        tail_hedge: bool = True,
        lane: LaneOption = None,
        within: Within = None,
        **kwargs: Any,
    ) -> AsyncGenerator[tuple[int, Any], None]:
        """Answer prompts from a source of any length; yields `(index, answer)` as completed.

        The source is read as prompts are needed: at most `2 * max_concurrency` are ahead of what
        was yielded, and memory does not grow with the length. A slow consumer slows the sending.

        Args:
            inputs: Any iterable or async iterable. It is closed at the end, if it can be closed.
            config: One for all, or a list with one for each.
            max_concurrency: Prompts under way; else the config's, else 64.
            return_exceptions: Yield an exception where an answer would be, instead of raising it.
            progress: See the class.
            journal: See the class.
            journal_match: See the class.
            report: See the class.
            tail_hedge: See the class.
            lane: See the class.
            within: See the class.
            **kwargs: Passed to each call.

        Raises:
            ValueError: If `max_concurrency` is below 1.

        Example:
            ```python
            async with aclosing(llm.amap(prompts, max_concurrency=64)) as answers:
                async for index, answer in answers:
                    print(index, answer.text)
            ```
        """
        options = BatchOptions(
            return_exceptions, progress, journal, report, tail_hedge, max_concurrency,
            journal_match, lane, within,
        )  # fmt: skip
        results = self._answers(inputs, config, options, kwargs, AMAP_CONCURRENCY)
        async with aclosing(results):
            async for result in results:
                yield result

    # -- shared by all of them ------------------------------------------------------------------

    async def _answers(
        self,
        inputs: Iterable[LanguageModelInput] | AsyncIterable[LanguageModelInput],
        config: Config,
        options: BatchOptions,
        kwargs: dict[str, Any],
        default_concurrency: int = BATCH_CONCURRENCY,
        *,
        each: Mapping[int, Mapping[str, Any]] | None = None,
    ) -> AsyncGenerator[tuple[int, Any], None]:
        # Imported late: together they take longer than the rest of the model.
        from langchain_resilient.batch.prompt_worker import PromptConfigs  # noqa: PLC0415
        from langchain_resilient.batch.report import BatchStats  # noqa: PLC0415
        from langchain_resilient.batch.runner import run_batch  # noqa: PLC0415

        refuse_misspelt(kwargs, batch=True)
        length = len(inputs) if isinstance(inputs, Sized) else None
        configs = PromptConfigs(config, length)
        limit = options.max_concurrency
        for other in (configs.max_concurrency, default_concurrency):
            limit = other if limit is None else limit
        hint = length_hint(inputs, -1) if length is None else length
        clock = asyncio.get_running_loop().time
        stats = self._last_batch = BatchStats(
            None if hint < 0 else hint, clock, self._price, self._health
        )
        options = replace(options, max_concurrency=limit)
        make_lane = None
        if options.lane is not None:
            from langchain_resilient.batch.lane import lane_maker  # noqa: PLC0415  # seldom needed

            make_lane = lane_maker(self._batch_desk, kwargs, options, stats)
        results = run_batch(
            self, inputs, configs, kwargs,
            options=options, stats=stats, make_lane=make_lane, each=each,
        )  # fmt: skip
        async with aclosing(results):
            async for result in results:
                yield result

    def _batch_desk(self, target: str | None = None) -> BatchDesk | None:  # noqa: ARG002  # for models that have one
        """Return the batches of a target; for None of the first that has any."""
        return None

    def _health(self, target: str) -> str | None:  # noqa: ARG002  # for models that know it
        """How a target is now; None if nobody knows."""
        return None

    def _price(self, target: str) -> Price | None:  # noqa: ARG002  # for models that know prices
        """Return the price of a target; None if it is not known."""
        return None

    def __copy__(self) -> Self:
        copy = super().__copy__()
        copy._last_batch = None  # noqa: SLF001  # our own
        return copy


def _refuse_lost_keywords() -> None:
    """Refuse keywords that were given to the batch of a chain.

    LangChain passes them to its first step only, and a prompt template ignores them.

    Raises:
        TypeError: Says how to give them.
    """
    frame: FrameType | None = sys._getframe(2)  # noqa: SLF001  # of who calls `batch`: nothing else knows the chain
    for _ in range(_STEPS_UP):
        if frame is None:
            return
        if frame.f_code in _CHAIN_BATCHES:
            chain, step = frame.f_locals["self"], frame.f_locals.get("step")
            lost = BATCH_KEYWORDS & frame.f_locals["kwargs"].keys()
            if lost and step is not chain.first:
                name = min(lost)
                msg = (
                    f"{name}= reaches only the first step of a chain: bind it to the model, as in "
                    f"prompt | llm.bind({name}=...)"
                )
                raise TypeError(msg)
            return
        frame = frame.f_back


_STEPS_UP = 4
"""Frames between a chain's `batch` and the model's: those of `llm.bind(...)`, mostly."""

_CHAIN_BATCHES = {RunnableSequence.batch.__code__, RunnableSequence.abatch.__code__}


def _in_input_order(results: list[tuple[int, Any]]) -> list[Any]:
    return [answer for _, answer in sorted(results, key=itemgetter(0))]
