"""Find one request in the ledger, for those who may know of it."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path

import msgspec

from ..errors import LedgerError
from .entry import Entry
from .schema import OUTCOMES_SINCE, schema_version

_QUERY = """
    SELECT e.request_id, e.tenant, e.policy, e.model, e.status, e.scores, e.known, e.baseline_model,
        o.request_id IS NOT NULL
    FROM entries e LEFT JOIN outcomes o ON o.request_id = e.request_id AND o.source = 'feedback'
    WHERE e.request_id = ? AND e.tenant = ? AND e.kind = 'request'
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """What is known of a request that a caller speaks of.

    Attributes:
        model: That answered; None where none did.
        baseline: The baseline model's name, where there is one.
        baseline_success: P(the baseline's answer is right) as scored then; None where nothing was known.
        rated: Whether there was feedback on it before.
    """

    request_id: str
    tenant: str
    policy: str
    model: str | None
    baseline: str | None
    baseline_success: float | None
    rated: bool = False

    @classmethod
    def of(cls, entry: Entry) -> Finding:
        """Return what an entry says."""
        answered = entry.model if entry.status == "ok" else None
        success = entry.scores.get(entry.baseline_model or "") if entry.known else None
        return cls(entry.request_id, entry.tenant, entry.policy, answered, entry.baseline_model, success)


def find(path: Path, request_id: str, tenant: str) -> Finding | None:
    """Return a tenant's request, or None where the tenant has none of that id. Waits for the disk.

    Raises:
        LedgerError: The file is there, but cannot be read.
    """
    if not path.exists():
        return None
    try:
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
        try:
            if schema_version(connection) < OUTCOMES_SINCE:
                return None
            row = connection.execute(_QUERY, (request_id, tenant)).fetchone()
        finally:
            connection.close()
    except sqlite3.Error as exc:
        raise LedgerError(f"the ledger at {path} cannot be read: {exc}") from exc
    if row is None:
        return None
    name, owner, policy, model, status, scores, known, baseline, rated = row
    success = msgspec.json.decode(scores, type=dict[str, float]).get(baseline or "") if known else None
    return Finding(name, owner, policy, model if status == "ok" else None, baseline, success, bool(rated))
