"""`ProviderSimulator`: two providers on the loopback interface that do what a script says."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from langchain_resilient.testing.desk import Desk
from langchain_resilient.testing.dialects import DIALECTS
from langchain_resilient.testing.door import Rules
from langchain_resilient.testing.limits import Limit
from langchain_resilient.testing.patterns import checked
from langchain_resilient.testing.records import Ledger
from langchain_resilient.testing.running import Running
from langchain_resilient.testing.script import Script
from langchain_resilient.testing.steps.reply import AT_ONCE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from langchain_resilient.testing.limits import Per, Window
    from langchain_resilient.testing.records import Seen
    from langchain_resilient.testing.steps.base import Step


class ProviderSimulator(Running):
    """A real HTTP server that speaks OpenAI's and Together's chat completions, faults included.

    Used with `with` it runs in a thread of its own, for any number of clients and loops; with
    `async with` it runs on the running loop, virtual time included. Either can be done again.
    Unless a script says otherwise every model answers at once, with the text that `answer_to`
    works out for the prompt.

    Scripting is safe from any thread and counts from the next request on.

    Args:
        seed: Seeds every draw: the same requests in the same order meet the same fate.
        port: The port to listen on; 0 takes a free one.
        remember: How many of the last requests `requests` holds. Counts are not limited.
        keys: API keys to let in; None lets in any, and none.
        log: Called with every request when it has ended, on the simulator's loop.
        wall_clock: Seconds since 1970, for `HttpDate` only.

    Example:
        ```python
        with ProviderSimulator() as sim:
            sim.script("openai:gpt-4", Status(500), Reply("hi"))
            client = OpenAI(base_url=sim.base_url("openai"), api_key="any")
        ```
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        port: int = 0,
        remember: int = 10_000,
        keys: set[str] | None = None,
        log: Callable[[Seen], None] | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._script = Script(seed)
        self._rules = Rules(keys=keys)
        ledger = Ledger(remember, log)
        desk = Desk(self._script, self._rules, ledger, seed=seed, wall_clock=wall_clock)
        super().__init__(desk, ledger, port)

    # Where it is.

    def base_url(self, dialect: str) -> str:
        """Return the `base_url` for a provider's SDK.

        Args:
            dialect: `"openai"` or `"together"`.

        Returns:
            `http://127.0.0.1:PORT/openai/v1`, or `http://127.0.0.1:PORT/together`, for the
            Together SDK adds the `/v1` itself.

        Raises:
            ValueError: If there is no such dialect.
            RuntimeError: If the simulator does not run.
        """
        if dialect not in DIALECTS:
            msg = f"no dialect is called {dialect!r}; there are {', '.join(DIALECTS)}"
            raise ValueError(msg)
        return f"http://127.0.0.1:{self.port}{DIALECTS[dialect].base_path}"

    # What it does.

    def script(self, pattern: str, *steps: Step, then: Step = AT_ONCE) -> None:
        """Say what some targets do, instead of what was said before.

        A request refused at the door (see `desk`) takes no step.

        Args:
            pattern: `"openai:gpt-4"`, `"openai:gpt-*"`, `"together:*"`, `"*"`: the most specific
                pattern that fits a target wins.
            *steps: One for each request, in order.
            then: The step for every request after them.

        Raises:
            TypeError: If something is no step. Chances are for `chaos`.
            ValueError: If the pattern can match no target.

        Example:
            ```python
            sim.script("openai:gpt-4", Status(429, retry_after=2), then=Reply(first_text=0.3))
            ```
        """
        self._script.set(pattern, steps, {then: 1.0})

    def chaos(self, pattern: str, odds: Mapping[Step, float]) -> None:
        """Let chance decide what some targets do, instead of what was said before.

        Args:
            pattern: Which targets; see `script`.
            odds: Steps with their probabilities. What is missing to 1 is `Reply()`.

        Raises:
            TypeError: If something is no step.
            ValueError: If the odds are no probabilities, or the pattern can match no target.

        Example:
            ```python
            sim.chaos("openai:*", {Status(500): 0.1, Reset(): 0.05})
            ```
        """
        self._script.set(pattern, (), odds)

    def limit(
        self,
        pattern: str,
        *,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        window: Window = "minute",
        per: Per = "model",
        others: float = 0.0,
    ) -> None:
        """Put some targets under a rate limit, with true headers on every response.

        A request costs the larger of its prompt's tokens and its `max_tokens`, when it is let in.
        The most specific limit that fits a target counts; setting it again starts it afresh.

        Args:
            pattern: Which targets; see `script`.
            requests_per_minute: None does not limit them.
            tokens_per_minute: None does not limit them. A request that alone costs more gets the
                "Request too large" error.
            window: `"minute"` lets a minute's worth come at once, as OpenAI does; `"second"` a
                second's worth, as Together does.
            per: `"model"` limits each model, `"key"` each API key over all models of the pattern.
            others: The share of the limit that others use up unseen, from 0 to less than 1.

        Raises:
            ValueError: If a number is out of range or the pattern can match no target.
        """
        rule = Limit(checked(pattern), requests_per_minute, tokens_per_minute, window, per, others)
        self._rules.limits = {**self._rules.limits, pattern: rule}

    def context_window(self, pattern: str, tokens: int) -> None:
        """Refuse requests whose prompt and `max_tokens` are more than a model can read.

        Args:
            pattern: Which targets; see `script`.
            tokens: The window; a prompt counts four characters a token.
        """
        self._rules.windows = {**self._rules.windows, checked(pattern): tokens}

    def retire(self, *patterns: str) -> None:
        """Take models away: 404, in the provider's words."""
        self._rules.retired = (*self._rules.retired, *map(checked, patterns))

    @property
    def keys(self) -> set[str] | None:
        """The API keys that are let in; None lets in any, and none. Others get a 401."""
        return self._rules.keys

    @keys.setter
    def keys(self, keys: set[str] | None) -> None:
        self._rules.keys = None if keys is None else set(keys)

    def reset(self) -> None:
        """Forget all counts, scripts, limits, windows, retired models and keys, and draw afresh.

        What is in flight goes on, and does not count when it ends.
        """
        self._script.clear()
        self._rules.keys = None
        self._rules.retired = ()
        self._rules.limits = {}
        self._rules.windows = {}
        self._ledger.forget()
        self._desk.forget()

    # What it saw.

    @property
    def requests(self) -> list[Seen]:
        """The last chat requests, oldest first; those in flight are still filling up."""
        return list(self._ledger.requests)

    def count(self, pattern: str = "*", *, status: int | None = None) -> int:
        """Count the chat requests to some targets since the start or `reset`.

        Args:
            pattern: Which targets; see `script`.
            status: Count only those answered with this status; None counts all.
        """
        return self._ledger.count(checked(pattern), status)

    @property
    def aborted(self) -> int:
        """How many answers the client gave up before their end."""
        return self._ledger.aborted

    def __repr__(self) -> str:
        where = "not running" if self._port is None else f"http://127.0.0.1:{self._port}"
        return (
            f"<ProviderSimulator {where}, {self.count()} requests, {self.in_flight} in flight, "
            f"{self.aborted} aborted>"
        )
