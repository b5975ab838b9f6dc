"""The door to a database: what the ledger asks of one, and which of them the settings mean."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from ..errors import LedgerError, SettingsError
from ..settings import LedgerSettings


class Refused(LedgerError):
    """The database takes no such value, now or later: trying again would not help."""


class NothingRecorded(LedgerError):
    """There is no ledger yet."""


class Rows(Protocol):
    """What a statement gave."""

    @property
    def rowcount(self) -> int:
        """How many rows were changed."""

    def fetchone(self) -> Any:
        """Return the next row, or None."""

    def fetchall(self) -> list[Any]:
        """Return the rows that are left."""

    def fetchmany(self, size: int, /) -> list[Any]:
        """Return the next rows; empty at the end."""

    def __iter__(self) -> Iterator[Any]: ...


class Connection(Protocol):
    """A connection within a transaction. Statements have `?` for values, whatever the database's own mark is.

    Attributes:
        records: The query of packed records (see `schema`), in the words of this database.
    """

    records: str

    def execute(self, statement: str, values: Sequence[Any] = (), /) -> Rows:
        """Run a statement."""

    def executemany(self, statement: str, rows: Iterable[Sequence[Any]], /) -> None:
        """Run a statement for each row."""

    def stream(self, statement: str, values: Sequence[Any] = (), /) -> Rows:
        """Run a query whose rows are fetched bit by bit, of which a few are in memory; the next one ends it."""


class Store(Protocol):
    """A database with the ledger's tables (see `schema`), which it makes and brings up to date by itself.

    `write` and `close` are called by one thread at a time, `read` by any. Every failure is a `LedgerError`; its text
    holds no password and no value of a row.
    """

    @property
    def where(self) -> str:
        """Which database it is, for messages."""

    def write(self, work: Callable[[Connection], None]) -> None:
        """Run some work in one transaction, over a connection that stays open.

        Raises:
            Refused: A value cannot be stored; nothing of the work is.
            LedgerError: The database cannot be written now; nothing of the work is stored.
        """

    def read(self) -> AbstractContextManager[Connection]:
        """Give a connection that sees one moment of the database and changes nothing.

        Raises:
            NothingRecorded: There is no ledger yet.
            LedgerError: The database cannot be read, now or while it is used.
        """

    def close(self) -> None:
        """Give up the open connection; a later `write` opens another. Safe to call twice."""


def open_store(settings: LedgerSettings) -> Store:
    """Return the store that the settings mean. Nothing is connected yet.

    Raises:
        SettingsError: The URL is none of a PostgreSQL database, or psycopg is not installed.
    """
    if settings.url is not None:
        return _by_url(settings.url.get_secret_value())
    return store_at(settings.path)


def store_at(place: Path | str) -> Store:
    """Return the store of a file, or of a `postgresql://` URL.

    Raises:
        SettingsError: As of `open_store`.
    """
    if "://" in str(place):
        return _by_url(str(place))
    from .sqlite import SqliteStore

    return SqliteStore(Path(place))


def _by_url(url: str) -> Store:
    if not url.startswith(("postgresql://", "postgres://")):
        raise SettingsError("ledger.url: expected postgresql://…; for a file, set ledger.path")
    try:
        from .postgres import PostgresStore
    except ModuleNotFoundError as exc:
        raise SettingsError("ledger.url needs psycopg: pip install 'smallfirst[postgres]'") from exc
    return PostgresStore(url)
