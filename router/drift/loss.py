"""Is the quality loss within its budget? A betting test over the outcomes of single requests."""

from __future__ import annotations

import math

from .wealth import Wealth

# Shares of the largest stake that cannot lose everything: small ones win where the loss is just over the budget.
_STAKES = (0.9, 0.5, 0.25, 0.12, 0.06, 0.03)


class LossDrift:
    """Tests "the mean quality loss is at most the budget", after every outcome.

    An outcome x (the loss, times the share of traffic that it speaks for) multiplies a bet of stake s by
    1 + s * w * (x - budget): at most 1 on average while the mean of x is at most the budget. The alarm is raised
    where the wealth reaches 1/alpha; P(ever a false one) <= alpha. It stays.
    Source: Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting" (2024), with a mixture of
    fixed stakes in place of adaptive ones; the restarts are those of `Wealth`.

    Outcomes that were sampled with probability p count with w = `least_propensity` / p, and requests that were not
    sampled are left out. That is exact: over the sampling, the expected value of (sampled / p) * (x - budget) is
    x - budget, and a constant before it only changes the stake.

    Args:
        budget: The mean loss that is allowed, in [0, 1].
        alpha: P(a false alarm, ever), in (0, 1).
        least_propensity: The smallest probability with which an outcome is sampled, in (0, 1].
    """

    def __init__(self, *, budget: float, alpha: float, least_propensity: float = 1.0) -> None:
        self.alarm = False
        self._budget = budget
        self._least = least_propensity
        self._enough = -math.log(alpha)
        self._stakes = [stake / (1.0 + budget) for stake in _STAKES]
        self._wealth = Wealth(len(_STAKES))

    @property
    def n(self) -> int:
        """Outcomes so far."""
        return self._wealth.n

    @property
    def evidence(self) -> float:
        """That the loss is over its budget, as the natural logarithm of an e-value; 0 at the start."""
        return self._wealth.log

    def add(self, loss: float, *, share: float = 1.0, propensity: float = 1.0) -> None:
        """Take an outcome.

        Args:
            loss: Quality of the baseline's answer less that of the answer given, in [-1, 1].
            share: Of all requests, those that the outcome stands for, where the others lose nothing: 1 where outcomes
                come from all requests, the local share where they come from local answers only. It must be known before
                the outcome.
            propensity: The probability with which it was sampled, at least `least_propensity`.

        Raises:
            ValueError: A number is outside its range.
        """
        if not -1 <= loss <= 1 or not 0 <= share <= 1 or not self._least <= propensity <= 1:
            raise ValueError(f"loss {loss}, share {share}, propensity {propensity}: one is out of range")
        over = self._least / propensity * (share * loss - self._budget)
        self._wealth.multiply([1.0 + stake * over for stake in self._stakes])
        self.alarm = self.alarm or self.evidence >= self._enough
