"""Writes the reference of exceptions, faults and receipts out of the code."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING, Any

from docs.reading import members, section, story
from docs.tables import code, table
from langchain_resilient import Fault, FaultKind, errors, receipt
from langchain_resilient.faults import TRAITS

if TYPE_CHECKING:
    from collections.abc import Iterable


def exceptions() -> list[type[errors.ResilientError]]:
    """Every exception of the package, in the order of its file."""
    ours = [one for one in vars(errors).values() if _is_ours(one)]
    return sorted(ours, key=lambda one: inspect.getsourcelines(one)[1])


def _is_ours(thing: Any) -> bool:
    return inspect.isclass(thing) and thing.__module__ == errors.__name__


def tree() -> str:
    """The drawing at the top of `errors.py`."""
    drawn = re.search(r"```\n(.*?)```", inspect.getdoc(errors) or "", re.DOTALL)
    return drawn[1] if drawn else ""


def page() -> str:
    """Write all of it."""
    return "\n".join(
        [
            "## The exceptions\n",
            f"```text\n{tree()}```\n",
            table(("exception", "when", "attributes of its own"), _exception_rows()),
            "## Kinds of fault\n",
            story(Fault) + " Its `kind` is one of:\n",
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
    for one in exceptions():
        own = "; ".join(f"`{k}`: {v}" for k, v in section(one, "Attributes").items())
        yield code(one.__name__), story(one), own


def _fault_rows() -> Iterable[tuple[str, str, str, str]]:
    for name, said in members(FaultKind).items():
        kind = FaultKind[name]
        yield code(kind.value), said, _consequence(kind), TRAITS[kind].advice


def _consequence(kind: FaultKind) -> str:
    traits = TRAITS[kind]
    if traits.blocks_account:
        return "the whole account is left out for minutes"
    if traits.excludes_target:
        return "this call does not ask that target again"
    return "another target at once; this one again later" if traits.transient else ""


def _attributes(cls: type) -> str:
    rows = [(code(name), said) for name, said in section(cls, "Attributes").items()]
    return table(("attribute", "meaning"), rows)


def _members(cls: type) -> list[tuple[str, str]]:
    return [(code(name.lower()), said) for name, said in members(cls).items()]
