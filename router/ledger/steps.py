"""Sums over time, for charts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

from .reading import Facts, Floats, Ints
from .summary import exact_sums

# Charts have about this many steps.
STEPS = 48
_ROUTES = ("local", "cloud", "cache", "none")


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
class Quality:
    """What answers turned out to be worth, of requests that began in one step of time.

    Attributes:
        feedback: Requests with feedback; `score` is its mean, None without.
        compared: Comparisons with the baseline; `loss` is their mean, None without.
    """

    start: datetime
    feedback: int
    score: float | None
    compared: int
    loss: float | None


def make_steps(facts: Facts) -> tuple[tuple[Step, ...], tuple[Quality, ...]]:
    """Return equal steps of time from the first entry to the last: requests and money, and quality."""
    times = facts.rows["started_at"]
    if not len(times):
        return (), ()
    first, last = float(times.min()), float(times.max())
    width = max(60.0, math.ceil((last - first + 1) / STEPS / 60) * 60.0)
    start = math.floor(first / width) * width
    count = int((last - start) // width) + 1
    starts = [datetime.fromtimestamp(start + at * width, UTC) for at in range(count)]
    step = ((times - start) // width).astype(np.intp)
    outcome_step = np.clip((facts.outcomes.at - start) // width, 0, count - 1).astype(np.intp)
    return _steps(facts, step, starts), _quality(facts, outcome_step, starts)


def _steps(facts: Facts, step: Ints, starts: list[datetime]) -> tuple[Step, ...]:
    count = len(starts)
    # Of our own calls the money counts, and no request.
    route = np.array(
        [_ROUTES.index(label.route) if label.kind == "request" else len(_ROUTES) for label in facts.labels],
        dtype=np.intp,
    )
    cells = (len(_ROUTES) + 1) * count
    requests = np.bincount(route[facts.label] * count + step, None, cells).reshape(-1, count).tolist()
    cost, baseline = facts.rows["cost"], facts.rows["baseline"]
    both = ~(np.isnan(cost) | np.isnan(baseline))
    paid, all_cloud = (_dollars(step, np.where(both, amount, 0.0), count) for amount in (cost, baseline))
    return tuple(
        Step(
            starts[at], paid[at], all_cloud[at], *(requests[route_at][at] for route_at in range(len(_ROUTES)))
        )
        for at in range(count)
    )


def _quality(facts: Facts, step: Ints, starts: list[datetime]) -> tuple[Quality, ...]:
    outcomes, count = facts.outcomes, len(starts)
    rated = outcomes.feedback & ~np.isnan(outcomes.score)
    compared = ~outcomes.feedback & ~np.isnan(outcomes.loss)
    scores, losses = (
        (
            np.bincount(step[where], None, count).tolist(),
            np.bincount(step[where], values[where], count).tolist(),
        )
        for where, values in ((rated, outcomes.score), (compared, outcomes.loss))
    )
    return tuple(
        Quality(start, n, total / n if n else None, m, loss / m if m else None)
        for start, n, total, m, loss in zip(starts, *scores, *losses, strict=True)
    )


def _dollars(step: Ints, amounts: npt.NDArray[np.float64], count: int) -> list[float]:
    whole, rest = exact_sums(step, amounts, count)
    dollars: Floats = whole / 1e9 + rest
    return [float(value) for value in dollars]
