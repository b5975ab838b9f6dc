"""A gambler's wealth against a null hypothesis: the evidence of a test that may be read after every observation."""

from __future__ import annotations

import math
from collections.abc import Sequence

# Wealth is not let grow over this: it is evidence beyond doubt, and more would become infinite.
_MOST = 1e200


class Wealth:
    """The wealth of several bets that begin at every point in time.

    Each bet multiplies what was put on it by a factor whose expected value under the null hypothesis, given the past,
    is at most 1. The total starts at 1 and is then a non-negative supermartingale, so that by Ville's inequality
    P(it ever reaches 1/alpha) <= alpha, however long one watches.

    A bet that lost during a long calm would need long to recover, and a late change would be found late. Therefore not
    all is put on the bets at once: after n observations 1/(1 + log(1 + n)) of the start is still held back, and what is
    freed is shared out anew. It is the Shiryaev-Roberts sum over possible times of the change, with weights that add up
    to 1: a change after n observations costs about log n of evidence more than one at the start, and (as the plain
    Shiryaev-Roberts and CUSUM procedures do not) the bound on false alarms holds for ever. See Shin, Ramdas and
    Rinaldo, "E-detectors: a nonparametric framework for sequential change detection" (2024), for those.

    Args:
        bets: How many factors each observation has.

    Attributes:
        n: Observations so far.
    """

    __slots__ = ("_bets", "_reserve", "n")

    def __init__(self, bets: int) -> None:
        self.n = 0
        self._bets = [0.0] * bets
        self._reserve = 1.0

    def multiply(self, factors: Sequence[float]) -> None:
        """Settle one observation: a factor of each bet, none negative."""
        self.n += 1
        reserve = 1.0 / (1.0 + math.log1p(self.n))
        fresh = (self._reserve - reserve) / len(self._bets)
        self._reserve = reserve
        self._bets = [
            min((held + fresh) * factor, _MOST) for held, factor in zip(self._bets, factors, strict=True)
        ]

    @property
    def log(self) -> float:
        """The natural logarithm of the total."""
        return math.log(self._reserve + math.fsum(self._bets))
