"""Writes a batch of records within a transaction."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import msgspec

from ..errors import LedgerError
from .entry import Entry, Outcome
from .facts import Label, label_id, pack
from .schema import INSERT, INSERT_LABEL, INSERT_OUTCOME, INSERT_TEXT, to_row
from .store import Connection, Refused, Store
from .texts import Text, TextsMode

# A label is written again when an entry this much younger has it, in seconds; retention goes by it.
SEEN_AGAIN = 86400.0
# Labels that are known to be in the database.
_REMEMBERED = 50_000

# What a value that was never checked may do when a row is made of it.
_MALFORMED = (msgspec.MsgspecError, TypeError, ValueError, OverflowError, AttributeError)


class Batches:
    """Writes batches, and remembers which labels it wrote.

    Args:
        texts: How words are stored.
    """

    def __init__(self, texts: TextsMode) -> None:
        self._texts = texts
        self._seen: OrderedDict[int, float] = OrderedDict()

    def write(self, store: Store, batch: Sequence[Entry | Outcome | Text]) -> None:
        """Write a batch in one transaction; what is there already stays.

        Raises:
            Refused: A record holds something that is no value of its column; nothing is written.
            LedgerError: The database does not take the batch now; nothing is written.
        """
        labels: dict[int, tuple[str, float]] = {}
        try:
            entries = [self._row(record, labels) for record in batch if isinstance(record, Entry)]
            outcomes = [msgspec.structs.astuple(record) for record in batch if isinstance(record, Outcome)]
            texts = [
                msgspec.structs.astuple(record.stored(self._texts))
                for record in batch
                if isinstance(record, Text)
            ]
        except _MALFORMED as exc:
            raise Refused(f"{type(exc).__name__}: a value is none of its column's") from exc
        # In one order, so that two processes never wait for each other.
        new = sorted((name, *found) for name, found in labels.items())
        try:
            store.write(
                lambda connection: _run(
                    connection,
                    (INSERT_LABEL, new),
                    (INSERT, entries),
                    (INSERT_OUTCOME, outcomes),
                    (INSERT_TEXT, texts),
                )
            )
        except Refused:
            raise
        except LedgerError:
            # Once it is there again it may be another one: made anew, or restored from an older copy.
            self._seen.clear()
            raise
        self._remember(labels)

    def _row(self, entry: Entry, labels: dict[int, tuple[str, float]]) -> tuple[Any, ...]:
        encoded = Label.of(entry).encode()
        name = label_id(encoded)
        seen = labels[name][1] if name in labels else self._seen.get(name, float("-inf"))
        if entry.started_at > seen + SEEN_AGAIN or seen == float("-inf"):
            labels[name] = encoded.decode(), entry.started_at
        return (*to_row(entry), pack(entry, name))

    def _remember(self, labels: dict[int, tuple[str, float]]) -> None:
        self._seen.update((name, seen) for name, (_, seen) in labels.items())
        while len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)


def _run(connection: Connection, *work: tuple[str, Sequence[Sequence[Any]]]) -> None:
    for statement, rows in work:
        if rows:
            connection.executemany(statement, rows)
