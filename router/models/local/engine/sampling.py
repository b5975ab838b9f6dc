"""From what the model predicts to the next token, with how sure it was."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
IdArray = npt.NDArray[np.int64]

# A token less likely than this share of the likeliest one is never drawn: a small model's tail is noise.
# llama.cpp's own default.
_MIN_SHARE = 0.05

# Under this temperature only the likeliest token is left, and dividing by it overflows.
_COLD = 1e-6


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are chosen, in OpenAI's terms.

    Attributes:
        temperature: 0 takes the likeliest token each time.
        seed: Of the draws; None draws anew each time.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token.

    Attributes:
        logprob: Natural log of its probability before any constraint; 0 where the model was not asked.
        margin: Its logit less the best other one's: negative where the constraint overruled the model.
        top: Likely alternatives as (token, logprob), likeliest first.
        watched: Natural log of the probability that the watched tokens had together; None where none were watched.
        forced: Whether the constraint left no other choice: no sign of what the model wanted.
    """

    id: int
    logprob: float = 0.0
    margin: float = 0.0
    top: tuple[tuple[int, float], ...] = ()
    watched: float | None = None
    forced: bool = False


class Sampler:
    """Chooses the tokens of one reply.

    Args:
        params: How.
        n_vocab: Tokens in the vocabulary.
    """

    def __init__(self, params: SamplingParams, n_vocab: int) -> None:
        self._params = params
        self._random = np.random.default_rng(None if params.seed is None else params.seed % 2**64)
        self._seen: Counter[int] = Counter()
        self._scratch = np.empty(n_vocab, np.float32)

    def choose(self, logits: FloatArray) -> int:
        """Return the next token's id, of logits of shape (n_vocab,), where forbidden ones are -inf."""
        if self._seen and (self._params.frequency_penalty or self._params.presence_penalty):
            logits = self._penalised(logits)
        if self._params.temperature < _COLD:
            return int(logits.argmax())
        return self._draw(logits)

    def accept(self, token: int) -> None:
        """Take note of a token that was chosen."""
        self._seen[token] += 1

    def describe(
        self, logits: FloatArray, token: int, *, alternatives: int = 0, watched: IdArray | None = None
    ) -> Token:
        """Return a chosen token with how sure the model was, of logits before the constraint."""
        top_at = int(logits.argmax())
        best = float(logits[top_at])
        np.subtract(logits, best, out=self._scratch)
        np.exp(self._scratch, out=self._scratch)
        log_total = best + math.log(float(self._scratch.sum()))
        own = float(logits[token])
        other = best
        if top_at == token:
            logits[token] = -np.inf
            other = float(logits.max())
            logits[token] = own
        together = None
        if watched is not None:
            # The scratch has the exponentials by now.
            together = best + math.log(max(float(self._scratch[watched].sum()), 1e-30)) - log_total
        return Token(token, own - log_total, own - other, _top(logits, log_total, alternatives), together)

    def _penalised(self, logits: FloatArray) -> FloatArray:
        logits = logits.copy()
        for token, count in self._seen.items():
            logits[token] -= count * self._params.frequency_penalty + self._params.presence_penalty
        return logits

    def _draw(self, logits: FloatArray) -> int:
        """Draw from the nucleus: of the likeliest tokens, as few as have `top_p` of the probability."""
        likely = np.flatnonzero(logits >= logits.max() + math.log(_MIN_SHARE))
        likely = likely[np.argsort(logits[likely])[::-1]]
        scaled = logits[likely].astype(np.float64) / self._params.temperature
        weights = np.exp(scaled - scaled[0])
        weights /= weights.sum()
        nucleus = int(np.searchsorted(np.cumsum(weights), self._params.top_p)) + 1
        weights = weights[:nucleus]
        return int(self._random.choice(likely[:nucleus], p=weights / weights.sum()))


def _top(logits: FloatArray, log_total: float, count: int) -> tuple[tuple[int, float], ...]:
    if not count:
        return ()
    count = min(count, logits.size)
    likely = np.argpartition(logits, -count)[-count:]
    likely = likely[np.argsort(logits[likely])[::-1]]
    return tuple((int(token), float(logits[token]) - log_total) for token in likely)
