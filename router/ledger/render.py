"""A report as a table, CSV or Parquet; and how its values are shown."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..errors import LedgerError
from .export import csv_cell
from .export import to_parquet as json_to_parquet
from .off_policy import Estimate, OffPolicy, Which
from .report import Report
from .savings import Savings
from .summary import Summary

ESTIMATED = "≈"


def plain(text: str) -> Text:
    """A name as a terminal may show it: it comes from elsewhere, and must not move the cursor or be read as markup."""
    return Text("".join(char if char.isprintable() else "?" for char in text))


def usd(value: float) -> str:
    """Money with as many digits as small amounts need."""
    if value == 0:
        return "$0"
    digits = 2 if abs(value) >= 100 else 4 if abs(value) >= 0.01 else 6
    return f"{'-' if value < 0 else ''}${abs(value):,.{digits}f}"


def share(value: float | None) -> str:
    """A share as percent; `-` where there is none."""
    return "-" if value is None else f"{value:.1%}"


def ms(value: float | None) -> str:
    """Milliseconds; `-` where there are none."""
    return "-" if value is None else f"{value:,.0f}" if value >= 10 else f"{value:.2f}"


def many(count: int, what: str) -> str:
    """A count of things: `1 request`, `2 requests`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def cost(row: Summary) -> str:
    """What a group cost: what is unknown is said, and an estimate is marked."""
    if row.unknown_cost and row.unknown_cost >= row.requests + row.shadows:
        return "unknown"
    known = f"{ESTIMATED if row.estimated else ''}{usd(row.cost_usd)}"
    return known + (f" +{row.unknown_cost:,} unknown" if row.unknown_cost else "")


def saved(row: Summary) -> str:
    """What a group saved; `unknown` where no request of it can be compared."""
    if row.saved_share is None and row.saved_usd == 0:
        return "unknown" if row.requests else "-"
    return usd(row.saved_usd)


def savings_line(found: Savings) -> str:
    """What was saved in one sentence, and how that is known."""
    ends = None if found.low is None or found.high is None else (usd(found.low), usd(found.high))
    interval = "" if ends is None else f" (95 %: {' to '.join(ends)})"
    of_bill = "" if found.share is None else f", {found.share:.1%} of the baseline's bill"
    unknown = f"; {many(found.unknown, 'request')} of unknown cost left out" if found.unknown else ""
    return f"saved {usd(found.point)}{interval}{of_bill}{unknown}\n{found.method}"


_POLICIES: dict[Which, str] = {
    "all_local": "all local",
    "all_cloud": "all cloud",
    "policy": "the policy alone",
}


def off_policy_lines(found: OffPolicy) -> list[str]:
    """What other policies would have come to a request, a line each; with why, where an interval is missing."""
    lines = [
        f"of {found.requests:,} requests whose first tier was drawn by lot, {found.explored:,} went another way than "
        "the policy's; by inverse propensity, a request would have come to"
    ]
    for which, name in _POLICIES.items():
        cost_of, quality = found.cost[which], found.quality[which]
        rated = "" if not quality.n else f"; quality {_mean(quality, '{:.3f}'.format)}"
        lines.append(f"  {name}: {_mean(cost_of, usd)}{rated}")
    return lines


def _mean(of: Estimate, show: Callable[[float], str]) -> str:
    if of.weighted is None:
        return f"unknown ({of.note})"
    if of.weighted_low is None or of.weighted_high is None:
        return f"{show(of.weighted)} ({of.note})"
    return f"{show(of.weighted)} (95 %: {show(of.weighted_low)} to {show(of.weighted_high)})"


COLUMNS: tuple[tuple[str, Callable[[Summary], str]], ...] = (
    ("requests", lambda s: f"{s.requests:,}"),
    ("errors", lambda s: f"{s.errors:,}"),
    ("in tokens", lambda s: f"{s.input_tokens:,}"),
    ("out tokens", lambda s: f"{s.output_tokens:,}"),
    ("cost", cost),
    ("saved", saved),
    ("saved %", lambda s: share(s.saved_share)),
    ("local", lambda s: share(s.local_share)),
    ("cache hits", lambda s: f"{s.cache_hits:,}"),
    ("p50 ms", lambda s: ms(s.latency_ms_p50)),
    ("p95 ms", lambda s: ms(s.latency_ms_p95)),
)
"""What tables show of a group: a heading, and the text of a cell."""


def table(report: Report) -> str:
    """Return the report as text in columns."""
    grid = Table(title=title(report), title_justify="left")
    for name in report.by or ("",):
        grid.add_column(name)
    for name, _ in COLUMNS:
        grid.add_column(name, justify="right", no_wrap=True)
    for row in report.rows:
        grid.add_row(*map(plain, row.key.values()), *(show(row) for _, show in COLUMNS))
    if report.rows:
        grid.add_section()
    blanks = [""] * (max(len(report.by), 1) - 1)
    grid.add_row("total", *blanks, *(show(report.total) for _, show in COLUMNS))
    out = io.StringIO()
    console = Console(file=out, width=200, no_color=True)
    console.print(grid)
    for note in _notes(report):
        console.print(note, highlight=False, soft_wrap=True)
    return out.getvalue()


def _notes(report: Report) -> list[str]:
    total = report.total
    notes = [] if report.savings is None else [savings_line(report.savings)]
    notes += [] if report.off_policy is None else off_policy_lines(report.off_policy)
    if total.unknown_cost:
        notes.append(
            f"{many(total.unknown_cost, 'call')} of unknown cost: no sum of money has them in it "
            "(give their models a price in the settings)"
        )
    if total.estimated:
        notes.append(f"{ESTIMATED} token counts of {many(total.estimated, 'request')} are estimates of ours")
    if not total.requests and not total.shadows:
        notes.append("no requests in this time: try another --since, or none")
    return notes


def to_csv(report: Report) -> str:
    """Return one line a group (the total alone where there are no groups), with a heading."""
    out = io.StringIO()
    names, rows = _flat(report)
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        writer.writerow([csv_cell(value) for value in row])
    return out.getvalue()


def to_parquet(report: Report, output: Path) -> None:
    """Write one row a group to a Parquet file, with the columns of the CSV; unknown values are null.

    Raises:
        SettingsError: DuckDB is not installed.
        LedgerError: The file cannot be written.
    """
    names, rows = _flat(report)
    kinds = dict.fromkeys(report.by, "VARCHAR") | {
        name: _sql_type(Summary.__annotations__[name]) for name in names[len(report.by) :]
    }
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as folder:
            lines, part = Path(folder) / "rows.jsonl", Path(folder) / "part.parquet"
            lines.write_text("".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows))
            json_to_parquet(lines, part, kinds)
            part.replace(output)
    except OSError as exc:
        raise LedgerError(f"{output} cannot be written: {exc.strerror}") from exc


def _flat(report: Report) -> tuple[list[str], list[list[Any]]]:
    """Return the names of columns and a row a group; what is counted by cause is JSON text."""
    plain = [name for name in asdict(report.total) if name != "key"]
    rows = []
    for row in report.rows if report.by else (report.total,):
        values = asdict(row)
        rows.append([*row.key.values(), *(_scalar(values[name]) for name in plain)])
    return [*report.by, *plain], rows


def _scalar(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, dict) else value


def _sql_type(annotation: str) -> str:
    if "Mapping" in annotation:
        return "VARCHAR"
    return "BIGINT" if annotation == "int" else "DOUBLE"


def title(report: Report) -> str:
    """Say what a report covers."""
    whose = "" if report.tenant is None else f" of {report.tenant}"
    return f"smallfirst report{whose}, {covers(report)}"


def covers(report: Report) -> str:
    """Say which time a report covers."""

    def day(when: datetime | None, otherwise: str) -> str:
        return when.astimezone(UTC).strftime("%Y-%m-%d %H:%M") if when else otherwise

    return f"{day(report.since, 'the beginning')} to {day(report.until, 'now')} (UTC)"
