"""One batch from its beginning to its end: journal, runner, progress and report put together."""

from __future__ import annotations

from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any

from langchain_resilient.batch.journals import as_journal, keys_of
from langchain_resilient.batch.progress import Meter, as_display
from langchain_resilient.batch.runner import Runner
from langchain_resilient.batch.source import Source
from langchain_resilient.batch.work import Questions

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Iterable

    from langchain_core.language_models import BaseChatModel, LanguageModelInput

    from langchain_resilient.batch.options import Options
    from langchain_resilient.batch.ports import Journal
    from langchain_resilient.batch.tally import Tally
    from langchain_resilient.batch.work import Configs


async def answers(
    model: BaseChatModel,
    inputs: Iterable[LanguageModelInput] | AsyncIterable[LanguageModelInput],
    configs: Configs,
    kwargs: dict[str, Any],
    *,
    options: Options,
    tally: Tally,
) -> AsyncGenerator[tuple[int, Any], None]:
    """Yield `(index, answer)` as completed.

    Args:
        model: Who is asked.
        inputs: The prompts.
        configs: Of the calls.
        kwargs: Of the calls.
        options: Of the batch.
        tally: Counts it.
    """
    async with _metered(tally, options) as meter, _opened(options) as journal:
        key = None if journal is None else keys_of(model, kwargs)
        work = Questions(model, configs, kwargs, tally=tally, meter=meter, journal=journal, key=key)
        runner = Runner(
            Source(inputs),
            work,
            workers=options.max_concurrency or 1,
            return_exceptions=options.return_exceptions,
            tail_hedge=options.tail_hedge,
        )
        async with aclosing(runner.results()) as results:
            async for found in results:
                yield found
        tally.end(complete=True)


@asynccontextmanager
async def _metered(tally: Tally, options: Options) -> AsyncGenerator[Meter, None]:
    """Show and report a batch, however it ends."""
    meter = Meter(as_display(options.progress), tally.progress, tally.clock)
    try:
        meter.tick()
        yield meter
    finally:
        tally.end(complete=False)
        meter.close()
        if options.report is not None:
            options.report(tally.report())


@asynccontextmanager
async def _opened(options: Options) -> AsyncGenerator[Journal | None, None]:
    journal = as_journal(options.journal)
    if journal is None:
        yield None
        return
    await journal.open()
    try:
        yield journal
    finally:
        await journal.aclose()
