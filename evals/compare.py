"""Is a run worse than the one before? A gate for CI over reports of `eval suite` and `eval routing`.

Suites are compared row by row where both reports have the row: the difference is bootstrapped, and has to be
significant in an exact sign test as well, which a bootstrap of few rows is not. Figures without rows are compared by
their intervals: their difference has to be larger than the two half-widths together (root of the sum of squares).
The tasks of a suite share one error rate (Bonferroni): many tasks raise no more false alarms than one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from smallfirst.router.training.files import DataError

from .metrics import FloatArray
from .suite_report import KIND

ALPHA = 0.05
SAMPLES = 10_000
# A calibration error has no interval; less than this is noise at any number of rows.
CALIBRATION_NOISE = 0.01
# More unanswered rows than this make a run another measurement.
MORE_ERRORS = 0.02


@dataclass(frozen=True, slots=True)
class Compared:
    """One figure of both runs.

    Attributes:
        figure: Its name, with the part that it is of.
        a: In the first report; None where that has none.
        b: In the second.
        worse: Whether the second is worse beyond noise and tolerance.
        rows: How many rows were paired; None where the figure was compared by intervals.
        note: How it was judged, in words.
    """

    figure: str
    a: float | None
    b: float | None
    worse: bool
    rows: int | None
    note: str


def compare(
    a: Mapping[str, Any], b: Mapping[str, Any], *, tolerance: float = 0.0, cost_tolerance: float = 0.1
) -> dict[str, Any]:
    """Compare two reports of one kind; `b` is the newer one.

    Args:
        a: Report of `eval suite` or `eval routing`.
        b: Likewise.
        tolerance: How much accuracy, APGR or calibration error may be lost beyond noise.
        cost_tolerance: How much dearer a request may be, as a share, where accuracy did not rise (suites).

    Returns:
        `ok`; `worse`: the figures that are, in words; `compared`: every figure (see `Compared`).

    Raises:
        DataError: They are not two reports of one kind.
    """
    kinds = {_kind(a), _kind(b)}
    if len(kinds) > 1:
        raise DataError("a report of `eval suite` and one of `eval routing` cannot be compared.")
    suites = kinds == {KIND}
    found = _suites(a, b, tolerance, cost_tolerance) if suites else _routing(a, b, tolerance)
    worse = [f"{of.figure}: {_shown(of.a)} -> {_shown(of.b)} ({of.note})" for of in found if of.worse]
    return {"ok": not worse, "worse": worse, "compared": [asdict(of) for of in found]}


def _kind(report: Mapping[str, Any]) -> str:
    if report.get("report") == KIND:
        return KIND
    if "apgr" in report:
        return "routing"
    raise DataError("expected a report of `eval suite --json` or `eval routing --json`.")


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"


# --- suites ---------------------------------------------------------------------------------------------------


def _suites(
    a: Mapping[str, Any], b: Mapping[str, Any], tolerance: float, cost_tolerance: float
) -> list[Compared]:
    overall, gained = _accuracy("accuracy", a, b, "", tolerance, ALPHA)
    found = [overall]
    tasks = a["by_task"]
    for task, of in tasks.items():
        name = f"accuracy of {task}"
        if task not in b["by_task"]:
            found.append(Compared(name, of["accuracy"], None, True, 0, "the second run has no such task"))
            continue
        prefix = f"{task}/"
        found.append(
            _accuracy(name, of, b["by_task"][task], prefix, tolerance, ALPHA / len(tasks), (a, b))[0]
        )
    return [*found, _cost(a, b, cost_tolerance, gained), _errors(a, b)]


def _accuracy(
    name: str,
    a: Mapping[str, Any],
    b: Mapping[str, Any],
    prefix: str,
    tolerance: float,
    alpha: float,
    whole: tuple[Mapping[str, Any], Mapping[str, Any]] | None = None,
) -> tuple[Compared, bool]:
    """Return the comparison, and whether the second is better beyond noise."""
    first, second = (report.get("outcomes", {}) for report in whole or (a, b))
    both = [
        (first[row], second[row])
        for row in first.keys() & second.keys()
        if row.startswith(prefix) and first[row] is not None and second[row] is not None
    ]
    if not both:
        return _by_intervals(name, "accuracy", a, b, tolerance), False
    change = np.array([int(after) - int(before) for before, after in both], float)
    right_before, right_after = (sum(pair[at] for pair in both) / len(both) for at in (0, 1))
    low, high = _change(change, alpha)
    worse = high < -tolerance and _sign_test(change < 0, change > 0) < alpha
    better = low > 0 and _sign_test(change > 0, change < 0) < alpha
    note = f"{len(both)} rows in both; change {change.mean():+.3f}, interval {low:+.3f} to {high:+.3f}"
    return Compared(name, right_before, right_after, worse, len(both), note), better


def _change(change: FloatArray, alpha: float) -> tuple[float, float]:
    """Return the bootstrap interval of a mean change; each end is passed with a chance of `alpha`."""
    values, counts = np.unique(change, return_counts=True)
    drawn = np.random.default_rng(0).multinomial(len(change), counts / len(change), size=SAMPLES)
    low, high = np.percentile(drawn @ values / len(change), [100 * alpha, 100 * (1 - alpha)])
    return float(low), float(high)


def _sign_test(losses: Any, gains: Any) -> float:
    """Return the chance of so many losses or more among the rows that changed, if either were as likely."""
    lost, changed = int(np.sum(losses)), int(np.sum(losses) + np.sum(gains))
    if not changed:
        return 1.0
    # Whole numbers until the end: 2**changed is more than a float can hold after 1,023 rows.
    ways = sum(math.comb(changed, k) for k in range(lost, changed + 1))
    return ways / (1 << changed)


def _cost(a: Mapping[str, Any], b: Mapping[str, Any], tolerance: float, gained: bool) -> Compared:
    """A dearer request is a worse frontier, unless it bought accuracy."""
    name = "US dollars per 1,000 requests"
    first, second = a.get("costs", {}), b.get("costs", {})
    both = [(first[row], second[row]) for row in first.keys() & second.keys()]
    known = np.array([pair for pair in both if None not in pair], float).reshape(-1, 2)
    hidden = sum(before is not None and after is None for before, after in both)
    if hidden > MORE_ERRORS * len(both):
        note = f"{hidden} rows had a cost and have none any more"
        return Compared(name, a["usd_per_1000"], b["usd_per_1000"], True, len(known), note)
    if not len(known):
        return Compared(name, a["usd_per_1000"], b["usd_per_1000"], False, 0, "no row has a cost in both")
    before, after = (1000 * known.mean(axis=0)).tolist()
    rng = np.random.default_rng(0)
    # Rows are drawn as counts, some at a time: it costs less memory than their numbers would.
    excess = known[:, 1] - known[:, 0] * (1 + tolerance)
    means = [float(excess @ rng.multinomial(len(known), [1 / len(known)] * len(known))) for _ in range(1000)]
    dearer = float(np.percentile(means, 100 * ALPHA)) > 0
    note = f"{len(known)} rows with a cost in both; {tolerance:.0%} more is allowed"
    if dearer and gained:
        note += "; dearer, but more accurate"
    return Compared(name, before, after, dearer and not gained, len(known), note)


def _errors(a: Mapping[str, Any], b: Mapping[str, Any]) -> Compared:
    first, second = (of["errors"] / max(of["n"], 1) for of in (a, b))
    note = f"share of rows without an answer; {MORE_ERRORS:.0%} more is allowed"
    return Compared("errors", first, second, second > first + MORE_ERRORS, None, note)


# --- routing --------------------------------------------------------------------------------------------------


def _routing(a: Mapping[str, Any], b: Mapping[str, Any], tolerance: float) -> list[Compared]:
    found = _routed("", a, b, tolerance)
    if "many_models" in a:
        routers = [of.get("many_models", {}).get("routers", {}).get("router", {}) for of in (a, b)]
        found.append(_by_intervals("AIQ over many models", "aiq", routers[0], routers[1], tolerance))
    for subset, of in a.get("by_subset", {}).items():
        other = b.get("by_subset", {}).get(subset)
        if other is None:
            name, note = f"APGR of {subset}", "the second run has no such subset"
            found.append(Compared(name, of["apgr"], None, True, None, note))
        else:
            found += _routed(f" of {subset}", of, other, tolerance)
    return found


def _routed(part: str, a: Mapping[str, Any], b: Mapping[str, Any], tolerance: float) -> list[Compared]:
    return [
        _by_intervals(f"APGR{part}", "apgr", a, b, tolerance),
        _calibration(f"calibration error{part}", a, b, tolerance),
    ]


def _calibration(name: str, a: Mapping[str, Any], b: Mapping[str, Any], tolerance: float) -> Compared:
    first, second = (of.get("expected_calibration_error") for of in (a, b))
    if first is None or second is None:
        return Compared(name, first, second, first is not None, None, "there is no figure to compare")
    # The standard error of a share of n rows is at most this.
    noise = 0.5 / math.sqrt(max(b.get("n") or 1, 1))
    allowed = max(tolerance, CALIBRATION_NOISE, noise)
    return Compared(name, first, second, second > first + allowed, None, f"{allowed:.3g} more is allowed")


def _by_intervals(
    name: str, key: str, a: Mapping[str, Any], b: Mapping[str, Any], tolerance: float
) -> Compared:
    first, second = a.get(key), b.get(key)
    if first is None or second is None:
        # A figure that was there and is gone is worse: a gate must not pass what it cannot see.
        return Compared(name, first, second, first is not None, None, "there is no figure to compare")
    spans: Sequence[Sequence[float] | None] = [of.get(f"{key}_95") for of in (a, b)]
    noise = math.hypot(*((span[1] - span[0]) / 2 for span in spans if span))
    note = f"beyond noise of {noise:.3f}" + (f" and a tolerance of {tolerance:g}" if tolerance else "")
    return Compared(name, first, second, second < first - noise - tolerance, None, note)
