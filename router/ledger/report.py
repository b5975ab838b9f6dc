"""From entries to a report: who used what, what it cost, and what all-cloud would have cost."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from .off_policy import OffPolicy, off_policy
from .reading import Facts, Ints, read_facts
from .savings import Savings, savings
from .savings_query import cluster_sums, drawn, read_logged
from .steps import Quality, Step, make_steps
from .store import Store
from .summary import Cells, Summary, spread
from .writer import Ledger

__all__ = [
    "GROUPS", "Escalation", "Quality", "Report", "Step", "Summary", "add_up", "make_report", "parse_time", "report_of",
]  # fmt: skip

GROUPS = ("day", "model", "route", "agent", "tenant", "policy", "task", "tag", "key")

TOP_AGENTS = 10
_DAY = 86400
# Requests that estimates of other policies are made of, the latest ones: more would take seconds.
_MOST_DRAWN = 100_000


@dataclass(frozen=True, slots=True)
class Escalation:
    """How often a model's answer was not good enough for one reason.

    Attributes:
        cause: `unsure`, `disagreed`, `invalid`: a stable word.
    """

    model: str
    cause: str
    requests: int


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
        tenant: Whose it is; None: everybody's.
        escalations: Most frequent first.
        top_agents: One row an agent that has a name, dearest first; the first ten.
        quality: Feedback and comparisons over time; the same steps as `steps`.
        savings: Against the baseline, with an interval; None without requests that can be compared.
        off_policy: What other policies would have come to, of the requests whose first tier was drawn by lot; None
            where none was, and where the ledger is not at hand (`add_up`).
    """

    since: datetime | None
    until: datetime | None
    by: tuple[str, ...]
    rows: tuple[Summary, ...]
    total: Summary
    prices: str
    steps: tuple[Step, ...] = field(repr=False)
    routes: tuple[Summary, ...] = field(repr=False)
    tenant: str | None = None
    escalations: tuple[Escalation, ...] = field(default=(), repr=False)
    top_agents: tuple[Summary, ...] = field(default=(), repr=False)
    quality: tuple[Quality, ...] = field(default=(), repr=False)
    savings: Savings | None = None
    off_policy: OffPolicy | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values, without what only charts need."""
        return {
            "since": self.since.isoformat() if self.since else None,
            "until": self.until.isoformat() if self.until else None,
            "tenant": self.tenant,
            "by": list(self.by),
            "rows": [asdict(row) for row in self.rows],
            "total": asdict(self.total),
            "prices": self.prices,
            "escalations": [asdict(row) for row in self.escalations],
            "savings": None if self.savings is None else asdict(self.savings),
            "off_policy": None if self.off_policy is None else asdict(self.off_policy),
        }


_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def parse_time(text: str, now: datetime) -> datetime:
    """Read `30m`, `24h`, `7d`, `2w` (before now) or an ISO date or time (UTC where it names no zone).

    Raises:
        ValueError: It is neither.
    """
    span = re.fullmatch(r"(\d+)([mhdw])", text.strip())
    if span:
        try:
            return now - timedelta(**{_UNITS[span[2]]: int(span[1])})
        except OverflowError as exc:
            raise ValueError(f"{text!r} is before the calendar begins") from exc
    when = datetime.fromisoformat(text.strip())
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def make_report(
    store: Store,
    *,
    since: datetime | None,
    until: datetime | None,
    by: Sequence[str],
    prices: str,
    tenant: str | None = None,
) -> Report:
    """Read a ledger and add it up.

    Args:
        store: The ledger's database.
        since, until: Requests that began at or after the one, and before the other.
        by: Of `GROUPS`.
        prices: Where prices come from, for the reader.
        tenant: Whose requests; None: everybody's.

    Raises:
        LedgerError: There is no ledger yet, or it cannot be read.
        ValueError: A group is none of `GROUPS`.
    """
    _check(by)
    facts = read_facts(store, since, until)
    report = add_up(facts, since=since, until=until, by=by, prices=prices, tenant=tenant)
    return replace(report, off_policy=_off_policy(store, facts, since, until, tenant))


def _off_policy(
    store: Store, facts: Facts, since: datetime | None, until: datetime | None, tenant: str | None
) -> OffPolicy | None:
    times = drawn(facts, tenant)
    if times is None:
        return None
    # Only the time in which something was drawn is looked through; a second more, as dates are rounded.
    low, high = times[0] - 1, times[1] + 1
    if since is None or since.timestamp() < low:
        since = datetime.fromtimestamp(low, UTC)
    if until is None or until.timestamp() > high:
        until = datetime.fromtimestamp(high, UTC)
    logged = read_logged(store, since, until, tenant=tenant, most=_MOST_DRAWN)
    return off_policy(logged) if len(logged) else None


def add_up(
    facts: Facts,
    *,
    since: datetime | None,
    until: datetime | None,
    by: Sequence[str],
    prices: str,
    tenant: str | None = None,
) -> Report:
    """Add up what was read; arguments as of `make_report`.

    Raises:
        ValueError: A group is none of `GROUPS`.
    """
    _check(by)
    by = tuple(dict.fromkeys(by))
    if tenant is not None:
        facts = facts.of_tenant(tenant)
    cells = _cells(facts, by_day="day" in by)
    rows = [
        cells.summary(dict(zip(by, key, strict=True)), members)
        for key, members in _grouped(cells, by).items()
    ]
    steps, quality = make_steps(facts)
    compared = cluster_sums(facts)
    return Report(
        since=since,
        until=until,
        by=by,
        rows=tuple(sorted(rows, key=_order)) if by else (),
        total=cells.summary({}, np.arange(cells.size)),
        prices=prices,
        steps=steps,
        routes=tuple(
            cells.summary({"route": key[0]}, members)
            for key, members in sorted(_grouped(cells, ("route",)).items())
        ),
        tenant=tenant,
        escalations=_escalations(cells),
        top_agents=_top_agents(cells),
        quality=quality,
        savings=savings(compared) if compared.requests.any() else None,
    )


def report_of(
    ledger: Ledger,
    since: datetime | str | None,
    until: datetime | str | None,
    by: Sequence[str],
    prices: str,
    tenant: str | None = None,
) -> Report:
    """Write what a ledger still holds, and add it up; waits for the disk. Times may be as `parse_time` reads them.

    Raises:
        LedgerError: There is no ledger yet, or it cannot be read.
        ValueError: A time cannot be read, or a group is none of `GROUPS`.
    """
    now = datetime.now(UTC)
    low, high = (parse_time(when, now) if isinstance(when, str) else when for when in (since, until))
    ledger.flush()
    return make_report(ledger.store, since=low, until=high, by=tuple(by), prices=prices, tenant=tenant)


def _check(by: Sequence[str]) -> None:
    unknown = [name for name in by if name not in GROUPS]
    if unknown:
        raise ValueError(f"cannot group by {unknown[0]!r}; there are {', '.join(GROUPS)}")


def _cells(facts: Facts, *, by_day: bool) -> Cells:
    if not by_day:
        return Cells(facts)
    days, outcome_days = (
        (times // _DAY).astype(np.intp) for times in (facts.rows["started_at"], facts.outcomes.at)
    )
    first = int(days.min(initial=outcome_days.min(initial=2**40)))
    return Cells(facts, days - first, outcome_days - first, first_part=first)


def _grouped(cells: Cells, by: Sequence[str]) -> dict[tuple[str, ...], Ints]:
    """Return the cells of each group; with `tag`, a cell may be in several."""
    members = np.arange(cells.size)
    group = np.zeros(cells.size, dtype=np.intp)
    keys: list[tuple[str, ...]] = [()] if cells.size else []
    for name in by:
        slot, lengths, values, texts = _values(cells, name)
        # A cell that has several values is there several times from here on.
        value = values[spread(np.cumsum(lengths) - lengths, lengths, slot[members])]
        own = lengths[slot[members]]
        members, group = np.repeat(members, own), np.repeat(group, own) * max(len(texts), 1) + value
        present, group = np.unique(group, return_inverse=True)
        keys = [(*keys[at // len(texts)], texts[at % len(texts)]) for at in present.tolist()]
    order = np.argsort(group, kind="stable")
    ends = np.cumsum(np.bincount(group, None, len(keys)))[:-1]
    return dict(zip(keys, np.split(members[order], ends), strict=True)) if keys else {}


def _values(cells: Cells, name: str) -> tuple[Ints, Ints, Ints, list[str]]:
    """Return the values of each cell: which list it has, the lists' lengths, the lists one after the other as places
    among the texts, and the texts.
    """
    if name == "day":
        days, at = np.unique(cells.part, return_inverse=True)
        dates = [datetime.fromtimestamp(day * _DAY, UTC).date().isoformat() for day in days.tolist()]
        return at, np.ones(len(days), dtype=np.intp), np.arange(len(days)), dates
    if name == "tag":
        # An empty one is none.
        lists = [tuple(sorted({tag or "-" for tag in label.tags})) or ("-",) for label in cells.labels]
    else:
        lists = [(getattr(label, name) or "-",) for label in cells.labels]
    places: dict[str, int] = {}
    flat = [places.setdefault(value, len(places)) for values in lists for value in values]
    lengths = np.array([len(values) for values in lists], dtype=np.intp)
    return cells.label_at, lengths, np.array(flat, dtype=np.intp), list(places)


def _order(summary: Summary) -> tuple[Any, ...]:
    if "day" in summary.key:
        return (summary.key["day"], -summary.requests, tuple(summary.key.values()))
    return (-summary.requests, tuple(summary.key.values()))


def _escalations(cells: Cells) -> tuple[Escalation, ...]:
    found: Counter[tuple[str, str]] = Counter()
    counts = cells.counts
    for at in np.flatnonzero(cells.has["escalated"] & cells.has["request"]).tolist():
        for escalation in set(cells.labels[cells.label_at[at]].escalations):
            found[escalation] += counts[at]
    return tuple(
        Escalation(*key, count) for key, count in sorted(found.items(), key=lambda kv: (-kv[1], kv[0]))
    )


def _top_agents(cells: Cells) -> tuple[Summary, ...]:
    groups = {key[0]: members for key, members in _grouped(cells, ("agent",)).items() if key[0] != "-"}
    dearest = sorted(groups, key=lambda agent: (-cells.cost(groups[agent]), agent))[:TOP_AGENTS]
    return tuple(cells.summary({"agent": agent}, groups[agent]) for agent in dearest)
