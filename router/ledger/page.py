"""A report as a page: its sections, which a dashboard shows as well, and one file that needs nothing from a network."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from markupsafe import Markup

from ..errors import LedgerError
from ..pages import Pages
from .charts import SIZES, Chart, Interval, Spreads, bars, interval, means, spreads, sums
from .render import COLUMNS, ESTIMATED, cost, covers, many, ms, saved, share, usd
from .report import Report
from .summary import Summary

SECTIONS: Final = (
    "summary", "cost", "savings", "routes", "latency", "cache", "escalations", "agents", "quality", "groups",
)  # fmt: skip
"""The page's sections, in their order."""

# More groups than these nobody reads on a page; CSV and Parquet have them all.
MOST_ROWS = 100

_ROUTES = {"local": "local", "cloud": "cloud", "cache": "cache", "none": "not answered"}
_CAUSES = {
    "unsure": "it was not sure enough of its answer",
    "disagreed": "its samples disagreed",
    "invalid": "the answer broke the form that was asked for",
    "discarded": "its answer was not taken",
}


@dataclass(frozen=True, slots=True)
class EvalRow:
    """One result of an eval: `y` is its quality with an interval, `x` what it was measured at, in `unit`."""

    title: str
    name: str
    x: float
    unit: str
    y: float
    low: float | None
    high: float | None


def html(report: Report, *, evals: Sequence[EvalRow] = ()) -> str:
    """Return one page that needs nothing from a network: styles and charts are inside, there is no script."""
    return pages("smallfirst.router.ledger").render(
        "report.html",
        title="smallfirst: what it cost",
        covers=covers(report),
        report=report,
        nonce=None,
        figures=Markup("\n").join(sections(report, evals=evals).values()),
    )


def pages(package: str) -> Pages:
    """Return the pages of a package, with the filters that show a report's values."""
    return Pages(package, FILTERS)


def sections(
    report: Report | None, *, evals: Sequence[EvalRow] = (), maker: Pages | None = None, port: int = 4100
) -> dict[str, Markup]:
    """Return the sections of a report by name, in the order of `SECTIONS`.

    Args:
        report: None where nothing was ever recorded; one without any request has the section `empty` alone.
        evals: Results that are shown beside it.
        maker: Renders the templates; default: a new one.
        port: Where the gateway listens, for one who has not asked it anything yet.
    """
    made = maker or pages("smallfirst.router.ledger")
    if report is None or not (report.total.requests or report.total.shadows):
        return made.blocks("sections.html", ("empty",), port=port)
    return made.blocks("sections.html", SECTIONS, **_values(report, evals))


def failed(maker: Pages) -> dict[str, Markup]:
    """Return what stands in place of the sections while the ledger cannot be read."""
    return maker.blocks("sections.html", ("failed",))


def read_evals(path: Path) -> list[EvalRow]:
    """Read the marks of an eval's report, as `smallfirst eval` writes it with `--json` or `--report`.

    Raises:
        LedgerError: The file cannot be read, or is no such report.
    """
    try:
        page = json.loads(path.read_text(encoding="utf-8"))["page"]
        return [_eval_row(page, mark) for mark in page.get("marks", [])]
    except OSError as exc:
        raise LedgerError(f"{path} cannot be read: {exc.strerror}") from exc
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise LedgerError(f"{path} is no report of an eval: it has no 'page' with 'marks'") from exc


def _eval_row(page: Mapping[str, Any], mark: Mapping[str, Any]) -> EvalRow:
    low, high = mark.get("y_95") or (None, None)
    return EvalRow(
        title=str(page.get("title", "")),
        name=str(mark["name"]),
        x=float(mark["x"]),
        unit=str(page.get("x", "")),
        y=float(mark["y"]),
        low=None if low is None else float(low),
        high=None if high is None else float(high),
    )


def _values(report: Report, evals: Sequence[EvalRow]) -> dict[str, Any]:
    total, saving = report.total, report.savings
    answered = total.requests - total.errors - total.cancelled
    others = max(answered - total.cache_hits, 0)
    return {
        "report": report,
        "total": total,
        "saving": saving,
        "saved_point": total.saved_usd if saving is None else saving.point,
        "comparable": total.baseline_usd > 0 or total.saved_usd != 0,
        "paid": total.baseline_usd - total.saved_usd,
        "steps": report.steps,
        "routes": report.routes,
        "route_counts": [
            (name, said, sum(getattr(step, name) for step in report.steps)) for name, said in _ROUTES.items()
        ],
        "answered": answered,
        "cache_rows": [
            ("exact match", total.exact_hits, "cache"),
            ("semantic match", total.semantic_hits, "cache"),
            ("a model", others, "local"),
        ],
        "escalations": report.escalations,
        "agents": report.top_agents,
        "dearest": max((row.cost_usd for row in report.top_agents), default=0.0),
        "quality": report.quality,
        "evals": evals,
        "columns": COLUMNS,
        "rows": report.rows[:MOST_ROWS],
        **_charts(report),
    }


def _charts(report: Report) -> dict[str, Any]:
    steps, quality, saving = report.steps, report.quality, report.savings
    times = [step.start for step in steps]
    money = {"paid": [step.cost_usd for step in steps], "all": [step.baseline_usd for step in steps]}
    routes = {name: [getattr(step, name) for step in steps] for name in _ROUTES}
    compared = bool(steps) and any(map(any, money.values()))
    losses = [row.loss for row in quality]
    most = max((abs(loss) for loss in losses if loss is not None), default=0.0)
    reach = next((reach for reach in (0.02, 0.1, 0.2, 0.5) if most <= reach), 1.0)
    quality_times = [row.start for row in quality]
    return {
        "cost_charts": _both(lambda size: sums(times, money, dollars, size)) if compared else (),
        "route_charts": _both(lambda size: bars(times, routes, size)) if steps else (),
        "latency_charts": _latency(report.routes),
        "saving_charts": ()
        if saving is None
        else _both(lambda size: interval(saving.point, saving.low, saving.high, dollars, size)),
        "feedback_charts": _both(
            lambda size: means(quality_times, [row.score for row in quality], 0.0, 1.0, size)
        )
        if report.total.feedback and quality
        else (),
        "loss_charts": _both(lambda size: means(quality_times, losses, -reach, reach, size))
        if report.total.compared and quality
        else (),
    }


def _both(draw: Callable[[Any], Chart | Interval]) -> tuple[Chart | Interval, ...]:
    return tuple(map(draw, SIZES))


def _latency(routes: Sequence[Summary]) -> tuple[Spreads, ...]:
    rows = {
        row.key["route"]: (row.latency_ms_p50, row.latency_ms_p95, row.latency_ms_p99)
        for row in routes
        if row.key["route"] != "none"
    }
    drawn = (spreads(rows, size) for size in SIZES)
    return tuple(chart for chart in drawn if chart is not None)


def dollars(value: float) -> str:
    """Money for people in a hurry: cents, and below a dollar at least two digits that count."""
    if abs(value) >= 1 or value == 0:
        return f"{'-' if value < 0 else ''}${abs(value):,.{0 if value == round(value) else 2}f}"
    digits = min(max(1 - math.floor(math.log10(abs(value))), 2), 9)
    return f"{'-' if value < 0 else ''}${abs(value):.{digits}f}"


def _known_cost(row: Summary) -> str:
    whole = row.unknown_cost >= row.requests + row.shadows
    return "unknown" if whole else f"{ESTIMATED if row.estimated else ''}{dollars(row.cost_usd)}"


def _energy(row: Summary) -> str:
    known = f"{row.energy_wh:,.1f} Wh"
    calls = row.requests + row.shadows
    if row.unknown_energy >= calls:
        return "energy unknown"
    return known + (f", of {row.unknown_energy:,} calls unknown" if row.unknown_energy else "")


def _carbon(row: Summary) -> str:
    calls = row.requests + row.shadows
    if row.unknown_gco2e >= calls:
        return "carbon dioxide unknown"
    return f"{row.gco2e:,.1f} gCO₂e" + (
        f", of {row.unknown_gco2e:,} calls unknown" if row.unknown_gco2e else ""
    )


def _cause(name: str) -> str:
    return _CAUSES.get(name, name)


def _route(name: str) -> str:
    return _ROUTES.get(name, name)


FILTERS: Final[Mapping[str, Callable[..., str]]] = {
    "usd": usd,
    "dollars": dollars,
    "share": share,
    "ms": ms,
    "cost": cost,
    "known_cost": _known_cost,
    "many": many,
    "saved": saved,
    "energy": _energy,
    "carbon": _carbon,
    "cause": _cause,
    "route": _route,
    "sentence": lambda text: f"{text[:1].upper()}{text[1:]}.",
}
"""What shows values on pages, by the names that templates call it."""
