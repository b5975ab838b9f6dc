"""Reads what reports add up: packed records and their labels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from .entry import Entry
from .facts import NAMES, Columns, Label, Records, columns_of, label_id, row_of, unpacked
from .schema import COLUMNS, from_row
from .store import Connection, Store

Ints = npt.NDArray[np.intp]
Floats = npt.NDArray[np.float64]

# Records that are put together at once; so many are in memory twice.
_CHUNK = 20_000
# An outcome is recorded after its request began; other machines' clocks may be this much behind, in seconds.
_SKEW = 3600.0
# Of an entry whose label is missing: somebody deleted it.
_NOBODY = Label("request", "ok", "none", None, "?", "?", (), "?", None, None, "off", None, None, ())


@dataclass(frozen=True, slots=True, eq=False)
class Outcomes:
    """What answers turned out to be worth, an element each.

    Attributes:
        at: When the request began, Unix seconds.
        label: Its label's place in `Facts.labels`.
        feedback: True for feedback, False for a comparison with the baseline.
        score, loss: NaN where not known.
    """

    at: Floats
    label: Ints
    feedback: npt.NDArray[np.bool_]
    score: Floats
    loss: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Facts:
    """Entries of some time.

    Attributes:
        rows: The fields of their records (see `facts`), an array each, in no order.
        labels: The labels they have.
        label: The place in `labels` of each row's.
        outcomes: Of these entries.
    """

    rows: Columns
    labels: tuple[Label, ...]
    label: Ints
    outcomes: Outcomes

    def of_tenant(self, tenant: str) -> Facts:
        """Return one tenant's."""
        own = np.array([label.tenant == tenant for label in self.labels], dtype=bool)
        return self._only(own[self.label], own[self.outcomes.label])

    def between(self, since: datetime | None, until: datetime | None) -> Facts:
        """Return those that began at or after `since` and before `until`."""
        if since is None and until is None:
            return self
        low = since.timestamp() if since else -math.inf
        high = until.timestamp() if until else math.inf
        times = self.rows["started_at"]
        return self._only(
            (times >= low) & (times < high), (self.outcomes.at >= low) & (self.outcomes.at < high)
        )

    def _only(self, rows: npt.NDArray[np.bool_], outcomes: npt.NDArray[np.bool_]) -> Facts:
        left = Outcomes(*(getattr(self.outcomes, name)[outcomes] for name in Outcomes.__slots__))
        kept = {name: column[rows] for name, column in self.rows.items()}
        return Facts(kept, self.labels, self.label[rows], left)


def join(one: Facts, other: Facts) -> Facts:
    """Return the entries of both."""
    labels = {label: at for at, label in enumerate(dict.fromkeys((*one.labels, *other.labels)))}
    to = [np.array([labels[label] for label in facts.labels], dtype=np.intp) for facts in (one, other)]
    outcomes = [one.outcomes, other.outcomes]
    joined = {
        name: np.concatenate([getattr(part, name) for part in outcomes])
        for name in ("at", "feedback", "score", "loss")
    }
    label = np.concatenate([to[at][part.label] for at, part in enumerate(outcomes)])
    return Facts(
        {name: np.concatenate([one.rows[name], other.rows[name]]) for name in NAMES},
        tuple(labels),
        np.concatenate([to[0][one.label], to[1][other.label]]),
        Outcomes(label=label, **joined),
    )


def read_facts(store: Store, since: datetime | None, until: datetime | None) -> Facts:
    """Read the entries that began at or after `since` and before `until`; None leaves a side open.

    Raises:
        NothingRecorded: There is no ledger yet.
        LedgerError: It cannot be read.
    """
    low = since.timestamp() if since else -math.inf
    high = until.timestamp() if until else math.inf
    with store.read() as connection:
        records = _records(connection, low, high)
        columns = _by_columns(connection, low, high)
        names = {
            int(name): Label.decode(text) for name, text in connection.execute("SELECT id, label FROM labels")
        }
        names.update(columns.labels)
        outcomes = _outcomes(connection, low, high, columns.where)
    rows = columns_of([*records, *columns.rows])
    places = _Places(names)
    return Facts(rows, places.labels, places.of(rows["label"]), _outcomes_at(outcomes, places))


def _records(connection: Connection, low: float, high: float) -> list[Records]:
    cursor = connection.stream(connection.records, (low, high))
    found = []
    while some := cursor.fetchmany(_CHUNK):
        found.append(unpacked(chain.from_iterable(some)))
    return found


@dataclass(frozen=True, slots=True)
class _ByColumns:
    """Entries that have no record, made of their columns; `where` has the time and label of each by its id."""

    rows: Sequence[Records]
    labels: Mapping[int, Label]
    where: Mapping[str, tuple[float, int]]


def _by_columns(connection: Connection, low: float, high: float) -> _ByColumns:
    cursor = connection.stream(
        f"SELECT {', '.join(COLUMNS)} FROM entries WHERE fact IS NULL AND started_at >= ? AND started_at < ?",  # noqa: S608
        (low, high),
    )
    rows: list[Records] = []
    labels: dict[int, Label] = {}
    where: dict[str, tuple[float, int]] = {}
    while some := cursor.fetchmany(_CHUNK):
        for entry in map(from_row, some):
            label = Label.of(entry)
            name = label_id(label.encode())
            labels[name] = label
            where[entry.request_id] = entry.started_at, name
            rows.append(row_of(entry, name))
    return _ByColumns(rows, labels, where)


def _outcomes(
    connection: Connection, low: float, high: float, where: Mapping[str, tuple[float, int]]
) -> list[tuple[Any, ...]]:
    """Return (time and label of the request, whether feedback, score, loss)."""
    # From the few outcomes to their entries, and not the other way (SQLite keeps to the order of a CROSS JOIN).
    cursor = connection.stream(
        "SELECT o.request_id, e.fact, o.source, o.score, o.loss FROM outcomes o CROSS JOIN entries e "
        "WHERE o.recorded_at >= ? AND e.request_id = o.request_id AND e.started_at >= ? AND e.started_at < ?",
        (low - _SKEW, low, high),
    )
    found: list[tuple[Any, ...]] = []
    while some := cursor.fetchmany(_CHUNK):
        packed = [row for row in some if row[1] is not None]
        records = unpacked(row[1] for row in packed)
        times, names = records["started_at"].tolist(), records["label"].tolist()
        found += [
            (time, name, row[2] == "feedback", row[3], row[4])
            for time, name, row in zip(times, names, packed, strict=True)
        ]
        found += [
            (*where[row[0]], row[2] == "feedback", row[3], row[4])
            for row in some
            if row[1] is None and row[0] in where
        ]
    return found


class _Places:
    """Finds the places of labels in a list by their numbers."""

    def __init__(self, names: Mapping[int, Label]) -> None:
        order = sorted(names)
        self.labels = (*(names[name] for name in order), _NOBODY)
        self._sorted = np.array(order, dtype=np.int64)

    def of(self, names: npt.NDArray[np.int64]) -> Ints:
        if not len(self._sorted):
            return np.zeros(len(names), dtype=np.intp)
        at = np.minimum(np.searchsorted(self._sorted, names), len(self._sorted) - 1)
        return np.where(self._sorted[at] == names, at, len(self._sorted)).astype(np.intp)


def _outcomes_at(found: list[tuple[Any, ...]], places: _Places) -> Outcomes:
    columns = list(zip(*found, strict=True)) or [(), (), (), (), ()]

    def floats(values: Sequence[float | None]) -> Floats:
        return np.array([math.nan if value is None else value for value in values], dtype=np.float64)

    return Outcomes(
        at=floats(columns[0]),
        label=places.of(np.array(columns[1], dtype=np.int64)),
        feedback=np.array(columns[2], dtype=bool),
        score=floats(columns[3]),
        loss=floats(columns[4]),
    )


def facts_of(entries: Sequence[Entry]) -> Facts:
    """Return entries that are at hand as facts, without outcomes."""
    labels = {label_id(label.encode()): label for label in map(Label.of, entries)}
    rows = [row_of(entry, label_id(Label.of(entry).encode())) for entry in entries]
    places = _Places(labels)
    joined = columns_of(rows)
    return Facts(joined, places.labels, places.of(joined["label"]), _outcomes_at([], places))
