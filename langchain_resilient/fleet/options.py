"""`Shared`: where the processes of a fleet keep what they share."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import BeforeValidator, ConfigDict, Field, SecretStr, field_validator

from langchain_resilient.sampling import KnownFields

if TYPE_CHECKING:
    from collections.abc import Iterator


SCHEMES = ("redis", "rediss", "unix", "valkey", "valkeys")
"""Of one server, as redis-py and valkey-py write them."""

DISTRIBUTED = ("redis+cluster", "rediss+cluster", "redis+sentinel", "rediss+sentinel")
"""Of several servers: `redis+cluster://host:port`, and `redis+sentinel://host:port,host:port/name`
with the name of the master."""

_URL = re.compile(r"^(?P<scheme>[a-z+]+)://(?:(?P<user>[^/]*)@)?(?P<rest>[^?#]*)")
_NAMESPACE = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Shared(KnownFields):
    """Where the processes of a fleet share limits, health and money: a Redis or Valkey server.

    What is kept there are counters: no prompt, no answer, and of keys only a hash. While the server
    cannot be asked, each process goes on with its share of the limits; nothing fails for that.

    Example:
        ```python
        Shared("redis://redis.internal:6379/0")
        Shared("rediss://user:password@host:6380/0", namespace="team")
        Shared("redis+sentinel://one:26379,two:26379/mymaster")
        ```
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True)

    url: SecretStr
    """As redis-py takes it: `redis://`, `rediss://` (TLS) or `unix://`, with user, password and
    database; or `redis+cluster://`, `redis+sentinel://host:port,host:port/master`."""
    namespace: str = "default"
    """Processes of one namespace share; letters, digits, `.`, `_` and `-`."""
    timeout: Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)] = 0.25
    """Seconds that the server may take to connect or to answer, before a process goes on alone."""
    required: bool = False
    """Whether a server that cannot be reached when a model is made is an error: a
    `ConnectionError`."""
    processes: Annotated[int, Field(ge=1)] = 1
    """How many processes there are, where the server was never reached: then each keeps to that
    share of the limits. Otherwise the server knows."""

    def __init__(self, url: str | SecretStr | None = None, /, **fields: Any) -> None:
        """Take the URL by position too; see the class."""
        super().__init__(**({} if url is None else {"url": url}) | fields)

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Show the address without user, password and options."""
        yield None, self.address
        for name in ("namespace", "timeout", "required", "processes"):
            if name in self.model_fields_set:
                yield name, getattr(self, name)

    def __str__(self) -> str:
        """As messages say it."""
        return f"{self.address} (namespace {self.namespace})"

    @property
    def address(self) -> str:
        """The URL without user, password and options."""
        match = _URL.match(self.url.get_secret_value())
        return f"{match['scheme']}://{match['rest']}" if match else ""

    @field_validator("url")
    @classmethod
    def _has_a_known_scheme(cls, url: SecretStr) -> SecretStr:
        match = _URL.match(url.get_secret_value().strip())
        scheme = match["scheme"] if match else ""
        if scheme not in (*SCHEMES, *DISTRIBUTED):
            known = ", ".join(f"{name}://" for name in (*SCHEMES, *DISTRIBUTED))
            named = f"{scheme}://" if scheme else "no scheme"
            msg = f"the URL of a shared state has {named}; known are {known}"
            raise ValueError(msg)
        if match is None or not match["rest"].strip("/"):
            msg = f"the URL of a shared state names no server: {scheme}://HOST:PORT/DATABASE"
            raise ValueError(msg)
        if scheme.endswith("+sentinel") and not match["rest"].partition("/")[2]:
            msg = (
                "a Sentinel URL ends in the name of its master: redis+sentinel://HOST:PORT,"
                "HOST:PORT/MASTER"
            )
            raise ValueError(msg)
        return SecretStr(url.get_secret_value().strip())

    @field_validator("namespace")
    @classmethod
    def _is_a_plain_word(cls, namespace: str) -> str:
        if not _NAMESPACE.fullmatch(namespace):
            msg = (
                f"namespace={namespace!r}: use 1 to 64 letters, digits, dots, underscores and "
                "hyphens, and no spaces"
            )
            raise ValueError(msg)
        return namespace


def _as_shared(value: Any) -> Any:
    return Shared(value) if isinstance(value, str | SecretStr) else value


SharedOption = Annotated[Shared | None, BeforeValidator(_as_shared)]
"""`Shared(...)`, the URL of a server, or None for nothing shared."""
