"""Figures of routing quality. The definitions are RouteLLM's (arXiv 2406.18665): PGR, APGR and CPT.

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
