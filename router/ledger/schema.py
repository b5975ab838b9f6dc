"""The ledger's tables: their columns are the fields of `Entry`, `Outcome` and `Text`, lists and objects as JSON text.

Beside its columns an entry has `fact`: what reports add up, packed (see `facts`). Its labels are in `labels`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ..errors import LedgerError
from .entry import Entry, Outcome
from .texts import Text

COLUMNS = Entry.__struct_fields__
AS_JSON = frozenset({"tags", "scores", "attempts"})
_JSON_AT = tuple(at for at, name in enumerate(COLUMNS) if name in AS_JSON)

# Forward only: entry N brings a file from version N to N + 1. Never edit one that was released; add the next.
SQLITE_MIGRATIONS: tuple[str, ...] = (
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
    """
    ALTER TABLE entries ADD COLUMN fact BLOB;
    DROP INDEX IF EXISTS entries_started_at;
    CREATE INDEX entries_facts ON entries (started_at, fact);
    CREATE INDEX entries_unpacked ON entries (started_at) WHERE fact IS NULL;
    CREATE TABLE labels (id INTEGER PRIMARY KEY, label TEXT NOT NULL, seen_at REAL NOT NULL);
    CREATE TABLE texts (
        request_id TEXT PRIMARY KEY,
        tenant TEXT NOT NULL,
        recorded_at REAL NOT NULL,
        prompt TEXT NOT NULL,
        reply TEXT NOT NULL
    );
    CREATE INDEX texts_recorded_at ON texts (recorded_at);
    CREATE INDEX outcomes_recorded_at ON outcomes (recorded_at);
    """,
)

# Likewise, in the words of PostgreSQL. Text holds no NUL there (see `postgres`); all else is the same.
POSTGRES_MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE entries (
        request_id TEXT PRIMARY KEY,
        started_at DOUBLE PRECISION NOT NULL,
        duration_ms DOUBLE PRECISION NOT NULL,
        ttft_ms DOUBLE PRECISION,
        overhead_ms DOUBLE PRECISION NOT NULL,
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
        difficulty DOUBLE PRECISION,
        scores TEXT NOT NULL,
        known BOOLEAN,
        input_tokens BIGINT NOT NULL,
        cached_tokens BIGINT NOT NULL,
        output_tokens BIGINT NOT NULL,
        reasoning_tokens BIGINT NOT NULL,
        usage_estimated BOOLEAN NOT NULL,
        cost_usd DOUBLE PRECISION,
        baseline_model TEXT,
        baseline_cost_usd DOUBLE PRECISION,
        cache TEXT NOT NULL,
        attempts TEXT NOT NULL,
        status TEXT NOT NULL,
        error_code TEXT,
        http_status BIGINT NOT NULL,
        stream BOOLEAN NOT NULL,
        kind TEXT NOT NULL DEFAULT 'request',
        cache_write_tokens BIGINT NOT NULL DEFAULT 0,
        service_tier TEXT,
        cpu_seconds DOUBLE PRECISION,
        energy_wh DOUBLE PRECISION,
        gco2e DOUBLE PRECISION,
        baseline_output_tokens BIGINT,
        key_id TEXT,
        propensity DOUBLE PRECISION,
        explored BOOLEAN NOT NULL DEFAULT FALSE,
        trace_id TEXT,
        fact BYTEA
    );
    CREATE INDEX entries_facts ON entries (started_at) INCLUDE (fact);
    CREATE INDEX entries_unpacked ON entries (started_at) WHERE fact IS NULL;
    CREATE TABLE labels (id BIGINT PRIMARY KEY, label TEXT NOT NULL, seen_at DOUBLE PRECISION NOT NULL);
    CREATE TABLE outcomes (
        request_id TEXT NOT NULL,
        source TEXT NOT NULL,
        tenant TEXT NOT NULL,
        recorded_at DOUBLE PRECISION NOT NULL,
        policy TEXT NOT NULL,
        model TEXT,
        score DOUBLE PRECISION,
        loss DOUBLE PRECISION,
        detail TEXT NOT NULL,
        comment TEXT,
        PRIMARY KEY (request_id, source)
    );
    CREATE INDEX outcomes_recorded_at ON outcomes (recorded_at);
    CREATE TABLE texts (
        request_id TEXT PRIMARY KEY,
        tenant TEXT NOT NULL,
        recorded_at DOUBLE PRECISION NOT NULL,
        prompt TEXT NOT NULL,
        reply TEXT NOT NULL
    );
    CREATE INDEX texts_recorded_at ON texts (recorded_at);
    """,
)


def _insert(table: str, columns: tuple[str, ...], key: str) -> str:
    names, marks = ", ".join(columns), ", ".join("?" * len(columns))
    return f"INSERT INTO {table} ({names}) VALUES ({marks}) ON CONFLICT ({key}) "  # noqa: S608


# A request that is recorded twice (a writer that was interrupted and tried again) counts once.
INSERT = _insert("entries", (*COLUMNS, "fact"), "request_id") + "DO NOTHING"
INSERT_TEXT = _insert("texts", Text.__struct_fields__, "request_id") + "DO NOTHING"

# The last one wins. An older one that waited for long does not replace a newer one of another process.
INSERT_OUTCOME = (
    _insert("outcomes", Outcome.__struct_fields__, "request_id, source")
    + f"DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in Outcome.__struct_fields__)} "
    "WHERE excluded.recorded_at >= outcomes.recorded_at"
)

# `seen_at` is not much before the last entry that has the label; see `retention`.
INSERT_LABEL = (
    _insert("labels", ("id", "label", "seen_at"), "id")
    + "DO UPDATE SET seen_at = excluded.seen_at WHERE excluded.seen_at > labels.seen_at"
)

# Packed records of some time; a row may hold several, one after the other. PostgreSQL takes longer to hand rows over
# than to put them together; a minute's are far from the gigabyte that a value may have.
SQLITE_RECORDS = "SELECT fact FROM entries WHERE started_at >= ? AND started_at < ? AND fact IS NOT NULL"
POSTGRES_RECORDS = (
    "SELECT string_agg(fact, ''::bytea) FROM entries "
    "WHERE started_at >= ? AND started_at < ? AND fact IS NOT NULL GROUP BY floor(started_at / 60)"
)


def newer(version: int) -> LedgerError:
    """Return the error of a database that this program does not know yet."""
    return LedgerError(f"the ledger was written by a newer version of smallfirst (schema {version}); upgrade")


def to_row(entry: Entry) -> tuple[Any, ...]:
    """Return an entry's columns in order."""
    row = list(msgspec.structs.astuple(entry))
    for at in _JSON_AT:
        row[at] = msgspec.json.encode(row[at]).decode()
    return tuple(row)


def from_row(row: Any) -> Entry:
    """Return the entry of columns in order, whichever database they are of.

    Raises:
        LedgerError: A value is none of its column's; somebody else wrote it.
    """
    columns = dict(zip(COLUMNS, row, strict=True))
    try:
        values = {
            name: msgspec.json.decode(value) if name in AS_JSON else value for name, value in columns.items()
        }
        # SQLite has 0 and 1 for a truth.
        return msgspec.convert(values, Entry, strict=False)
    except (msgspec.MsgspecError, TypeError) as exc:
        raise LedgerError(f"the entry {columns['request_id']} cannot be read: {exc}") from exc
