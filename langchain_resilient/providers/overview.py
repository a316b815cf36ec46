"""What can be said of a chain's targets: where they are, with which key, if their models live."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from langchain_resilient.errors import RetirementWarning
from langchain_resilient.providers import (
    address_of,
    create_provider,
    key_for,
    key_variable,
    missing_key,
)
from langchain_resilient.providers.families import family_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_resilient.options import Target


def overview(chain: Sequence[Target], *, check: bool = False) -> list[dict[str, Any]]:
    """Describe each target in plain data; no key is in it.

    `key` is the environment variable that its key is read from, `kept_back` the one that is not
    read, because the target's address is not its provider's own.

    Args:
        chain: The targets.
        check: Whether to ask their providers which models live, as far as they can be asked. A
            provider that does not answer is an `error` of its row.

    Raises:
        ValueError: If a provider is unknown, or an environment variable holds no usable URL.
    """
    rows = [_row(target) for target in chain]
    if check:
        for target, row in zip(chain, rows, strict=True):
            row.update(_check(target) if row["ready"] else {})
    return rows


def _row(target: Target) -> dict[str, Any]:
    address, variable = address_of(target), key_variable(target)
    given = target.api_key is not None
    elsewhere = bool(target.base_url) and not address.public
    return {
        "target": target.name,
        "provider": target.provider,
        "model": target.model,
        "key": None if given or elsewhere else variable,
        "has_key": key_for(target) is not None,
        "kept_back": variable if elsewhere and not given else None,
        "ready": missing_key(target) is None,
        "base_url": address.url,
        "base_url_from": address.variable,
    }


def _check(target: Target) -> dict[str, Any]:
    """Ask a target's provider for its list of models, and tell what follows for the target."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RetirementWarning)  # the row says it
        provider: Any = create_provider(target)
        family = family_of(provider, target)
        if family is None:
            return {}
        row: dict[str, Any] = {"error": None}
        try:
            provider.refresh_models()
        except Exception as error:  # noqa: BLE001  # whatever it was, it is what the user wants to know
            row["error"] = f"{type(error).__name__}: {error}"
        end, alive = family.end(), family.is_living()
    row |= {
        "asked": family.model,
        "alive": False if row["error"] else alive,
        "shutdown_date": end.date if end else None,
        "successor": family.follower() or None,
    }
    return row


def as_text(rows: Sequence[dict[str, Any]]) -> str:
    """Write an overview for people, a line for each target."""
    width = max(len(row["target"]) for row in rows)
    return "".join(f"{row['target']:<{width}}  {_line(row)}\n" for row in rows)


def _line(row: dict[str, Any]) -> str:
    return _asked(row) + (_known(row) if "alive" in row else "")


def _asked(row: dict[str, Any]) -> str:
    """Say of a target whether it can be asked, and where."""
    if row["key"] is not None:
        line = f"{row['key']} is " + ("set" if row["has_key"] else "not set")
    elif row["has_key"]:
        line = "has a key of its own"
    else:
        line = "is sent no key" if row["kept_back"] else "needs no key"
    if row["base_url"]:
        line += f", at {row['base_url']}"
    if row["base_url_from"]:
        line += f" (from {row['base_url_from']})"
    if row["kept_back"]:
        line += (
            f" ({row['kept_back']} is not sent there; if that server wants a key, name its "
            "variable with --api-key-env, or give api_key in the --config file)"
        )
    return line


def _known(row: dict[str, Any]) -> str:
    """Say what is known of a target's model."""
    if row["error"]:
        return f"; no list of models: {row['error']}"
    state = {True: "lives", False: "is gone", None: "is not listed"}[row["alive"]]
    line = f"; {row['asked']} {state}"
    if row["shutdown_date"]:
        line += f", until {row['shutdown_date']}"
    if row["successor"] and (row["shutdown_date"] or not row["alive"]):
        line += f", then {row['successor']}"
    return line
