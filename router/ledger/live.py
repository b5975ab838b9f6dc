"""Reports that are asked for again and again, as a dashboard does: what was read stays, only what is new is read."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from .reading import Facts, join, read_facts
from .report import Report, add_up
from .store import Store

# Of the last seconds before a look all is read again at the next one: an entry is written when its request ends. What
# comes later still, as after an outage of the database, is seen when everything is read anew.
_OVERLAP = 900.0
# Seconds until everything is read anew, which also forgets what was deleted.
_ANEW = 600.0


class LiveReports:
    """Makes reports of one ledger, from any thread; a report waits for one that is being made.

    Keeps 120 bytes an entry in memory, from the earliest `since` asked for.

    Args:
        store: The ledger's database.
        clock: Unix seconds.
    """

    def __init__(self, store: Store, *, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()
        # What began before `_edge`, which is not read again.
        self._base: Facts | None = None
        self._since: datetime | None = None
        self._edge = datetime.fromtimestamp(0, UTC)
        self._read_at = 0.0

    def make(
        self,
        *,
        since: datetime | None,
        until: datetime | None,
        by: Sequence[str],
        prices: str,
        tenant: str | None = None,
    ) -> Report:
        """Return a report; arguments and errors as of `make_report`."""
        with self._lock:
            facts = self._refreshed(since)
            covers = self._since
        part = facts.between(None if since == covers else since, until)
        return add_up(part, since=since, until=until, by=by, prices=prices, tenant=tenant)

    def forget(self) -> None:
        """Give the memory back; the next report reads all anew."""
        with self._lock:
            self._base = None

    def _refreshed(self, since: datetime | None) -> Facts:
        now = self._clock()
        if self._base is None or not self._covers(since) or not 0 <= now - self._read_at < _ANEW:
            facts = read_facts(self._store, since, None)
            self._since, self._read_at = since, now
            self._edge = datetime.fromtimestamp(now - _OVERLAP, UTC)
            if since is not None:
                self._edge = max(self._edge, since)
            self._base = facts.between(None, self._edge)
            return facts
        return join(self._base, read_facts(self._store, self._edge, None))

    def _covers(self, since: datetime | None) -> bool:
        return self._since is None or (since is not None and since >= self._since)
