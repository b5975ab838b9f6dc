"""Where virtual keys are kept: a small SQLite file beside the ledger. Gateways read it, `smallfirst keys` writes it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from ..ledger.private import make_private
from ..ledger.store import open_store as open_ledger
from ..settings import Settings
from .keys import VirtualKey
from .rows import INSERT, REVOKE, SELECT, USED, KeyStoreError, from_row, to_row

T = TypeVar("T")

_BUSY_TIMEOUT_MS = 2000

# Each brings a file from the version of its index to the next one.
_MIGRATIONS = (
    """
    CREATE TABLE keys (
        id TEXT PRIMARY KEY,
        tenant TEXT NOT NULL,
        digest BLOB NOT NULL UNIQUE,
        rules TEXT NOT NULL,
        name TEXT,
        shown TEXT NOT NULL,
        created_at REAL NOT NULL,
        expires_at REAL,
        revoked_at REAL,
        last_used REAL
    );
    CREATE TABLE changes (number INTEGER NOT NULL);
    INSERT INTO changes VALUES (0)
    """,
)


class KeyStore(Protocol):
    """Keeps keys. Calls may wait for a disk or a network; none is made while a request waits."""

    def version(self) -> object:
        """Return a value that is another one after every change of who may do what; cheap.

        Raises:
            KeyStoreError: The store cannot be read.
        """
        ...

    def load(self) -> list[VirtualKey]:
        """Return all keys, also those that may not be used any more, oldest first.

        Raises:
            KeyStoreError: The store cannot be read.
        """
        ...

    def add(self, key: VirtualKey) -> None:
        """Keep a new key.

        Raises:
            KeyStoreError: The store cannot be written.
        """
        ...

    def revoke(self, key_id: str, at: float) -> bool:
        """Note that a key may not be used any more; returns whether there was one of that id that might.

        Raises:
            KeyStoreError: The store cannot be written.
        """
        ...

    def used(self, at: Mapping[str, float]) -> None:
        """Note when keys were last used: Unix seconds by id.

        Raises:
            KeyStoreError: The store cannot be written.
        """
        ...

    def close(self) -> None:
        """Let go of what is open; a later call opens it again."""
        ...


def open_store(settings: Settings) -> KeyStore:
    """Return the store that the settings ask for: a file, or the ledger's PostgreSQL. Nothing is read yet.

    Raises:
        SettingsError: `ledger.url` is none, or psycopg is not installed.
    """
    if settings.ledger.url is not None and settings.server.key_store is None:
        from .postgres import PostgresKeyStore

        return PostgresKeyStore(open_ledger(settings.ledger))
    return SqliteKeyStore(settings.key_store)


class SqliteKeyStore:
    """Keeps keys in a file of its own, readable by its owner alone.

    Not in the ledger's: that grows, is pruned, copied and handed on, and holds nothing that lets anybody in.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def version(self) -> object:
        """Return the number of changes, with the file's identity: another file may have been put in its place."""
        if not self.path.exists():
            return None

        def read(connection: sqlite3.Connection) -> object:
            number = connection.execute("SELECT number FROM changes").fetchone()[0]
            return self.path.stat().st_ino, number

        return self._read(read, None)

    def load(self) -> list[VirtualKey]:
        """Return all keys, oldest first; none where there is no file."""
        if not self.path.exists():
            return []
        return self._read(lambda connection: [from_row(row) for row in connection.execute(SELECT)], [])

    def add(self, key: VirtualKey) -> None:
        """Keep a new key; makes the file where there is none."""

        def write(connection: sqlite3.Connection) -> None:
            connection.execute(INSERT, to_row(key))
            connection.execute("UPDATE changes SET number = number + 1")

        self._write(write)

    def revoke(self, key_id: str, at: float) -> bool:
        """Note that a key may not be used any more."""
        if not self.path.exists():
            return False

        def write(connection: sqlite3.Connection) -> bool:
            done = connection.execute(REVOKE, (at, key_id))
            connection.execute("UPDATE changes SET number = number + 1")
            return done.rowcount > 0

        return self._write(write)

    def used(self, at: Mapping[str, float]) -> None:
        """Note when keys were last used; does not count as a change."""
        if not at or not self.path.exists():
            return
        rows = [(when, key_id, when) for key_id, when in at.items()]

        def write(connection: sqlite3.Connection) -> None:
            connection.executemany(USED, rows)

        self._write(write)

    def close(self) -> None:
        """Do nothing: the file is opened for each call."""

    def _read(self, read: Callable[[sqlite3.Connection], T], empty: T) -> T:
        """Read the file; `empty` is what one holds that is just being made."""
        try:
            # Not `ro`, which cannot read a file whose writer was killed midway: that must be put right first. A file
            # that may not be written is opened to read all the same.
            connection = sqlite3.connect(f"{self.path.resolve().as_uri()}?mode=rw", uri=True)
            try:
                connection.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
                return read(connection) if self._check(connection) else empty
            finally:
                connection.close()
        except (sqlite3.Error, OSError, ValueError, TypeError, msgspec.MsgspecError) as exc:
            raise KeyStoreError(f"the keys in {self.path} cannot be read: {_words(exc)}") from exc

    def _write(self, write: Callable[[sqlite3.Connection], T]) -> T:
        try:
            # Made here and not by SQLite, so that nobody else can read it.
            make_private(self.path)
            connection = sqlite3.connect(self.path)
            try:
                connection.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
                connection.execute("BEGIN IMMEDIATE")
                for migration in _MIGRATIONS[self._check(connection) :]:
                    for statement in migration.split(";"):
                        connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {len(_MIGRATIONS)}")
                result = write(connection)
                connection.commit()
                return result
            finally:
                connection.close()
        except (sqlite3.Error, OSError) as exc:
            raise KeyStoreError(f"the keys in {self.path} cannot be written: {_words(exc)}") from exc

    def _check(self, connection: sqlite3.Connection) -> int:
        """Return a file's version; a newer one may hold limits that this program would not keep."""
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        if version > len(_MIGRATIONS):
            raise KeyStoreError(f"{self.path} was written by a newer version of smallfirst; upgrade")
        return version


def _words(exc: Exception) -> str:
    return exc.strerror or type(exc).__name__ if isinstance(exc, OSError) else str(exc)
