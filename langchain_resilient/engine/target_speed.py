"""How fast a target is: what is usual for a request, what is late, and what a silence says.

It is learned from all requests of the process, given each request's profile (`time_model`).
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from math import inf, log
from typing import TYPE_CHECKING, Any

from langchain_resilient.engine.circuit_breaker import (
    HEALTHY_SLOW_SHARE,
    silence_evidence,
    silent_share,
)
from langchain_resilient.engine.time_model import (
    MIN_SURVIVAL,
    UNKNOWN,
    LatencyHistogram,
    RequestProfile,
    Sample,
    TimeModel,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

ENOUGH_SAMPLES = 30
"""Fewer samples say nothing about a 95th percentile."""

MANY_SAMPLES = 500
"""Samples beside which requests under way need not be counted."""

THINKING_SECONDS = {"low": 15.0, "medium": 30.0, "high": 60.0, "xhigh": 120.0}
"""Seconds that a model is taken to think, by effort, before it was seen: then a hedge is sent."""

THINKING_LIMIT_FACTOR = 6.0
"""Factor on those seconds after which a silent thinker is left, and on which it is late."""

SLOWEST_FACTOR = 1.2
"""Factor on the slowest time of a thinker that was seen so far."""

TEXT_LIMIT = 15.0
"""Seconds without text after which a target is left whose speed is not known, and most others."""

MIN_TEXT_LIMIT = 5.0
"""The shortest such limit that is learned: a hedge has been sent long before."""

THINKING_LIMIT = 300.0
"""Seconds for which reasoning may go on without a text; twice that for high effort."""

LATE_FACTOR = 1.2
"""Factor on the learned percentile: a few percent slower than usual is not yet late."""

HELD_SECONDS = 5.0
"""Seconds before a sample of a target's speed counts; a trip meanwhile discards it."""

FEW_SAMPLES = 5
"""Samples that are enough to compare the speed of targets."""

MAX_EXPECTED_SECONDS = 10.0
"""Seconds; a request that takes longer is answered by another target."""

_COLD_SHARE = 0.6
"""Share of the cold delay by which 95 % are taken to have spoken, before anything was learned."""

_REFRESH_SECONDS = 1.0
"""The greatest age of a cached percentile."""


class TargetSpeed:
    """The times of one target, shared by all requests of the process.

    Args:
        waiting: The attempts that wait for a first text, as keys; the target's own, not a copy.
        thinks: Its model is known to reason before it answers, unless told not to.

    Attributes:
        first_texts: Seconds to the first text, given the request.
        answers: Seconds to a whole answer, where it does not stream.
        pauses: Seconds of the longest pause in each complete stream.
        thinks: As given.
    """

    __slots__ = (
        "__weakref__",
        "_expected",
        "_held_samples",
        "_percentiles",
        "_typical_pause",
        "_waiting",
        "answers",
        "first_texts",
        "pauses",
        "thinks",
    )

    def __init__(self, waiting: Mapping[Any, object], *, thinks: bool = False) -> None:
        self.thinks = thinks
        self.first_texts = TimeModel()
        self.answers = TimeModel()
        self.pauses = LatencyHistogram()
        self._waiting = waiting
        self._held_samples: deque[tuple[float, float, RequestProfile, bool, bool]] = deque()
        self._expected: dict[bool, tuple[float, float]] = {}
        self._percentiles: dict[tuple[float, bool], tuple[float, float | None]] = {}
        self._typical_pause = (0.0, 0.0)

    def times(self, *, plain: bool) -> TimeModel:
        """How long its whole answers take, or its first texts."""
        return self.answers if plain else self.first_texts

    def percentile(
        self, q: float, now: float, *, plain: bool, profile: RequestProfile = UNKNOWN
    ) -> float | None:
        """The time by which a share `q` of such requests shows text; None while that is unknown.

        Args:
            q: From 0 to 1.
            now: The engine's clock.
            plain: Of whole answers, rather than first texts.
            profile: What is known of the request.
        """
        residual = self._residual(q, now, plain=plain)
        return None if residual is None else residual * self.times(plain=plain).scale(profile)

    def _residual(self, q: float, now: float, *, plain: bool) -> float | None:
        cached = self._percentiles.get((q, plain))
        if cached is not None and now < cached[0]:
            return cached[1]
        samples = self.times(plain=plain).residuals
        seconds = None
        if samples.count >= ENOUGH_SAMPLES:
            # Next to many samples the few that are under way change nothing.
            few = samples.count < MANY_SAMPLES or len(self._waiting) > samples.count / 10
            seconds = samples.quantile(q, self._waited(now, plain=plain) if few else ())
        if seconds is None and cached is not None and samples.count >= ENOUGH_SAMPLES:
            seconds = cached[1]  # too many were closed early to tell: keep the last known value
        self._percentiles[q, plain] = (now + _REFRESH_SECONDS, seconds)
        return seconds

    def _waited(self, now: float, *, plain: bool) -> list[float]:
        """How long each request under way has waited, as residuals."""
        times = self.times(plain=plain)
        return [
            (now - attempt.started) / times.scale(attempt.profile)
            for attempt in list(self._waiting)
            if attempt.plain is plain and not attempt.excused_seconds and now > attempt.started
        ]

    def late_after(
        self, now: float, *, plain: bool, cold: float, profile: RequestProfile = UNKNOWN
    ) -> float:
        """Seconds without text that count as evidence of sickness.

        A target whose speed is not known yet gets four times the cold delay, or twice its slowest
        text: a model that thinks for long is not sick.
        """
        times = self.times(plain=plain)
        learned = self._residual(1 - HEALTHY_SLOW_SHARE, now, plain=plain)
        if learned is not None:
            return LATE_FACTOR * learned * times.cautious_scale(profile)
        thinking = self.thinking_seconds(profile)
        if thinking:
            return max(3 * thinking, 2 * times.residuals.slowest * times.scale(profile))
        return max(4 * cold, 2 * times.residuals.slowest) * times.cautious_scale(profile)

    def silence_evidence(
        self, seconds: float, *, plain: bool, cold: float, profile: RequestProfile = UNKNOWN
    ) -> float:
        """How much a silence says against it, in nats: as much as it is unusual for such a request.

        Args:
            seconds: How long it lasts.
            plain: Of a whole answer, rather than a first text.
            cold: The delay of a hedge, where nothing has been learned.
            profile: What is known of the request.
        """
        times = self.times(plain=plain)
        residual = seconds / times.cautious_scale(profile)
        share = times.residuals.survival(residual) if times.count >= ENOUGH_SAMPLES else None
        if share is None:
            usual = 3 * self.thinking_seconds(profile) or _COLD_SHARE * cold
            share = max(MIN_SURVIVAL, HEALTHY_SLOW_SHARE ** (residual / usual))
        return silence_evidence(share)

    def unusual_after(
        self,
        evidence: float,
        now: float,
        *,
        plain: bool,
        cold: float,
        profile: RequestProfile = UNKNOWN,
    ) -> float:
        """Seconds of silence that say so much against it; the inverse of `silence_evidence`."""
        times = self.times(plain=plain)
        share = max(MIN_SURVIVAL, silent_share(evidence))
        residual = self._residual(round(1 - share, 3), now, plain=plain)
        usual_residual = self._residual(1 - HEALTHY_SLOW_SHARE, now, plain=plain)
        if residual is None and usual_residual is not None:
            residual = 2 * usual_residual  # too few samples to tell what is that unusual
        elif residual is None:
            usual = 3 * self.thinking_seconds(profile) or _COLD_SHARE * cold
            residual = usual * log(share) / log(HEALTHY_SLOW_SHARE)
        return residual * times.cautious_scale(profile)

    def thinking_seconds(self, profile: RequestProfile) -> float:
        """How long it is taken to think before it was seen; 0 for a model that does not."""
        effort = profile.effort
        if effort is None:
            return THINKING_SECONDS["medium"] if self.thinks else 0.0
        return THINKING_SECONDS.get(effort, 0.0)

    def thinking_delay(self, *, plain: bool, profile: RequestProfile = UNKNOWN) -> float:
        """Seconds after which a thinker is hedged while little is known; 0 for other models.

        The few times that were seen count: a little more than the longest, within bounds.
        """
        seconds = self.thinking_seconds(profile)
        times = self.times(plain=plain)
        seen = SLOWEST_FACTOR * times.residuals.slowest * times.scale(profile)
        return min(max(seconds, seen), 2 * seconds)

    def text_limit(self, now: float, *, plain: bool, profile: RequestProfile = UNKNOWN) -> float:
        """Seconds without text beyond what a healthy target ever takes for such a request.

        Twice its 99.9th percentile, but, since that is known badly, at most three times its 95th or
        `TEXT_LIMIT`, whichever is longer.
        """
        times = self.times(plain=plain)
        usual = self._residual(1 - HEALTHY_SLOW_SHARE, now, plain=plain)
        scale = times.cautious_scale(profile)
        if usual is None:
            thinking = THINKING_LIMIT_FACTOR * self.thinking_seconds(profile)
            return max(thinking or TEXT_LIMIT * scale, 2 * times.residuals.slowest * scale)
        rarest = self._residual(0.999, now, plain=plain)
        longest = max(TEXT_LIMIT, 3 * usual)
        limit = longest if rarest is None else min(max(2 * rarest, MIN_TEXT_LIMIT), longest)
        return limit * scale

    def thinking_limit(
        self, now: float, *, plain: bool, profile: RequestProfile = UNKNOWN
    ) -> float:
        """Seconds after which reasoning that leads to no text is taken to be endless."""
        longest = THINKING_LIMIT * (2 if profile.effort in {"high", "xhigh"} else 1)
        usual = self.percentile(1 - HEALTHY_SLOW_SHARE, now, plain=plain, profile=profile)
        return longest if usual is None else max(longest, 3 * usual)

    def expected(self, now: float, *, plain: bool, profile: RequestProfile = UNKNOWN) -> float:
        """The mean wait for such a request, in seconds; infinity while that is unknown.

        Of fewer than `ENOUGH_SAMPLES` it is the median.
        Nobody is taken to wait longer than for `MAX_EXPECTED_SECONDS` times its scale.
        """
        scale = self.times(plain=plain).scale(profile)
        return self._mean_residual(now, plain=plain) * scale

    def is_being_learned(self, *, plain: bool) -> bool:
        """Whether enough requests were sent to it to tell its speed, once they have answered."""
        under_way = sum(attempt.plain is plain for attempt in list(self._waiting))
        return self.times(plain=plain).count + under_way >= FEW_SAMPLES

    def _mean_residual(self, now: float, *, plain: bool) -> float:
        samples = self.times(plain=plain).residuals
        if samples.count < FEW_SAMPLES:
            return inf  # not kept for a while: at a high rate that would be many requests
        cached = self._expected.get(plain)
        if cached is not None and now < cached[0]:
            return cached[1]
        # Of a few the mean says little: the first one has opened a connection.
        usual = samples.quantile(0.5) if samples.count < ENOUGH_SAMPLES else None
        mean = samples.mean_within(MAX_EXPECTED_SECONDS) if usual is None else usual
        self._expected[plain] = (now + _REFRESH_SECONDS, inf if mean is None else mean)
        return inf if mean is None else mean

    def typical_pause(self, now: float) -> float:
        """The longest pause of 99 % of its answers, in seconds; 0 while unknown."""
        valid_until, seconds = self._typical_pause
        if now >= valid_until:
            enough = self.pauses.count >= ENOUGH_SAMPLES
            seconds = (self.pauses.quantile(0.99) if enough else None) or 0.0
            self._typical_pause = (now + _REFRESH_SECONDS, seconds)
        return seconds

    def learned_delay(self, now: float) -> float | None:
        """The time by which 95 % of its requests show text; None while unknown."""
        return self.percentile(1 - HEALTHY_SLOW_SHARE, now, plain=False)

    def record_longest_pause(self, longest_pause: float, now: float) -> None:
        """Record the longest pause of a complete stream, in seconds."""
        self.pauses.add(longest_pause, now)

    def record(
        self,
        seconds: float,
        now: float,
        profile: RequestProfile = UNKNOWN,
        *,
        plain: bool,
        censored: bool = False,
        tripped: bool = False,
    ) -> None:
        """Record a time, but hold it back for a while: at a trip it was a symptom.

        Otherwise each bout of slowness would make slow normal, until none is noticed any more.

        Args:
            seconds: To the first text, or to the whole answer.
            now: The engine's clock.
            profile: What is known of the request.
            plain: It is of a whole answer.
            censored: It is a lower bound.
            tripped: The target is out: then it teaches nothing.
        """
        times = self.times(plain=plain)
        if times.count < ENOUGH_SAMPLES:
            times.add(seconds, now, profile, censored=censored)
            return
        if tripped:
            return
        held = self._held_samples
        held.append((seconds, now, profile, plain, censored))
        with suppress(IndexError):  # another thread's trip emptied it
            while held[0][1] <= now - HELD_SECONDS:
                seconds, at, profile, plain, censored = held.popleft()
                self.times(plain=plain).add(seconds, at, profile, censored=censored)

    def held(self) -> tuple[list[Sample], list[Sample]]:
        """The samples that are held back: of first texts, and of whole answers."""
        kinds: tuple[list[Sample], list[Sample]] = ([], [])
        for seconds, at, profile, plain, censored in self._held_samples.copy():
            kinds[plain].append(Sample(seconds, at, profile, censored))
        return kinds

    def forget_held(self) -> None:
        """Throw away what is held back: the target has tripped."""
        self._held_samples.clear()

    def relearn(
        self, probes: Iterable[tuple[float, RequestProfile]], now: float, *, plain: bool
    ) -> None:
        """Take these times for normal, in place of all before.

        Args:
            probes: Seconds, each with what was known of its request.
            now: The engine's clock.
            plain: They are of whole answers.
        """
        samples = TimeModel()
        for seconds, profile in probes:
            samples.add(seconds, now, profile)
        self._percentiles.clear()
        if plain:
            self.answers = samples
        else:
            self.first_texts = samples
