"""Words or a call: what a model that may do either means to do (`tool_choice: auto`).

A small model's own first token is a poor answer to that: many write a call in a form of their own (a fenced block of
JSON), and call whatever function is there. Two signs tell more: how much probability the first token gives to all the
ways in which a call may begin, and how likely the model finds the name of the function that it would call.
"""

from __future__ import annotations

import math
from typing import Literal

from .engine import NativeModel, Token

# How calls begin, in the forms that models were trained on.
_OPENINGS = ("<tool", "<func", "```", "{", "[")
# P(a call is right) as a logistic function of the two signs; fitted on BFCL's rows with Qwen2.5-Coder-0.5B, out of
# fold (docs/local.md has the figures): intercept, logit of the openings' share, mean log-probability of the name.
_WEIGHTS = (-0.59, 0.92, 4.47)
# With less than this share for all openings together, words are meant.
_LEAST_SHARE = 0.02

# So many likely first tokens are looked at.
LOOKED_AT = 20

Verdict = Literal["words", "call", "undecided"]


class CallDecision:
    """Follows the first tokens of an answer until it is clear what it shall be.

    Args:
        model: For the tokens' text.
    """

    def __init__(self, model: NativeModel) -> None:
        self._model = model
        self._share: float | None = None
        self._text = ""
        self._name: list[float] = []

    def first(self, token: Token) -> Verdict:
        """Look at the first token, chosen freely; `undecided` asks for a call to be begun, and shown to `feed`."""
        self._share = math.fsum(
            math.exp(logprob)
            for other, logprob in token.top
            if self._piece(other).lstrip().startswith(_OPENINGS)
        )
        return "words" if self._share < _LEAST_SHARE else "undecided"

    def feed(self, token: Token) -> Verdict:
        """Look at the next token of a call."""
        assert self._share is not None, "the first token comes first"
        before = self._name_so_far()
        self._text += self._piece(token.id)
        after = self._name_so_far()
        if after is None or before == after:
            return "undecided"
        self._name.append(token.logprob)
        if not after.endswith('"'):
            return "undecided"
        return "call" if self.probability >= 0.5 else "words"

    @property
    def probability(self) -> float:
        """P(a call is right), of what was seen."""
        share = min(max(self._share or 0.0, 1e-6), 1 - 1e-6)
        mean = math.fsum(self._name) / len(self._name) if self._name else 0.0
        intercept, by_share, by_name = _WEIGHTS
        logit = intercept + by_share * math.log(share / (1 - share)) + by_name * mean
        return 1 / (1 + math.exp(-logit))

    def _name_so_far(self) -> str | None:
        """Return what there is of the function's name, its closing quote included."""
        _, found, rest = self._text.partition('"name": "')
        if not found:
            return None
        name, closed, _ = rest.partition('"')
        return name + closed

    def _piece(self, token: int) -> str:
        return self._model.piece(token).decode(errors="replace")
