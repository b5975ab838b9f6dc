"""A report as a table, CSV or one HTML page."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..pages import render_page
from .charts import bars, lines
from .report import Report, Summary


def usd(value: float) -> str:
    """Money with as many digits as small amounts need."""
    if value == 0:
        return "$0"
    digits = 2 if abs(value) >= 100 else 4 if abs(value) >= 0.01 else 6
    return f"${value:,.{digits}f}"


def share(value: float | None) -> str:
    """A share as percent; `-` where there is none."""
    return "-" if value is None else f"{value:.1%}"


def ms(value: float | None) -> str:
    """Milliseconds; `-` where there are none."""
    return "-" if value is None else f"{value:,.0f}" if value >= 10 else f"{value:.2f}"


_COLUMNS: tuple[tuple[str, Callable[[Summary], str]], ...] = (
    ("requests", lambda s: f"{s.requests:,}"),
    ("errors", lambda s: f"{s.errors:,}"),
    ("in tokens", lambda s: f"{s.input_tokens:,}"),
    ("out tokens", lambda s: f"{s.output_tokens:,}"),
    ("cost", lambda s: usd(s.cost_usd) + (f" +{s.unknown_cost} unknown" if s.unknown_cost else "")),
    ("saved", lambda s: usd(s.saved_usd)),
    ("saved %", lambda s: share(s.saved_share)),
    ("local", lambda s: share(s.local_share)),
    ("cache hits", lambda s: f"{s.cache_hits:,}"),
    ("p50 ms", lambda s: ms(s.latency_ms_p50)),
    ("p95 ms", lambda s: ms(s.latency_ms_p95)),
)


def table(report: Report) -> str:
    """Return the report as text in columns."""
    grid = Table(title=_title(report), title_justify="left")
    for name in report.by or ("",):
        grid.add_column(name)
    for name, _ in _COLUMNS:
        grid.add_column(name, justify="right", no_wrap=True)
    for row in report.rows:
        grid.add_row(*map(Text, row.key.values()), *(show(row) for _, show in _COLUMNS))
    if report.rows:
        grid.add_section()
    blanks = [""] * (max(len(report.by), 1) - 1)
    grid.add_row("total", *blanks, *(show(report.total) for _, show in _COLUMNS))
    out = io.StringIO()
    Console(file=out, width=200, no_color=True).print(grid)
    return out.getvalue()


def to_csv(report: Report) -> str:
    """Return one line a group (the total alone where there are no groups), with a heading."""
    rows = report.rows or (report.total,)
    out = io.StringIO()
    plain = [name for name in asdict(report.total) if name != "key"]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*report.by, *plain])
    for row in rows:
        values = asdict(row)
        writer.writerow(
            [*map(_cell, row.key.values()), *("" if values[n] is None else values[n] for n in plain)]
        )
    return out.getvalue()


def _cell(text: str) -> str:
    """Labels come from clients; a spreadsheet must not run them as formulas."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") and len(text) > 1 else text


def html(report: Report) -> str:
    """Return one page that needs nothing from a network: styles and charts are inside, there is no script."""
    steps = report.steps
    return render_page(
        "smallfirst.router.ledger",
        "report.html",
        {"usd": usd, "share": share, "ms": ms},
        title=_title(report),
        report=report,
        total=report.total,
        columns=[(name, [show(row) for row in (*report.rows, report.total)]) for name, show in _COLUMNS],
        cost_chart=lines(
            [step.start for step in steps],
            {"paid": [step.cost_usd for step in steps], "all cloud": [step.baseline_usd for step in steps]},
            usd,
        ),
        request_chart=bars(
            [step.start for step in steps],
            {name: [getattr(step, name) for step in steps] for name in ("local", "cloud", "cache", "none")},
        ),
        routes=report.routes,
        slowest=max((route.latency_ms_p99 or 0 for route in report.routes), default=0) or 1,
    )


def _title(report: Report) -> str:
    def day(when: datetime | None, otherwise: str) -> str:
        return when.astimezone(UTC).strftime("%Y-%m-%d %H:%M") if when else otherwise

    return f"smallfirst report, {day(report.since, 'the beginning')} to {day(report.until, 'now')} (UTC)"
