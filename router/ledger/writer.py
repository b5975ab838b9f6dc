"""Writes entries to SQLite, in batches, off the caller's path."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from ..errors import LedgerError
from ..settings import LedgerSettings
from .entry import Entry, Outcome
from .schema import INSERT, INSERT_OUTCOME, migrate, to_row

log = logging.getLogger("smallfirst.ledger")

# Of one transaction; more wait for the next, so that a long backlog does not hold the lock for long.
BATCH = 5000
BUSY_TIMEOUT_MS = 250


@dataclass(frozen=True, slots=True)
class LedgerHealth:
    """How the ledger does.

    Attributes:
        pending: Entries that are not on disk yet.
        lost: Entries that were given up because the disk did not take them for too long.
        last_error: Of the last try to write; None where it succeeded.
    """

    pending: int
    written: int
    lost: int
    last_error: str | None

    @property
    def healthy(self) -> bool:
        """Whether the last write succeeded and nothing was lost."""
        return self.last_error is None and self.lost == 0


class Ledger:
    """The ledger of one process. `record` never waits: one thread writes a batch every `flush_interval` seconds.

    The file is in WAL mode with `synchronous=NORMAL`: a killed process loses at most what was not flushed yet, and the
    file is never damaged. While the disk is full or another program holds the lock, entries wait; beyond `max_pending`
    the oldest are given up and counted.
    """

    def __init__(self, settings: LedgerSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._pending: deque[Entry | Outcome] = deque()
        self._written = 0
        self._lost = 0
        self._last_error: str | None = None
        self._connection: sqlite3.Connection | None = None
        # Held while a batch is written: the thread and `flush` must not write at once.
        self._writing = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def path(self) -> Path:
        """Where the file is."""
        return self._settings.path

    def start(self) -> None:
        """Start the writer and write what waits. An unusable path is a matter of `health()`, not an error."""
        if self._thread is None:
            self._stop.clear()
            self._thread = threading.Thread(target=self._run, name="smallfirst-ledger", daemon=True)
            self._thread.start()

    def record(self, entry: Entry | Outcome) -> None:
        """Take an entry, or what became of one. Costs a few microseconds, from any thread."""
        with self._lock:
            self._pending.append(entry)
            if len(self._pending) > self._settings.max_pending:
                self._pending.popleft()
                self._lost += 1

    def flush(self) -> None:
        """Write all that waits, now; gives up at the first failure."""
        while self._write_batch():
            pass

    def close(self) -> None:
        """Stop the writer and flush; safe to call twice."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._stop.set()
            thread.join()
        self.flush()
        with self._writing:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def health(self) -> LedgerHealth:
        """Return how it does."""
        with self._lock:
            return LedgerHealth(len(self._pending), self._written, self._lost, self._last_error)

    def _run(self) -> None:
        self._prepare()
        while not self._stop.wait(self._settings.flush_interval):
            self.flush()

    def _prepare(self) -> None:
        """Open the file ahead of the first entry, so that a bad path shows at once."""
        with self._writing:
            try:
                self._open()
            except (sqlite3.Error, OSError, LedgerError) as exc:
                self._failed(exc)

    def _write_batch(self) -> bool:
        """Write up to `BATCH` entries; returns whether there may be more to write."""
        with self._writing:
            with self._lock:
                batch = [self._pending.popleft() for _ in range(min(BATCH, len(self._pending)))]
            if not batch:
                return False
            try:
                connection = self._open()
                with connection:
                    _write(connection, batch)
            except (sqlite3.Error, OSError, LedgerError) as exc:
                self._failed(exc)
                with self._lock:
                    self._pending.extendleft(reversed(batch))
                    while len(self._pending) > self._settings.max_pending:
                        self._pending.popleft()
                        self._lost += 1
                return False
            with self._lock:
                if self._last_error is not None:
                    log.info("the ledger is written again")
                self._last_error = None
                self._written += len(batch)
                return bool(self._pending)

    def _failed(self, exc: Exception) -> None:
        with self._lock:
            first = self._last_error is None
            self._last_error = f"{type(exc).__name__}: {exc}"
        if first:
            log.error("the ledger cannot be written (%s); entries wait", exc)
        if self._connection is not None and not isinstance(exc, sqlite3.OperationalError):
            self._connection.close()
            self._connection = None

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            path = self._settings.path
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Made here and not by SQLite, so that nobody else can read it.
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            connection = sqlite3.connect(path, check_same_thread=False)
            try:
                connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = NORMAL")
                migrate(connection)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection


def _write(connection: sqlite3.Connection, batch: Sequence[Entry | Outcome]) -> None:
    connection.executemany(INSERT, [to_row(entry) for entry in batch if isinstance(entry, Entry)])
    outcomes = [msgspec.structs.astuple(outcome) for outcome in batch if isinstance(outcome, Outcome)]
    connection.executemany(INSERT_OUTCOME, outcomes)
