"""What `smallfirst top` shows: the last minute, the last hour and today, in one frozen value."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec

from ..ledger.live import LiveReports
from ..ledger.report import Report
from ..ledger.store import NothingRecorded
from ..ledger.summary import Summary

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


class RouteFigures(msgspec.Struct, frozen=True):
    """One route in the last hour; times in milliseconds, None without an answer."""

    route: str
    requests: int
    share: float
    p50_ms: float | None
    p95_ms: float | None
    cost_usd: float
    unknown_cost: int


class EscalationFigures(msgspec.Struct, frozen=True):
    """How often a model's answer was not taken in the last hour, and why."""

    model: str
    cause: str
    requests: int


class SpanFigures(msgspec.Struct, frozen=True):
    """Totals of some time. Money in US dollars; `unknown_cost` calls are in none of it; `comparable`: whether any
    request could be compared with all-cloud, so that `saved_usd` means something.
    """

    requests: int
    errors: int
    cancelled: int
    cost_usd: float
    unknown_cost: int
    estimated: int
    saved_usd: float
    baseline_usd: float
    comparable: bool
    local_share: float | None
    cache_share: float | None
    p50_ms: float | None
    p95_ms: float | None


class Figures(msgspec.Struct, frozen=True):
    """All of a frame.

    Attributes:
        at: Unix seconds.
        tenant: Whose; None: everybody's.
        today: Since midnight, UTC.
    """

    at: float
    tenant: str | None
    minute: SpanFigures
    hour: SpanFigures
    today: SpanFigures
    routes: tuple[RouteFigures, ...]
    escalations: tuple[EscalationFigures, ...]


def figures_of(reports: LiveReports, now: datetime, tenant: str | None = None) -> Figures:
    """Return the figures of a ledger; all 0 where nothing was recorded yet. Waits for the disk.

    Raises:
        LedgerError: It cannot be read.
    """
    midnight = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    # The longest first: what was read for it serves the others.
    since = {"today": midnight, "hour": now - HOUR, "minute": now - MINUTE}
    made = {
        name: _report(reports, since[name], tenant) for name in sorted(since, key=lambda name: since[name])
    }
    hour = made["hour"]
    return Figures(
        at=now.timestamp(),
        tenant=tenant,
        minute=_span(made["minute"]),
        hour=_span(hour),
        today=_span(made["today"]),
        routes=() if hour is None else tuple(_route(row, hour.total) for row in hour.routes if row.requests),
        escalations=()
        if hour is None
        else tuple(EscalationFigures(row.model, row.cause, row.requests) for row in hour.escalations),
    )


def _report(reports: LiveReports, since: datetime, tenant: str | None) -> Report | None:
    try:
        return reports.make(since=since, until=None, by=(), prices="", tenant=tenant)
    except NothingRecorded:
        return None


def _span(report: Report | None) -> SpanFigures:
    if report is None:
        return SpanFigures(0, 0, 0, 0.0, 0, 0, 0.0, 0.0, False, None, None, None, None)
    total = report.total
    return SpanFigures(
        requests=total.requests,
        errors=total.errors,
        cancelled=total.cancelled,
        cost_usd=total.cost_usd,
        unknown_cost=total.unknown_cost,
        estimated=total.estimated,
        saved_usd=total.saved_usd,
        baseline_usd=total.baseline_usd,
        comparable=total.saved_share is not None or total.saved_usd != 0,
        local_share=total.local_share,
        cache_share=total.cache_share,
        p50_ms=total.latency_ms_p50,
        p95_ms=total.latency_ms_p95,
    )


def _route(row: Summary, total: Summary) -> RouteFigures:
    return RouteFigures(
        route=row.key["route"],
        requests=row.requests,
        share=row.requests / total.requests if total.requests else 0.0,
        p50_ms=row.latency_ms_p50,
        p95_ms=row.latency_ms_p95,
        cost_usd=row.cost_usd,
        unknown_cost=row.unknown_cost,
    )
