"""Is traffic like the calibration data? A conformal test martingale over scores."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .wealth import Wealth

# Scores are told apart to this many steps of their range. It bounds memory and the time of an observation; within a
# step ranks are drawn at random, which keeps the test exact.
BINS = 100

# Slopes of the bets. Each is a density on [0, 1]: it integrates to 1 and is nowhere negative.
_LEVEL = (-1.8, -0.8, 0.8, 1.8)
_SPREAD = (-1.5, 1.5)
_TAIL = (0.25, 0.5)


@dataclass(frozen=True, slots=True)
class Histogram:
    """How often each step of a score's range was seen. Small enough to store, as JSON, with a calibration.

    Attributes:
        low, high: The range; what lies outside counts at its end.
        counts: One a step.

    Raises:
        ValueError: The range is empty, or there are not `BINS` counts.
    """

    low: float
    high: float
    counts: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.low < self.high or len(self.counts) != BINS or min(self.counts) < 0:
            raise ValueError(f"expected {BINS} counts of a range that is not empty")

    @classmethod
    def of(cls, scores: Iterable[float], *, low: float = 0.0, high: float = 1.0) -> Histogram:
        """Count scores.

        Raises:
            ValueError: One of them is not a number.
        """
        counts = [0] * BINS
        for score in scores:
            counts[_step(score, low, high)] += 1
        return cls(low, high, tuple(counts))


@dataclass(frozen=True, slots=True)
class ScoreReference:
    """The scores of the calibration data, as `DriftMonitor` compares them.

    Attributes:
        difficulty: Of the rows that are like something measured.
        gap: P(baseline is right) - P(the best local model is right) of the same rows, in [-1, 1].
        unknown: 1 for each row that is unlike everything measured, 0 for the others.
    """

    difficulty: Histogram
    gap: Histogram
    unknown: Histogram

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, float | bool]]) -> ScoreReference:
        """Count calibration rows.

        Args:
            rows: Each with `difficulty`, `gap` and `known`.
        """
        held = list(rows)
        known = [row for row in held if row["known"]]
        return cls(
            Histogram.of(row["difficulty"] for row in known),
            Histogram.of((row["gap"] for row in known), low=-1.0),
            Histogram.of(float(not row["known"]) for row in held),
        )


class ScoreDrift:
    """Tests whether scores are exchangeable with those of the calibration data, after every one of them.

    Each new score gets its rank among all scores so far (calibration and traffic), drawn at random among equals: a
    conformal p-value. While old and new are exchangeable, p-values are independent and uniform, and no betting on them
    gains. Bets are on a shift either way, on scores that spread or draw together, and on more high ones.
    The alarm is raised where the wealth reaches 1/alpha; P(ever a false one) <= alpha. It stays.
    Source: Vovk, Petej, Nouretdinov, Ahlberg, Carlsson and Gammerman, "Retrain or not retrain: conformal test
    martingales for change-point detection" (2021); the restarts are those of `Wealth`.

    The time of an observation and the memory are bounded, whatever the number of scores.

    Args:
        alpha: P(a false alarm, ever), in (0, 1).
        reference: The calibration data's scores. Without them the test finds changes within traffic only, and a change
            among the first scores hardly.
        low, high: The scores' range where there is no reference.
        seed: Of the draws among equals.
    """

    def __init__(
        self,
        *,
        alpha: float,
        reference: Histogram | None = None,
        low: float = 0.0,
        high: float = 1.0,
        seed: int = 0,
    ) -> None:
        start = reference or Histogram.of((), low=low, high=high)
        self.alarm = False
        self._low, self._high = start.low, start.high
        self._counts = list(start.counts)
        self._total = sum(start.counts)
        self._random = random.Random(seed)
        self._wealth = Wealth(len(_LEVEL) + len(_SPREAD) + len(_TAIL))
        self._enough = -math.log(alpha)

    @property
    def n(self) -> int:
        """Scores of traffic so far."""
        return self._wealth.n

    @property
    def evidence(self) -> float:
        """Against exchangeability, as the natural logarithm of an e-value; 0 at the start."""
        return self._wealth.log

    def add(self, score: float) -> None:
        """Take the next score.

        Raises:
            ValueError: It is not a number.
        """
        at = _step(score, self._low, self._high)
        self._counts[at] += 1
        self._total += 1
        above = sum(self._counts[at + 1 :])
        # In (0, 1]: 0 would be outside the tail's density.
        drawn = 1.0 - self._random.random()
        self._wealth.multiply(_bets((above + drawn * self._counts[at]) / self._total))
        self.alarm = self.alarm or self.evidence >= self._enough


def _bets(p: float) -> list[float]:
    """The densities of all bets at a p-value in (0, 1]; small ones stand for high scores."""
    level, spread, tail = p - 0.5, abs(2 * p - 1) - 0.5, 0.5 / math.sqrt(p)
    return [
        *(1 + slope * level for slope in _LEVEL),
        *(1 + slope * spread for slope in _SPREAD),
        *(1 - share + share * tail for share in _TAIL),
    ]


def _step(score: float, low: float, high: float) -> int:
    if math.isnan(score):
        raise ValueError("a score must be a number")
    return min(max(int((score - low) / (high - low) * BINS), 0), BINS - 1)
