"""From entries to a report: who used what, what it cost, and what all-cloud would have cost."""

from __future__ import annotations

import math
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ..errors import LedgerError
from .schema import OUTCOMES_SINCE, schema_version
from .writer import Ledger

GROUPS = ("day", "model", "route", "agent", "tenant", "policy", "task", "tag")

# Columns that a report needs; the longest ones (reasons, scores) are never read.
_READ = (
    "started_at", "duration_ms", "overhead_ms", "tenant", "agent", "tags", "policy", "route", "model", "task",
    "input_tokens", "cached_tokens", "output_tokens", "usage_estimated", "cost_usd", "baseline_cost_usd", "cache",
    "attempts", "status",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Summary:
    """Totals of some entries.

    Attributes:
        key: The group's values by name; empty for the total.
        fallbacks: Requests that a second model answered because the first failed.
        unknown_cost: Requests whose price is not known; they are in no sum of money.
        estimated: Requests whose token counts are our estimate.
        cost_usd: Sum of the known costs, comparisons with the baseline included.
        shadows: Calls of our own in the background: comparisons with the baseline, and answers of the cache asked
            again. They are no requests, but cost money.
        shadow_usd: Their share of `cost_usd`.
        baseline_usd: What the baseline model would have cost, over requests where both costs are known.
        saved_usd: `baseline_usd` less the cost of the same requests.
        saved_share: Of `baseline_usd`; None where that is 0.
        local_share: Requests that a local model answered, of those that a model answered.
        cache_share: Requests answered from the cache, of all that were answered.
        latency_ms: 50th, 95th and 99th percentile; None without an answered request.
    """

    key: Mapping[str, str]
    requests: int
    errors: int
    cancelled: int
    fallbacks: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    estimated: int
    cost_usd: float
    unknown_cost: int
    baseline_usd: float
    saved_usd: float
    saved_share: float | None
    cache_hits: int
    cache_share: float | None
    local_share: float | None
    latency_ms_p50: float | None
    latency_ms_p95: float | None
    latency_ms_p99: float | None
    overhead_ms_p50: float | None
    shadows: int = 0
    shadow_usd: float = 0.0


@dataclass(frozen=True, slots=True)
class Step:
    """One step of time on the charts; money is of the requests where both costs are known."""

    start: datetime
    cost_usd: float
    baseline_usd: float
    local: int
    cloud: int
    cache: int
    none: int


@dataclass(frozen=True, slots=True)
class Report:
    """A report.

    Attributes:
        since, until: What it covers; None where it is open.
        by: Names of the groups.
        rows: One a group, most requests first (days in order). With `tag`, a request counts in each of its tags.
        total: Every request once.
        prices: Where prices come from.
        steps: Requests and money over time, for the charts.
        routes: One row a route, for the charts.
    """

    since: datetime | None
    until: datetime | None
    by: tuple[str, ...]
    rows: tuple[Summary, ...]
    total: Summary
    prices: str
    steps: tuple[Step, ...] = field(repr=False)
    routes: tuple[Summary, ...] = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values, without what only charts need."""
        return {
            "since": self.since.isoformat() if self.since else None,
            "until": self.until.isoformat() if self.until else None,
            "by": list(self.by),
            "rows": [asdict(row) for row in self.rows],
            "total": asdict(self.total),
            "prices": self.prices,
        }


_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def parse_time(text: str, now: datetime) -> datetime:
    """Read `30m`, `24h`, `7d`, `2w` (before now) or an ISO date or time (UTC where it names no zone).

    Raises:
        ValueError: It is neither.
    """
    span = re.fullmatch(r"(\d+)([mhdw])", text.strip())
    if span:
        return now - timedelta(**{_UNITS[span[2]]: int(span[1])})
    when = datetime.fromisoformat(text.strip())
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def make_report(
    path: Path, *, since: datetime | None, until: datetime | None, by: Sequence[str], prices: str
) -> Report:
    """Read a ledger and add it up.

    Raises:
        LedgerError: There is no ledger yet, or it cannot be read.
        ValueError: A group is none of `GROUPS`.
    """
    unknown = [name for name in by if name not in GROUPS]
    if unknown:
        raise ValueError(f"cannot group by {unknown[0]!r}; there are {', '.join(GROUPS)}")
    rows = list(_read(path, since, until))
    groups: dict[tuple[str, ...], list[_Row]] = {}
    for row in rows:
        for key in _keys(row, by):
            groups.setdefault(key, []).append(row)
    summaries = [_summary(dict(zip(by, key, strict=True)), members) for key, members in groups.items()]
    by_route: dict[str, list[_Row]] = {}
    for row in rows:
        by_route.setdefault(row.route, []).append(row)
    return Report(
        since,
        until,
        tuple(by),
        tuple(sorted(summaries, key=_order)) if by else (),
        _summary({}, rows),
        prices,
        tuple(_steps(rows)),
        tuple(_summary({"route": name}, members) for name, members in sorted(by_route.items())),
    )


def report_of(
    ledger: Ledger, since: datetime | str | None, until: datetime | str | None, by: Sequence[str], prices: str
) -> Report:
    """Write what a ledger still holds, and add it up; waits for the disk. Times may be as `parse_time` reads them.

    Raises:
        LedgerError: There is no ledger yet, or it cannot be read.
        ValueError: A time cannot be read, or a group is none of `GROUPS`.
    """
    now = datetime.now(UTC)
    low, high = (parse_time(when, now) if isinstance(when, str) else when for when in (since, until))
    ledger.flush()
    return make_report(ledger.path, since=low, until=high, by=tuple(by), prices=prices)


class _Row(msgspec.Struct, frozen=True):
    started_at: float
    duration_ms: float
    overhead_ms: float
    tenant: str
    agent: str | None
    tags: str
    policy: str
    route: str
    model: str | None
    task: str | None
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    usage_estimated: int
    cost_usd: float | None
    baseline_cost_usd: float | None
    cache: str
    attempts: str
    status: str
    kind: str

    @property
    def fell_back(self) -> bool:
        asked = self.attempts.count('"model":') - self.attempts.count('"outcome":"unused"')
        return self.status == "ok" and asked > 1


def _read(path: Path, since: datetime | None, until: datetime | None) -> Iterator[_Row]:
    if not path.exists():
        raise LedgerError(f"nothing is recorded yet: there is no ledger at {path}")
    low = since.timestamp() if since else -math.inf
    high = until.timestamp() if until else math.inf
    try:
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
        try:
            # A file that no newer version has written to yet has no kinds.
            kind = "kind" if schema_version(connection) >= OUTCOMES_SINCE else "'request'"
            query = (
                f"SELECT {', '.join(_READ)}, {kind} FROM entries WHERE started_at >= ? AND started_at < ? "  # noqa: S608
                "ORDER BY started_at"
            )
            for row in connection.execute(query, (low, high)):
                yield _Row(*row)
        finally:
            connection.close()
    except sqlite3.Error as exc:
        raise LedgerError(f"the ledger at {path} cannot be read: {exc}") from exc


def _keys(row: _Row, by: Sequence[str]) -> Iterable[tuple[str, ...]]:
    keys: list[tuple[str, ...]] = [()]
    for name in by:
        keys = [(*key, value) for key in keys for value in _values(row, name)]
    return keys


def _values(row: _Row, name: str) -> Sequence[str]:
    if name == "day":
        return (datetime.fromtimestamp(row.started_at, UTC).date().isoformat(),)
    if name == "tag":
        return sorted(set(msgspec.json.decode(row.tags))) or ("-",)
    return (getattr(row, name) or "-",)


def _order(summary: Summary) -> tuple[Any, ...]:
    if "day" in summary.key:
        return (summary.key["day"], -summary.requests, tuple(summary.key.values()))
    return (-summary.requests, tuple(summary.key.values()))


def _summary(key: Mapping[str, str], all_rows: Sequence[_Row]) -> Summary:
    rows = [row for row in all_rows if row.kind == "request"]
    shadows = [row for row in all_rows if row.kind != "request"]
    answered = [row for row in rows if row.status == "ok"]
    by_models = [row for row in answered if row.route in ("local", "cloud")]
    compared = _compared(all_rows)
    baseline = math.fsum(pair[0] for pair in compared)
    saved = math.fsum(pair[0] - pair[1] for pair in compared)
    hits = sum(row.route == "cache" for row in rows)
    p50, p95, p99 = _percentiles([row.duration_ms for row in answered], (50, 95, 99))
    (overhead,) = _percentiles([row.overhead_ms for row in answered], (50,))
    return Summary(
        key=key,
        requests=len(rows),
        errors=sum(row.status == "error" for row in rows),
        cancelled=sum(row.status == "cancelled" for row in rows),
        fallbacks=sum(row.fell_back for row in rows),
        input_tokens=sum(row.input_tokens for row in all_rows),
        cached_tokens=sum(row.cached_tokens for row in all_rows),
        output_tokens=sum(row.output_tokens for row in all_rows),
        estimated=sum(bool(row.usage_estimated) for row in rows),
        cost_usd=_known_cost(all_rows),
        unknown_cost=sum(row.cost_usd is None for row in all_rows),
        baseline_usd=baseline,
        saved_usd=saved,
        saved_share=saved / baseline if baseline > 0 else None,
        cache_hits=hits,
        cache_share=hits / len(answered) if answered else None,
        local_share=sum(row.route == "local" for row in by_models) / len(by_models) if by_models else None,
        latency_ms_p50=p50,
        latency_ms_p95=p95,
        latency_ms_p99=p99,
        overhead_ms_p50=overhead,
        shadows=len(shadows),
        shadow_usd=_known_cost(shadows),
    )


def _known_cost(rows: Sequence[_Row]) -> float:
    return math.fsum(row.cost_usd for row in rows if row.cost_usd is not None)


def _percentiles(values: Sequence[float], which: Sequence[int]) -> list[float | None]:
    if not values:
        return [None] * len(which)
    return [float(value) for value in np.percentile(values, which)]


# Charts have about this many steps.
_STEPS = 48


def _steps(rows: Sequence[_Row]) -> Iterator[Step]:
    """Yield equal steps of time from the first entry to the last."""
    if not rows:
        return
    first, last = rows[0].started_at, rows[-1].started_at
    width = max(60.0, math.ceil((last - first + 1) / _STEPS / 60) * 60.0)
    start = math.floor(first / width) * width
    members: dict[int, list[_Row]] = {}
    for row in rows:
        members.setdefault(int((row.started_at - start) // width), []).append(row)
    for at in range(int((last - start) // width) + 1):
        inside = members.get(at, [])
        counts = {
            name: sum(row.route == name and row.kind == "request" for row in inside)
            for name in ("local", "cloud", "cache", "none")
        }
        compared = _compared(inside)
        paid, baseline = (math.fsum(pair[which] for pair in compared) for which in (1, 0))
        yield Step(datetime.fromtimestamp(start + at * width, UTC), paid, baseline, **counts)


def _compared(rows: Sequence[_Row]) -> list[tuple[float, float]]:
    """(baseline cost, cost) of the requests where both are known: only these can be compared."""
    return [
        (row.baseline_cost_usd, row.cost_usd)
        for row in rows
        if row.baseline_cost_usd is not None and row.cost_usd is not None
    ]
