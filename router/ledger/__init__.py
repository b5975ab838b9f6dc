"""The ledger: one entry a request, and what answers turned out to be worth; in SQLite or PostgreSQL."""

from .entry import AttemptRecord, Entry, Outcome
from .lookup import Finding, find
from .store import Store, open_store, store_at
from .texts import Text
from .writer import Ledger, LedgerHealth

__all__ = [
    "AttemptRecord",
    "Entry",
    "Finding",
    "Ledger",
    "LedgerHealth",
    "Outcome",
    "Store",
    "Text",
    "find",
    "open_store",
    "store_at",
]
