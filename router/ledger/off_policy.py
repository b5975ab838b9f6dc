"""What other policies would have cost, and how good their answers would have been, from requests whose tier was drawn.

Where a policy explores, each request's first tier was drawn with a known probability. Another policy's mean is then
estimated from the requests that happen to have gone its way, each weighted by one over that probability (Horvitz &
Thompson 1952), the weights made to sum to 1 (Hajek 1971). The doubly robust estimate starts from a regression's
prediction for every request and weights only what that missed (Robins, Rotnitzky & Zhao 1994; Dudik, Langford & Li
2011): it is right if either the probabilities or the regression are, and the probabilities here are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from .bootstrap import Estimates, Floats, Moments, folded, studentised

Which = Literal["all_local", "all_cloud", "policy"]

POLICIES: Final[tuple[Which, ...]] = ("all_local", "all_cloud", "policy")
# Under so many requests' worth of weight, or so many sessions, an interval would be made of a few lucky draws: at 65 it
# held the truth in 86 % of simulated ledgers.
LEAST_SIZE: Final = 100.0
LEAST_SESSIONS: Final = 30
_FOLDS = 5
_RIDGE = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class Logged:
    """Requests whose first tier was drawn, with more than one that could have been.

    Attributes:
        local: Whether the local tier was asked first, shape (N), bool.
        propensity: P(the tier that was asked first), in (0, 1), shape (N).
        cost: In US dollars, all attempts; NaN where unknown, shape (N).
        quality: In [0, 1]; NaN where nobody said, shape (N).
        features: What is known before the answer and costs or quality may depend on, such as what the baseline is
            predicted to cost, and the scores; finite, shape (N, D).
        cluster: Which session a request is of, as whole numbers, shape (N).
    """

    local: npt.NDArray[np.bool_]
    propensity: Floats
    cost: Floats
    quality: Floats
    features: Floats
    cluster: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        """Check shapes and values.

        Raises:
            ValueError: Shapes differ, or a probability is not between 0 and 1.
        """
        lengths = {
            len(column)
            for column in (
                self.local,
                self.propensity,
                self.cost,
                self.quality,
                self.features,
                self.cluster,
            )
        }
        if len(lengths) != 1 or self.features.ndim != 2:
            raise ValueError(f"expected one value a request in each column; got lengths {sorted(lengths)}")
        if not ((self.propensity > 0) & (self.propensity < 1)).all():
            raise ValueError("expected probabilities between 0 and 1: leave out what was not drawn by lot")

    def __len__(self) -> int:
        """How many requests."""
        return len(self.local)

    def favoured(self) -> npt.NDArray[np.bool_]:
        """Whether the policy itself would have asked the local tier: of two, chance favours the policy's own."""
        return np.asarray(np.where(self.propensity >= 0.5, self.local, ~self.local))


@dataclass(frozen=True, slots=True)
class Estimate:
    """One mean a request, of one policy.

    Attributes:
        weighted: By inverse propensity, self-normalised; None where no request went the policy's way.
        weighted_low, weighted_high: Interval of 95 %; None where there are too few.
        robust: Doubly robust; None where there are too few for a regression.
        robust_low, robust_high: Interval of 95 %.
        size: Effective sample size, (sum of weights) squared by the sum of their squares (Kish 1965).
        n: Requests of which the value is known.
        note: Empty, or why there is no interval.
    """

    weighted: float | None
    weighted_low: float | None
    weighted_high: float | None
    robust: float | None
    robust_low: float | None
    robust_high: float | None
    size: float
    n: int
    note: str


@dataclass(frozen=True, slots=True)
class OffPolicy:
    """What each policy would have come to, on the requests whose tier was drawn.

    Attributes:
        requests: How many these are.
        explored: Of them, how many chance sent another way than the policy would have.
        cost: Mean US dollars a request.
        quality: Mean in [0, 1], over requests of which it is known.
    """

    requests: int
    explored: int
    cost: Mapping[Which, Estimate]
    quality: Mapping[Which, Estimate]


def off_policy(logged: Logged, *, seed: int = 0, resamples: int = 1000) -> OffPolicy:
    """Estimate the mean cost and quality of asking the local tier first, the cloud, and as the policy says.

    Intervals are by the studentised bootstrap over sessions, the regression held as it is.

    Args:
        logged: The requests.
        seed: Of the resampling.
        resamples: How many.
    """
    return OffPolicy(
        requests=len(logged),
        explored=int((logged.favoured() != logged.local).sum()),
        cost=_estimates(logged, logged.cost, seed, resamples),
        quality=_estimates(logged, logged.quality, seed, resamples),
    )


def _estimates(logged: Logged, outcome: Floats, seed: int, resamples: int) -> dict[Which, Estimate]:
    known = np.isfinite(outcome)
    value, local, features = outcome[known], logged.local[known], logged.features[known]
    _, cluster = np.unique(logged.cluster[known], return_inverse=True)
    would: dict[Which, npt.NDArray[np.bool_]] = {
        "all_local": np.ones(len(value), bool),
        "all_cloud": np.zeros(len(value), bool),
        "policy": logged.favoured()[known],
    }
    fitted = _fitted(value, local, features, cluster)
    return {
        name: _estimate(
            value,
            np.where(would[name] == local, 1 / logged.propensity[known], 0.0),
            None if fitted is None else (fitted, would[name], local),
            cluster,
            np.random.default_rng(seed),
            resamples,
        )
        for name in POLICIES
    }


def _estimate(
    value: Floats,
    weight: Floats,
    regression: tuple[Floats, npt.NDArray[np.bool_], npt.NDArray[np.bool_]] | None,
    cluster: npt.NDArray[np.intp],
    rng: np.random.Generator,
    resamples: int,
) -> Estimate:
    size = float(weight.sum() ** 2 / (weight**2).sum()) if weight.any() else 0.0
    if regression is None:
        start, missed = np.zeros(len(value)), np.zeros(len(value))
    else:
        fitted, would, local = regression
        start = np.where(would, fitted[:, 1], fitted[:, 0])
        missed = weight * (value - np.where(local, fitted[:, 1], fitted[:, 0]))
    count = int(cluster.max()) + 1 if len(cluster) else 0
    parts = (weight * value, weight, start, missed, np.ones(len(value)))
    rows = np.column_stack([np.bincount(cluster, part, count).astype(np.float64) for part in parts])
    whole = Moments.of(folded(rows))
    weighted, robust = _means(whole.total().sums)
    note = _note(size, len(np.unique(cluster[weight > 0])))
    low = high = robust_low = robust_high = None
    if not note:
        drawn = whole.resampled(rng, resamples)
        draws = _means(drawn.sums)
        low, high = studentised(draws[0], drawn, weighted, whole.total())
        robust_low, robust_high = studentised(draws[1], drawn, robust, whole.total())
    robustly = regression is not None and not note
    return Estimate(
        weighted=float(weighted.value[0]) if weight.any() else None,
        weighted_low=low,
        weighted_high=high,
        robust=float(robust.value[0]) if robustly else None,
        robust_low=robust_low if robustly else None,
        robust_high=robust_high if robustly else None,
        size=size,
        n=len(value),
        note=note,
    )


def _means(sums: Floats) -> tuple[Estimates, Estimates]:
    """Return (self-normalised, doubly robust) means of sums of shape (n, 5).

    The correction of the latter is normalised by its weights, too: their sum is the number of requests on average only.
    """
    total, weight, start, missed, n = sums.T
    zero = np.zeros_like(n)
    with np.errstate(divide="ignore", invalid="ignore"):
        weighted, begun, put_right = total / weight, start / n, missed / weight
        slopes = np.stack([1 / weight, -weighted / weight, zero, zero, zero], axis=1)
        robust = np.stack([zero, -put_right / weight, 1 / n, 1 / weight, -begun / n], axis=1)
    return Estimates(weighted, slopes), Estimates(begun + put_right, robust)


def _note(size: float, clusters: int) -> str:
    if size < LEAST_SIZE:
        return f"too few explored requests: they weigh as much as {size:.0f}, and {LEAST_SIZE:.0f} are needed"
    if clusters < LEAST_SESSIONS:
        return f"too few sessions: {clusters}, and {LEAST_SESSIONS} are needed"
    return ""


def _fitted(
    value: Floats, local: npt.NDArray[np.bool_], features: Floats, cluster: npt.NDArray[np.intp]
) -> Floats | None:
    """Return what a linear regression in each tier says of every request, shape (N, 2): cloud, local.

    Sessions are left out of the regression that speaks of them (five folds: Chernozhukov et al. 2018). None where a
    tier has too few requests.
    """
    if min(local.sum(), (~local).sum()) < LEAST_SESSIONS:
        return None
    spread = features.std(axis=0)
    scaled = (features - features.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    x = np.column_stack([np.ones(len(value)), scaled])
    fold = np.random.default_rng(0).integers(0, _FOLDS, int(cluster.max()) + 1)[cluster]
    fitted = np.empty((len(value), 2))
    for number in range(_FOLDS):
        for tier in (0, 1):
            rows = (fold != number) & (local == bool(tier))
            inside = x[rows]
            penalty = _RIDGE * max(len(inside), 1) * np.diag([0.0, *np.ones(x.shape[1] - 1)])
            gram = inside.T @ inside + penalty + 1e-12 * np.eye(x.shape[1])
            slopes = np.linalg.solve(gram, inside.T @ value[rows])
            fitted[fold == number, tier] = x[fold == number] @ slopes
    return fitted
