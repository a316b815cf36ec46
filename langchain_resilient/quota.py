"""What a provider says of a rate limit with an answer: how much it takes, and what is left."""

from __future__ import annotations

from typing import NamedTuple


class Level(NamedTuple):
    """One limit as it stood when the answer's request was let in.

    Attributes:
        limit: How much flows in in a minute.
        remaining: How much more would be let in at that moment.
        capacity: How much may be let in at once, as far as the provider's figures show.
    """

    limit: float
    remaining: float
    capacity: float


class Quota(NamedTuple):
    """The limits of one key and model; None for what the provider does not tell.

    Example:
        ```python
        Quota(requests=Level(600, 599, 600), tokens=Level(200_000, 199_900, 200_000))
        ```
    """

    requests: Level | None
    tokens: Level | None
