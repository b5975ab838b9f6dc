"""The ledger: one entry a request, in SQLite."""

from .entry import AttemptRecord, Entry
from .writer import Ledger, LedgerHealth

__all__ = ["AttemptRecord", "Entry", "Ledger", "LedgerHealth"]
