"""What the service is told: a TOML file with the tables `[service]` and `[model]`.

`[model]` takes every field of `ResilientChatModel`. What TOML cannot say is written as text:
`"${NAME}"` is an environment variable, `"python:module:name"` an object of Python (a `check`, an
observer, a tenacity object, a LangChain model), and `"none"` is None where a field has another
default (`timeout`, `hedge`, `health`, the time limits).

```toml
[service]
client_keys = ["${SERVICE_KEY}"]

[model]
targets = ["openai:gpt-6.1-sol", "together:openai/gpt-oss-120b"]
timeout = 60
last_resort = "local"
```
"""

from __future__ import annotations

import os
import re
import tomllib
from difflib import get_close_matches
from importlib import import_module
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from langchain_resilient.policies import Hedge, Seconds, TimeLimits
from langchain_resilient.sampling import KnownFields

if TYPE_CHECKING:
    from collections.abc import Mapping

    from langchain_resilient.chat_model import ResilientChatModel

Count = Annotated[int, Field(ge=1)]

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_OBJECT = re.compile(r"python:([\w.]+):([\w.]+)")


class ServiceConfig(KnownFields):
    """The table `[service]`: how the service is reached, and what it takes in.

    Raises:
        pydantic.ValidationError: If a field is unknown or out of range, or anybody could use the
            service from another machine without a key; names the field.

    Example:
        ```python
        ServiceConfig(port=8080, client_keys=["sk-mine"])
        ```
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True)

    host: str = "127.0.0.1"
    """The address to listen at; any but a loopback address wants `client_keys`."""
    port: int = Field(default=8000, ge=0, le=65535)
    """The port; 0 for any that is free."""
    client_keys: tuple[SecretStr, ...] = ()
    """The keys that clients may send (`Authorization: Bearer ...`); without any, clients on this
    machine need none. They have nothing to do with the keys of providers."""
    open_to_all: bool = False
    """Whether everybody who reaches `host` may use it without a key."""
    name: Annotated[str, Field(min_length=1)] = "resilient"
    """The model that clients ask for to get the whole chain."""
    unknown_models: Literal["refuse", "chain"] = "refuse"
    """What another model's name gets that is none of the chain's: a 404, or the whole chain."""
    max_in_flight: Count = 256
    """The most requests that are answered at the same time."""
    max_waiting: int = Field(default=1024, ge=0)
    """The most requests beyond that which wait for their turn; others get a 503."""
    max_wait: Seconds = 30.0
    """The longest that one waits for its turn, in seconds, before it gets a 503."""
    max_body_bytes: Count = 32 * 1024 * 1024
    """The longest body of a request, in bytes; a longer one gets a 413."""
    max_header_bytes: Annotated[int, Field(ge=1024)] = 64 * 1024
    """The longest head of a request, in bytes; a longer one gets a 431 or a 400."""
    body_timeout: Seconds = 30.0
    """Seconds that a client may take to send a body."""
    idle_timeout: Count = 75
    """How long an idle connection of a client is kept, in seconds."""
    comment_interval: Seconds | None = 15.0
    """Seconds of silence after which a stream gets a comment, so that nobody on the way takes it
    for dead; None (in TOML `"none"`) for never. Before the first, errors have their own status;
    after it, they are events."""
    drain_seconds: Count = 60
    """How long answers under way may take after SIGTERM, in seconds."""
    warm: bool = True
    """Whether connections to all targets are opened at the start and kept open, as by
    `ResilientChatModel.awarm`."""
    receipts: bool = False
    """Whether answers tell under `resilience` who was asked and what became of it."""
    tls_certificate: str | None = None
    """A file with the certificate to serve HTTPS with, and its chain."""
    tls_key: str | None = None
    """A file with its key."""

    @field_validator("client_keys")
    @classmethod
    def _has_keys(cls, keys: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if not all(key.get_secret_value().strip() for key in keys):
            msg = "an empty key would let everybody in"
            raise ValueError(msg)
        return keys

    @field_validator("comment_interval", mode="before")
    @classmethod
    def _reads_none(cls, interval: Any) -> Any:
        return None if interval == "none" else interval  # TOML has no null

    @model_validator(mode="after")
    def _is_closed(self) -> ServiceConfig:
        if not (self.client_keys or self.open_to_all or is_loopback(self.host)):
            msg = (
                f"{self.host} can be reached from other machines: set client_keys, or open_to_all "
                "if everybody there may spend your money"
            )
            raise ValueError(msg)
        return self


def is_loopback(host: str) -> bool:
    """Whether a name or an address is of this machine alone."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def load_config(
    path: str | Path, environ: Mapping[str, str] = os.environ
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a configuration file.

    Args:
        path: A TOML file.
        environ: Where `"${NAME}"` is looked up.

    Returns:
        The tables `[service]` and `[model]`, ready for `ServiceConfig` and `model_of`.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is no TOML, has other tables, or names what does not exist.
    """
    path = Path(path)
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        msg = f"{path}: {error}"
        raise ValueError(msg) from error
    if unknown := sorted(tables.keys() - TABLES):
        from langchain_resilient.chat_model import ResilientChatModel  # noqa: PLC0415  # it is heavy

        msg = (
            f"{path}: unknown tables or keys {', '.join(unknown)}: there are [service] and [model]"
        )
        if near := [n for key in unknown for n in get_close_matches(key, TABLES, n=1)]:
            msg += f"; did you mean [{near[0]}]?"
        elif fields := sorted(ResilientChatModel.model_fields.keys() & unknown):
            msg += f"; {fields[0]} belongs into [model]"
        raise ValueError(msg)
    service, model = (resolved(tables.get(n, {}), n, environ) for n in ("service", "model"))
    return service, model


TABLES = frozenset({"service", "model"})


def resolved(value: Any, place: str, environ: Mapping[str, str]) -> Any:
    """Replace what stands for something else, at every depth.

    Args:
        value: Out of a file.
        place: What errors call it.
        environ: Where `"${NAME}"` is looked up.

    Raises:
        ValueError: If it names what does not exist; says where.
    """
    if isinstance(value, dict):
        return {k: resolved(v, f"{place}.{k}", environ) for k, v in value.items()}
    if isinstance(value, list):
        return [resolved(v, f"{place}[{n}]", environ) for n, v in enumerate(value)]
    if not isinstance(value, str):
        return value
    if named := _OBJECT.fullmatch(value):
        return _imported(named[1], named[2], place)

    def variable(match: re.Match[str]) -> str:
        if match[1] not in environ:
            msg = f"{place}: the environment variable {match[1]} is not set"
            raise ValueError(msg)
        return environ[match[1]]

    return _VARIABLE.sub(variable, value)


def _imported(module: str, name: str, place: str) -> Any:
    try:
        found: Any = import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        msg = f"{place}: python:{module}:{name} cannot be imported: {error}"
        raise ValueError(msg) from error
    return found


def model_of(fields: Mapping[str, Any]) -> ResilientChatModel:
    """Make the model that the service asks.

    Args:
        fields: The table `[model]`.

    Raises:
        NoTargetsError: If no target has a key, and there is no last resort.
        pydantic.ValidationError: If a field is unknown or out of range; names it.
    """
    from langchain_resilient.chat_model import ResilientChatModel  # noqa: PLC0415  # it is heavy

    return ResilientChatModel(**with_none(ResilientChatModel, fields))


def with_none(owner: type[BaseModel], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Read the word "none" where a field has another default; elsewhere it is a text.

    Args:
        owner: The class whose fields they are.
        fields: Out of a file; they stay as they are.
    """
    made = dict(fields)
    for name, value in fields.items():
        field = owner.model_fields.get(name)
        if value == "none" and field is not None and field.default is not None:
            made[name] = None
        elif name in _NESTED and isinstance(value, dict):
            made[name] = with_none(_NESTED[name], value)
        elif name == "targets" and isinstance(value, list):
            made[name] = [with_none(BaseModel, v) if isinstance(v, dict) else v for v in value]
    return made


_NESTED: dict[str, type[BaseModel]] = {"time_limits": TimeLimits, "hedge": Hedge}
