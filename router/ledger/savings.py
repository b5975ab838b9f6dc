"""What was saved against the baseline, with an interval: pure functions of sums over clusters of requests.

A cluster is what hangs together: a session, or a request that has none. Requests of a session resemble one another, so
the bootstrap draws whole clusters (Efron & Tibshirani 1993, chapter 8), not requests. A ledger of millions of requests
is handed over as the sums of 1,024 hashed groups of sessions, which are clusters as well.

With n requests, F the part of the baseline's bill that is known (its own answers, and every prompt), P the part that
rests on predicted answer lengths, and C what was paid, each summed over clusters,

    saved = n (F + r P - C) / n,    r = A / Q

where A and Q are the tokens that the baseline needed and was predicted to need, over requests that it answered itself
after a prediction was made. A resample of the clusters changes all of them at once, n below the fraction included: the
interval is of the saving a request, times the requests that there were.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .bootstrap import Estimates, Floats, Moments, folded, studentised

# Under so many clusters that hold requests, resampling them says nothing that holds.
LEAST_CLUSTERS = 10
# Predictions are put right by their errors once so many of the baseline's own answers were predicted.
LEAST_CHECKED = 30
_COLUMNS = ("requests", "cost", "baseline", "predicted", "actual_tokens", "predicted_tokens")


@dataclass(frozen=True, slots=True, eq=False)
class ClusterSums:
    """Sums over the requests of each cluster; only requests whose cost and baseline cost are both known.

    Attributes:
        requests: How many, shape (C); of our own calls (comparisons, refreshes) the cost counts, and no request.
        cost: What was paid, in US dollars, shape (C).
        baseline: What the baseline would have cost, in US dollars, shape (C).
        predicted: The part of `baseline` that is the price of predicted output tokens, in US dollars, shape (C).
        actual_tokens, predicted_tokens: Output tokens of the baseline's own answers, as they were and as they had been
            predicted, shape (C).
        checked: How many answers these are of.
        unknown: Requests that are in no sum, because one of their costs is not known.
    """

    requests: Floats
    cost: Floats
    baseline: Floats
    predicted: Floats
    actual_tokens: Floats
    predicted_tokens: Floats
    checked: int = 0
    unknown: int = 0

    def __post_init__(self) -> None:
        """Check the shapes and values.

        Raises:
            ValueError: They differ, or a value is not finite.
        """
        shapes = {np.shape(getattr(self, name)) for name in _COLUMNS}
        if len(shapes) != 1 or len(next(iter(shapes))) != 1:
            raise ValueError(f"expected one value a cluster in each column; got shapes {sorted(shapes)}")
        if not all(np.isfinite(getattr(self, name)).all() for name in _COLUMNS):
            raise ValueError("sums must be finite: leave out requests whose cost is unknown")

    def table(self) -> Floats:
        """Return the clusters that hold anything, added up to at most 1,024 of them, shape (C, 6)."""
        rows = np.column_stack([np.asarray(getattr(self, name), np.float64) for name in _COLUMNS])
        return folded(rows)


@dataclass(frozen=True, slots=True)
class Savings:
    """What was saved against the baseline. Money in US dollars.

    Attributes:
        point: The baseline's bill less what was paid, predictions put right by `correction`.
        low, high: Interval of 95 %; None where there are too few clusters to tell.
        share: `point` as a share of the baseline's bill; None where that is 0.
        share_low, share_high: Interval of 95 % of the share.
        method: How the interval came about, in words.
        unknown: Requests that are in none of these, as one of their costs is not known.
        predicted_share: The part of the baseline's bill that rests on predicted answer lengths, in [0, 1].
        booked: The same difference as the ledger has it, without the correction.
        correction: Tokens that the baseline needed by those predicted, where it answered itself; 1 where too few tell.
        checked: Of how many answers.
        clusters: How many were drawn from.
    """

    point: float
    low: float | None
    high: float | None
    share: float | None
    share_low: float | None
    share_high: float | None
    method: str
    unknown: int
    predicted_share: float
    booked: float
    correction: float
    checked: int
    clusters: int


def savings(clusters: ClusterSums, *, seed: int = 0, resamples: int = 2000) -> Savings:
    """Return what was saved, with an interval by the studentised bootstrap over clusters.

    Bills have long tails. Of plain percentiles, BCa and bootstrap-t (Efron & Tibshirani 1993, 12.5; Davison & Hinkley
    1997, 5.2), the last one holds the truth most nearly as often as it says where clusters are few: see
    docs/savings.md for the figures.

    Args:
        clusters: What was summed up.
        seed: Of the resampling: the same ledger gives the same interval.
        resamples: How many.

    Raises:
        ValueError: `resamples` is under 100: its tails would be single draws.
    """
    if resamples < 100:
        raise ValueError("fewer than 100 resamples tell nothing of the tails of an interval")
    rows = clusters.table()
    total = rows.sum(axis=0)
    correct = clusters.checked >= LEAST_CHECKED and total[5] > 0
    requests = float(total[0])
    saved, share = _estimates(total[None], correct=correct)
    point = float(saved.value[0] * requests) if requests else float(total[2] - total[1])
    low = high = share_low = share_high = None
    if len(rows) >= LEAST_CLUSTERS and requests:
        drawn = Moments.of(rows).resampled(np.random.default_rng(seed), resamples)
        draws = _estimates(drawn.sums, correct=correct)
        whole = Moments.of(rows).total()
        low, high = (requests * end for end in studentised(draws[0], drawn, saved, whole))
        if total[2] > 0:
            share_low, share_high = studentised(draws[1], drawn, share, whole)
    ratio = float(total[4] / total[5]) if correct else 1.0
    bill = float(total[2] + (ratio - 1) * total[3])
    return Savings(
        point=point,
        low=low,
        high=high,
        share=point / bill if bill > 0 else None,
        share_low=share_low,
        share_high=share_high,
        method=_method(low is not None, len(rows), ratio if correct else None, clusters.checked),
        unknown=clusters.unknown,
        predicted_share=ratio * float(total[3]) / bill if bill > 0 else 0.0,
        booked=float(total[2] - total[1]),
        correction=ratio,
        checked=clusters.checked,
        clusters=len(rows),
    )


def _estimates(sums: Floats, *, correct: bool) -> tuple[Estimates, Estimates]:
    """Return what was saved a request, and the share saved, of sums of shape (n, 6); not finite where undefined."""
    n, cost, baseline, predicted, actual, guessed = sums.T
    zero = np.zeros_like(n)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = actual / guessed if correct else zero + 1
        # How the bill moves with the tokens that predictions are checked by.
        lever = predicted / guessed if correct else zero
        bill = baseline + (ratio - 1) * predicted
        of_bill = np.stack([zero, zero, zero + 1, ratio - 1, lever, -lever * ratio], axis=1)
        of_cost = np.stack([zero, zero + 1, zero, zero, zero, zero], axis=1)
        of_n = np.stack([zero + 1, zero, zero, zero, zero, zero], axis=1)
        each = (bill - cost) / n
        share = (bill - cost) / bill
        saved_slopes = (of_bill - of_cost - each[:, None] * of_n) / n[:, None]
        share_slopes = ((1 - share)[:, None] * of_bill - of_cost) / bill[:, None]
    return Estimates(each, saved_slopes), Estimates(share, share_slopes)


def _method(known: bool, clusters: int, ratio: float | None, checked: int) -> str:
    if not known:
        interval = f"no interval: {clusters} sessions are too few (at least {LEAST_CLUSTERS})"
    else:
        interval = f"95 % interval by studentised bootstrap over {clusters:,} groups of sessions"
    if ratio is None:
        return f"{interval}; predicted answer lengths as they are ({checked} could be checked)"
    return (
        f"{interval}; predicted answer lengths times {ratio:.3f}, from {checked:,} that the baseline answered"
    )
