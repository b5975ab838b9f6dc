"""What keys have used, from the ledger; and how what is left is put into headers."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import SecretStr

from smallfirst.router.access.headers import anthropic_headers, duration, openai_headers
from smallfirst.router.access.limits import NEVER, Level, Verdict, nano_of
from smallfirst.router.access.spent import Spent, spent_by_key
from smallfirst.router.ledger import Entry, Ledger
from smallfirst.router.ledger.store import open_store
from smallfirst.router.settings import LedgerSettings

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC).timestamp()
DAY = 86_400.0


def ledger_at(place: Path | str) -> LedgerSettings:
    return LedgerSettings(path=place) if isinstance(place, Path) else LedgerSettings(url=SecretStr(place))


def test_use_is_added_up_by_key_day_and_month(ledger_place: Callable[[], Path | str]) -> None:
    settings = ledger_at(ledger_place())
    rows = [
        ("a", 0.0, 0.1),
        ("a", 11.9 * 3600, None),
        ("a", 12.1 * 3600, 0.2),
        ("a", 20.4 * DAY, 0.4),
        ("a", 20.6 * DAY, 0.8),
        ("b", 0.0, 3.0),
        (None, 0.0, 5.0),
    ]
    ledger = Ledger(settings)
    for at, (key, age, cost) in enumerate(rows):
        ledger.record(
            Entry(request_id=f"r{at}", started_at=NOW - age, duration_ms=1, key_id=key, cost_usd=cost)
        )
    ledger.record(
        Entry(request_id="own", started_at=NOW, duration_ms=1, key_id="b", cost_usd=1.0, kind="refresh")
    )
    ledger.close()
    spent = spent_by_key(open_store(settings), NOW)
    assert spent.keys() == {"a", "b"}
    assert (spent["a"].requests, spent["a"].requests_day) == (5, 2)
    assert [spent["a"].usd_day, spent["a"].usd_month, spent["a"].usd] == pytest.approx([0.1, 0.7, 1.5])
    assert spent["b"].usd == 3.0


def test_without_a_ledger_nothing_was_used(ledger_place: Callable[[], Path | str]) -> None:
    assert spent_by_key(open_store(ledger_at(ledger_place())), NOW) == {}


def test_use_becomes_the_beginning_of_todays_and_this_months_count() -> None:
    assert Spent(9, 2, 0.5, 1.25, 7.0).seed(NOW) == {
        ("requests", "all"): 9,
        ("requests_day", "2026-11-21"): 2,
        ("usd_day", "2026-11-21"): nano_of(0.5),
        ("usd_month", "2026-11"): nano_of(1.25),
    }


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0ms"),
        (0.0581, "59ms"),
        (1, "1s"),
        (6.5, "6.5s"),
        (59.9996, "60s"),
        (60, "1m0s"),
        (360, "6m0s"),
        (86_399.2, "24h0m0s"),
    ],
)
def test_durations_are_written_as_openai_does(seconds: float, text: str) -> None:
    assert duration(seconds) == text


VERDICT = Verdict(
    None,
    rates={"requests": Level(60, 50, 10.0), "tokens": Level(1000, 0, 60.0)},
    budgets={"requests": Level(100, 40, NEVER), "requests_day": Level(80, 70, 3600.0)},
    spent=0.25,
)


def test_of_several_limits_of_requests_the_one_with_the_least_left_is_shown() -> None:
    assert openai_headers(VERDICT, NOW) == {
        "x-ratelimit-limit-requests": "100",
        "x-ratelimit-remaining-requests": "40",
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "1m0s",
        "x-smallfirst-budget-used": "0.2500",
    }


def test_anthropics_names_give_times() -> None:
    headers = anthropic_headers(Verdict(None, rates={"tokens": Level(1000, 900, 5.5)}), NOW)
    assert headers == {
        "anthropic-ratelimit-tokens-limit": "1000",
        "anthropic-ratelimit-tokens-remaining": "900",
        "anthropic-ratelimit-tokens-reset": "2026-11-21T12:00:06Z",
    }
