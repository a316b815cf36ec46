"""`map_prompts`: a column of prompts of a Ray dataset, answered by actors (extra `ray`)."""

from __future__ import annotations

import logging
import socket
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_resilient.batch.mixin import BATCH_CONCURRENCY
from langchain_resilient.batch.row_asker import RowAsker, journal_path
from langchain_resilient.batch.rows import (
    USAGE_FIELDS,
    RowPrompts,
    free_names,
    parts_of,
    with_model,
)
from langchain_resilient.errors import MissingExtraError

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from langchain_core.prompts import BasePromptTemplate
    from langchain_core.runnables import Runnable

    from langchain_resilient.batch.journal import JournalMatch
    from langchain_resilient.batch.mixin import BatchingChatModel, LaneOption
    from langchain_resilient.batch.options import Progress, Within

__all__ = ["map_prompts"]

logger: logging.Logger = logging.getLogger("langchain_resilient")

ROWS_PER_TASK = 256
"""Rows of one task of Ray, by default."""


def map_prompts(
    ds: Any,
    llm: Runnable[Any, Any],
    prompt: str = "prompt",
    *,
    messages: str | None = None,
    template: str | BasePromptTemplate[Any] | None = None,
    options: str | None = None,
    id: str | None = None,  # noqa: A002  # what the column is called
    journal: str | os.PathLike[str] | None = None,
    journal_match: JournalMatch = "prompt",
    workers: int | tuple[int, int] | None = None,
    max_concurrency: int = BATCH_CONCURRENCY,
    rows_per_task: int = ROWS_PER_TASK,
    return_exceptions: bool = True,
    progress: Progress = False,
    lane: LaneOption = None,
    within: Within = None,
    ray_remote_args: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Any:
    """Answer the prompts of a Ray dataset; returns a dataset with the same rows and the answers.

    Each row gets `answer` (text), `error` (text; null where there is an answer), `usage` (a struct
    of `input_tokens`, `output_tokens` and `total_tokens`) and `receipt` (JSON); with tools also
    `tool_calls` (JSON), and where `llm` parses its answers `parsed` (JSON). A column of the rows
    that has such a name is renamed `input_...`.

    With a journal, no answer that was recorded is asked for again, whatever is killed: an actor, a
    node or the driver. Ray asks for lost rows again by itself; after the driver was killed, run the
    same again and write with `mode="overwrite"`.

    Args:
        ds: The dataset. Ray runs nothing until the result is written or read.
        llm: A `ResilientChatModel`, one with tools or a schema bound, or a chain of prompts, one
            such model and parsers. A prompt template at its beginning takes the row. Its keys
            travel with it to the workers, as far as they are not in their environment.
        prompt: The column of prompts: texts, or lists of messages as dicts.
        messages: Instead, the column of messages: lists of dicts, or their JSON.
        template: Instead, a text such as `"Translate {text}"` with columns as its fields; or a
            prompt template; or the name of a column of such texts.
        options: A column of more arguments for each row's call, such as `{"temperature": 0}`:
            dicts, or their JSON.
        id: A column that names each row. The journal knows an answer by it and by the prompt.
            Without it, rows with the same prompt and arguments share one answer.
        journal: Where answers are recorded: a file such as `"run.db"` if all workers are on one
            machine; else a folder on storage that all machines share, such as `"/mnt/run"`. A name
            without a suffix is a folder.
        journal_match: See `llm.batch`.
        workers: The number of actors, or the least and the most; by default one for each node.
        max_concurrency: Rows that one actor asks at a time.
        rows_per_task: Rows of one task. Smaller ones are written earlier, larger ones cost less.
        return_exceptions: Whether a row that fails gets an `error`, and the others go on;
            otherwise the first failure ends the job.
        progress: True for a line of each worker every ten seconds, beside the bar of Ray, or a
            function that each worker calls with a `BatchProgress`.
        lane: `"batch"` for batches of the provider, at half the price. One worker sends all rows,
            so they have to fit into its node.
        within: The time that these have; see `llm.batch`.
        ray_remote_args: More arguments of the actors, such as `{"num_cpus": 0.5}`.
        **kwargs: Passed to each call, such as `timeout=None`.

    Raises:
        MissingExtraError: Without Ray Data.
        TypeError: If `ds` or `llm` is something else, or a keyword is misspelt.
        ValueError: If a column is missing, or arguments do not fit each other or the cluster.

    Example:
        ```python
        ds = ray.data.read_parquet("prompts/")
        ds = map_prompts(ds, llm, prompt="prompt", id="id", journal="/mnt/run")
        ds.write_parquet("answers/", mode="overwrite")
        ```
    """
    ray = _import_ray()
    if not isinstance(ds, ray.data.Dataset):
        msg = f"ds must be a ray.data.Dataset, not {type(ds).__name__}"
        raise TypeError(msg)
    if rows_per_task < 1:
        msg = f"rows_per_task must be at least 1, not {rows_per_task}"
        raise ValueError(msg)
    if not ray.is_initialized():
        ray.init()
    nodes = [node for node in ray.nodes() if node["Alive"]]
    least, most = _pool_size(workers, nodes, lane)
    setup: dict[str, Any] = {
        "llm": _share_of(llm, most),
        "prompts": RowPrompts(prompt, messages, template, options, id),
        "journal_match": journal_match,
        "max_concurrency": max_concurrency,
        "return_exceptions": return_exceptions,
        "progress": progress,
        "lane": lane,
        "within": within,
        "kwargs": kwargs,
    }
    host = None
    if journal is not None:
        path, is_folder = journal_path(journal)
        if not is_folder:
            host = _one_machine(nodes, path)
        setup["journal"] = path
        if is_folder:
            Path(path).mkdir(parents=True, exist_ok=True)
    asker = RowAsker(**setup)  # here to find what is wrong with the arguments
    known = ds.columns(fetch_if_missing=False)
    if known is not None:
        asker.check_columns(known)
    calls = 1 if lane is not None else 1 + -(-2 * max_concurrency // rows_per_task)
    rows = ds.repartition(**_blocks(rows_per_task, lane))
    return rows.map_batches(
        TableAsker,
        fn_constructor_kwargs={"setup": setup, "host": host},
        batch_size=None,
        batch_format="pyarrow",
        zero_copy_batch=True,
        udf_modifying_row_count=False,
        compute=ray.data.ActorPoolStrategy(
            min_size=least,
            max_size=most,
            max_concurrent_calls_per_actor=calls,
            enable_true_multi_threading=True,
        ),
        **{"num_cpus": 1, **(ray_remote_args or {})},
    )


def _import_ray() -> Any:
    try:
        import_module("ray.data")
        return import_module("ray")
    except ImportError as error:
        msg = f"map_prompts needs Ray Data ({error}): pip install 'langchain-resilient[ray]'"
        raise MissingExtraError(msg) from error


def _blocks(rows_per_task: int, lane: LaneOption) -> dict[str, int]:
    if lane is not None:
        return {"num_blocks": 1}  # a deadline is one for all rows
    return {"target_num_rows_per_block": rows_per_task}


def _pool_size(
    workers: int | tuple[int, int] | None, nodes: list[dict[str, Any]], lane: LaneOption
) -> tuple[int, int]:
    """The least and the most actors."""
    if lane is not None:
        if workers not in (None, 1):
            msg = "lane='batch' has one worker, which sends all rows: leave out workers="
            raise ValueError(msg)
        return 1, 1
    if workers is None:
        able = sum(node.get("Resources", {}).get("CPU", 0) >= 1 for node in nodes)
        workers = max(1, able)
    least, most = (workers, workers) if isinstance(workers, int) else workers
    if not 1 <= least <= most:
        msg = f"workers must be a number from 1 on, or the least and the most, not {workers!r}"
        raise ValueError(msg)
    return least, most


def _one_machine(nodes: list[dict[str, Any]], path: str) -> str:
    """The one machine of the cluster, for a journal that is a file there.

    Raises:
        ValueError: If there are several.
    """
    hosts = sorted({str(node["NodeManagerHostname"]) for node in nodes})
    if len(hosts) > 1:
        msg = (
            f"the journal {path} is a file, and the cluster has {len(hosts)} machines: give a "
            "folder on storage that they share, such as journal='/mnt/run'"
        )
        raise ValueError(msg)
    return hosts[0] if hosts else socket.gethostname()


def _share_of(llm: Runnable[Any, Any], workers: int) -> Runnable[Any, Any]:
    """Give each of several workers its part of what the whole model may use.

    A model that shares its limits by Redis needs no parts; limits that are learned from answers are
    not known yet.
    """
    model = parts_of(llm).model
    if workers == 1 or getattr(model, "shared", None) is not None:
        return llm
    changed = model_share(model, workers)
    return llm if changed is model else with_model(llm, changed)


def model_share(model: BatchingChatModel, workers: int) -> BatchingChatModel:
    """Return a model with an equal part of each limit and spend cap of another one."""
    targets, changed = [], []
    for target in getattr(model, "targets", ()):
        update = _parts_of_limits(target, workers)
        changed += sorted(update)
        targets.append(target.model_copy(update=update) if update else target)
    update = {"targets": targets} if changed else {}
    if (cap := getattr(model, "spend_cap", None)) is not None:
        update["spend_cap"] = cap.model_copy(update={"dollars": cap.dollars / workers})
        changed.append("spend_cap")
    if not update:
        return model
    names = ", ".join(sorted(set(changed)))
    logger.info(
        "each of %s workers keeps to its part of %s; shared= makes them one", workers, names
    )
    return model.model_copy(update=update)


def _parts_of_limits(target: Any, workers: int) -> dict[str, Any]:
    update: dict[str, Any] = {}
    for name in ("requests_per_minute", "tokens_per_minute"):
        if (limit := getattr(target, name)) is not None:
            update[name] = limit / workers
    if target.max_concurrency is not None:
        update["max_concurrency"] = max(1, target.max_concurrency // workers)
    if target.spend_cap is not None:
        cap = target.spend_cap
        update["spend_cap"] = cap.model_copy(update={"dollars": cap.dollars / workers})
    return update


class TableAsker:
    """What an actor does: it lives as long as its process, and answers a table at a time.

    Args:
        setup: The arguments of its `RowAsker`.
        host: The machine that the journal is on; None if all machines see it.

    Raises:
        ValueError: If this is another machine.
    """

    def __init__(self, setup: dict[str, Any], host: str | None = None) -> None:
        here = socket.gethostname()
        if host is not None and here != host:
            msg = (
                f"the journal {setup['journal']} is a file on {host}, and this worker runs on "
                f"{here}: give a folder on storage that both share, such as journal='/mnt/run'"
            )
            raise ValueError(msg)
        self._asker = RowAsker(**setup)

    def __call__(self, table: Any) -> Any:
        """Return a table of Arrow with the columns of the answers."""
        import pyarrow as pa  # noqa: PLC0415  # comes with Ray Data

        asker = self._asker
        if table.num_rows:
            asker.check_columns(table.column_names)
        wanted = asker.columns
        read = [n for n in table.column_names if wanted is None or n in wanted]
        answers = asker.ask(table.select(read).to_pylist())
        table = table.rename_columns(free_names(table.column_names, asker.added))
        usage = pa.struct([(name, pa.int64()) for name in USAGE_FIELDS])
        for name in asker.added:
            kind = usage if name == "usage" else pa.string()
            table = table.append_column(name, pa.array([row[name] for row in answers], kind))
        return table

    def __del__(self) -> None:
        """Close the journal, when Ray lets go of the actor."""
        with suppress(Exception):
            self._asker.close()
