"""The ledger: one entry a request, and what answers turned out to be worth, in SQLite."""

from .entry import AttemptRecord, Entry, Outcome
from .lookup import Finding, find
from .writer import Ledger, LedgerHealth

__all__ = ["AttemptRecord", "Entry", "Finding", "Ledger", "LedgerHealth", "Outcome", "find"]
