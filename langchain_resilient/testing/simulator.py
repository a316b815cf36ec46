"""`ProviderSimulator`: two providers on the loopback interface that follow a script."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from langchain_resilient.testing.admission import AdmissionRules, Per, RateLimit, Window
from langchain_resilient.testing.batches import (
    OPERATIONS,
    Backlog,
    BatchRecord,
    BatchStore,
    Mishap,
    Operation,
)
from langchain_resilient.testing.dialects import DIALECTS
from langchain_resilient.testing.lifecycle import Lifecycle
from langchain_resilient.testing.request_handler import RequestHandler
from langchain_resilient.testing.request_log import RecordedRequest, RequestLog
from langchain_resilient.testing.script import TargetScripts
from langchain_resilient.testing.steps.base import AT_ONCE, Step
from langchain_resilient.testing.target_patterns import checked_pattern, most_specific


class ProviderSimulator(Lifecycle):
    """A real HTTP server that speaks OpenAI's and Together's chat completions, faults included.

    Used with `with` it runs in a thread of its own, for any number of clients and loops; with
    `async with` it runs on the running loop, virtual time included. Either can be repeated.
    Unless a script says otherwise every model answers at once, with the text that `answer_to`
    returns for the prompt.

    Scripting is safe from any thread and takes effect from the next request on.

    Args:
        seed: Seeds all chance: the same requests in the same order are answered the same.
        port: The port to listen on; 0 takes a free one.
        remember: How many of the last requests `requests` holds. Counts are not limited.
        keys: API keys to let in; None lets in any, and requests without one.
        log: Called with every request when it has ended, on the simulator's loop.
        wall_clock: Seconds since 1970, for `HttpDate` only.

    Example:
        ```python
        with ProviderSimulator() as sim:
            sim.script("openai:gpt-6-luna", Status(500), Reply("hi"))
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
        log: Callable[[RecordedRequest], None] | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._scripts = TargetScripts(seed)
        self._rules = AdmissionRules(keys=keys)
        request_log = RequestLog(remember, log)
        self._backlogs: dict[str, Backlog] = {}
        self._batches = BatchStore(seed, self._backlog_of)
        handler = RequestHandler(
            self._scripts,
            self._rules,
            request_log,
            seed=seed,
            wall_clock=wall_clock,
            batches=self._batches,
        )
        super().__init__(handler, request_log, port)

    # Its address.

    def base_url(self, dialect: str) -> str:
        """Return the `base_url` for a provider's SDK.

        Args:
            dialect: `"openai"` or `"together"`.

        Returns:
            `http://127.0.0.1:PORT/openai/v1`, or `http://127.0.0.1:PORT/together`, for the
            Together SDK adds the `/v1` itself.

        Raises:
            ValueError: If there is no such dialect.
            RuntimeError: If the simulator is not running.
        """
        if dialect not in DIALECTS:
            msg = f"no dialect is called {dialect!r}; there are {', '.join(DIALECTS)}"
            raise ValueError(msg)
        return f"http://127.0.0.1:{self.port}{DIALECTS[dialect].base_path}"

    # Its behaviour.

    def script(self, pattern: str, *steps: Step, then: Step = AT_ONCE) -> None:
        """Set what some targets do, instead of what they did before.

        A request that is refused for its key, model, form or length takes no step.

        Args:
            pattern: `"openai:gpt-6-luna"`, `"openai:gpt-*"`, `"together:*"`, `"*"`: the most
                specific pattern that fits a target wins.
            *steps: One for each request, in order.
            then: The step for every request after them.

        Raises:
            TypeError: If something is not a step. Probabilities are for `chaos`.
            ValueError: If the pattern can match no target.

        Example:
            ```python
            sim.script("openai:gpt-6-luna", Status(429, retry_after=2), then=Reply(first_text=0.3))
            ```
        """
        self._scripts.set(pattern, steps, {then: 1.0})

    def chaos(self, pattern: str, odds: Mapping[Step, float]) -> None:
        """Let chance decide what some targets do, instead of what they did before.

        Args:
            pattern: Which targets; see `script`.
            odds: Steps with their probabilities. The rest to 1 is `Reply()`.

        Raises:
            TypeError: If something is not a step.
            ValueError: If the odds are not probabilities, or the pattern can match no target.

        Example:
            ```python
            sim.chaos("openai:*", {Status(500): 0.1, Reset(): 0.05})
            ```
        """
        self._scripts.set(pattern, (), odds)

    def limit(
        self,
        pattern: str,
        *,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        window: Window = "minute",
        per: Per = "model",
        others: float = 0.0,
        headers: bool = True,
    ) -> None:
        """Put some targets under a rate limit, by default with accurate headers on every response.

        A request costs the larger of its prompt's tokens and its `max_tokens`, at admission.
        The most specific limit that fits a target counts; setting it again restarts it.

        Args:
            pattern: Which targets; see `script`.
            requests_per_minute: None does not limit them.
            tokens_per_minute: None does not limit them. A request that alone costs more gets the
                "Request too large" error.
            window: `"minute"` admits a minute's worth at once, as OpenAI does; `"second"` a
                second's worth, as Together does.
            per: `"model"` limits each model, `"key"` each API key over all models of the pattern.
            others: The share of the limit that others use up unseen, from 0 to less than 1.
            headers: False has no header tell of it, beside the usual ones of answers: refusals
                do not even say how long to wait.

        Raises:
            ValueError: If a number is out of range or the pattern can match no target.
        """
        limit = RateLimit(requests_per_minute, tokens_per_minute, window, per, others, headers)
        self._rules.limits = {**self._rules.limits, checked_pattern(pattern): limit}

    def context_window(self, pattern: str, tokens: int) -> None:
        """Refuse requests whose prompt and `max_tokens` exceed the model's context window.

        Args:
            pattern: Which targets; see `script`.
            tokens: The window; a prompt counts one token per four characters.
        """
        self._rules.windows = {**self._rules.windows, checked_pattern(pattern): tokens}

    def retire(self, *patterns: str) -> None:
        """Refuse requests for some models with a 404, in the provider's words."""
        self._rules.retired = (*self._rules.retired, *map(checked_pattern, patterns))

    def list_models(self, *targets: str, shutdown_date: str | None = None) -> None:
        """Name models in `GET /v1/models`, beside those that were scripted or asked for.

        Args:
            targets: Such as `"openai:gpt-6.1-sol"`.
            shutdown_date: The day on which they are shut down, as OpenAI gives it, `YYYY-MM-DD`.
        """
        self._rules.listed = {**self._rules.listed, **dict.fromkeys(targets, shutdown_date)}

    # Its batches.

    def backlog(self, pattern: str, backlog: Backlog) -> None:
        """Say how batches of some targets are worked on; those that exist already are not changed.

        Args:
            pattern: Which targets; see `script`. The most specific that fits counts.
            backlog: How.

        Raises:
            ValueError: If the pattern can match no target.
        """
        self._backlogs = {**self._backlogs, checked_pattern(pattern): backlog}

    def break_batches(self, dialect: str, operation: Operation, *mishaps: Mishap) -> None:
        """Have the next requests about files or batches go wrong.

        Args:
            dialect: `"openai"` or `"together"`.
            operation: Which: `"upload"`, `"files"` (all else about files), `"create"`, `"poll"`,
                `"list"`, `"cancel"` or `"download"`.
            *mishaps: One for each request, in order: an error status instead of it; or it is done
                and its response is `"lost"`, breaks off after `"half"`, or ends there as if that
                were all (`"cut"`).
        """
        self._batches.break_next(dialect, _checked(operation), mishaps)

    def batch_outage(
        self, dialect: str, start: float, end: float, *operations: Operation, mishap: Mishap = 500
    ) -> None:
        """Have all requests about files and batches go wrong for a time.

        Args:
            dialect: `"openai"` or `"together"`.
            start: When it begins, in seconds of the loop's clock.
            end: When it is over.
            *operations: Of which kinds; all unless given.
            mishap: What happens to them; see `break_batches`.
        """
        kinds = frozenset(map(_checked, operations or OPERATIONS))
        self._batches.add_outage(dialect, start, end, mishap, kinds)

    @property
    def batches(self) -> list[BatchRecord]:
        """All batches as they stand now, the oldest first."""
        return self._batches.records(self._handler.now())

    def _backlog_of(self, target: str) -> Backlog:
        pattern = most_specific(self._backlogs, target)
        return Backlog() if pattern is None else self._backlogs[pattern]

    @property
    def keys(self) -> set[str] | None:
        """The API keys that are let in; None lets in any, and requests without one; else a 401."""
        return self._rules.keys

    @keys.setter
    def keys(self, keys: set[str] | None) -> None:
        self._rules.keys = None if keys is None else set(keys)

    def reset(self) -> None:
        """Forget all counts, scripts, limits, windows, keys, models and batches; seed chance anew.

        Requests in flight are answered, and do not count when they end.
        """
        self._scripts.clear()
        self._rules.keys = None
        self._rules.retired = ()
        self._rules.limits = {}
        self._rules.windows = {}
        self._rules.listed = {}
        self._backlogs = {}
        self._log.clear()
        self._handler.reset()

    # Its record.

    @property
    def requests(self) -> list[RecordedRequest]:
        """The last chat requests, oldest first, with those in flight."""
        return list(self._log.requests)

    def count(self, pattern: str = "*", *, status: int | None = None) -> int:
        """Count the chat requests to some targets since the start or `reset`.

        Args:
            pattern: Which targets; see `script`.
            status: Count only those answered with this status; None counts all.
        """
        return self._log.count(checked_pattern(pattern), status)

    @property
    def aborted(self) -> int:
        """The number of answers that clients gave up before their end."""
        return self._log.aborted

    def __repr__(self) -> str:
        where = "not running" if self._port is None else f"http://127.0.0.1:{self._port}"
        return (
            f"<ProviderSimulator {where}, {self.count()} requests, {self.in_flight} in flight, "
            f"{self.aborted} aborted>"
        )


def _checked(operation: Operation) -> Operation:
    if operation not in OPERATIONS:
        msg = f"operation must be one of {', '.join(OPERATIONS)}, not {operation!r}"
        raise ValueError(msg)
    return operation
