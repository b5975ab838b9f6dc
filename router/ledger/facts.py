"""What reports add up of an entry, packed: numbers in a record of fixed size, and its labels under one number.

A report over a million entries reads these records from an index and nothing else; each is 120 bytes, of which numpy
makes columns without a copy. A record belongs to its entry's row: it is written and deleted with it.

The layout is part of the schema: a change needs a migration that sets `fact` to NULL, and the writer packs all again.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from .entry import AttemptRecord, Entry

Records = npt.NDArray[Any]
"""Records as an array of `DTYPE`."""

Columns = dict[str, npt.NDArray[Any]]
"""The same as an array for each field: sums over one of them then read no other."""

CLUSTERS = 1024

ESTIMATED, FELL_BACK, EXPLORED, STREAM = 1, 2, 4, 8

# A count that is not known.
NO_COUNT = 2**32 - 1

_LAYOUT = (
    ("started_at", "d"),
    ("label", "q"),
    ("cost", "d"),
    ("baseline", "d"),
    ("discarded", "d"),
    ("abandoned", "d"),
    ("cpu", "d"),
    ("energy", "d"),
    ("gco2e", "d"),
    ("duration", "f"),
    ("ttft", "f"),
    ("overhead", "f"),
    ("propensity", "f"),
    ("input", "I"),
    ("cached", "I"),
    ("cache_write", "I"),
    ("output", "I"),
    ("reasoning", "I"),
    ("baseline_output", "I"),
    ("cluster", "H"),
    ("retries", "H"),
    ("flags", "H"),
    ("unused", "H"),
)
_RECORD = struct.Struct("<" + "".join(code for _, code in _LAYOUT))
_BOUNDS = {"f": (-3.4e38, 3.4e38), "I": (0, NO_COUNT), "H": (0, 2**16 - 1)}
_AS_NUMPY = {"d": "<f8", "q": "<i8", "f": "<f4", "I": "<u4", "H": "<u2"}
DTYPE = np.dtype([(name, _AS_NUMPY[code]) for name, code in _LAYOUT])
NAMES = tuple(name for name, _ in _LAYOUT if name != "unused")
assert DTYPE.itemsize == _RECORD.size

_NAN = float("nan")
_STOPPED = frozenset({"cancelled", "broken", "timeout", "error"})
_NOT_SHOWN = frozenset({"discarded", "unused"})


class Label(msgspec.Struct, frozen=True, array_like=True):
    """What groups entries; a ledger has few different ones.

    Attributes:
        escalations: (model, why) of each answer that was not good enough.
    """

    kind: str
    status: str
    route: str
    model: str | None
    tenant: str
    agent: str | None
    tags: tuple[str, ...]
    policy: str
    task: str | None
    key: str | None
    cache: str
    error: str | None
    baseline: str | None
    escalations: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, entry: Entry) -> Label:
        """Return an entry's."""
        return cls(
            kind=entry.kind,
            status=entry.status,
            route=entry.route,
            model=entry.model,
            tenant=entry.tenant,
            agent=entry.agent,
            tags=tuple(sorted(set(entry.tags))),
            policy=entry.policy,
            task=entry.task,
            key=entry.key_id,
            cache=entry.cache,
            error=entry.error_code,
            baseline=entry.baseline_model,
            escalations=tuple(
                (attempt.model, attempt.error_code or "discarded")
                for attempt in entry.attempts
                if attempt.outcome == "discarded"
            ),
        )

    def encode(self) -> bytes:
        """Return it as text for the table of labels."""
        return msgspec.json.encode(self)

    @staticmethod
    def decode(text: str | bytes) -> Label:
        """Return the label of a text."""
        return msgspec.json.decode(text, type=Label)


def label_id(encoded: bytes) -> int:
    """Return a label's number: 64 bits of its hash, so that processes need not agree on numbers."""
    return int.from_bytes(blake2b(encoded, digest_size=8).digest(), "little", signed=True)


def pack(entry: Entry, label: int) -> bytes | None:
    """Return an entry's record; None where a number does not fit: such an entry is read from its columns."""
    try:
        return _RECORD.pack(*_values(entry, label))
    except (struct.error, OverflowError):
        return None


def _values(entry: Entry, label: int) -> tuple[Any, ...]:
    """Return the fields of `_LAYOUT`."""
    return (
        entry.started_at,
        label,
        _known(entry.cost_usd),
        _known(entry.baseline_cost_usd),
        _paid(entry.attempts, _NOT_SHOWN),
        _paid(entry.attempts, _STOPPED),
        _known(entry.cpu_seconds),
        _known(entry.energy_wh),
        _known(entry.gco2e),
        entry.duration_ms,
        _known(entry.ttft_ms),
        entry.overhead_ms,
        _known(entry.propensity),
        entry.input_tokens,
        entry.cached_tokens,
        entry.cache_write_tokens,
        entry.output_tokens,
        entry.reasoning_tokens,
        NO_COUNT if entry.baseline_output_tokens is None else entry.baseline_output_tokens,
        cluster_of(entry),
        sum(attempt.retries for attempt in entry.attempts),
        _flags(entry),
        0,
    )


def unpacked(records: Iterable[bytes]) -> Records:
    """Return packed records as an array of `DTYPE`."""
    return np.frombuffer(b"".join(records), DTYPE)


def columns_of(parts: Sequence[Records]) -> Columns:
    """Return records by field. Takes them part by part, which is faster than all at once by what caches hold."""
    columns: Columns = {name: np.empty(sum(map(len, parts)), DTYPE[name]) for name in NAMES}
    at = 0
    for part in parts:
        for name, column in columns.items():
            column[at : at + len(part)] = part[name]
        at += len(part)
    return columns


def row_of(entry: Entry, label: int) -> Records:
    """Return an entry as an array of one record; a number that does not fit becomes the nearest that does."""
    values = [
        min(max(value, _BOUNDS[code][0]), _BOUNDS[code][1])
        if code in _BOUNDS and not math.isnan(value)
        else value
        for value, (_, code) in zip(_values(entry, label), _LAYOUT, strict=True)
    ]
    return unpacked([_RECORD.pack(*values)])


def cluster_of(entry: Entry) -> int:
    """Return which of `CLUSTERS` an entry is in: requests of one session are in the same."""
    name = f"{entry.tenant}\0{entry.session or entry.request_id}"
    return zlib.crc32(name.encode(errors="surrogatepass")) % CLUSTERS


def _known(value: float | None) -> float:
    return _NAN if value is None else value


def _paid(attempts: Iterable[AttemptRecord], outcomes: frozenset[str]) -> float:
    return sum(attempt.cost_usd or 0.0 for attempt in attempts if attempt.outcome in outcomes)


def _flags(entry: Entry) -> int:
    # An answer that was not good enough is an escalation, one that was asked early and not needed is neither.
    asked = sum(attempt.outcome not in _NOT_SHOWN for attempt in entry.attempts)
    fell_back = entry.status == "ok" and asked > 1
    return (
        ESTIMATED * bool(entry.usage_estimated)
        + FELL_BACK * fell_back
        + EXPLORED * bool(entry.explored)
        + STREAM * bool(entry.stream)
    )
