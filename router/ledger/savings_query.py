"""What savings, and estimates of other policies, are made of: read from the ledger."""

from __future__ import annotations

import math
import zlib
from datetime import datetime
from typing import Any

import msgspec
import numpy as np

from ..errors import LedgerError
from .bootstrap import BUCKETS, Floats
from .facts import EXPLORED, NO_COUNT, Columns
from .off_policy import Logged
from .reading import Facts, Ints
from .savings import LEAST_CHECKED, ClusterSums
from .store import Connection, Store

# Requests that estimates are made of, at most: the latest ones.
MOST_LOGGED = 200_000
# Of days of this many seconds, answers are remembered at a start; and so many of them.
REMEMBERED_SECONDS, MOST_REMEMBERED = 30 * 86_400.0, 5_000
# Calls that the baseline's price of a token is read off.
_PRICED = 100_000


def cluster_sums(facts: Facts) -> ClusterSums:
    """Add entries up by clusters of sessions.

    The part of a bill that is the price of predicted output tokens takes the baseline's price of an output token: that
    is read off the bills of its own answers, by least squares.
    """
    rows, labels = facts.rows, facts.labels
    cost, baseline = rows["cost"], rows["baseline"]
    request, own, done, routed = (
        np.array(flags, dtype=bool)[facts.label]
        for flags in (
            [label.kind == "request" for label in labels],
            [label.model is not None and label.model == label.baseline for label in labels],
            [label.status == "ok" and label.route in ("local", "cloud") for label in labels],
            [label.route != "none" for label in labels],
        )
    )
    known = np.isfinite(cost) & np.isfinite(baseline)
    guessed = request & known & (rows["baseline_output"] != NO_COUNT)
    checked = guessed & own & done
    tried = checked & (rows["flags"] & EXPLORED > 0)
    if tried.sum() >= LEAST_CHECKED:
        # Requests that would have stayed local, and went to the baseline by lot: just such as are predicted.
        checked = tried
    predicted = np.zeros(len(facts.label))
    for name in {label.baseline for label in labels if label.baseline is not None}:
        of = np.array([label.baseline == name for label in labels], dtype=bool)[facts.label]
        price = _output_usd(rows, np.flatnonzero(of & own & done & known & request))
        part = of & guessed & ~own
        predicted[part] = np.minimum(rows["baseline_output"][part] * price, baseline[part])

    def add(values: Floats, which: Any) -> Floats:
        return np.bincount(rows["cluster"][which], values[which], minlength=BUCKETS).astype(np.float64)

    return ClusterSums(
        requests=add(np.ones(len(facts.label)), known & request),
        cost=add(cost, known),
        baseline=add(baseline, known),
        predicted=add(predicted, known),
        actual_tokens=add(rows["output"].astype(np.float64), checked),
        predicted_tokens=add(rows["baseline_output"].astype(np.float64), checked),
        checked=int(checked.sum()),
        # Of what nobody answered only that which cost something, or may have.
        unknown=int((request & ~known & (routed | (cost != 0))).sum()),
    )


def _output_usd(rows: Columns, which: Ints) -> float:
    """Return what an output token cost, from whole bills: fresh, cached and written input have prices of their own."""
    if len(which) < LEAST_CHECKED:
        return 0.0
    some = which[:: -(-len(which) // _PRICED)]
    names = ("input", "cached", "cache_write", "output")
    columns = np.column_stack([rows[name][some].astype(np.float64) for name in names])
    prices = np.linalg.lstsq(columns, rows["baseline"][some].astype(np.float64), rcond=None)[0]
    return max(0.0, float(prices[-1]))


def drawn(facts: Facts, tenant: str | None) -> tuple[float, float] | None:
    """Return when the first and the last request began whose first tier was drawn by lot; None where none was.

    Args:
        facts: Entries.
        tenant: Whose; None: everybody's.
    """
    whose = [label.kind == "request" and tenant in (None, label.tenant) for label in facts.labels]
    chance = facts.rows["propensity"]
    times = facts.rows["started_at"][(chance > 0) & (chance < 1) & np.array(whose, dtype=bool)[facts.label]]
    return (float(times.min()), float(times.max())) if len(times) else None


class _Asked(msgspec.Struct, frozen=True):
    tier: str
    early: bool = False


_ATTEMPTS, _SCORES = msgspec.json.Decoder(list[_Asked]), msgspec.json.Decoder(dict[str, float])


def read_logged(
    store: Store,
    since: datetime | None = None,
    until: datetime | None = None,
    *,
    tenant: str | None = None,
    source: str = "feedback",
    most: int = MOST_LOGGED,
) -> Logged:
    """Return the latest requests whose first tier was drawn by lot.

    What a regression is given is known before anybody answers: the scores, the difficulty and the kind of task.

    Args:
        store: The ledger's database.
        since, until: When they began.
        tenant: Whose; None: everybody's.
        source: Whose word quality is: `feedback`, or `shadow` (of local answers only).
        most: How many.

    Raises:
        LedgerError: There is no ledger yet, or it cannot be read.
    """
    low = since.timestamp() if since else -math.inf
    high = until.timestamp() if until else math.inf
    with store.read() as connection:
        found = connection.execute(
            "SELECT e.request_id, e.tenant, e.session, e.attempts, e.propensity, e.cost_usd, o.score, e.scores, "
            "e.difficulty, e.task, e.baseline_model FROM entries e "
            "LEFT JOIN outcomes o ON o.request_id = e.request_id AND o.source = ? "
            "WHERE e.started_at >= ? AND e.started_at < ? AND e.propensity > 0 AND e.propensity < 1 "
            "AND e.kind = 'request' AND e.tenant = COALESCE(?, e.tenant) ORDER BY e.started_at DESC LIMIT ?",
            (source, low, high, tenant, most),
        ).fetchall()
    try:
        return _logged(found)
    except msgspec.MsgspecError as exc:
        raise LedgerError(f"an entry in {store.where} cannot be read: {exc}") from exc


def _logged(found: list[tuple[Any, ...]]) -> Logged:
    rows = [(row, first) for row in found if (first := _first(row[3])) is not None]
    tasks = sorted({row[9] for row, _ in rows if row[9] is not None})
    return Logged(
        local=np.array([first == "local" for _, first in rows], dtype=bool),
        propensity=np.array([row[4] for row, _ in rows], dtype=np.float64),
        cost=np.array([_nan(row[5]) for row, _ in rows], dtype=np.float64),
        quality=np.array([_nan(row[6]) for row, _ in rows], dtype=np.float64),
        features=np.array([_features(row, tasks) for row, _ in rows], np.float64).reshape(
            len(rows), 3 + len(tasks)
        ),
        cluster=np.array([_session(*row[:3]) for row, _ in rows], dtype=np.int64),
    )


def _first(attempts: str) -> str | None:
    """Return the tier that was asked first; None where nobody was."""
    for attempt in _ATTEMPTS.decode(attempts):
        if not attempt.early:
            return attempt.tier
    return None


def _features(row: tuple[Any, ...], tasks: list[str]) -> list[float]:
    scores = _SCORES.decode(row[7])
    baseline = scores.pop(row[10] or "", 0.0)
    best = max(scores.values()) if scores else 0.0
    return [baseline, best, row[8] or 0.0, *[float(row[9] == task) for task in tasks]]


def _session(request_id: str, tenant: str, session: str | None) -> int:
    return zlib.crc32(f"{tenant}\0{session or request_id}".encode(errors="surrogatepass"))


def _nan(value: float | None) -> float:
    return math.nan if value is None else value


Earlier = tuple[list[tuple[str, str, int]], list[tuple[str, str, int, str, int]]]


def read_lengths(connection: Connection, now: float) -> Earlier:
    """Return what answers of the last month teach, the oldest first: (model, task, tokens) of each, and (baseline,
    task, tokens of its answer, other model, tokens of that one's) of each comparison."""
    answers = connection.execute(
        "SELECT model, task, output_tokens FROM entries WHERE started_at >= ? AND status = 'ok' AND kind = 'request' "
        "AND route IN ('local', 'cloud') AND task IS NOT NULL AND model IS NOT NULL "
        "ORDER BY started_at DESC LIMIT ?",
        (now - REMEMBERED_SECONDS, MOST_REMEMBERED),
    ).fetchall()
    pairs = connection.execute(
        "SELECT s.model, r.task, s.output_tokens, r.model, r.output_tokens FROM outcomes o "
        "JOIN entries r ON r.request_id = o.request_id JOIN entries s ON s.request_id = 'shadow_' || o.request_id "
        "WHERE o.source = 'shadow' AND o.recorded_at >= ? AND s.status = 'ok' AND r.task IS NOT NULL "
        "ORDER BY o.recorded_at DESC LIMIT ?",
        (now - REMEMBERED_SECONDS, MOST_REMEMBERED),
    ).fetchall()
    return [tuple(row) for row in reversed(answers)], [tuple(row) for row in reversed(pairs)]
