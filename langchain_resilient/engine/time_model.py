"""How long a target takes to its first text, given the request; learned from winners and losers.

A time is taken to be `scale(request) x residual`. The scale knows what the request says beforehand:
a prompt of 60,000 tokens takes longer than one of 300, and high reasoning effort longer than none.
It is fitted by robust regression (least absolute deviations of logarithms, with a prior for the
first requests). What it leaves unexplained, the residual, is what is compared between requests: the
percentile of a hedge's delay, and whether a silence is unusual. Otherwise all hedges would go to
long prompts, and a run of long documents would look like an outage.

Residuals are collected in a histogram that takes censored samples. A loser that was cancelled after
1.2 s did not take 1.2 s: it took *longer* than that. If such samples were left out, every quantile
would be too small, hedges would fire on ordinary requests, and the budget would be gone when the
tail comes. Survival analysis calls such samples right-censored and has the estimator for them
(Kaplan & Meier, "Nonparametric Estimation from Incomplete Observations", JASA 1958).
"""

from __future__ import annotations

from collections import deque
from heapq import heappush, heapreplace
from itertools import islice
from math import ceil, exp, log, log1p, log2
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SMALLEST = 0.001
"""Seconds; anything faster counts as this."""

LARGEST = 600.0
"""Seconds; anything slower counts as this.

Finagle's histogram ends at two seconds: there a hanging target looks no worse than a slow one."""

_STEP = log(1.02)
"""Logarithm of the ratio of neighbouring buckets: quantiles are exact to 2 %."""

_BUCKETS = ceil(log(LARGEST / SMALLEST) / _STEP) + 1

_MIN_COUNT = 200
"""Effective samples that decay always leaves, however rare requests are: else a quiet hour would
forget everything."""

_MAX_COUNT = 1000
"""The most effective samples: at a high rate old ones fade sooner, and changes show sooner."""

_AT_RISK = 0.1
"""Share of the samples that should still be there at some time, below which the few that are, since
the others were censored, tell nothing."""

MIN_SURVIVAL = 0.0005
"""The least share of healthy requests that is believed to take longer than any given time."""

_RESCALE = 2.0**64
"""The weight at which all counts are scaled down, long before a float overflows."""


class LatencyHistogram:
    """A logarithmic histogram in 2 % steps whose samples fade, some of them right-censored.

    A sample weighs half as much after `half_life` seconds, unless too few would be left. It has no
    lock: threads that add at the same moment can lose a sample, which no quantile notices.

    Args:
        half_life: Seconds.

    Attributes:
        slowest: The longest uncensored sample ever, in seconds; 0 without any.

    Example:
        ```python
        seen = LatencyHistogram(half_life=120)
        seen.add(0.42, now=10.0)
        seen.add(1.20, now=11.0, censored=True)  # a loser, closed after 1.2 s
        seen.quantile(0.95)
        ```
    """

    __slots__ = ("_at", "_censored", "_seen", "_weight", "half_life", "slowest", "total")

    def __init__(self, half_life: float = 120.0) -> None:
        self.half_life: float = half_life
        self._seen = [0.0] * _BUCKETS
        self._censored = [0.0] * _BUCKETS
        self._weight = 1.0  # of a sample added now; growing it is cheaper than fading all others
        self._at: float | None = None
        self.total: float = 0.0
        self.slowest: float = 0.0

    @property
    def count(self) -> float:
        """How many fresh samples the histogram is worth."""
        return self.total / self._weight

    def add(self, seconds: float, now: float, *, censored: bool = False) -> None:
        """Add one sample.

        Args:
            seconds: From sending to the first text, or for a censored one to the moment of closing.
            now: The engine's clock.
            censored: No text had come by then.
        """
        self._fade(now)
        (self._censored if censored else self._seen)[_bucket(seconds)] += self._weight
        self.total += self._weight
        if self.total > _MAX_COUNT * self._weight:
            self._weight *= 1 + 1 / _MAX_COUNT
        if seconds > self.slowest and not censored:
            self.slowest = seconds

    def quantile(self, q: float, waiting: Sequence[float] = ()) -> float | None:
        """The time by which a share `q` of the requests shows text; None if it is unknown.

        It is unknown where nearly all samples that could tell were censored earlier.

        Args:
            q: From 0 to 1.
            waiting: How long each request under way has waited so far: censored samples too. Of
                many that were sent together the fast ones are answered first, and by those alone
                everybody would be fast.
        """
        at_risk, survival = self.total + len(waiting) * self._weight, 1.0
        wanted, everybody = 1.0 - q, at_risk
        closed = self._censored
        if waiting:
            closed = closed.copy()
            for seconds in waiting:
                closed[_bucket(seconds)] += self._weight
        for bucket, (seen, censored) in enumerate(zip(self._seen, closed, strict=True)):
            if seen and at_risk > 0:
                if at_risk < _AT_RISK * survival * everybody:
                    return None
                survival *= max(0.0, 1.0 - seen / at_risk)
                if survival <= wanted:
                    # The upper edge: if all requests take the same time, none is later than it.
                    return SMALLEST * exp(bucket * _STEP)
            at_risk -= seen + censored
        return None

    def survival(self, seconds: float) -> float | None:
        """The share of the requests that show no text within this time.

        Args:
            seconds: Since sending.

        Returns:
            At least `MIN_SURVIVAL`, for samples are finite; None without samples.
        """
        if not self.total:
            return None
        at_risk, survival = self.total, 1.0
        for seen, censored in islice(
            zip(self._seen, self._censored, strict=True), _bucket(seconds) + 1
        ):
            if seen and at_risk > 0:
                survival *= max(0.0, 1.0 - seen / at_risk)
            at_risk -= seen + censored
        return max(MIN_SURVIVAL, survival)

    def mean_within(self, limit: float) -> float | None:
        """The mean of `min(seconds, limit)`: the expected wait for somebody who waits `limit`.

        The restricted mean survival time: the area under the Kaplan-Meier curve (Irwin, "The
        standard error of an estimate of expectation of life", Journal of Hygiene, 1949).

        Args:
            limit: Seconds.

        Returns:
            Seconds; None without samples.
        """
        if not self.total:
            return None
        at_risk, survival, area, before = self.total, 1.0, 0.0, 0.0
        for bucket, (seen, censored) in enumerate(zip(self._seen, self._censored, strict=True)):
            if seen and at_risk > 0:
                at = _middle(bucket)
                if at >= limit:
                    break
                area += survival * (at - before)
                survival, before = survival * max(0.0, 1.0 - seen / at_risk), at
            at_risk -= seen + censored
        return area + survival * (limit - before)

    def _fade(self, now: float) -> None:
        if self._at is not None and now > self._at:
            most_halvings = -log2(1.0 - 1.0 / _MIN_COUNT)
            self._weight *= 2.0 ** min((now - self._at) / self.half_life, most_halvings)
            if self._weight > _RESCALE:
                self._rescale()
        self._at = now if self._at is None else max(self._at, now)

    def _rescale(self) -> None:
        scale = 1.0 / self._weight
        self._seen = [x * scale for x in self._seen]
        self._censored = [x * scale for x in self._censored]
        self.total *= scale
        self._weight = 1.0


def _bucket(seconds: float) -> int:
    if seconds <= SMALLEST:
        return 0
    return min(_BUCKETS - 1, int(log(seconds / SMALLEST) / _STEP) + 1)


def _middle(bucket: int) -> float:
    """The geometric middle of a bucket, in seconds."""
    return SMALLEST * exp((bucket - 0.5) * _STEP) if bucket else SMALLEST


class RequestProfile(NamedTuple):
    """What a request says beforehand that its time depends on.

    Attributes:
        prompt_tokens: Estimated, images and files included; 0 where it is unknown.
        effort: The reasoning effort asked for; None where it does not say.
        answer_tokens: How long an answer it asks for, where whole answers are waited for; 0 where
            it does not say.
    """

    prompt_tokens: int = 0
    effort: str | None = None
    answer_tokens: int = 0


UNKNOWN = RequestProfile()
"""A request of which nothing is known: its scale is 1."""

DOUBLING_TOKENS = 5_000.0
"""Prompt tokens that double the time to the first text, before any request has shown how many do:
half a second at 10,000 tokens a second."""

CAUTIOUS_TOKENS = 1_500.0
"""The same for prompts longer than any before, when it is asked whether a target hangs: the guess
may be wrong, and a healthy target must not be taken out for that."""

_DOUBLING_SPREAD = 1.5
"""Width of the prior of the logarithm of that number (Student's, so that it can be overruled)."""

_MAX_DOUBLING = 2e6
"""Tokens; at this number the prompt's length counts as no matter."""

_MIN_DOUBLING = 30.0

_ANSWER_DOUBLING_TOKENS = 100.0
"""Tokens of a whole answer that double its time, as a prior: half a second at 200 a second."""

_EFFORT = {"none": 0.0, "minimal": 0.3, "low": 1.0, "medium": 2.0, "high": 2.7, "xhigh": 3.3}
"""Logarithm of how much longer thinking of each effort takes than none, as a prior."""

_EFFORT_WEIGHT = 8.0
"""How many samples that prior counts as."""

_FIT_SAMPLES = 1024
"""The most recent samples to which the scale is fitted."""

_FIRST_FIT = 12
"""Samples before the first fit."""

_FIT_EVERY = 256
"""Samples between two fits, once there are many: one takes some milliseconds."""

_ENOUGH_LONG = 10
"""Prompts of some length that must have been answered before their time is taken to be known."""

_CHANGED = 0.03
"""A scale that moves by a larger share than this has its residuals computed anew."""

_SAME_LENGTH = 1.2
"""Ratio of lengths up to which nothing can be learned from them."""

_TELLING_TOKENS = 500
"""Tokens by which lengths must differ for the fit to be worth telling to people."""

_GRID = 14
_GOLDEN = 8


_IMPLAUSIBLE = 1e12


def is_plausible(at: float, *sizes: float) -> bool:
    """Whether numbers that another process wrote can be true; no float holds every integer.

    Args:
        at: A time in seconds, by any clock; those since 1970 too.
        sizes: Seconds or tokens, of which there cannot be less than none.
    """
    return abs(at) < _IMPLAUSIBLE and all(0 <= size < _IMPLAUSIBLE for size in sizes)


class Sample(NamedTuple):
    """One request whose time is known, or of which a lower bound is.

    Attributes:
        seconds: To the first text or the whole answer; of a censored one, to when it was closed.
        at: When that was, by the engine's clock.
        profile: What was known of the request.
        censored: Whether it is only a lower bound.
    """

    seconds: float
    at: float
    profile: RequestProfile
    censored: bool


class TimeModel:
    """How long one target takes, given the request: a fitted scale, and a histogram of residuals.

    Seconds of residuals are those of a request of no length. Where all requests are of unknown
    profile, the scale is 1 and nothing is fitted. No lock, like the histogram.

    Example:
        ```python
        times = TimeModel()
        times.add(0.6, now=10.0, profile=RequestProfile(prompt_tokens=300))
        times.add(6.1, now=11.0, profile=RequestProfile(prompt_tokens=60_000))
        times.residuals.quantile(0.95) * times.scale(RequestProfile(prompt_tokens=20_000))
        ```
    """

    __slots__ = (
        "_answer",
        "_efforts",
        "_longest",
        "_next_fit",
        "_prompt",
        "_reference",
        "_samples",
        "_since_fit",
        "residuals",
    )

    def __init__(self) -> None:
        self.residuals = LatencyHistogram()
        self._prompt = DOUBLING_TOKENS
        self._answer = _ANSWER_DOUBLING_TOKENS
        self._efforts: dict[str | None, float] = {}
        self._reference: str | None = None
        self._samples: deque[Sample] = deque(maxlen=_FIT_SAMPLES)
        self._next_fit = _FIRST_FIT
        self._since_fit = 0
        self._longest: list[int] = []

    @property
    def count(self) -> float:
        """How many fresh samples it is worth."""
        return self.residuals.count

    @property
    def doubling_tokens(self) -> float:
        """Prompt tokens that double the time, as fitted so far."""
        return self._prompt

    @property
    def lengths_differ(self) -> bool:
        """Whether the recent prompts differ in length, so that the fit tells something."""
        lengths = [sample.profile.prompt_tokens for sample in self._samples.copy()]
        return (
            len(lengths) >= _FIRST_FIT
            and max(lengths) > _SAME_LENGTH * min(lengths)
            and max(lengths) - min(lengths) >= _TELLING_TOKENS
        )

    @property
    def efforts(self) -> dict[str, float]:
        """How many times longer each effort takes than the most frequent one; empty until known."""
        return {effort or "default": exp(factor) for effort, factor in self._efforts.items()}

    def scale(self, profile: RequestProfile) -> float:
        """How many times longer such a request takes than one of no length."""
        if profile is UNKNOWN:
            return 1.0
        scale = 1.0 + profile.prompt_tokens / self._prompt
        if profile.answer_tokens:
            scale += profile.answer_tokens / self._answer
        if profile.effort is None and self._reference is None:
            return scale
        return scale * exp(self._effort(profile.effort))

    def cautious_scale(self, profile: RequestProfile) -> float:
        """The same, but generous to prompts over twice as long as most that were answered."""
        longest = self._longest
        enough = len(longest) == _ENOUGH_LONG and profile.prompt_tokens <= 2 * longest[0]
        if enough or not profile.prompt_tokens or self._prompt <= CAUTIOUS_TOKENS:
            return self.scale(profile)
        excess = profile.prompt_tokens / CAUTIOUS_TOKENS - profile.prompt_tokens / self._prompt
        return self.scale(profile) + excess

    def add(
        self,
        seconds: float,
        now: float,
        profile: RequestProfile = UNKNOWN,
        *,
        censored: bool = False,
    ) -> None:
        """Add one sample; see `LatencyHistogram.add`."""
        if profile is UNKNOWN:
            self.residuals.add(seconds, now, censored=censored)
            return
        if not censored:
            self._note_length(profile.prompt_tokens)
        self.residuals.add(seconds / self.scale(profile), now, censored=censored)
        self._samples.append(Sample(max(seconds, SMALLEST), now, profile, censored))
        self._since_fit += 1
        if self._since_fit >= self._next_fit:
            self._since_fit = 0
            self._next_fit = min(_FIT_EVERY, max(4, len(self._samples) // 3))
            self._fit()

    def samples(self) -> list[Sample]:
        """The recent samples whose profile is known, oldest first."""
        return list(self._samples.copy())  # in one step: another thread may add

    def restore(self, samples: Sequence[Sample]) -> None:
        """Take over what another process has learned, in place of the prior.

        Args:
            samples: Oldest first; their times are by this process's clock.
        """
        self._samples.extend(samples)
        for sample in samples:
            if not sample.censored:
                self._note_length(sample.profile.prompt_tokens)
        if len(samples) >= _FIRST_FIT:
            self._next_fit = min(_FIT_EVERY, max(4, len(self._samples) // 3))
            self._fit()
        self._renew_residuals()

    def _note_length(self, tokens: int) -> None:
        longest = self._longest
        if len(longest) < _ENOUGH_LONG:
            heappush(longest, tokens)
        elif tokens > longest[0]:
            before = heapreplace(longest, tokens)
            if longest[0] > 2 * before:
                self._next_fit = 0  # much longer prompts than before: what was fitted may not hold

    def _effort(self, effort: str | None) -> float:
        known = self._efforts.get(effort)
        return _prior(effort) - _prior(self._reference) if known is None else known

    def _fit(self) -> None:
        """Fit the scale to the recent samples, and compute the residuals anew if it has moved."""
        samples = self.samples()
        before = [self.scale(sample.profile) for sample in samples]
        logs = [log(sample.seconds) - self._effort(sample.profile.effort) for sample in samples]
        censored = [sample.censored for sample in samples]
        prompts = [sample.profile.prompt_tokens for sample in samples]
        answers = [sample.profile.answer_tokens for sample in samples]
        rest = [answer / self._answer for answer in answers]
        fit = _TokenFit(logs, censored, prompts, rest)
        self._prompt = fit.doubling(DOUBLING_TOKENS, self._prompt)
        if any(answers):
            rest = [prompt / self._prompt for prompt in prompts]
            fit = _TokenFit(logs, censored, answers, rest)
            self._answer = fit.doubling(_ANSWER_DOUBLING_TOKENS, self._answer)
        self._fit_efforts()
        # Samples were of one scale before and may be of several now: what counts is the ratio.
        ratios = sorted(
            log(self.scale(sample.profile) / old)
            for sample, old in zip(samples, before, strict=True)
        )
        if max(ratios[-1], -ratios[0]) > _CHANGED:
            self._renew_residuals()

    def _renew_residuals(self) -> None:
        self.residuals = LatencyHistogram(self.residuals.half_life)
        for sample in self.samples():
            residual = sample.seconds / self.scale(sample.profile)
            self.residuals.add(residual, sample.at, censored=sample.censored)

    def _fit_efforts(self) -> None:
        by_effort: dict[str | None, list[float]] = {}
        for sample in self.samples():
            profile = sample.profile
            if not sample.censored:
                tokens = profile.prompt_tokens / self._prompt + profile.answer_tokens / self._answer
                by_effort.setdefault(profile.effort, []).append(log(sample.seconds) - log1p(tokens))
        if not by_effort or by_effort.keys() == {None}:
            return
        self._reference = max(by_effort, key=lambda effort: len(by_effort[effort]))
        medians = {effort: _median(logs) for effort, logs in by_effort.items()}
        base = medians[self._reference]
        self._efforts = {}
        for effort, logs in by_effort.items():
            prior, count = _prior(effort) - _prior(self._reference), len(logs)
            shrunk = count * (medians[effort] - base) + _EFFORT_WEIGHT * prior
            self._efforts[effort] = shrunk / (count + _EFFORT_WEIGHT)
        self._efforts[self._reference] = 0.0


def _prior(effort: str | None) -> float:
    # A request that does not say gets the provider's own default, mostly medium.
    return _EFFORT.get(effort or "medium", _EFFORT["medium"])


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


class _TokenFit:
    """Finds how many tokens double the time: the most likely number after the samples.

    Residuals of logarithms are taken to follow Laplace's distribution, which makes the fit one of
    least absolute deviations: a few requests that hang do not move it. Censored samples only count
    where they are longer than expected (Powell, "Least absolute deviations estimation for the
    censored regression model", Journal of Econometrics, 1984).

    Args:
        logs: Logarithms of seconds.
        censored: Which of them are lower bounds.
        tokens: Of each request.
        rest: What else adds to each scale.
    """

    def __init__(
        self, logs: list[float], censored: list[bool], tokens: list[int], rest: list[float]
    ) -> None:
        self._logs, self._censored, self._tokens, self._rest = logs, censored, tokens, rest

    def doubling(self, prior: float, last: float) -> float:
        """The number of tokens.

        Args:
            prior: What it is guessed to be without samples.
            last: What it was at the last fit.
        """
        if max(self._tokens) <= _SAME_LENGTH * min(self._tokens):
            return prior

        def cost(log_doubling: float) -> float:
            distance = (log_doubling - log(prior)) / _DOUBLING_SPREAD
            return self._misfit(exp(log_doubling)) + 2 * log1p(distance * distance / 3)

        low, high = log(_MIN_DOUBLING), log(_MAX_DOUBLING)
        step = (high - low) / (_GRID - 1)
        if len(self._logs) < _FIT_SAMPLES:
            _, best = min((cost(low + i * step), i) for i in range(_GRID))
            middle = low + best * step
        else:
            middle = log(last)  # many samples move it little
        return exp(_golden(cost, middle - step, middle + step))

    def _misfit(self, doubling: float) -> float:
        """The negative logarithm of the likelihood."""
        residuals = [
            y - log1p(x / doubling + r)
            for y, x, r in zip(self._logs, self._tokens, self._rest, strict=True)
        ]
        count = len(residuals)
        middle = sorted(residuals)[count // 2]
        deviation = sum(
            abs(residual - middle)
            for residual, lower in zip(residuals, self._censored, strict=True)
            if residual > middle or not lower
        )
        return count * log(deviation + 1e-3 * count)


def _golden(cost: Callable[[float], float], low: float, high: float) -> float:
    """Golden-section search for the least cost."""
    ratio = 0.6180339887498949
    a, b = high - ratio * (high - low), low + ratio * (high - low)
    cost_a, cost_b = cost(a), cost(b)
    for _ in range(_GOLDEN):
        if cost_a <= cost_b:
            high, b, cost_b = b, a, cost_a
            a = high - ratio * (high - low)
            cost_a = cost(a)
        else:
            low, a, cost_a = a, b, cost_b
            b = low + ratio * (high - low)
            cost_b = cost(b)
    return a if cost_a <= cost_b else b
