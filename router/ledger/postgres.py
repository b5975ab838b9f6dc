"""The ledger in PostgreSQL, for several replicas that write at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import conninfo, sql

from ..errors import LedgerError, SettingsError
from .schema import POSTGRES_MIGRATIONS, POSTGRES_RECORDS, newer
from .store import Connection, NothingRecorded, Refused, Rows

# The ledger's tables are in a schema of their own, so that the database may be another program's as well.
SCHEMA = "smallfirst"
# Whose version it is: another room's tables may stand beside with one of their own.
_ROOM = "ledger"
# Held while the tables are changed. Any number, the same in all processes: the letters "sfledger".
_LOCK = int.from_bytes(b"sfledger", "big")
# Seconds; a server that is gone is noticed, whatever the network says.
_CONNECT_TIMEOUT = 5
_STATEMENT_TIMEOUT_MS = 30_000
_LINK = {
    "connect_timeout": _CONNECT_TIMEOUT,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}


class PostgresStore:
    """A database by its URL. One connection writes and stays open; each reading has its own.

    Text loses its NUL characters there: PostgreSQL has none.

    Raises:
        SettingsError: The URL is none that PostgreSQL's client understands.
    """

    def __init__(self, url: str) -> None:
        try:
            parts = conninfo.conninfo_to_dict(url)
        except psycopg.ProgrammingError:
            # Its message may quote the URL, and a password with it.
            raise SettingsError(
                "ledger.url: expected postgresql://user:password@host:port/database"
            ) from None
        self._url = conninfo.make_conninfo(
            "", **{"application_name": "smallfirst", **{k: str(v) for k, v in _LINK.items()}, **parts}
        )
        self.where = f"PostgreSQL, {parts.get('host', 'localhost')}/{parts.get('dbname', '')}"
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None

    def write(self, work: Callable[[Connection], None]) -> None:
        """Run some work in one transaction; see `Store`."""
        try:
            connection = self._open()
            with connection.transaction():
                work(_Open(connection))
        except (psycopg.DataError, psycopg.IntegrityError, UnicodeEncodeError, OverflowError) as exc:
            raise Refused(f"{type(exc).__name__}: the ledger does not take a value") from exc
        except psycopg.Error as exc:
            self.close()
            # Without a code of the server it is psycopg that cannot send a value of this type.
            kind = (
                Refused if isinstance(exc, psycopg.ProgrammingError) and exc.sqlstate is None else LedgerError
            )
            raise kind(_say(exc)) from exc

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Give a connection that reads; see `Store`."""
        try:
            with self._connect() as connection:
                connection.read_only = True
                connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
                version = _version(connection)
                if version == 0:
                    raise NothingRecorded(f"nothing is recorded yet in {self.where}")
                if version > len(POSTGRES_MIGRATIONS):
                    raise newer(version)
                if version < len(POSTGRES_MIGRATIONS):
                    raise LedgerError(
                        f"the ledger in {self.where} is of an older version: run `smallfirst ledger migrate`"
                    )
                opened = _Open(connection)
                try:
                    yield opened
                finally:
                    opened.close_stream()
        except psycopg.Error as exc:
            raise LedgerError(f"the ledger in {self.where} cannot be read: {_say(exc)}") from exc

    def close(self) -> None:
        """Close the writing connection; see `Store`."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _open(self) -> psycopg.Connection[tuple[Any, ...]]:
        if self._connection is None or self._connection.closed:
            connection = self._connect()
            try:
                migrate(connection)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        connection = psycopg.connect(self._url)
        try:
            # Not as options of the connection: poolers refuse those.
            connection.execute(sql.SQL("SET search_path TO {}").format(sql.Identifier(SCHEMA)))
            connection.execute(f"SET statement_timeout = {_STATEMENT_TIMEOUT_MS}")
            connection.commit()
        except BaseException:
            connection.close()
            raise
        return connection


class _Open:
    """A connection of psycopg's as `Connection`."""

    records = POSTGRES_RECORDS

    def __init__(self, connection: psycopg.Connection[tuple[Any, ...]]) -> None:
        self._connection = connection
        self._cursor: psycopg.ServerCursor[tuple[Any, ...]] | None = None

    def execute(self, statement: str, values: Sequence[Any] = (), /) -> Rows:
        return self._connection.execute(_marked(statement), _clean(values), binary=True)

    def executemany(self, statement: str, rows: Iterable[Sequence[Any]], /) -> None:
        with self._connection.cursor() as cursor:
            cursor.executemany(_marked(statement), map(_clean, rows))

    def stream(self, statement: str, values: Sequence[Any] = (), /) -> Rows:
        # One at a time: each reader drains its own before the next.
        self.close_stream()
        self._cursor = psycopg.ServerCursor(self._connection, "smallfirst_rows")
        return self._cursor.execute(_marked(statement), _clean(values), binary=True)

    def close_stream(self) -> None:
        cursor, self._cursor = self._cursor, None
        if cursor is not None:
            cursor.close()


def migrate(connection: psycopg.Connection[tuple[Any, ...]]) -> None:
    """Bring a database up to date; several processes may do so at once.

    Raises:
        LedgerError: It was written to by a newer version of smallfirst.
    """
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        version = _version(connection)
        if version > len(POSTGRES_MIGRATIONS):
            raise newer(version)
        if version == len(POSTGRES_MIGRATIONS):
            return
        connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(SCHEMA)))
        connection.execute(
            "CREATE TABLE IF NOT EXISTS schema_versions (room TEXT PRIMARY KEY, version BIGINT NOT NULL)"
        )
        for migration in POSTGRES_MIGRATIONS[version:]:
            connection.execute(migration)
        connection.execute(
            "INSERT INTO schema_versions VALUES (%s, %s) ON CONFLICT (room) DO UPDATE SET version = excluded.version",
            (_ROOM, len(POSTGRES_MIGRATIONS)),
        )


def _version(connection: psycopg.Connection[tuple[Any, ...]]) -> int:
    there = connection.execute(
        "SELECT to_regclass(%s) IS NOT NULL", (f"{SCHEMA}.schema_versions",)
    ).fetchone()
    if there is None or not there[0]:
        return 0
    row = connection.execute("SELECT version FROM schema_versions WHERE room = %s", (_ROOM,)).fetchone()
    return 0 if row is None else int(row[0])


def _marked(statement: str) -> bytes:
    return statement.replace("%", "%%").replace("?", "%s").encode()


def _clean(values: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(
        value.replace("\0", "") if isinstance(value, str) and "\0" in value else value for value in values
    )


def _say(exc: psycopg.Error) -> str:
    """What went wrong, without the details that may quote a row."""
    return f"{type(exc).__name__}: {exc.diag.message_primary or str(exc).partition(chr(10))[0]}"
