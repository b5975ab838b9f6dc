"""What keys have used, read from the ledger: to begin counting after a start, and for `smallfirst keys list`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from ..ledger.store import NothingRecorded, Store
from .limits import NANO, BudgetName, day_of, month_of

_QUERY = """
    SELECT key_id, count(*), sum(CASE WHEN started_at >= ? THEN 1 ELSE 0 END),
        sum(CASE WHEN started_at >= ? THEN cost_usd END),
        sum(CASE WHEN started_at >= ? THEN cost_usd END), sum(cost_usd)
    FROM entries WHERE key_id IS NOT NULL AND kind = 'request' GROUP BY key_id
"""


@dataclass(frozen=True, slots=True)
class Spent:
    """What one key has used. Costs that are not known are in no sum.

    Attributes:
        requests: In all.
        usd: In all, as far as the ledger goes back.
    """

    requests: int = 0
    requests_day: int = 0
    usd_day: float = 0.0
    usd_month: float = 0.0
    usd: float = 0.0

    def seed(self, now: float) -> Mapping[tuple[BudgetName, str], int]:
        """Return it by budget and window, as limiters count."""
        day, month = day_of(now)[0], month_of(now)[0]
        return {
            ("requests", "all"): self.requests,
            ("requests_day", day): self.requests_day,
            ("usd_day", day): math.ceil(self.usd_day * NANO),
            ("usd_month", month): math.ceil(self.usd_month * NANO),
        }


def spent_by_key(ledger: Store, now: float) -> Mapping[str, Spent]:
    """Return what keys have used, by their ids; nothing where there is no ledger yet. Waits for the database.

    Raises:
        LedgerError: The ledger is there, but cannot be read.
    """
    day, month = _begins(day_of(now)[0]), _begins(f"{month_of(now)[0]}-01")
    try:
        with ledger.read() as connection:
            rows = connection.execute(_QUERY, (day, day, month)).fetchall()
    except NothingRecorded:
        return {}
    return {key_id: Spent(*(number or 0 for number in numbers)) for key_id, *numbers in rows}


def _begins(day: str) -> float:
    return datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()
