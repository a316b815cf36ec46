"""The table of the servers that speak OpenAI's API, made from their rows."""

from __future__ import annotations

from docs.tables import table
from langchain_resilient.providers.servers import SERVERS, CompatibleServer


def page() -> str:
    """The table."""
    head = ("write", "server", "address", "key", "left out or renamed", "Responses API")
    return table(head, [_row(server) for server in SERVERS])


def _row(server: CompatibleServer) -> tuple[str, ...]:
    address = f"`{server.base_url}`" if server.base_url else f"`{server.endpoint_env}`"
    keys = " or ".join(f"`{key}`" for key in server.keys)
    changes = [f"`{name}`" for name in sorted(server.refuses)]
    changes += [f"`{ours}` as `{theirs}`" for ours, theirs in server.renames.items()]
    return (
        f"`{server.example}`",
        server.title,
        f"{address}, or `{server.base_url_env[0]}`",
        keys if server.needs_key else f"none ({keys})",
        ", ".join(changes),
        "yes" if server.responses else "",
    )
