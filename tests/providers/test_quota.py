"""What an answer's headers say of rate limits."""

from __future__ import annotations

import pytest

from langchain_resilient.exchange import RateLimitLevel
from langchain_resilient.providers.rate_limit_headers import rate_limit_status


def headers(limit="600", remaining="599", reset=None, kind="requests") -> dict[str, str]:
    found = {
        f"x-ratelimit-limit-{kind}": limit,
        f"x-ratelimit-remaining-{kind}": remaining,
        f"x-ratelimit-reset-{kind}": reset,
    }
    return {name: value for name, value in found.items() if value is not None}


def test_both_limits_are_read():
    """Each on its own."""
    said = rate_limit_status(
        headers(reset="100ms") | headers("200000", "150000", "15s", kind="tokens")
    )
    assert said.requests == RateLimitLevel(600, 599, 600)
    assert said.tokens == RateLimitLevel(200_000, 150_000, 200_000)


def test_a_limit_that_does_not_say_when_it_is_full_again_is_not_trusted():
    """Together's tokens, on every answer: nobody keeps to it."""
    assert rate_limit_status(headers("3000", "3000", kind="tokens")) is None


def test_the_reset_tells_how_much_the_bucket_holds():
    """A second's worth, where one request is made good in a tenth of a second."""
    assert rate_limit_status(
        headers(remaining="9", reset="100ms")
    ).requests.capacity == pytest.approx(10)


@pytest.mark.parametrize(("limit", "reset"), [("10000", "8.64s"), ("200", "7m12s")])
def test_a_days_limit_is_no_matter_of_pace(limit, reset):
    """One request of ten thousand is made good in 8.64 s: so they are for a day."""
    assert rate_limit_status(headers(limit, str(int(limit) - 1), reset)) is None


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"x-ratelimit-limit": "10", "x-ratelimit-remaining": "9", "x-ratelimit": "false"},
        headers(limit="many"),
        headers(limit="0"),
        headers(remaining=None),
        headers(remaining="-1"),
        headers(limit="inf"),
        headers(remaining="nan"),
    ],
)
def test_what_makes_no_sense_says_nothing(said):
    """Together's among them, which are for a second and not to be trusted."""
    assert rate_limit_status(said) is None
