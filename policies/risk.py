"""The risk budget: from measured outcomes to the thresholds of a three-zone rule, by a finite-sample method.

The rule looks at the gap, P(baseline right) - P(local right), as scored before anything is answered:

* `gap <= max_gap`: the local model answers, and its answer stands (route);
* `max_gap < gap <= cascade_gap`: the local model answers first; its answer is kept where it was at least
  `min_confidence` sure of it, else the baseline answers too and both are paid (cascade);
* otherwise the baseline alone answers.

The loss of a request is the baseline's success minus that of the answer which was given, in [-1, 1]: gains count.
Thresholds are chosen by Learn-then-Test (Angelopoulos et al., arXiv 2110.01052): settings stand in chains, fixed ahead,
from "all to the baseline" to liberal; along each chain the hypothesis "the expected loss is over the budget" is tested
in turn until one is not rejected, and the chains share the error probability. The test is a bet against the hypothesis
(Waudby-Smith & Ramdas, arXiv 2010.09686): valid for any number of rows, and the tighter the less losses vary.
See docs/risk.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]
BoolArray = npt.NDArray[np.bool_]

# The settings do not depend on the rows: a grid that did would be chosen by what it is tested on.
GAPS = np.round(np.linspace(-1, 1, 801), 4)
CONFIDENCES = (0.7, 0.85, 0.95)
FALLING_CONFIDENCES = np.round(np.linspace(1, 0, 201), 3)

# A stake of 1 would be ruined by one row whose loss is 1, at a budget of 0.
LARGEST_STAKE = 0.9
# What the variance of losses counts as before the first row; weighs as much as one row.
FIRST_VARIANCE = 0.02
# Settings tested at a time: a chain is mostly left early.
BLOCK = 32
_SAVES_NOTHING = "the settings that keep the budget save nothing"


@dataclass(frozen=True, slots=True, eq=False)
class CalibrationRows:
    """Requests with known outcomes, one value a row. They must be exchangeable with the traffic to come.

    Attributes:
        gap: P(baseline right) - P(local right) as scored before answering, in [-1, 1].
        confidence: How sure the local model was of its answer, in [0, 1]; NaN where it tells none.
        local: The local answer's success, in [0, 1].
        baseline: The baseline answer's.
        local_usd: What asking the local model costs; at least 0, in any unit.
        baseline_usd: What asking the baseline costs, in the same unit.

    Raises:
        ValueError: Lengths differ, or a value is out of its range.
    """

    gap: FloatArray
    confidence: FloatArray
    local: FloatArray
    baseline: FloatArray
    local_usd: FloatArray
    baseline_usd: FloatArray

    def __post_init__(self) -> None:
        for name, low, high in (
            ("gap", -1.0, 1.0),
            ("confidence", 0.0, 1.0),
            ("local", 0.0, 1.0),
            ("baseline", 0.0, 1.0),
            ("local_usd", 0.0, math.inf),
            ("baseline_usd", 0.0, math.inf),
        ):
            values = getattr(self, name)
            if values.shape != (len(self.gap),):
                raise ValueError(f"{name}: expected {len(self.gap)} values, one a row, not {values.shape}")
            told = values[~np.isnan(values)] if name == "confidence" else values
            if not ((told >= low) & (told <= high) & (told < math.inf)).all():
                upto = f"from {low:g} to {high:g}" if high < math.inf else f"of at least {low:g}"
                raise ValueError(f"{name}: expected numbers {upto}")

    def __len__(self) -> int:
        return len(self.gap)

    def take(self, rows: IntArray) -> CalibrationRows:
        """Return some of the rows, by number."""
        return CalibrationRows(*(getattr(self, field.name)[rows] for field in fields(self)))


@dataclass(frozen=True, slots=True)
class Thresholds:
    """A setting of the rule; `max_gap <= cascade_gap`, and where they are equal there is no cascade."""

    max_gap: float
    cascade_gap: float
    min_confidence: float


@dataclass(frozen=True, slots=True, eq=False)
class Applied:
    """What a setting does to rows, one value a row.

    Attributes:
        loss: Baseline's success minus the given answer's, in [-1, 1].
        usd: What was paid.
        local: Whether the local answer was given.
        escalated: Whether both were asked.
    """

    loss: FloatArray
    usd: FloatArray
    local: BoolArray
    escalated: BoolArray


@dataclass(frozen=True, slots=True)
class RiskControl:
    """The chosen thresholds, and what is known of them from the calibration rows.

    Attributes:
        thresholds: None where no setting is shown to keep the budget: everything goes to the baseline then, and the
            figures below are those of that.
        reason: One sentence: why these, or what is missing.
        budget: The expected loss that may not be exceeded.
        confidence: The probability, over draws of the calibration rows, that it is not.
        n: Calibration rows.
        loss: Mean loss on them; negative where the local model does better.
        deviation: Standard deviation of one row's loss; over m requests the mean varies by `deviation / sqrt(m)`.
        bound: Upper confidence bound of the expected loss at the same error probability as the choice. Never under 0.
        local_share: Share of rows that get the local answer.
        escalated_share: Share of rows where both are asked.
        cost_usd: Mean cost of a request.
        baseline_usd: The same where the baseline answers everything.
        saved_share: 1 - cost_usd / baseline_usd; 0 where the baseline costs nothing.
    """

    thresholds: Thresholds | None
    reason: str
    budget: float
    confidence: float
    n: int
    loss: float
    deviation: float
    bound: float
    local_share: float
    escalated_share: float
    cost_usd: float
    baseline_usd: float
    saved_share: float


@dataclass(frozen=True, slots=True, eq=False)
class _Chain:
    """Settings in the order of testing. What is local under one stays so under all later ones.

    Attributes:
        max_gap: One value a setting, as are the next two.
        cascade_gap: See `Thresholds`.
        min_confidence: See `Thresholds`.
        entry: One value a row: the first setting under which it gets the local answer; the number of settings where
            none does.
    """

    max_gap: FloatArray
    cascade_gap: FloatArray
    min_confidence: FloatArray
    entry: IntArray

    def __getitem__(self, at: int) -> Thresholds:
        return Thresholds(
            float(self.max_gap[at]), float(self.cascade_gap[at]), float(self.min_confidence[at])
        )


def apply(rows: CalibrationRows, thresholds: Thresholds | None) -> Applied:
    """Return what the rule does to rows; None sends all of them to the baseline."""
    nobody = np.zeros(len(rows), bool)
    if thresholds is None:
        return Applied(np.zeros(len(rows)), rows.baseline_usd, nobody, nobody)
    route = rows.gap <= thresholds.max_gap
    cascade = ~route & (rows.gap <= thresholds.cascade_gap)
    # A comparison with NaN is false: where nothing is known of an answer, the baseline is asked.
    kept = cascade & (rows.confidence >= thresholds.min_confidence)
    local = route | kept
    loss = np.where(local, rows.baseline - rows.local, 0.0)
    usd = np.where(route | cascade, rows.local_usd, 0.0) + np.where(local, 0.0, rows.baseline_usd)
    return Applied(loss, usd, local, cascade & ~kept)


def control(rows: CalibrationRows, budget: float, confidence: float = 0.95, *, seed: int = 0) -> RiskControl:
    """Choose the cheapest setting that is shown to keep the expected loss within the budget.

    With probability of at least `confidence`, over draws of the calibration rows, the expected loss of the chosen
    setting on exchangeable traffic is at most `budget`. The rows' order does not matter; the same rows and seed give
    the same answer. 6,000 rows take a fraction of a second.

    Args:
        rows: See there.
        budget: In (0, 1).
        confidence: In (0, 1).
        seed: Of the order in which the rows are bet on.

    Raises:
        ValueError: A number is out of its range.
    """
    if not 0 < budget < 1:
        raise ValueError(f"the budget must lie between 0 and 1, not {budget}")
    if not 0 < confidence < 1:
        raise ValueError(f"the confidence must lie between 0 and 1, not {confidence}")
    rows = _shuffled(rows, seed)
    chains = list(_chains(rows))
    error = (1 - confidence) / len(chains)
    losses = rows.baseline - rows.local
    baseline_usd = float(rows.baseline_usd.mean()) if len(rows) else 0.0
    best, best_usd, refused, kept = None, baseline_usd, [], False
    for chain in chains if len(rows) else ():
        accepted, failed = _walk(chain, losses, budget, error)
        for at in accepted:
            done = apply(rows, chain[at])
            kept = kept or bool(done.local.any())
            usd = float(done.usd.mean())
            if usd < best_usd:
                best, best_usd = chain[at], usd
        if failed is not None:
            refused.append(np.where(chain.entry <= failed, losses, 0.0))
    if best is None:
        reason = _SAVES_NOTHING if kept else _missing(refused, len(rows), budget, error)
    else:
        reason = f"shown to lose at most {budget:g} by {len(rows)} calibration rows"
    return _described(rows, best, reason, (budget, confidence, error))


def upper_bound(losses: FloatArray, error: float) -> float:
    """Return a number that the expected loss is under with probability 1 - error; in [0, 1].

    Args:
        losses: In [-1, 1], independent draws in a random order.
        error: In (0, 1).
    """
    low, high = 0.0, 1.0
    stake = _stakes(losses[np.newaxis], error)
    if _wealth(losses[np.newaxis], stake, low)[0] >= -math.log(error):
        return low
    for _ in range(30):
        middle = (low + high) / 2
        if _wealth(losses[np.newaxis], stake, middle)[0] >= -math.log(error):
            high = middle
        else:
            low = middle
    return high


def _shuffled(rows: CalibrationRows, seed: int) -> CalibrationRows:
    """Sort the rows by their values, so that the order they came in has no say, and shuffle them."""
    order = np.lexsort([getattr(rows, field.name) for field in fields(rows)])
    return rows.take(order[np.random.default_rng(seed).permutation(len(rows))])


def _chains(rows: CalibrationRows) -> Iterator[_Chain]:
    """Yield the chains. Those with a cascade only where the local model tells its confidence."""
    none, count = np.full(len(GAPS), -1.0), len(GAPS)
    by_gap = np.searchsorted(GAPS, rows.gap)
    yield _Chain(GAPS, GAPS, np.ones(count), by_gap)
    if np.isnan(rows.confidence).all():
        return
    for least in CONFIDENCES:
        # First the cascade widens over all gaps, then the route does within it.
        sure = rows.confidence >= least
        yield _Chain(
            np.concatenate((none, GAPS)),
            np.concatenate((GAPS, np.ones(count))),
            np.full(2 * count, least),
            np.where(sure, by_gap, count + by_gap),
        )
    count = len(FALLING_CONFIDENCES)
    falling = np.searchsorted(-FALLING_CONFIDENCES, -np.nan_to_num(rows.confidence, nan=-1.0))
    yield _Chain(np.full(count, -1.0), np.ones(count), FALLING_CONFIDENCES, falling)


def _walk(chain: _Chain, losses: FloatArray, budget: float, error: float) -> tuple[list[int], int | None]:
    """Return the accepted settings of a chain, and the first that is not (None where all are).

    Of neighbours that treat the rows alike only the first is tested: the others' tests would be the same.
    """
    # The first of all is tested too, though no row may fall under it: a chain must be walked from its beginning.
    settings = np.union1d([0], chain.entry[chain.entry < len(chain.max_gap)])
    accepted: list[int] = []
    for start in range(0, len(settings), BLOCK):
        block = settings[start : start + BLOCK]
        applied = np.where(chain.entry <= block[:, np.newaxis], losses, 0.0)
        passed = _wealth(applied, _stakes(applied, error), budget) >= -math.log(error)
        if not passed.all():
            first = int(np.argmin(passed))
            return accepted + block[:first].tolist(), int(block[first])
        accepted += block.tolist()
    return accepted, None


def _stakes(losses: FloatArray, error: float) -> FloatArray:
    """Return the stake on each row from the rows before it: sqrt(2 ln(1/error) / (n variance)), as WSR have it.

    Args:
        losses: Shape (settings, rows).
    """
    n = losses.shape[1]
    before = np.arange(n)
    total = np.cumsum(losses, axis=1) - losses
    squares = np.cumsum(losses * losses, axis=1) - losses * losses
    variance = (FIRST_VARIANCE + squares - total * total / np.maximum(before, 1)) / (before + 1)
    stakes: FloatArray = np.minimum(
        np.sqrt(-2 * math.log(error) / (n * np.maximum(variance, 1e-12))), LARGEST_STAKE
    )
    return stakes


def _wealth(losses: FloatArray, stakes: FloatArray, budget: float) -> FloatArray:
    """Return, for each setting, the logarithm of what is left of 1 after betting on every row.

    Where the expected loss is over the budget, no bet has a positive expectation: by Markov's inequality, 1 grows to
    1/error with a probability of at most `error`.
    """
    wealth: FloatArray = np.log1p(stakes * (budget - losses)).sum(axis=1)
    return wealth


def _missing(refused: list[FloatArray], n: int, budget: float, error: float) -> str:
    """Say why no setting is taken; where more rows may show that one keeps the budget, about how many.

    With the best fixed stake, wealth grows by `rate` a row; ln(1/error) of it is needed.

    Args:
        refused: The losses under the first setting of each chain that was not shown to keep the budget.
        n: Calibration rows.
        budget: See `control`.
        error: Of one chain.
    """
    if not n:
        return "there are no calibration rows"
    if not refused:
        return _SAVES_NOTHING
    stakes = np.linspace(0.02, LARGEST_STAKE, 45)[:, np.newaxis]
    rate = max(float(np.log1p(stakes * (budget - losses)).mean(axis=1).max()) for losses in refused)
    if rate <= 0:
        return f"the local model loses more than {budget:g} even where it is most likely to be right"
    # The estimate is of a test that knew the best stake ahead; the real one needs a little more.
    needed = max(math.ceil(-math.log(error) / rate), math.ceil(1.1 * n))
    return f"{n} calibration rows are too few to show it: needs about {needed - n} more"


def _described(
    rows: CalibrationRows, best: Thresholds | None, reason: str, asked: tuple[float, float, float]
) -> RiskControl:
    budget, confidence, error = asked
    done = apply(rows, best)
    baseline_usd = float(rows.baseline_usd.mean()) if len(rows) else 0.0
    cost_usd = float(done.usd.mean()) if len(rows) else 0.0
    return RiskControl(
        thresholds=best,
        reason=reason,
        budget=budget,
        confidence=confidence,
        n=len(rows),
        loss=float(done.loss.mean()) if len(rows) else 0.0,
        deviation=float(done.loss.std()) if len(rows) else 0.0,
        bound=0.0 if best is None else upper_bound(done.loss, error),
        local_share=float(done.local.mean()) if len(rows) else 0.0,
        escalated_share=float(done.escalated.mean()) if len(rows) else 0.0,
        cost_usd=cost_usd,
        baseline_usd=baseline_usd,
        saved_share=1 - cost_usd / baseline_usd if baseline_usd else 0.0,
    )
