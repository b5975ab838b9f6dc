"""When to try again, as data."""

from datetime import UTC, datetime

import pytest

from smallfirst.router.errors import (
    ModelError,
    ModelTimeout,
    ModelUnavailable,
    UpstreamError,
    UpstreamUntrusted,
)
from smallfirst.router.models.retry import RetryBudget, parse_retry_after, retry_delay
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
        (UpstreamUntrusted("expired"), False),
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


class Clock:
    now = 50.0

    def __call__(self) -> float:
        return self.now


def test_a_few_retries_are_made_whatever_the_traffic() -> None:
    budget = RetryBudget(Retries(budget=0.1, least=3), Clock())
    budget.asked()
    assert [budget.takes() for _ in range(4)] == [True, True, True, False]
    assert budget.refused == 1


def test_retries_are_at_most_a_tenth_of_the_requests() -> None:
    budget = RetryBudget(Retries(budget=0.1, least=3), Clock())
    for _ in range(1000):
        budget.asked()
    assert sum(budget.takes() for _ in range(1000)) == 100


def test_requests_of_long_ago_give_no_room_for_retries() -> None:
    clock = Clock()
    budget = RetryBudget(Retries(budget=0.1, least=0), clock)
    for _ in range(100):
        budget.asked()
    clock.now += 10.5
    assert not budget.takes()


def test_room_for_retries_comes_back_with_time() -> None:
    clock = Clock()
    budget = RetryBudget(Retries(budget=0.1, least=1), clock)
    assert [budget.takes(), budget.takes()] == [True, False]
    clock.now += 10.5
    assert budget.takes()
