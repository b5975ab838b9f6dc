"""Writes down what became of requests: in the ledger, the metrics, traces, and what learns from it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from .answer import Receipt
from .drift import DriftMonitor
from .errors import RequestError
from .feedback import Feedback
from .journey import Journey, Status
from .ledger import Entry, Ledger, Outcome
from .ledger.texts import text_of
from .metrics import Metrics
from .money.counterfactual import Counterfactual
from .reuse import Reuse
from .settings import AnyModelSettings
from .telemetry.context import Telemetry
from .telemetry.logs import request_ended


@dataclass(frozen=True, slots=True)
class Records:
    """Where every record goes, of requests and of calls of our own."""

    ledger: Ledger
    metrics: Metrics
    telemetry: Telemetry | None

    def keep(self, record: Entry | Outcome) -> None:
        """Take an entry, or what became of one; never waits."""
        self.ledger.record(record)
        if isinstance(record, Entry):
            self.metrics.observe(record)
            if self.telemetry is not None:
                self.telemetry.observe(record)


@dataclass(frozen=True, slots=True)
class Books:
    """Writes down each request once, whichever way it ends.

    Attributes:
        records: Where entries go.
        baseline: The model that savings are counted against; None where there is none.
        counterfactual: What the baseline would have cost.
        reuse: Told that a request others may wait for has ended; None where the cache is off.
        ratings, drift: Learn from entries.
    """

    records: Records
    baseline: AnyModelSettings | None
    counterfactual: Counterfactual
    reuse: Reuse | None
    ratings: Feedback
    drift: DriftMonitor

    def recorded(self, journey: Journey) -> _Recorded:
        """Record a request that fails, or whose caller leaves, before it was recorded with its answer."""
        return _Recorded(self, journey)

    def finish_stream(
        self, journey: Journey, receipt: Receipt, status: Status, error: RequestError | None
    ) -> Receipt:
        """Record a stream that has ended, in whichever way; returns the receipt with the cost filled in."""
        self.record(journey, status, error, overhead_ms=receipt.overhead_ms)
        cost = journey.cost_usd
        baseline = None if journey.compared is None else journey.compared.usd
        saved = None if cost is None or baseline is None else baseline - cost
        return replace(receipt, cost_usd=cost, saved_usd=saved)

    def record(
        self,
        journey: Journey,
        status: Status,
        error: RequestError | None = None,
        *,
        model: str | None = None,
        overhead_ms: float | None = None,
    ) -> None:
        """Write a request down, and let others learn from it; the second time for the same one does nothing."""
        if journey.recorded:
            return
        journey.recorded = True
        if self.reuse is not None:
            self.reuse.ended(journey, left=status == "cancelled")
        if overhead_ms is None:
            overhead_ms = max(0.0, time.perf_counter() - journey.begun - journey.model_seconds) * 1000
        if journey.answered_by is not None:
            self.counterfactual.of(
                journey, model=journey.answered_by.model, task=journey.task, whole=status == "ok"
            )
        entry = journey.entry(
            status=status,
            model=model,
            error=error,
            overhead_ms=overhead_ms,
            baseline=self.baseline,
        )
        self.records.keep(entry)
        if journey.request.grant is not None:
            journey.request.grant.ended(entry)
        request_ended(entry)
        if journey.trace is not None:
            journey.trace.finish(entry)
        self.ratings.remember(entry)
        self.drift.observe(entry)
        # An answer that was cut short says nothing of how long answers are.
        if status == "ok":
            self.counterfactual.learn(journey)

    def text(self, journey: Journey, body: Mapping[str, Any]) -> None:
        """Keep a request's words and the answer's, where the settings say so."""
        if self.records.ledger.keeps_texts and journey.kind == "request":
            text = text_of(journey.request_id, journey.request, body, recorded_at=time.time())
            screening = journey.request.screening
            if screening is not None and screening.found:
                # What must not reach a cloud as it is, is not written down as it is either.
                text = text.stored("redacted")
            self.records.ledger.record(text)


class _Recorded:
    """What `Books.recorded` gives to `with`."""

    __slots__ = ("_books", "_journey")

    def __init__(self, books: Books, journey: Journey) -> None:
        self._books = books
        self._journey = journey

    def __enter__(self) -> None: ...

    def __exit__(self, _kind: object, error: BaseException | None, _at: object) -> None:
        if error is None:
            return
        if isinstance(error, asyncio.CancelledError):
            self._books.record(self._journey, "cancelled")
            return
        if not isinstance(error, RequestError):
            # A bug of ours must not keep others waiting, and is in the ledger too.
            error = RequestError("An internal error occurred.", code="internal_error")
        self._books.record(self._journey, "error", error)
