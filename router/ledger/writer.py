"""Writes entries in batches, off the caller's path."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import LedgerError
from ..settings import LedgerSettings
from .batch import Batches
from .entry import Entry, Outcome
from .retention import Housekeeping
from .store import Refused, Store, open_store
from .texts import Text

log = logging.getLogger("smallfirst.ledger")

Record = Entry | Outcome | Text

# Of one transaction; more wait for the next, so that a long backlog does not hold the lock for long.
BATCH = 5000
# Characters of texts that may wait; beyond, the oldest are given up, and their entries stay.
MOST_TEXT = 32 * 1024 * 1024
# Seconds that closing waits for a database that does not answer.
CLOSE_TIMEOUT = 15.0
# How often closing tries to write what waits, and seconds between: others may hold the lock just then.
_LAST_TRIES, _LAST_REST = 4, 0.2


@dataclass(frozen=True, slots=True)
class LedgerHealth:
    """How the ledger does.

    Attributes:
        pending: Entries that are not on disk yet.
        lost: Entries that were given up because the disk did not take them for too long, or not at all.
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

    A killed process loses at most what was not flushed yet, and damages nothing. While the disk is full, another
    program holds the lock or the database is away, entries wait; beyond `max_pending` the oldest are given up and
    counted. The thread also deletes what is older than `keep`.

    Args:
        settings: Where to, and how often.
        store: In place of the one that the settings mean.
        clock: Unix seconds.

    Raises:
        SettingsError: The settings' URL cannot be used.
    """

    def __init__(
        self,
        settings: LedgerSettings,
        *,
        store: Store | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.store = store or open_store(settings)
        self._settings = settings
        self._lock = threading.Lock()
        self._pending: deque[Entry | Outcome] = deque()
        self._texts: deque[Text] = deque()
        self._text_size = 0
        # Taken from those that wait, and not written yet.
        self._in_hand = 0
        self._written = 0
        self._lost = 0
        self._last_error: str | None = None
        self._batches = Batches(settings.texts)
        self._housekeeping = Housekeeping(self.store, settings.keep, clock=clock)
        # Held while a batch is written: the thread and `flush` must not write at once.
        self._writing = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def path(self) -> Path:
        """Where the file is; means nothing where the settings have a URL."""
        return self._settings.path

    @property
    def keeps_texts(self) -> bool:
        """Whether prompts and answers are to be recorded as well."""
        return self._settings.texts != "off"

    def start(self) -> None:
        """Start the writer and write what waits. An unusable path is a matter of `health()`, not an error."""
        if self._thread is None:
            self._stop.clear()
            self._thread = threading.Thread(target=self._run, name="smallfirst-ledger", daemon=True)
            self._thread.start()

    def record(self, record: Record) -> None:
        """Take an entry, what became of one, or its words. Costs a few microseconds, from any thread."""
        with self._lock:
            if isinstance(record, Text):
                if self.keeps_texts:
                    self._texts.append(record)
                    self._text_size += record.size
                    while self._text_size > MOST_TEXT:
                        self._text_size -= self._texts.popleft().size
                return
            self._pending.append(record)
            if len(self._pending) > self._settings.max_pending:
                self._pending.popleft()
                self._lost += 1

    def flush(self) -> None:
        """Write all that waits, now; gives up at the first failure."""
        while self._write_batch():
            pass

    def close(self) -> None:
        """Stop the writer and flush; safe to call twice. Waits `CLOSE_TIMEOUT` seconds for a database that hangs."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._stop.set()
            thread.join(CLOSE_TIMEOUT)
            if thread.is_alive():
                log.error("the ledger does not answer; %d entries are lost", self.health().pending)
                return
        for _ in range(_LAST_TRIES):
            self.flush()
            if not self.health().pending:
                break
            time.sleep(_LAST_REST)
        with self._writing:
            self.store.close()

    def health(self) -> LedgerHealth:
        """Return how it does."""
        with self._lock:
            waiting = len(self._pending) + self._in_hand
            return LedgerHealth(waiting, self._written, self._lost, self._last_error)

    def _run(self) -> None:
        self._prepare()
        while not self._stop.wait(self._settings.flush_interval):
            self.flush()
            self._tidy()

    def _prepare(self) -> None:
        """Open the database ahead of the first entry, so that a bad path shows at once."""
        with self._writing:
            try:
                self.store.write(lambda connection: None)
            except (LedgerError, OSError) as exc:
                self._failed(exc)

    def _tidy(self) -> None:
        """Do a step of housekeeping; what fails is tried again later."""
        if self._last_error is not None:
            return
        with self._writing:
            try:
                self._housekeeping.step()
            except LedgerError as exc:
                log.warning("the ledger could not be tidied (%s); it is tried again", exc)

    def _write_batch(self) -> bool:
        """Write up to `BATCH` entries; returns whether there may be more to write."""
        with self._writing:
            batch = self._take()
            if not batch:
                return False
            try:
                try:
                    self._batches.write(self.store, batch)
                except Refused:
                    self._write_one_by_one(batch)
            except (LedgerError, OSError) as exc:
                self._failed(exc)
                self._give_back(batch)
                return False
            with self._lock:
                if self._last_error is not None:
                    log.info("the ledger is written again")
                self._last_error = None
                self._in_hand = 0
                self._written += sum(not isinstance(record, Text) for record in batch)
                return bool(self._pending or self._texts)

    def _write_one_by_one(self, batch: list[Record]) -> None:
        """Write what can be written of a batch, and take the rest out of it: it must not hold up the others."""
        for record in list(batch):
            try:
                self._batches.write(self.store, [record])
            except Refused as exc:
                batch.remove(record)
                with self._lock:
                    self._lost += not isinstance(record, Text)
                    self._in_hand -= not isinstance(record, Text)
                log.error("an entry of the ledger is given up (%s)", exc)

    def _take(self) -> list[Record]:
        with self._lock:
            batch: list[Record] = [self._pending.popleft() for _ in range(min(BATCH, len(self._pending)))]
            self._in_hand = len(batch)
            while self._texts and len(batch) < BATCH:
                batch.append(self._texts.popleft())
                self._text_size -= batch[-1].size  # type: ignore[union-attr]
            return batch

    def _give_back(self, batch: list[Record]) -> None:
        with self._lock:
            self._in_hand = 0
            for record in reversed(batch):
                if isinstance(record, Text):
                    if self._text_size + record.size <= MOST_TEXT:
                        self._texts.appendleft(record)
                        self._text_size += record.size
                else:
                    self._pending.appendleft(record)
            while len(self._pending) > self._settings.max_pending:
                self._pending.popleft()
                self._lost += 1

    def _failed(self, exc: Exception) -> None:
        with self._lock:
            first = self._last_error is None
            self._last_error = str(exc)
        if first:
            log.error("the ledger cannot be written (%s); entries wait", exc)
