"""Generates the reference of exceptions, faults and receipts from the code."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING, Any

from docs.docstrings import description, members, section
from docs.tables import code, table
from langchain_resilient import Fault, FaultKind, errors, receipt
from langchain_resilient.faults import TRAITS

if TYPE_CHECKING:
    from collections.abc import Iterable


def exceptions() -> list[type[errors.ResilientError]]:
    """Return every exception of the package, in the order of `errors.py`."""
    classes = [member for member in vars(errors).values() if _is_defined_there(member)]
    return sorted(classes, key=lambda cls: inspect.getsourcelines(cls)[1])


def _is_defined_there(member: Any) -> bool:
    return inspect.isclass(member) and member.__module__ == errors.__name__


def tree() -> str:
    """Return the drawing at the top of `errors.py`."""
    drawing = re.search(r"```\n(.*?)```", inspect.getdoc(errors) or "", re.DOTALL)
    return drawing[1] if drawing else ""


def page() -> str:
    """Return the reference as Markdown."""
    return "\n".join(
        [
            "## The exceptions\n",
            f"```text\n{tree()}```\n",
            table(("exception", "when", "attributes of its own"), _exception_rows()),
            "## Kinds of fault\n",
            description(Fault) + " Its `kind` is one of:\n",
            table(("kind", "what happened", "what follows", "what you can do"), _fault_rows()),
            "## `Fault`\n",
            _attributes(Fault),
            "## `Receipt`\n",
            _attributes(receipt.Receipt),
            "## `AttemptRecord`\n",
            _attributes(receipt.AttemptRecord),
            "An attempt's `kind`:\n",
            table(("kind", "why it was sent"), _members(receipt.AttemptKind)),
            "Its `outcome`:\n",
            table(("outcome", "how it ended"), _members(receipt.Outcome)),
            "## `Break`\n",
            _attributes(receipt.Break),
        ]
    )


def _exception_rows() -> Iterable[tuple[str, str, str]]:
    for cls in exceptions():
        own = "; ".join(f"`{k}`: {v}" for k, v in section(cls, "Attributes").items())
        yield code(cls.__name__), description(cls), own


def _fault_rows() -> Iterable[tuple[str, str, str, str]]:
    for name, meaning in members(FaultKind).items():
        kind = FaultKind[name]
        yield code(kind.value), meaning, _consequence(kind), TRAITS[kind].advice


def _consequence(kind: FaultKind) -> str:
    traits = TRAITS[kind]
    if traits.blocks_account:
        return "the whole account is left out for minutes"
    if traits.excludes_target:
        return "this call does not ask that target again"
    return "another target at once; this one again later" if traits.transient else ""


def _attributes(cls: type) -> str:
    rows = [(code(name), meaning) for name, meaning in section(cls, "Attributes").items()]
    return table(("attribute", "meaning"), rows)


def _members(cls: type) -> list[tuple[str, str]]:
    return [(code(name.lower()), meaning) for name, meaning in members(cls).items()]
