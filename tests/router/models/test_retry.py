"""When to try again, as data."""

from datetime import UTC, datetime

import pytest

from smallfirst.router.errors import ModelError, ModelTimeout, ModelUnavailable, UpstreamError
from smallfirst.router.models.retry import parse_retry_after, retry_delay
from smallfirst.router.settings import Retries

RETRIES = Retries(max=3, base_delay=0.5, max_delay=4)
BUSY = UpstreamError("busy", status=503)
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(("attempt", "delay"), [(0, 0.25), (1, 0.5), (2, 1.0), (3, None)])
def test_the_wait_doubles_with_jitter_until_the_tries_are_used_up(attempt: int, delay: float | None) -> None:
    assert retry_delay(BUSY, attempt, RETRIES, 0.5) == delay


@pytest.mark.parametrize(
    ("error", "retried"),
    [
        (UpstreamError("", status=429), True),
        (UpstreamError("", status=500), True),
        (UpstreamError("", status=400), False),
        (UpstreamError("", status=401), False),
        (ModelUnavailable("refused"), True),
        (ModelTimeout("slow"), False),
    ],
)
def test_only_what_may_heal_is_tried_again(error: ModelError, retried: bool) -> None:
    assert (retry_delay(error, 0, RETRIES, 0.5) is not None) is retried


def test_retry_after_is_honoured_up_to_the_longest_wait() -> None:
    assert retry_delay(UpstreamError("", status=429, retry_after=3), 0, RETRIES, 0.5) == 3
    assert retry_delay(UpstreamError("", status=429, retry_after=5), 0, RETRIES, 0.5) is None


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("2", 2.0),
        ("0.5", 0.5),
        ("-1", 0.0),
        ("Thu, 01 Jan 2026 00:00:10 GMT", 10.0),
        ("Thu, 01 Jan 2025 00:00:10 GMT", 0.0),
        ("soon", None),
        ("inf", None),
        ("nan", None),
        ("Wed, 21 Oct 99999999999999999999 07:28:00 GMT", None),
        ("", None),
    ],
)
def test_retry_after_is_read_as_seconds_or_date(value: str, seconds: float | None) -> None:
    assert parse_retry_after({"retry-after": value}, NOW) == seconds
