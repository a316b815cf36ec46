"""The tables of the servers that speak OpenAI's API, made from their rows."""

from __future__ import annotations

from docs.tables import code, table
from langchain_resilient.providers.servers import SERVERS, CompatibleServer


def page() -> str:
    """The tables: what to write, and what is special about each."""
    named = table(("write", "server", "key", "Responses API"), map(_named, SERVERS))
    special = table(
        ("server", "address", "or set", "left out, or sent under another name"),
        map(_special, SERVERS),
    )
    return f"{named}\n{special}"


def _named(server: CompatibleServer) -> tuple[str, ...]:
    keys = " or ".join(map(code, server.keys))
    return (
        code(server.example),
        server.title,
        keys if server.needs_key else f"none ({keys})",
        "yes" if server.responses else "",
    )


def _special(server: CompatibleServer) -> tuple[str, ...]:
    changes = [code(name) for name in sorted(server.refuses)]
    changes += [f"{code(ours)} as {code(theirs)}" for ours, theirs in server.renames.items()]
    address = server.base_url.removeprefix("https://")
    return (
        code(server.name),
        code(address) or "your own",
        code(server.endpoint_env or server.base_url_env[0]),
        ", ".join(changes),
    )
