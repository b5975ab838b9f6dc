"""Figures of routing quality. Of two models, by RouteLLM (arXiv 2406.18665): PGR, APGR and CPT; of many, AIQ and QNC.

With the share f of requests sent to the strong model, PGR(f) = (quality(f) - weak) / (strong - weak). Requests go in
falling order of the router's score; among equal scores any order is as likely, so that a tie is a straight line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """PGR over the share of requests that go to the strong model: straight lines between the points.

    Attributes:
        share: Rising from 0 to 1.
        recovered: PGR at each share; 0 at the first point, 1 at the last.
    """

    share: FloatArray
    recovered: FloatArray

    @property
    def apgr(self) -> float:
        """Area under the curve: 0.5 for a random router, more is better."""
        return float(np.trapezoid(self.recovered, self.share))

    def cpt(self, part: float) -> float:
        """Return the smallest share of strong calls that recovers this part of the gap."""
        at = int(np.argmax(self.recovered >= part - 1e-12))
        if at == 0:
            return 0.0
        low, high = self.recovered[at - 1], self.recovered[at]
        inside = (part - low) / (high - low)
        return float(self.share[at - 1] + inside * (self.share[at] - self.share[at - 1]))


def curve(score: npt.ArrayLike, weak: npt.ArrayLike, strong: npt.ArrayLike) -> Curve | None:
    """Return the curve of a router, or None where the strong model is no better on these rows: there is no gap then.

    Args:
        score: One a row; higher goes to the strong model first.
        weak: The weak model's success on each row, in [0, 1].
        strong: The strong model's.
    """
    gain = np.asarray(strong, np.float64) - np.asarray(weak, np.float64)
    total = gain.sum()
    if not len(gain) or total <= 0:
        return None
    _, tied, count = np.unique(-np.asarray(score, np.float64), return_inverse=True, return_counts=True)
    recovered = np.cumsum(np.bincount(tied, gain)) / total
    share = np.cumsum(count) / len(gain)
    return Curve(np.concatenate(([0.0], share)), np.concatenate(([0.0], recovered)))


def interval(
    figure: Callable[[npt.NDArray[np.intp]], float | None], n: int, *, samples: int, seed: int
) -> tuple[float, float] | None:
    """Return the 95 % bootstrap interval of a figure over n rows; None where it is never defined.

    Args:
        figure: Takes row numbers, drawn with repetition.
    """
    rng = np.random.default_rng(seed)
    drawn = [value for _ in range(samples) if (value := figure(rng.integers(0, n, n))) is not None]
    if not drawn:
        return None
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)


def expected_calibration_error(p: npt.ArrayLike, actual: npt.ArrayLike, *, bins: int = 10) -> float:
    """Return the mean distance between claimed and actual success, over bins of equal width, weighed by rows."""
    claimed, right = np.asarray(p, np.float64), np.asarray(actual, np.float64)
    at = np.minimum((claimed * bins).astype(int), bins - 1)
    rows = np.bincount(at, minlength=bins)
    gap = np.abs(np.bincount(at, claimed, bins) - np.bincount(at, right, bins))
    return float(gap.sum() / rows.sum())


def draws(n: int, *, samples: int, seed: int) -> FloatArray:
    """Return how often each of n rows is drawn in each bootstrap sample, shape (samples, n).

    The rows are those that `interval` draws from the same seed.
    """
    rng = np.random.default_rng(seed)
    drawn = [np.bincount(rng.integers(0, n, n), minlength=n) for _ in range(samples)]
    return np.array(drawn, np.float64).reshape(samples, n)


def percentiles(values: npt.ArrayLike) -> tuple[float, float] | None:
    """Return the middle 95 % of a figure's bootstrap values; those that are not defined (NaN) are left out."""
    found = np.asarray(values, np.float64)
    found = found[~np.isnan(found)]
    if not len(found):
        return None
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)


def apgr_interval(
    score: npt.ArrayLike, weak: npt.ArrayLike, strong: npt.ArrayLike, drawn: FloatArray
) -> tuple[float, float] | None:
    """Return the 95 % bootstrap interval of APGR, all samples at once; None where it is never defined.

    Args:
        score: As for `curve`, as are the next two.
        weak: See there.
        strong: See there.
        drawn: From `draws`.
    """
    order = np.argsort(-np.asarray(score, np.float64), kind="stable")
    ordered = np.asarray(score, np.float64)[order]
    gain = (np.asarray(strong, np.float64) - np.asarray(weak, np.float64))[order]
    if not len(gain):
        return None
    ends = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)
    weights = drawn[:, order]
    start = np.zeros((len(drawn), 1))
    share = np.hstack((start, np.cumsum(weights, axis=1)[:, ends])) / len(gain)
    recovered = np.hstack((start, np.cumsum(weights * gain, axis=1)[:, ends]))
    total = recovered[:, -1]
    area = np.trapezoid(recovered, share, axis=1)
    return percentiles(np.where(total > 0, area / np.where(total > 0, total, 1), np.nan))


def reliability(p: npt.ArrayLike, actual: npt.ArrayLike, *, bins: int = 10) -> list[tuple[float, float, int]]:
    """Return mean claimed success, mean actual success and rows, for each bin of equal width that has any."""
    claimed, right = np.asarray(p, np.float64), np.asarray(actual, np.float64)
    at = np.minimum((claimed * bins).astype(int), bins - 1)
    rows = np.bincount(at, minlength=bins)
    sums = zip(np.bincount(at, claimed, bins), np.bincount(at, right, bins), rows, strict=True)
    return [(float(c / n), float(r / n), int(n)) for c, r, n in sums if n]


def hull(cost: npt.ArrayLike, quality: npt.ArrayLike) -> FloatArray:
    """Return the upper hull of a router's points, shape (points, 2): rising in cost and quality, ever less steep.

    Any point on it can be had by a random choice between two settings (the non-decreasing convex hull of RouterBench,
    arXiv 2403.12031).

    Args:
        cost: Of at least one setting.
        quality: Of the same settings.
    """
    points = np.column_stack((np.asarray(cost, np.float64), np.asarray(quality, np.float64)))
    kept: list[tuple[float, float]] = []
    for x, y in points[np.lexsort((-points[:, 1], points[:, 0]))].tolist():
        if kept and y <= kept[-1][1]:
            continue
        while len(kept) > 1:
            (ax, ay), (bx, by) = kept[-2:]
            if (by - ay) * (x - ax) > (y - ay) * (bx - ax):
                break
            kept.pop()
        kept.append((x, y))
    return np.array(kept)


def aiq(line: FloatArray, low: float, high: float) -> float:
    """Return the area under a hull over a range of cost, divided by the range: RouterBench's AIQ, a mean quality.

    Over the last point the line goes on level; under the first one, too, as nothing cheaper is known to be worse: give
    hulls that start at the cheapest single model.

    Args:
        line: From `hull`.
        low: Cost of the cheapest single model.
        high: Cost of the dearest one.
    """
    if high <= low:
        return float(line[-1, 1])
    inside = line[(line[:, 0] > low) & (line[:, 0] < high), 0]
    at = np.concatenate(([low], inside, [high]))
    return float(np.trapezoid(np.interp(at, line[:, 0], line[:, 1]), at) / (high - low))


def cost_of_quality(line: FloatArray, wanted: float) -> float | None:
    """Return the least cost at which a hull has this quality; None where it never does.

    For the quality of the most accurate single model, and divided by that model's cost, this is the quality-neutral
    cost, QNC (arXiv 2502.08773).
    """
    reached = np.flatnonzero(line[:, 1] >= wanted - 1e-12)
    if not len(reached):
        return None
    at = int(reached[0])
    if at == 0:
        return float(line[0, 0])
    (ax, ay), (bx, by) = line[at - 1], line[at]
    return float(min(bx, ax + (wanted - ay) / (by - ay) * (bx - ax)))
