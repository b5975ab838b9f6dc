"""The ledger's tables: their columns are the fields of `Entry` and `Outcome`, lists and objects as JSON text."""

from __future__ import annotations

import sqlite3
from typing import Any

import msgspec

from ..errors import LedgerError
from .entry import Entry, Outcome

COLUMNS = Entry.__struct_fields__
_AS_JSON = frozenset({"tags", "scores", "attempts"})

# Forward only: entry N brings a file from version N to N + 1. Never edit one that was released; add the next.
MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE entries (
        request_id TEXT PRIMARY KEY,
        started_at REAL NOT NULL,
        duration_ms REAL NOT NULL,
        ttft_ms REAL,
        overhead_ms REAL NOT NULL,
        tenant TEXT NOT NULL,
        agent TEXT,
        step TEXT,
        session TEXT,
        tags TEXT NOT NULL,
        requested_model TEXT NOT NULL,
        policy TEXT NOT NULL,
        route TEXT NOT NULL,
        model TEXT,
        reason_code TEXT NOT NULL,
        reason TEXT NOT NULL,
        task TEXT,
        difficulty REAL,
        scores TEXT NOT NULL,
        known INTEGER,
        input_tokens INTEGER NOT NULL,
        cached_tokens INTEGER NOT NULL,
        output_tokens INTEGER NOT NULL,
        reasoning_tokens INTEGER NOT NULL,
        usage_estimated INTEGER NOT NULL,
        cost_usd REAL,
        baseline_model TEXT,
        baseline_cost_usd REAL,
        cache TEXT NOT NULL,
        attempts TEXT NOT NULL,
        status TEXT NOT NULL,
        error_code TEXT,
        http_status INTEGER NOT NULL,
        stream INTEGER NOT NULL
    );
    CREATE INDEX entries_started_at ON entries (started_at);
    """,
    """
    ALTER TABLE entries ADD COLUMN kind TEXT NOT NULL DEFAULT 'request';
    CREATE TABLE outcomes (
        request_id TEXT NOT NULL,
        source TEXT NOT NULL,
        tenant TEXT NOT NULL,
        recorded_at REAL NOT NULL,
        policy TEXT NOT NULL,
        model TEXT,
        score REAL,
        loss REAL,
        detail TEXT NOT NULL,
        comment TEXT,
        PRIMARY KEY (request_id, source)
    );
    """,
    """
    ALTER TABLE entries ADD COLUMN cache_write_tokens INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE entries ADD COLUMN service_tier TEXT;
    ALTER TABLE entries ADD COLUMN cpu_seconds REAL;
    ALTER TABLE entries ADD COLUMN energy_wh REAL;
    ALTER TABLE entries ADD COLUMN gco2e REAL;
    ALTER TABLE entries ADD COLUMN baseline_output_tokens INTEGER;
    ALTER TABLE entries ADD COLUMN key_id TEXT;
    ALTER TABLE entries ADD COLUMN propensity REAL;
    ALTER TABLE entries ADD COLUMN explored INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE entries ADD COLUMN trace_id TEXT;
    """,
)
# The first version whose entries have a kind and whose requests have outcomes.
OUTCOMES_SINCE = 2

# A request that is recorded twice (a writer that was interrupted and tried again) counts once.
INSERT = f"INSERT OR IGNORE INTO entries ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"  # noqa: S608

# The last one wins. An older one that waited for long does not replace a newer one of another process.
INSERT_OUTCOME = (
    f"INSERT INTO outcomes ({', '.join(Outcome.__struct_fields__)}) "  # noqa: S608
    f"VALUES ({', '.join('?' * len(Outcome.__struct_fields__))}) ON CONFLICT DO UPDATE SET "
    f"{', '.join(f'{name} = excluded.{name}' for name in Outcome.__struct_fields__)} "
    "WHERE excluded.recorded_at >= recorded_at"
)


def migrate(connection: sqlite3.Connection) -> None:
    """Bring a file up to date; several processes may do so at once.

    Raises:
        LedgerError: The file was written by a newer version of smallfirst.
    """
    while (version := schema_version(connection)) < len(MIGRATIONS):
        connection.execute("BEGIN IMMEDIATE")
        try:
            if schema_version(connection) == version:
                for statement in MIGRATIONS[version].split(";"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {version + 1}")
        except sqlite3.Error:
            connection.rollback()
            raise
        connection.commit()
    if version > len(MIGRATIONS):
        raise LedgerError(
            f"the ledger was written by a newer version of smallfirst (schema {version}); upgrade"
        )


def schema_version(connection: sqlite3.Connection) -> int:
    """Return how many of the migrations a file has seen."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def to_row(entry: Entry) -> tuple[Any, ...]:
    """Return an entry's columns in order."""
    return tuple(
        msgspec.json.encode(value).decode() if name in _AS_JSON else value
        for name, value in zip(COLUMNS, msgspec.structs.astuple(entry), strict=True)
    )
