"""The studentised bootstrap over clusters, for smooth functions of their sums.

Every estimate here is a function of column sums over clusters (sessions, or hashed groups of them). A resample draws as
many clusters with replacement, so its sums are the columns weighted by how often each was drawn; and with the sums of
the columns' products it has its own standard error, by the delta method. The interval is the estimate less its error
times the tails of (draw - estimate) / error of the draw: Efron & Tibshirani 1993, 12.5; Davison & Hinkley 1997, 5.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

# Clusters beyond so many are added together; an interval needs no more, and takes no longer.
BUCKETS = 1024
_TAIL = 0.025


@dataclass(frozen=True, slots=True)
class Estimates:
    """A statistic on one or many sets of sums: its value, shape (n), and its slopes on the sums, shape (n, columns)."""

    value: Floats
    slopes: Floats


@dataclass(frozen=True, slots=True)
class Moments:
    """Sums of the columns, shape (n, columns), and of the products of each two of them, shape (n, pairs): over the
    clusters themselves (rows), over all of them, or over each resample."""

    sums: Floats
    products: Floats

    @classmethod
    def of(cls, rows: Floats) -> Moments:
        """Return those of clusters, shape (clusters, columns)."""
        first, second = np.triu_indices(rows.shape[1])
        return cls(rows, rows[:, first] * rows[:, second])

    def total(self) -> Moments:
        """Return the sums over all clusters."""
        return Moments(self.sums.sum(axis=0)[None], self.products.sum(axis=0)[None])

    def resampled(self, rng: np.random.Generator, resamples: int) -> Moments:
        """Return the sums over resamples of the clusters."""
        count = len(self.sums)
        drawn = rng.integers(0, count, (resamples, count), dtype=np.int32)
        drawn += (np.arange(resamples, dtype=np.int32) * count)[:, None]
        times = np.bincount(drawn.ravel(), minlength=resamples * count).reshape(resamples, count)
        weights = times.astype(np.float64)
        return Moments(weights @ self.sums, weights @ self.products)

    def spread(self, slopes: Floats) -> Floats:
        """Return the standard error of a statistic with these slopes, shape (n).

        A cluster's influence is slopes . columns (they sum to 0), the error the root of the sum of their squares.
        """
        first, second = np.triu_indices(slopes.shape[1])
        twice = np.where(first == second, 1.0, 2.0)
        squares = (slopes[:, first] * slopes[:, second] * twice * self.products).sum(axis=1)
        return np.asarray(np.sqrt(np.maximum(squares, 0.0)))


def folded(rows: Floats) -> Floats:
    """Return the clusters that hold anything, added up to at most `BUCKETS` of them; in no order of meaning."""
    rows = rows[rows.any(axis=1)]
    if len(rows) <= BUCKETS:
        return rows
    found = np.zeros((BUCKETS, rows.shape[1]))
    np.add.at(found, np.arange(len(rows)) % BUCKETS, rows)
    return found


def studentised(draws: Estimates, drawn: Moments, estimate: Estimates, whole: Moments) -> tuple[float, float]:
    """Return the ends of the interval of 95 %; both are the estimate where clusters do not differ.

    Args:
        draws: The statistic on each resample; draws that are not finite are left out.
        drawn: The resamples.
        estimate: The statistic on all clusters.
        whole: All clusters.
    """
    point, error = float(estimate.value[0]), float(whole.spread(estimate.slopes)[0])
    with np.errstate(divide="ignore", invalid="ignore"):
        away = (draws.value - point) / drawn.spread(draws.slopes)
    away = away[np.isfinite(away)]
    if not len(away) or not error > 0:
        return point, point
    low, high = np.quantile(away, (_TAIL, 1 - _TAIL))
    return point - float(high) * error, point - float(low) * error
