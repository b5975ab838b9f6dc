"""How sure the model was of what it wrote, on the tokens that matter."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Confidence:
    """How sure a local model was of a reply, or of what there is of it so far.

    Counted are the tokens that the model chose: of words all, of JSON (tool calls, `response_format`) those with a
    letter or digit, so names and values and not the brackets around them.

    Attributes:
        mean_logprob: Mean natural log of their probabilities.
        min_logprob: The least one.
        min_margin: The least lead over the next best token, in logits; negative where the model wanted another token
            that the constraint forbade.
        tokens: How many were counted.
    """

    mean_logprob: float
    min_logprob: float
    min_margin: float
    tokens: int

    @property
    def value(self) -> float:
        """One figure in 0..1 to hold against a threshold: the geometric mean of the tokens' probabilities."""
        return math.exp(self.mean_logprob)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields."""
        return {
            "mean_logprob": self.mean_logprob,
            "min_logprob": self.min_logprob,
            "min_margin": self.min_margin,
            "tokens": self.tokens,
        }


class ConfidenceMeter:
    """Collects a reply's confidence token by token."""

    def __init__(self) -> None:
        self._sum = 0.0
        self._least = 0.0
        self._margin = math.inf
        self._tokens = 0

    def add(self, logprob: float, margin: float) -> None:
        """Take a token's log-probability and margin."""
        self._sum += logprob
        self._least = min(self._least, logprob)
        self._margin = min(self._margin, margin)
        self._tokens += 1

    @property
    def confidence(self) -> Confidence | None:
        """What was collected; None where nothing was the model's choice."""
        if not self._tokens:
            return None
        return Confidence(self._sum / self._tokens, self._least, self._margin, self._tokens)
