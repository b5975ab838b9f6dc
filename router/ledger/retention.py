"""Deletes what is older than the operator keeps, and packs entries that another version wrote."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import LedgerError
from .batch import SEEN_AGAIN
from .entry import Entry
from .facts import Label, label_id, pack
from .schema import COLUMNS, INSERT_LABEL, from_row
from .store import Connection, Store

# Entries of one transaction; between two of them others write.
_STEP = 500
# Seconds between two looks for what is to be done.
_LOOK_AGAIN = 60.0
DAY = 86400.0

log = logging.getLogger("smallfirst.ledger")

Place = tuple[float, str]
"""Where an entry is among the others: when it began, and its id."""

START: Place = (float("-inf"), "")


class Housekeeping:
    """Keeps a ledger in order, a small step at a time.

    Args:
        store: The ledger's database.
        keep: Days; None deletes nothing.
        clock: Unix seconds.
    """

    def __init__(self, store: Store, keep: float | None, *, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._keep = keep
        self._clock = clock
        self._rest_until = float("-inf")
        self._unpacked = START

    def step(self) -> None:
        """Pack or delete a few entries, if there are any; returns at once where it looked a short while ago.

        Raises:
            LedgerError: The database does not take it now.
        """
        now = self._clock()
        # A clock that was set back does not stop it for good.
        if self._rest_until - _LOOK_AGAIN <= now < self._rest_until:
            return
        following = pack_some(self._store, self._unpacked)
        done = following is not None
        self._unpacked = following or START
        if self._keep is not None:
            done = prune_some(self._store, now - self._keep * DAY) > 0 or done
        if not done:
            self._rest_until = now + _LOOK_AGAIN


def prune(store: Store, before: float) -> int:
    """Delete entries that began before a time (Unix seconds) with their outcomes, texts and labels; returns how many.

    Raises:
        LedgerError: The database does not take it now; what was deleted stays so.
    """
    deleted = 0
    while some := prune_some(store, before):
        deleted += some
    return deleted


def prune_some(store: Store, before: float) -> int:
    """Delete a step of them; 0 where nothing is left."""
    done = 0

    def work(connection: Connection) -> None:
        nonlocal done
        found = connection.execute(
            f"SELECT request_id FROM entries WHERE started_at < ? LIMIT {_STEP}",  # noqa: S608
            (before,),
        ).fetchall()
        names = sorted(name for (name,) in found)
        done = len(names)
        if names:
            marks = ", ".join("?" * len(names))
            for table in ("texts", "outcomes", "entries"):
                connection.execute(f"DELETE FROM {table} WHERE request_id IN ({marks})", names)  # noqa: S608
            return
        # What is left of these belongs to no entry: both are recorded after their entry began.
        for table in ("texts", "outcomes"):
            connection.execute(f"DELETE FROM {table} WHERE recorded_at < ?", (before,))  # noqa: S608
        # An entry's label may have been seen a day before it. One day more for clocks that differ.
        connection.execute("DELETE FROM labels WHERE seen_at < ?", (before - SEEN_AGAIN - DAY,))

    store.write(work)
    return done


def pack_all(store: Store) -> None:
    """Pack all entries whose record is missing.

    Raises:
        LedgerError: The database does not take it now; what was packed stays so.
    """
    place: Place | None = START
    while place is not None:
        place = pack_some(store, place, 5000)


def pack_some(store: Store, after: Place = START, most: int = _STEP) -> Place | None:
    """Pack a few of the entries whose record is missing; returns where to go on, None where none is left.

    One that cannot be packed, or not even read, stays as it is and holds up no other: they are few.

    Args:
        store: The ledger's database.
        after: Where the last call ended.
        most: How many are looked at.

    Raises:
        LedgerError: The database does not take it now.
    """
    with store.read() as connection:
        rows = connection.execute(
            f"SELECT {', '.join(COLUMNS)} FROM entries "  # noqa: S608
            f"WHERE fact IS NULL AND (started_at, request_id) > (?, ?) ORDER BY started_at, request_id LIMIT {most}",
            after,
        ).fetchall()
    if not rows:
        return None
    labels: dict[int, tuple[str, float]] = {}
    facts: list[tuple[Any, str]] = []
    for entry in _readable(rows):
        encoded = Label.of(entry).encode()
        name = label_id(encoded)
        packed = pack(entry, name)
        if packed is not None:
            # In the order of their times, so that the last one is the latest.
            labels[name] = encoded.decode(), entry.started_at
            facts.append((packed, entry.request_id))

    def work(connection: Connection) -> None:
        connection.executemany(INSERT_LABEL, sorted((name, *found) for name, found in labels.items()))
        connection.executemany(
            "UPDATE entries SET fact = ? WHERE request_id = ? AND fact IS NULL",
            sorted(facts, key=lambda fact: fact[1]),
        )

    if facts:
        store.write(work)
    last = dict(zip(COLUMNS, rows[-1], strict=True))
    return last["started_at"], last["request_id"]


def _readable(rows: Sequence[Any]) -> list[Entry]:
    entries = []
    for row in rows:
        try:
            entries.append(from_row(row))
        except LedgerError as exc:
            log.warning("an entry of the ledger is not packed: %s", exc)
    return entries
