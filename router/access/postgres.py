"""Virtual keys in the ledger's PostgreSQL, for replicas that share no disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import msgspec

from ..errors import LedgerError
from ..ledger.store import Connection, Store
from .keys import VirtualKey
from .rows import INSERT, REVOKE, SELECT, USED, KeyStoreError, from_row, to_row

T = TypeVar("T")

# Any number, the same in all processes: the letters "sfkeys".
_LOCK = int.from_bytes(b"sfkeys", "big")
_VERSION = 1
_SCHEMA = (
    """
    CREATE TABLE IF NOT EXISTS keys (
        id TEXT PRIMARY KEY,
        tenant TEXT NOT NULL,
        digest BYTEA NOT NULL UNIQUE,
        rules TEXT NOT NULL,
        name TEXT,
        shown TEXT NOT NULL,
        created_at DOUBLE PRECISION NOT NULL,
        expires_at DOUBLE PRECISION,
        revoked_at DOUBLE PRECISION,
        last_used DOUBLE PRECISION
    )
    """,
    "CREATE TABLE IF NOT EXISTS key_changes (number BIGINT NOT NULL)",
    "INSERT INTO key_changes SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM key_changes)",
    "INSERT INTO schema_versions VALUES ('keys', 1) ON CONFLICT (room) DO NOTHING",
)


class PostgresKeyStore:
    """Keeps keys beside the ledger's tables. One connection stays open: calls are made by one thread at a time.

    Args:
        database: Its `write` runs every transaction.
    """

    def __init__(self, database: Store) -> None:
        self._database = database
        self._made = False

    def version(self) -> object:
        """Return the number of changes."""
        return self._run(
            lambda connection: connection.execute("SELECT number FROM key_changes").fetchone()[0]
        )

    def load(self) -> list[VirtualKey]:
        """Return all keys, oldest first."""
        rows = self._run(lambda connection: connection.execute(SELECT).fetchall())
        try:
            return [from_row(tuple(row)) for row in rows]
        except (ValueError, TypeError, msgspec.MsgspecError) as exc:
            raise KeyStoreError(f"the keys in {self._database.where} cannot be read: {exc}") from exc

    def add(self, key: VirtualKey) -> None:
        """Keep a new key."""

        def write(connection: Connection) -> None:
            connection.execute(INSERT, to_row(key))
            connection.execute("UPDATE key_changes SET number = number + 1")

        self._run(write)

    def revoke(self, key_id: str, at: float) -> bool:
        """Note that a key may not be used any more."""

        def write(connection: Connection) -> bool:
            done = connection.execute(REVOKE, (at, key_id)).rowcount > 0
            connection.execute("UPDATE key_changes SET number = number + 1")
            return done

        return self._run(write)

    def used(self, at: Mapping[str, float]) -> None:
        """Note when keys were last used; does not count as a change."""
        if at:
            rows = [(when, key_id, when) for key_id, when in at.items()]
            self._run(lambda connection: connection.executemany(USED, rows))

    def close(self) -> None:
        """Close the connection."""
        self._database.close()

    def _run(self, work: Callable[[Connection], T]) -> T:
        done: list[T] = []

        def run(connection: Connection) -> None:
            if not self._made:
                _make(connection)
            done.append(work(connection))

        try:
            self._database.write(run)
        except LedgerError as exc:
            raise KeyStoreError(
                f"the keys in {self._database.where} cannot be read or written: {exc}"
            ) from exc
        self._made = True
        return done[0]


def _make(connection: Connection) -> None:
    """Make the tables; several processes may do so at once.

    Raises:
        KeyStoreError: A newer version of smallfirst made them: it may keep limits that this one would not.
    """
    connection.execute("SELECT pg_advisory_xact_lock(?)", (_LOCK,))
    row = connection.execute("SELECT version FROM schema_versions WHERE room = 'keys'").fetchone()
    if row is not None and row[0] > _VERSION:
        raise KeyStoreError("the keys were written by a newer version of smallfirst; upgrade")
    if row is None:
        for statement in _SCHEMA:
            connection.execute(statement)
