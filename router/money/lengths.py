"""How long a model's answers are, learned from those it gave: under the caller's limit, and beside another's answer."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field

# An average over about so many of the latest answers; a first guess counts as one of them (as five, it made the first
# thousand predictions of evals/answer_lengths.py a seventh too long).
RECENT, GUESS_COUNTS = 200, 1
# Another model's answer to the same request counts for as much as what is known without it once so many were paired.
PAIRS_COUNT = 10.0
# Answers of about the same length are kept as one: a step is a fifth longer than the last one.
_STEPS = 4
_FORGOTTEN = 1e-6
_LIMITS = 64


@dataclass(slots=True)
class _Bin:
    """Answers of about one length: those that ended, and those that a limit cut; weights, and weighted tokens."""

    ended: float = 0.0
    tokens: float = 0.0
    cut: float = 0.0
    cut_tokens: float = 0.0


class Lengths:
    """The lengths of a model's answers to one kind of task, the latest counting most.

    An answer that the caller's limit cut tells that it would have been longer, not by how much. So the mean under a
    limit is the area under the Kaplan-Meier estimate of the lengths up to it (Kaplan & Meier 1958; "restricted mean",
    Irwin 1949), with the tail closed at the longest answer seen (Efron 1967). Without cut answers that is the plain
    mean of min(length, limit).
    """

    def __init__(self) -> None:
        self.seen = 0.0
        self._guess = float(GUESS_COUNTS)
        self._cut = 0.0
        self._bins: defaultdict[int, _Bin] = defaultdict(_Bin)
        # Means by limit, until the next answer; a policy asks for the same ones again and again.
        self._means: dict[float, float] = {}

    def add(self, tokens: int, limit: int | None = None) -> None:
        """Learn from an answer.

        Args:
            tokens: How long it was.
            limit: The caller's; one that was reached cut the answer.
        """
        if self.seen + self._guess + 1 > RECENT:
            self._fade((RECENT - 1) / (self.seen + self._guess))
        self.seen += 1
        self._means.clear()
        held = self._bins[_bin(tokens)]
        if limit is not None and tokens >= limit:
            held.cut += 1
            held.cut_tokens += tokens
            self._cut += 1
        else:
            held.ended += 1
            held.tokens += tokens

    def expected(self, limit: int | None = None, guess: float | None = None) -> float:
        """Return the mean tokens of an answer that this limit would cut.

        Args:
            limit: The caller's; None: there is none.
            guess: What to expect before any answer was seen; while few were, it counts as one of them. None: it does
                not count.

        Raises:
            ValueError: No answer was seen, and there is no guess.
        """
        most = math.inf if limit is None else float(limit)
        if not self._bins:
            if guess is None:
                raise ValueError("no answer was seen")
            return min(guess, most)
        mean = self._means.get(most)
        if mean is None:
            if len(self._means) >= _LIMITS:
                self._means.clear()
            mean = self._means[most] = self._mean(most)
        if guess is None:
            return mean
        return (self.seen * mean + self._guess * min(guess, most)) / (self.seen + self._guess)

    def _mean(self, most: float) -> float:
        at_risk = math.fsum(held.ended + held.cut for held in self._bins.values())
        if self._cut <= _FORGOTTEN:
            parts = (b.ended * min(b.tokens / b.ended, most) for b in self._bins.values() if b.ended > 0)
            return math.fsum(parts) / at_risk
        left, mean, last = 1.0, 0.0, 0.0
        for number in sorted(self._bins):
            held = self._bins[number]
            if held.ended > 0:
                ends = left * min(1.0, held.ended / at_risk)
                mean += ends * min(held.tokens / held.ended, most)
                left -= ends
            at_risk = max(at_risk - held.ended - held.cut, _FORGOTTEN)
            last = (held.tokens + held.cut_tokens) / (held.ended + held.cut)
        return mean + max(left, 0.0) * min(last, most)

    def _fade(self, factor: float) -> None:
        self.seen *= factor
        self._guess *= factor
        self._cut *= factor
        for number, held in list(self._bins.items()):
            held.ended *= factor
            held.tokens *= factor
            held.cut *= factor
            held.cut_tokens *= factor
            if held.ended + held.cut < _FORGOTTEN:
                del self._bins[number]


def _bin(tokens: float) -> int:
    return round(math.log2(max(tokens, 0) + 1) * _STEPS)


@dataclass(slots=True)
class Pairs:
    """Two models' answers to the same requests: how long one's is where the other's is known.

    A least-squares line through the pairs, whose slope and height are drawn towards what is known without them while
    pairs are few. With its intercept the line's errors sum to about 0, so a bill made of its predictions is about
    unbiased, whatever the shape of the truth. It is not followed beyond the longest answer that was paired: those that
    can be compared are the short ones.
    """

    _count: float = 0.0
    _x: float = 0.0
    _y: float = 0.0
    _xx: float = 0.0
    _xy: float = 0.0
    _longest: int = field(default=0)

    def add(self, others: int, own: int) -> None:
        """Learn from a pair: tokens of the other's answer, and of its own."""
        if self._count + 1 > RECENT:
            factor = (RECENT - 1) / self._count
            self._count, self._x, self._y = self._count * factor, self._x * factor, self._y * factor
            self._xx, self._xy = self._xx * factor, self._xy * factor
        self._count += 1
        self._x += others
        self._y += own
        self._xx += others * others
        self._xy += others * own
        self._longest = max(self._longest, others)

    def expected(self, others: int, without: float) -> float:
        """Return the mean tokens of its own answer.

        Args:
            others: Tokens of the other's.
            without: The mean that is known without it.
        """
        if not self._count or others > self._longest:
            return without
        trust = self._count / (self._count + PAIRS_COUNT)
        mean_x, mean_y = self._x / self._count, self._y / self._count
        spread = self._xx - self._count * mean_x * mean_x
        slope = (self._xy - self._count * mean_x * mean_y) / spread if spread > _FORGOTTEN else 0.0
        line = mean_y + trust * slope * (others - mean_x)
        return max(1.0, trust * line + (1 - trust) * without)
