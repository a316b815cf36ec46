"""Retry hints in every form and order, and the rate limits that headers tell."""

from __future__ import annotations

import time
from email.utils import formatdate

import httpx2
import pytest

from langchain_resilient.exchange import RateLimitLevel
from langchain_resilient.providers.rate_limit_headers import (
    parse_seconds,
    rate_limit_status,
    retry_after,
    should_retry,
)

NOW = 1_764_000_000.0
DATE = formatdate(NOW, usegmt=True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("20", 20.0),
        (" 1.5 ", 1.5),
        ("0", 0.0),
        ("6ms", 0.006),
        ("8.64s", 8.64),
        ("6m0s", 360.0),
        ("1m7.606s", 67.606),
        ("83h10m39.057s", 299_439.057),
        ("2d", 172_800.0),
        ("8 seconds", 8.0),
        ("1 minute", 60.0),
        ("300 milliseconds", 0.3),
        ("1h 30m", 5_400.0),
    ],
)
def test_durations_are_read_in_every_notation(text, expected):
    """Seconds, Go durations, and words."""
    assert parse_seconds(text) == pytest.approx(expected)


@pytest.mark.parametrize(
    "text", ["", " ", "-1", "-6ms", "nan", "inf", "-inf", "soon", "5x", "1e30", "1m7.6", "40000000"]
)
def test_what_is_no_duration_is_none(text):
    """Negative, garbage, endless, or above a year."""
    assert parse_seconds(text) is None


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"retry-after": "20"}, 20.0),
        ({"retry-after": "2.5"}, 2.5),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "1s"}, 1.0),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "garbage"}, None),
        ({"retry-after": "99999999999999999999"}, None),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after-ms": "1500", "retry-after": "20"}, 1.5),
        ({"retry-after-ms": "garbage", "retry-after": "20"}, 20.0),
        ({"retry-after-ms": "-1", "retry-after": "20"}, 20.0),
        # Azure rounds the one up and the other down.
        ({"retry-after-ms": "0", "retry-after": "1"}, 0.0),
        ({"x-ratelimit-reset": "2"}, 2.0),
        ({"x-ratelimit-reset": "2", "retry-after": "7"}, 7.0),
        ({"x-ratelimit-reset": "2", "retry-after": "garbage"}, 2.0),
    ],
)
def test_headers_are_read_in_the_sdks_order(headers, expected):
    """retry-after-ms, retry-after, x-ratelimit-reset; what makes no sense is passed over."""
    assert retry_after(headers) == expected


@pytest.mark.parametrize("ahead", [0.0, 5.0, 3600.0])
def test_a_date_is_read_against_the_servers_own_clock(ahead):
    """Ours may be years off."""
    headers = {"retry-after": formatdate(NOW + ahead, usegmt=True), "date": DATE}
    assert retry_after(headers) == ahead


def test_a_date_in_the_past_means_at_once():
    """Not a negative wait."""
    assert retry_after({"retry-after": formatdate(NOW - 60, usegmt=True), "date": DATE}) == 0.0


def test_a_date_without_the_servers_is_no_hint():
    """Our own clock may be wrong by hours."""
    assert retry_after({"retry-after": formatdate(time.time() + 30, usegmt=True)}) is None


def test_a_date_without_a_zone_is_universal_time(monkeypatch):
    """Wherever we are (RFC 5322 writes that zone -0000)."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        dates = {"retry-after": formatdate(NOW + 5), "date": DATE}
        assert retry_after(dates) == 5.0
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_date_more_than_a_year_ahead_is_none():
    """Somebody's clock is broken."""
    headers = {"retry-after": formatdate(NOW + 4e7, usegmt=True), "date": DATE}
    assert retry_after(headers) is None


@pytest.mark.parametrize("reset", [f"{NOW + 12:.0f}", f"{(NOW + 12) * 1000:.0f}"])
def test_a_reset_may_be_a_point_in_time(reset):
    """Seconds or, at OpenRouter, milliseconds since 1970."""
    assert retry_after({"x-ratelimit-reset": reset, "date": DATE}) == pytest.approx(12)


@pytest.mark.parametrize("reset", ["123456789", "9999999999", "99999999999999"])
def test_a_reset_that_is_neither_is_none(reset):
    """Too long to wait for, too far away, too many digits."""
    assert retry_after({"x-ratelimit-reset": reset, "date": DATE}) is None


BUCKETS = {
    "x-ratelimit-remaining-requests": "9",
    "x-ratelimit-reset-requests": "8.64s",
    "x-ratelimit-remaining-tokens": "0",
    "x-ratelimit-reset-tokens": "6m0s",
}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 360.0),
        ({"x-ratelimit-remaining-tokens": "12"}, None),
        ({"x-ratelimit-remaining-tokens": "-1"}, 360.0),
        ({"x-ratelimit-remaining-tokens": "odd"}, None),
        ({"x-ratelimit-reset-tokens": "garbage"}, None),
        ({"x-ratelimit-remaining-requests": "0"}, 360.0),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "7m"}, 420.0),
        ({"x-ratelimit-remaining-images": "0", "x-ratelimit-reset-images": "1h"}, 3600.0),
        ({"retry-after": "3"}, 3.0),
    ],
)
def test_only_an_empty_bucket_is_a_reason_to_wait(changes, expected):
    """OpenAI sends the resets of all buckets on every response; the last empty one counts."""
    assert retry_after({**BUCKETS, **changes}) == expected


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("Limit 3, Used 3, Requested 1. Please try again in 1m7.606s. Visit https://x", 67.606),
        ("Please try again in 6ms.", 0.006),
        ("Please try again in 20s. Visit", 20.0),
        ("Please retry after 8 seconds.", 8.0),
        ("Please retry after 1 second", 1.0),
        ("Please retry in 34.074824224s.", 34.074824224),
        ("Try again in 2 minutes", 120.0),
        ("please retry your requests after 30 seconds", 30.0),
        ("Please try again later.", None),
        ("Please retry shortly, or add your own key", None),
        ("try again in 20 metres", None),
        ("Rate limit reached: 20s", None),
        ("", None),
    ],
)
def test_the_sentence_in_the_message_is_the_last_resort(message, expected):
    """Azure and OpenAI say it there when no header does."""
    assert retry_after({}, message) == (None if expected is None else pytest.approx(expected))


def test_a_header_goes_before_the_sentence():
    """It is meant for machines."""
    assert retry_after({"retry-after": "3"}, "Please try again in 20s.") == 3.0


def test_names_may_be_written_in_any_case_where_the_mapping_allows_it():
    """The SDKs' own header types do."""
    headers = httpx2.Headers({"Retry-After": "4", "X-Should-Retry": "False"})
    assert (retry_after(headers), should_retry(headers)) == (4.0, False)


@pytest.mark.parametrize(
    ("value", "expected"),
    [("true", True), ("false", False), ("TRUE", True), ("", None), ("maybe", None), (None, None)],
)
def test_should_retry_is_true_false_or_unknown(value, expected):
    """Anything odd is unknown."""
    assert should_retry({} if value is None else {"x-should-retry": value}) is expected


def headers(limit="600", remaining="599", reset=None, kind="requests") -> dict[str, str]:
    fields = {
        f"x-ratelimit-limit-{kind}": limit,
        f"x-ratelimit-remaining-{kind}": remaining,
        f"x-ratelimit-reset-{kind}": reset,
    }
    return {name: value for name, value in fields.items() if value is not None}


def test_both_limits_are_read():
    """Each on its own."""
    status = rate_limit_status(
        headers(reset="100ms") | headers("200000", "150000", "15s", kind="tokens")
    )
    assert status.requests == RateLimitLevel(600, 599, 600)
    assert status.tokens == RateLimitLevel(200_000, 150_000, 200_000)


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
    "headers",
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
def test_what_makes_no_sense_says_nothing(headers):
    """Together's among them, which are for a second and not to be trusted."""
    assert rate_limit_status(headers) is None
