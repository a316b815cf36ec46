"""Chooses and orders the targets of a call, and learns from how the call ended."""

from __future__ import annotations

from collections import OrderedDict
from math import inf, log
from threading import Lock
from typing import TYPE_CHECKING, Any

from langchain_resilient.configuration import chain_of, spend_cap_of
from langchain_resilient.engine.time_model import UNKNOWN
from langchain_resilient.prices import Usage, cost, price_for, prices_for, typical_cost
from langchain_resilient.receipt import Outcome
from langchain_resilient.runtime.reservations import CallReservations
from langchain_resilient.runtime.shared_state import SharedState, shared_name
from langchain_resilient.runtime.spending import Ledger, SpendLimiter

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence
    from random import Random

    from langchain_resilient.configuration import Configuration
    from langchain_resilient.engine.interfaces import Route
    from langchain_resilient.engine.time_model import RequestProfile
    from langchain_resilient.options import Target
    from langchain_resilient.receipt import Receipt
    from langchain_resilient.runtime.call import CallOptions


MAX_CONVERSATIONS = 4096
"""Beyond that the one that was quiet for longest is forgotten."""


class Affinity:
    """Remembers which target holds a conversation. Safe for use by any thread.

    That is the one that answered it last, unless another is known to hold its prompt in a cache.

    Example:
        ```python
        affinity = Affinity()
        key = conversation(request.messages)
        affinity.keep(key, "openai:gpt-6.1-sol", cached=True)
        affinity.target(key)
        ```
    """

    __slots__ = ("_lock", "_targets")

    def __init__(self) -> None:
        self._targets: OrderedDict[Hashable, tuple[str, bool]] = OrderedDict()
        self._lock = Lock()

    def target(self, key: Hashable) -> str | None:
        """Name the target that holds it."""
        return self._targets.get(key, (None, False))[0]

    def settle(self, key: Hashable, receipt: Receipt) -> None:
        """Learn from a call of the conversation: whoever won holds it from now on.

        But a hedge that was faster once does not take it away from a target that has reported
        tokens from its cache and has not failed: there the next prompt is read much sooner.
        """
        home, cached = self._targets.get(key, (None, False))
        won = next((a for a in receipt.attempts if a.outcome is Outcome.WON), None)
        if won is None:
            return
        at_home = [attempt for attempt in receipt.attempts if attempt.target == home]
        lost = at_home and won.target != home and all(a.fault is None for a in at_home)
        if not (cached and lost):
            self.keep(key, won.target, cached=bool(won.cached_tokens))

    def keep(self, key: Hashable, target: str, *, cached: bool = False) -> None:
        """Remember who holds it.

        Args:
            key: The conversation.
            target: Its name.
            cached: Whether some of the prompt was in its cache.
        """
        with self._lock:
            self._targets[key] = (target, cached)
            self._targets.move_to_end(key)
            if len(self._targets) > MAX_CONVERSATIONS:
                self._targets.popitem(last=False)


def conversation(messages: Sequence[Mapping[str, Any]]) -> Hashable:
    """Tell conversations apart by how they begin: all up to the first message of the user.

    Args:
        messages: As in `ChatRequest.messages`.
    """
    beginning = []
    for message in messages:
        beginning.append(str(message.get("content")))
        if message.get("role") == "user":
            break
    return hash(tuple(beginning))


EXPLORE = 0.05
"""The share of requests that go first to another target than the fastest known, lest one that has
become faster is never noticed (epsilon-greedy; Sutton & Barto, "Reinforcement Learning", 2.2)."""

EXPLORE_UNKNOWN = 0.5
"""The same while a target is unknown, until `FEW_SAMPLES` requests were sent to it: soon, so that a
slower target is not asked for long only because it is known; not all, since it may be dead."""


def fastest(
    routes: Sequence[Route],
    now: float,
    rng: Random,
    *,
    plain: bool,
    profile: RequestProfile = UNKNOWN,
) -> list[Route]:
    """Order by the time that is to be expected to the first text.

    Args:
        routes: The chain.
        now: The engine's clock.
        rng: The engine's generator.
        plain: By the time to a whole answer instead.
        profile: What is known of the request: who is fastest may depend on its length.
    """
    speed = [route.state.speed.expected(now, plain=plain, profile=profile) for route in routes]
    # The index keeps the chain's order among equals.
    places = sorted(range(len(routes)), key=lambda i: (speed[i], i))
    unknown = [i for i in places[1:] if speed[i] == inf]
    untried = [i for i in unknown if not routes[i].state.speed.is_being_learned(plain=plain)]
    others = untried if unknown else places[1:]
    if others and rng.random() < (EXPLORE_UNKNOWN if unknown else EXPLORE):
        tried = others[int(rng.random() * len(others))]
        places.remove(tried)
        places.insert(0, tried)
    return [routes[i] for i in places]


def balanced(routes: Sequence[Route], weights: Sequence[float], rng: Random) -> list[Route]:
    """Shuffle so that each target comes first in proportion to its weight, and so on for the rest.

    Each draws an exponential variate with its weight as the rate; the smallest goes first
    (Efraimidis & Spirakis, "Weighted random sampling with a reservoir", 2006).

    Args:
        routes: The chain.
        weights: One a route; 0 puts it behind all others.
        rng: The engine's generator.
    """
    keys = [-log(1.0 - rng.random()) / w if w > 0 else inf for w in weights]
    places = sorted(range(len(routes)), key=lambda i: (keys[i], i))
    return [routes[i] for i in places]


_ANSWER_TOKENS = 1000
"""What an answer is guessed to have at most where `max_tokens` does not say."""


class Router:
    """Orders and thins out the chain of one model for each call.

    Args:
        config: The model's fields.
        targets: All that may be asked, by name; later additions count.
        shared: Where context windows are remembered.
        rng: The model's generator.

    Raises:
        MissingExtraError: If prices are needed and `genai-prices` is not installed.
        ValueError: If a price is needed and not known.
    """

    def __init__(
        self, config: Configuration, targets: Mapping[str, Target], shared: SharedState, rng: Random
    ) -> None:
        self._order = config.order
        self._targets = targets
        self._shared = shared
        self._rng = rng
        self._affinity = Affinity() if config.affinity else None
        self._weights = {target.name: target.weight for target in chain_of(config)}
        capped = spend_cap_of(config) is not None or any(t.spend_cap for t in targets.values())
        self._spend_limiter = (
            SpendLimiter(
                targets, spend_cap_of(config), shared.link, lambda t: shared_name(t, 0, t.model)
            )
            if capped
            else None
        )

    @property
    def capped(self) -> bool:
        """Whether a spend cap limits what may be spent."""
        return self._spend_limiter is not None

    def arrange(self, chain: Sequence[Route]) -> list[Route]:
        """Put the chain into the order that holds for all calls: the cheapest first, if wanted."""
        if self._order != "cheapest":
            return list(chain)
        known = {r.state.name: price_for(self._targets[r.state.name]) for r in chain}
        if not any(known.values()):
            prices_for([self._targets[name] for name in known], 'order="cheapest"')
        dollars = {n: float("inf") if p is None else typical_cost(p) for n, p in known.items()}
        return sorted(chain, key=lambda route: dollars[route.state.name])

    def choose(
        self,
        chain: Sequence[Route],
        call: CallOptions,
        now: float,
        profile: RequestProfile = UNKNOWN,
    ) -> Sequence[Route]:
        """Choose for one call.

        Args:
            chain: The routes, in the model's order.
            call: Its size, its conversation.
            now: The loop's time.
            profile: What is known of its request.

        Raises:
            SpendCapError: If the money is spent and no free target is left.
        """
        call.skipped.clear()  # it may be chosen for again, after a wait
        if self._order == "fastest":
            chain = fastest(chain, now, self._rng, plain=call.several, profile=profile)
        elif self._order == "balanced":
            weights = [self._weights.get(route.state.name, 1.0) for route in chain]
            chain = balanced(chain, weights, self._rng)
        if self._affinity is not None or call.affinity is not None:
            chain = self._affine_first(chain, call, now)
        chain = self._fitting(chain, call)
        return (
            chain
            if self._spend_limiter is None
            else self._payable(chain, call, now, self._spend_limiter)
        )

    def settle_lost(self, receipt: Receipt, now: float) -> None:
        """Count what an answer cost that nobody waits for any more."""
        if self._spend_limiter is not None:
            self._spend_limiter.settle(receipt, 0, now)

    def fits(self, route: Route, call: CallOptions) -> bool:
        """Whether a request is not too long for a target, as far as is known."""
        window = self._shared.window_of(self._targets[route.state.name])
        return not window.bounded or window.fits(call.size, call.max_tokens)

    def money_left(self, name: str, now: float) -> float:
        """Dollars that may still be spent on a target; `inf` where nothing limits them."""
        ledgers = self._ledgers(name)
        return min((ledger.left(now) - ledger.pending for ledger in ledgers), default=inf)

    def set_aside(self, name: str, dollars: float) -> None:
        """Reserve money for a batch; give it back with less than 0."""
        for ledger in self._ledgers(name) if dollars else ():
            if dollars > 0:
                ledger.reserve(None, dollars)
            else:
                ledger.release(None, -dollars)

    def _ledgers(self, name: str) -> tuple[Ledger, ...]:
        return () if self._spend_limiter is None else self._spend_limiter.account(name).ledgers

    def reservations(self, call: CallOptions) -> CallReservations:
        """Make what a call reserves of the money; where it is `capped`."""
        assert self._spend_limiter is not None  # noqa: S101  # it is capped
        tokens = call.prompt_tokens()
        return CallReservations(self._spend_limiter, call.request, tokens, batch=call.batch)

    def settle(self, call: CallOptions, receipt: Receipt, now: float) -> tuple[float, ...] | None:
        """Learn from a finished call.

        Returns:
            Dollars for each attempt; None where no spend cap counts them.
        """
        for attempt in receipt.attempts:
            target = self._targets.get(attempt.target)
            if target is None:
                continue
            window = self._shared.window_of(target)
            if attempt.fault is not None and attempt.fault.traits.too_long:
                fault, answer = attempt.fault, call.max_tokens_at(attempt.target)
                window.refused(call.size, answer, limit=fault.limit, given=fault.given)
            elif window.bounded and attempt.outcome is Outcome.WON:
                answer = call.max_tokens_at(attempt.target)
                window.passed(call.size, answer, prompt_tokens=attempt.input_tokens)
        if receipt.winner and (self._affinity is not None or call.affinity is not None):
            self._home().settle(self._conversation(call), receipt)
        if self._spend_limiter is None:
            return None
        costs = self._spend_limiter.settle(receipt, call.prompt_tokens(), now)
        if call.reservations is not None:
            call.reservations.settled()
        return costs

    def cost(self, call: CallOptions, name: str) -> float | None:
        """Dollars that one more send of a call to a target may cost; None if nobody knows."""
        price = price_for(self._targets[name])
        if price is None:
            return None
        answer = call.max_tokens_at(name) or _ANSWER_TOKENS
        return cost(price, Usage(call.prompt_tokens(), answer))

    # -- rules ----------------------------------------------------------------------------------

    def _home(self) -> Affinity:
        if self._affinity is None:
            self._affinity = Affinity()
        return self._affinity

    @staticmethod
    def _conversation(call: CallOptions) -> object:
        return call.affinity or conversation(call.request.messages)

    def _affine_first(
        self, chain: Sequence[Route], call: CallOptions, now: float
    ) -> Sequence[Route]:
        """The target that holds the conversation goes first, while it is well."""
        home = self._home().target(self._conversation(call))
        for route in chain:
            if route.state.name == home and route.state.health(now) == "ok":
                return [route, *(other for other in chain if other is not route)]
        return chain

    def _fitting(self, chain: Sequence[Route], call: CallOptions) -> Sequence[Route]:
        """Leave out targets that cannot take so long a request, unless none could."""
        windows = [self._shared.window_of(self._targets[r.state.name]) for r in chain]
        if not any(window.bounded for window in windows):
            return chain
        answers = [call.max_tokens_at(route.state.name) for route in chain]
        fits = [w.fits(call.size, answer) for w, answer in zip(windows, answers, strict=True)]
        if all(fits) or not any(fits):
            return chain
        for route, fit in zip(chain, fits, strict=True):
            if not fit:
                call.skipped.append((route.state.name, "the request is too long for it"))
        return [route for route, fit in zip(chain, fits, strict=True) if fit]

    def _payable(
        self, chain: Sequence[Route], call: CallOptions, now: float, spend_limiter: SpendLimiter
    ) -> Sequence[Route]:
        names = [route.state.name for route in chain]
        allowed = spend_limiter.allowed(names, now, call.prompt_tokens())
        if len(allowed) == len(names):
            return chain
        tokens = call.prompt_tokens()
        call.skipped += [
            (n, spend_limiter.why_not(n, now, tokens) or "") for n in names if n not in allowed
        ]
        return [route for route in chain if route.state.name in allowed]

    def error(self, chain: Sequence[Route], call: CallOptions, now: float) -> Exception:
        """The error of a call that may ask nobody."""
        assert self._spend_limiter is not None  # noqa: S101  # nothing else leaves nobody
        names = [route.state.name for route in chain]
        return self._spend_limiter.error(names, now, call.prompt_tokens())
