"""What a request was granted: which models may answer it, and what is settled when it has ended."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..ledger import Entry
from .limits import NANO

if TYPE_CHECKING:
    from ..scoring.features import Features


@dataclass(slots=True)
class Grant:
    """Goes with a request through the gateway. Settled once: with its entry, or as unused.

    Attributes:
        key_id: Of the key, for the ledger.
        target: What is asked in place of the request's `model`; None: that.
        models: That may answer; None: all.
        thrift: Why another policy decides than was asked for, as half a sentence; None: it does not.
        features: What deciding reads of the request, where it was read already.
        settle: Told how many tokens it took and what it cost in billionths of a dollar; None: unknown.
    """

    key_id: str
    target: str | None = None
    models: frozenset[str] | None = None
    thrift: str | None = None
    features: Features | None = field(default=None, repr=False)
    settle: Callable[[int | None, int | None], None] | None = field(default=None, repr=False)

    def ended(self, entry: Entry) -> None:
        """Settle with what the ledger says: the tokens of all models that were asked, and what they cost together."""
        tokens = sum(attempt.input_tokens + attempt.output_tokens for attempt in entry.attempts)
        self._settle(tokens, None if entry.cost_usd is None else math.ceil(entry.cost_usd * NANO))

    def used(self, tokens: int) -> None:
        """Settle what costs nothing and is in no ledger."""
        self._settle(tokens, 0)

    def release(self) -> None:
        """Settle as unused, if nothing was settled: the request failed before a model was asked. It counts as one."""
        self._settle(0, 0)

    def _settle(self, tokens: int | None, nano_usd: int | None) -> None:
        settle, self.settle = self.settle, None
        if settle is not None:
            settle(tokens, nano_usd)
