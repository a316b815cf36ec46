"""Where a batch meets its journal: how one is opened, and what a question is called in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel
    from langchain_core.messages import BaseMessage

    from langchain_resilient.batch.ports import Journal

Key = Callable[[Sequence["BaseMessage"]], str]


def as_journal(journal: Journal | str | PathLike[str] | None) -> Journal | None:
    """Take a journal, or make one of a path."""
    if isinstance(journal, str | PathLike):
        from langchain_resilient.batch.journal import Journal as File  # noqa: PLC0415  # sqlite3

        return File(journal)
    return journal


def keys_of(model: BaseChatModel, kwargs: Mapping[str, Any]) -> Key:
    """Make the function that names the questions of one batch.

    Args:
        model: Who is asked.
        kwargs: The arguments that all its calls share.
    """
    # Only where there is a journal.
    from langchain_resilient.batch.keys import item_key, model_key  # noqa: PLC0415

    given = {name: value for name, value in kwargs.items() if name != "stop"}
    prefix = model_key(model, kwargs.get("stop"), given)
    return lambda messages: item_key(prefix, messages)
