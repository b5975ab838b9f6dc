"""The ledger in a file of SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import LedgerError
from .private import make_private
from .schema import SQLITE_MIGRATIONS, SQLITE_RECORDS, newer
from .store import Connection, NothingRecorded, Refused, Rows

BUSY_TIMEOUT_MS = 250
# A reader waits longer: nobody is served meanwhile.
_READ_TIMEOUT_MS = 5000


class SqliteStore:
    """A file in WAL mode with `synchronous=NORMAL`: readers and a writer do not wait for each other, and a process that
    is killed damages nothing. Nobody else may read it (mode 0600).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection: sqlite3.Connection | None = None
        # Which file is open.
        self._identity: tuple[int, int] | None = None

    @property
    def where(self) -> str:
        """The file."""
        return str(self.path)

    def write(self, work: Callable[[Connection], None]) -> None:
        """Run some work in one transaction; see `Store`."""
        try:
            connection = self._open()
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                work(_Open(connection))
        except (sqlite3.IntegrityError, sqlite3.DataError, OverflowError, UnicodeEncodeError) as exc:
            raise Refused(f"{type(exc).__name__}: the ledger does not take a value") from exc
        except (sqlite3.ProgrammingError, sqlite3.InterfaceError) as exc:
            # A value of a type that SQLite has not, or a connection that is of no use any more.
            self.close()
            raise Refused(f"{type(exc).__name__}: the ledger does not take a value") from exc
        except (sqlite3.Error, OSError) as exc:
            # A locked or full file is the same one later; anything else is opened anew.
            if not isinstance(exc, sqlite3.OperationalError):
                self.close()
            raise LedgerError(f"{type(exc).__name__}: {exc}") from exc

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Give a connection that reads; see `Store`. A file of an older version is brought up to date first."""
        if not self.path.exists():
            raise NothingRecorded(f"nothing is recorded yet: there is no ledger at {self.path}")
        try:
            connection = self._open_to_read()
            try:
                yield _Open(connection)
            finally:
                connection.close()
        except sqlite3.Error as exc:
            raise LedgerError(f"the ledger at {self.path} cannot be read: {exc}") from exc

    def close(self) -> None:
        """Close the file; see `Store`."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None and _identity(self.path) != self._identity:
            # SQLite would go on writing to a file that nobody finds any more.
            self.close()
            raise LedgerError(f"{self.path} was removed or replaced; it is opened anew")
        if self._connection is None:
            # Made here and not by SQLite, so that nobody else can read it.
            make_private(self.path)
            connection = sqlite3.connect(self.path, check_same_thread=False, isolation_level=None)
            try:
                connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = NORMAL")
                # What is deleted is not left in the file.
                connection.execute("PRAGMA secure_delete = ON")
                migrate(connection)
            except BaseException:
                connection.close()
                raise
            self._connection, self._identity = connection, _identity(self.path)
        return self._connection

    def _open_to_read(self) -> sqlite3.Connection:
        connection = self._connect_to_read()
        try:
            version = schema_version(connection)
            if version < len(SQLITE_MIGRATIONS):
                connection.close()
                SqliteStore(self.path).migrate()
                connection = self._connect_to_read()
                version = schema_version(connection)
            if version > len(SQLITE_MIGRATIONS):
                raise newer(version)
            connection.execute("BEGIN")
        except BaseException:
            connection.close()
            raise
        return connection

    def _connect_to_read(self) -> sqlite3.Connection:
        # For the thread that opened it and whoever drains it for that one.
        connection = sqlite3.connect(
            f"{self.path.resolve().as_uri()}?mode=ro", uri=True, check_same_thread=False, isolation_level=None
        )
        connection.execute(f"PRAGMA busy_timeout = {_READ_TIMEOUT_MS}")
        return connection

    def migrate(self) -> None:
        """Bring the file up to date, and close it.

        Raises:
            LedgerError: It cannot be written, or was written by a newer version of smallfirst.
        """
        try:
            self._open().execute(f"PRAGMA busy_timeout = {_READ_TIMEOUT_MS}")
        except (sqlite3.Error, OSError) as exc:
            raise LedgerError(
                f"the ledger at {self.path} is of an older version and cannot be brought up to date: {exc}"
            ) from exc
        finally:
            self.close()


class _Open:
    """A connection of SQLite's as `Connection`."""

    records = SQLITE_RECORDS

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def execute(self, statement: str, values: Sequence[Any] = (), /) -> Rows:
        return self._connection.execute(statement, values)

    def executemany(self, statement: str, rows: Iterable[Sequence[Any]], /) -> None:
        self._connection.executemany(statement, rows)

    # SQLite makes rows as they are fetched.
    stream = execute


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def migrate(connection: sqlite3.Connection) -> None:
    """Bring a file up to date; several processes may do so at once.

    Raises:
        LedgerError: The file was written by a newer version of smallfirst.
    """
    while (version := schema_version(connection)) < len(SQLITE_MIGRATIONS):
        connection.execute("BEGIN IMMEDIATE")
        try:
            if schema_version(connection) == version:
                for statement in SQLITE_MIGRATIONS[version].split(";"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {version + 1}")
        except sqlite3.Error:
            connection.rollback()
            raise
        connection.commit()
    if version > len(SQLITE_MIGRATIONS):
        raise newer(version)


def schema_version(connection: sqlite3.Connection) -> int:
    """Return how many of the migrations a file has seen."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])
