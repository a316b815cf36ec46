"""What a model's requests are in a batch of a provider, and what the answers are worth."""

from __future__ import annotations

import asyncio
import json
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

from langchain_core.language_models._utils import _normalize_messages

from langchain_resilient.faults import Fault, FaultKind
from langchain_resilient.prices import Usage, attempt_cost, batch_discount, cost, price_for
from langchain_resilient.providers.batches import (
    BatchRequestError,
    ProviderBatches,
    batches_of,
    result_lines,
)
from langchain_resilient.providers.errors import classify
from langchain_resilient.providers.sdk import UnbatchableRequestError
from langchain_resilient.receipt import AttemptKind, AttemptRecord, Outcome, Receipt
from langchain_resilient.runtime.call import CallOptions
from langchain_resilient.wire.accumulator import ResponseAccumulator, token_count
from langchain_resilient.wire.json_values import encode
from langchain_resilient.wire.output import to_chat_result

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from langchain_core.messages import BaseMessage
    from langchain_core.outputs import ChatResult

    from langchain_resilient.engine.interfaces import Route
    from langchain_resilient.exchange import RequestForm
    from langchain_resilient.observability.recorder import Recorder
    from langchain_resilient.options import Target
    from langchain_resilient.runtime.call import AnswerValidator, StoredAnswer
    from langchain_resilient.runtime.routing import Router

__all__ = ["BatchDesk", "BatchRequestError", "ProviderBatches", "StoredAnswerError",
           "UnbatchableRequestError", "open_desk", "result_lines"]  # fmt: skip

_LIMITS = ("max_completion_tokens", "max_tokens", "max_output_tokens")

_ANSWER_TOKENS = 1000
"""Of an answer whose length nobody limits, to guess what a batch will cost."""


class StoredAnswerError(Exception):
    """An answer that came by a batch is not good enough.

    Attributes:
        fault: What is wrong with it.
        receipt: What it cost.
    """

    def __init__(self, fault: Fault, receipt: Receipt) -> None:
        super().__init__(f"the answer by a batch is not used: {fault.message}")
        self.fault = fault
        self.receipt = receipt


class BatchLine(NamedTuple):
    """A request as a batch holds it.

    Attributes:
        form: In which form it is: the requests of a batch share one.
        data: The line of its file.
        tokens: Of its prompt, about.
        dollars: What it will cost, about.
    """

    form: RequestForm
    data: bytes
    tokens: int
    dollars: float


class BatchDesk:
    """The batches of one target.

    Args:
        target: The target.
        route: How it is asked.
        provider: Writes its requests.
        accounts: Its files and batches, once per key.
        defaults: The model's parameters.
        router: Knows what fits and what may be spent.
        recorder: Adds up what the model did.

    Attributes:
        accounts: As given.
        name: The target's name.
        discount: The share of its price that batches save.
    """

    def __init__(
        self,
        target: Target,
        route: Route,
        provider: Any,
        accounts: Sequence[ProviderBatches],
        defaults: Mapping[str, Any],
        *,
        router: Router,
        recorder: Recorder,
    ) -> None:
        self.accounts: tuple[ProviderBatches, ...] = tuple(accounts)
        self.name: str = target.name
        self.discount: float = batch_discount(target)
        self._target = target
        self._route = route
        self._provider = provider
        self._defaults = defaults
        self._router = router
        self._recorder = recorder

    def write(
        self, messages: Sequence[BaseMessage], kwargs: Mapping[str, Any], custom_id: str
    ) -> BatchLine:
        """Write a request for a batch.

        Args:
            messages: The conversation.
            kwargs: The call's arguments.
            custom_id: Its name there.

        Raises:
            UnbatchableRequestError: If it cannot be part of one; says why.
            Exception: What a call with these arguments raises.
        """
        given = {
            n: v for n, v in kwargs.items() if n not in ("stop", "ls_structured_output_format")
        }
        normal = _normalize_messages(list(messages))
        call = CallOptions(self._defaults, normal, kwargs.get("stop"), given, stream=False)
        if call.model is not None:
            raise UnbatchableRequestError("model= names its own targets")
        if not self._router.fits(self._route, call):
            raise UnbatchableRequestError(f"it is too long for {self.name}")
        written = self._provider.write(call.request)
        price = price_for(self._target)
        tokens = call.prompt_tokens()
        usage = Usage(tokens, token_count(written.body, *_LIMITS) or _ANSWER_TOKENS)
        dollars = 0.0 if price is None else cost(price, usage) * (1.0 - self.discount)
        line = self.accounts[0].line(custom_id, written.form.endpoint, written.body)
        return BatchLine(written.form, encode(line) + b"\n", tokens, dollars)

    @property
    def max_requests(self) -> int:
        """The most requests of one batch."""
        return self.accounts[0].max_requests

    @property
    def max_bytes(self) -> int:
        """The most bytes of one batch's file."""
        return self.accounts[0].max_bytes

    async def account_of(self, file: str, batch: str | None) -> ProviderBatches | None:
        """Find the key by which a file was uploaded, or else a batch created; None if none was.

        Only that key may see them, unless keys are of one account.

        Raises:
            BatchRequestError: If that cannot be told now.
        """
        if len(self.accounts) == 1:
            return self.accounts[0]
        for account in self.accounts:
            try:
                if await account.has_file(file):
                    return account
                if batch is not None:
                    await account.retrieve(batch)
                    return account
            except BatchRequestError as error:
                if not error.missing:
                    raise
        return None

    async def judge(
        self, call: CallOptions, stored: StoredAnswer, validator: AnswerValidator | None
    ) -> tuple[ChatResult, Receipt]:
        """Judge an answer as one that came live.

        Raises:
            StoredAnswerError: If it is no answer to this call.
        """
        attempt: Any = _StoredAttempt()
        response = attempt.response
        stream = self._provider.write(call.request, stored.form).read(stored.data)
        fault: Fault | None = None
        try:
            async for chunk in stream:
                response.add(chunk)
            fault = response.fault(call.request)
        except Exception as error:  # noqa: BLE001  # a body that is no answer raises anything
            fault = classify(error)
        finally:
            await stream.aclose()
        if validator is not None and (fault is None or (fault.kept and _is_invalid(fault))):
            fault = await validator(attempt, lambda _request: None) or fault
        receipt = self._receipt(response, stored, fault)
        self._router.settle(call, receipt, asyncio.get_running_loop().time())
        self._recorder.add_batched(receipt)
        if call.receipts is not None:
            call.receipts.append(receipt)
        if fault is not None:
            raise StoredAnswerError(fault, receipt)
        if validator is not None:
            return validator.result_of(attempt), receipt
        return to_chat_result(response, self._target.provider, self._target.model), receipt

    def lose(self, stored: StoredAnswer) -> Receipt:
        """Count what an answer cost that came a second time: its prompt has another by now."""
        try:
            usage = json.loads(stored.data).get("usage")
        except (ValueError, AttributeError):
            usage = None
        usage = usage if isinstance(usage, dict) else None
        record = AttemptRecord(
            target=self.name,
            kind=AttemptKind.PRIMARY,
            started=0.0,
            first_text=None,
            ended=stored.seconds,
            outcome=Outcome.LOST,
            input_tokens=token_count(usage, "prompt_tokens", "input_tokens"),
            output_tokens=token_count(usage, "completion_tokens", "output_tokens"),
            lane="batch",
            discount=self.discount,
        )
        receipt = Receipt((record,), None, stored.seconds, lane="batch")
        self._router.settle_lost(receipt, asyncio.get_running_loop().time())
        self._recorder.add_batched(receipt)
        return receipt

    def _receipt(
        self, response: ResponseAccumulator, stored: StoredAnswer, fault: Fault | None
    ) -> Receipt:
        cached, written = response.cache_tokens()
        record = AttemptRecord(
            target=self.name,
            kind=AttemptKind.PRIMARY,
            started=0.0,
            first_text=None,
            ended=stored.seconds,
            outcome=Outcome.WON if fault is None else Outcome.FAILED,
            fault=fault,
            input_tokens=response.input_tokens(),
            output_tokens=response.output_tokens(),
            cached_tokens=cached,
            written_tokens=written,
            lane="batch",
            discount=self.discount,
        )
        price = price_for(self._target)
        paid = None if price is None else attempt_cost(record, price, 0)
        usual = None if paid is None else _undiscounted(paid, self.discount)
        return Receipt(
            attempts=(record,),
            winner=self.name if fault is None else None,
            seconds=stored.seconds,
            lane="batch",
            price=paid,
            saved=None if paid is None or usual is None else usual - paid,
        )

    def target_of(self, _attempt: object) -> Target:
        """The target: that of every attempt here."""
        return self._target

    def money_left(self) -> float:
        """Dollars that may still be spent on it; `inf` where nothing limits them."""
        return self._router.money_left(self.name, asyncio.get_running_loop().time())

    def set_aside(self, dollars: float) -> None:
        """Reserve money for a batch; give it back with less than 0."""
        self._router.set_aside(self.name, dollars)

    def live_rate(self, tokens: float) -> float:
        """Requests a second that its rate limits let through, as far as they are known, else `inf`.

        Args:
            tokens: Of a request, its answer included.
        """
        rate = 0.0
        for key in self._route.state.keys:
            limiter = key.rate_limiter
            by_requests = limiter.requests.rate or inf
            by_tokens = limiter.tokens.rate / tokens if limiter.tokens.rate and tokens else inf
            rate += min(by_requests, by_tokens)
        return rate


class _StoredAttempt:
    """What a validator looks at: an answer, without the attempt that it would be of."""

    def __init__(self) -> None:
        self.response = ResponseAccumulator()


def _is_invalid(fault: Fault) -> bool:
    return fault.kind is FaultKind.INVALID


def _undiscounted(paid: float, discount: float) -> float:
    return paid / (1.0 - discount) if discount < 1.0 else paid


def open_desk(
    route: Route,
    target: Target,
    defaults: Mapping[str, Any],
    *,
    router: Router,
    recorder: Recorder,
) -> BatchDesk | None:
    """Make the desk of a target; None if it takes no batches."""
    providers: list[Any] = [
        provider.serving() if hasattr(provider, "serving") else provider
        for provider in route.sources
    ]
    accounts = [account for one in providers if (account := batches_of(one)) is not None]
    if not accounts:
        return None
    return BatchDesk(
        target, route, providers[0], accounts, defaults, router=router, recorder=recorder
    )
