"""What a risk budget costs and whether it is kept, on rows that its thresholds were not chosen on.

`cross_fitted` is what `smallfirst eval routing` reports: five parts of the file, each tested under thresholds chosen on
the other four. `splits` repeats a random halving, to count how often the tested half loses more than the budget.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from smallfirst.policies.risk import Applied, CalibrationRows, IntArray, apply, control

from .metrics import FloatArray, percentiles

BUDGETS = (0.01, 0.02, 0.05)
# For the picture of budget against cost saved.
SWEPT = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1)
PARTS = 5


def cross_fitted(
    rows: CalibrationRows, budget: float, confidence: float, *, drawn: FloatArray, seed: int = 0
) -> dict[str, Any]:
    """Return what a budget achieves on rows that had no say in the thresholds, and what is chosen on all rows.

    Args:
        rows: At least 2 * PARTS of them, else nothing is tested and the tested figures are None.
        budget: See `policies.risk.control`.
        confidence: See there.
        drawn: From `metrics.draws`, for the interval of the loss.
        seed: Of the parts.

    Returns:
        `budget, confidence`; on all rows `n, thresholds, reason, bound`; tested `loss, loss_95, met, local_share,
        escalated_share, strong_share, quality, cost, baseline_cost, saved_share`. `met` says that the tested loss is
        at most the budget; sending everything to the baseline meets any. `loss_95` covers the sampling of rows.
    """
    whole = control(rows, budget, confidence, seed=seed)
    report: dict[str, Any] = {
        "budget": budget,
        "confidence": confidence,
        "n": whole.n,
        "thresholds": None if whole.thresholds is None else asdict(whole.thresholds),
        "reason": whole.reason,
        "bound": whole.bound,
    }
    tested = _tested(rows, budget, confidence, seed)
    if tested is None:
        missing = (
            "loss",
            "loss_95",
            "met",
            "local_share",
            "escalated_share",
            "strong_share",
            "quality",
            "cost",
        )
        return report | dict.fromkeys((*missing, "baseline_cost", "saved_share"))
    return report | {
        "loss": float(tested.loss.mean()),
        "loss_95": percentiles(drawn @ tested.loss / drawn.sum(axis=1)),
        "met": bool(tested.loss.mean() <= budget),
        **_figures(tested, rows),
    }


def splits(
    rows: CalibrationRows, budget: float, confidence: float, *, count: int, seed: int = 0
) -> dict[str, Any] | None:
    """Choose thresholds on a random half of the rows and test them on the other half, `count` times.

    The promise is about the expected loss; the tested half's mean has noise of its own on top, and as the halves
    complete each other, a half that looks too good leaves one that is worse.

    Returns:
        `count`; `over`, in how many splits the tested loss was over the budget, and `over_share`; `to_baseline`, in
        how many no thresholds were found; means over the splits of `loss, bound, local_share, escalated_share,
        strong_share, quality, cost, baseline_cost, saved_share`, and `loss_max`. None where there are too few rows.
    """
    if len(rows) < 2 or count < 1:
        return None
    found = []
    for calibration, test in _halves(len(rows), count, seed):
        chosen = control(rows.take(calibration), budget, confidence, seed=seed)
        half = rows.take(test)
        done = apply(half, chosen.thresholds)
        loss = float(done.loss.mean())
        found.append({"loss": loss, "bound": chosen.bound, "none": chosen.thresholds is None}
                     | _figures(done, half))  # fmt: skip
    losses = np.array([split["loss"] for split in found])
    over = int((losses > budget).sum())
    means = {name: float(np.mean([split[name] for split in found])) for name in found[0] if name != "none"}
    return {
        "count": count,
        "over": over,
        "over_share": over / count,
        "to_baseline": sum(split["none"] for split in found),
        "loss_max": float(losses.max()),
        **means,
    }


def sweep(
    rows: CalibrationRows, confidence: float, *, budgets: Sequence[float] = SWEPT, seed: int = 0
) -> list[dict[str, Any]]:
    """Return what several budgets achieve, cross-fitted: `budget, loss, saved_share, quality, cost, strong_share`."""
    found = []
    for budget in budgets:
        tested = _tested(rows, budget, confidence, seed)
        if tested is not None:
            found.append({"budget": budget, "loss": float(tested.loss.mean())} | _figures(tested, rows))
    return found


def _tested(rows: CalibrationRows, budget: float, confidence: float, seed: int) -> Applied | None:
    """Apply to each part of the rows the thresholds that were chosen on the others."""
    if len(rows) < 2 * PARTS:
        return None
    order = np.random.default_rng(seed).permutation(len(rows))
    loss, usd = np.zeros(len(rows)), np.zeros(len(rows))
    local, escalated = np.zeros(len(rows), bool), np.zeros(len(rows), bool)
    for part in np.array_split(order, PARTS):
        others = np.setdiff1d(order, part)
        done = apply(rows.take(part), control(rows.take(others), budget, confidence, seed=seed).thresholds)
        loss[part], usd[part], local[part], escalated[part] = done.loss, done.usd, done.local, done.escalated
    return Applied(loss, usd, local, escalated)


def _figures(done: Applied, rows: CalibrationRows) -> dict[str, float]:
    cost, baseline = float(done.usd.mean()), float(rows.baseline_usd.mean())
    return {
        "local_share": float(done.local.mean()),
        "escalated_share": float(done.escalated.mean()),
        "strong_share": float(1 - done.local.mean()),
        "quality": float((rows.baseline - done.loss).mean()),
        "cost": cost,
        "baseline_cost": baseline,
        "saved_share": 1 - cost / baseline if baseline else 0.0,
    }


def _halves(n: int, count: int, seed: int) -> Iterator[tuple[IntArray, IntArray]]:
    rng = np.random.default_rng(seed)
    for _ in range(count):
        order = rng.permutation(n)
        yield order[: n // 2], order[n // 2 :]
