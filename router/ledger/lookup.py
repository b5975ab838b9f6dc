"""Find one request in the ledger, for those who may know of it."""

from __future__ import annotations

import msgspec

from .entry import Entry
from .store import NothingRecorded, Store

_QUERY = """
    SELECT e.request_id, e.tenant, e.policy, e.model, e.status, e.scores, e.known, e.baseline_model,
        o.request_id IS NOT NULL
    FROM entries e LEFT JOIN outcomes o ON o.request_id = e.request_id AND o.source = 'feedback'
    WHERE e.request_id = ? AND e.tenant = ? AND e.kind = 'request'
"""


class Finding(msgspec.Struct, frozen=True):
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


def find(store: Store, request_id: str, tenant: str) -> Finding | None:
    """Return a tenant's request, or None where the tenant has none of that id. Waits for the database.

    Raises:
        LedgerError: The ledger is there, but cannot be read.
    """
    try:
        with store.read() as connection:
            row = connection.execute(_QUERY, (request_id, tenant)).fetchone()
    except NothingRecorded:
        return None
    if row is None:
        return None
    name, owner, policy, model, status, scores, known, baseline, rated = row
    success = msgspec.json.decode(scores, type=dict[str, float]).get(baseline or "") if known else None
    return Finding(name, owner, policy, model if status == "ok" else None, baseline, success, bool(rated))
