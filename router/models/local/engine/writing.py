"""From what the model predicts to the reply: the next token, what must follow it, and whether that is the end."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ....errors import ModelError
from .grammar import Matcher
from .native import NativeModel
from .sampling import FloatArray, Token
from .sequence import End, Job, Sequence, Turn


class Writer:
    """Adds tokens to replies, as model, constraint and sink want. It says where one ends; the engine ends it.

    Args:
        model: The engine's.

    Attributes:
        made: Tokens of all replies so far.
    """

    def __init__(self, model: NativeModel) -> None:
        self._model = model
        self.made = 0

    def go_on(self, sequence: Sequence, job: Job, logits: FloatArray) -> End | None:
        """Choose the next token, of logits of shape (n_vocab,); returns the end if it is reached.

        Raises:
            ModelError: The constraint allows no token.
            GrammarError: The constraint became too complex to follow.
        """
        matcher = sequence.matcher
        forced = matcher.forced() if matcher is not None and not sequence.sink.forcing else []
        chosen = forced[0] if forced else sequence.sampler.choose(logits)
        if matcher is not None and not matcher.allows(chosen):
            chosen = sequence.sampler.choose(_masked(logits, matcher))
        token = _described(sequence, logits, chosen)
        if forced:
            token = replace(token, forced=True)
        if chosen in self._model.end_tokens:
            further = None if sequence.sink.may_end(token) else self._choose_further(sequence, logits)
            if further is None:
                return End("stop", sequence.cached)
            token = _described(sequence, logits, further)
        return self._append(sequence, job, token) or self.go_forced(sequence, job)

    def go_forced(self, sequence: Sequence, job: Job) -> End | None:
        """Append what the constraint allows alone: these tokens cost no step of their own.

        Returns and raises as `go_on` does.
        """
        if sequence.matcher is None or not sequence.sink.forcing:
            return None
        for token in sequence.matcher.forced():
            end = self._append(sequence, job, Token(token, forced=True))
            if end is not None:
                return end
        return None

    def _choose_further(self, sequence: Sequence, logits: FloatArray) -> int | None:
        """Choose a token that goes on; None where the constraint knows none."""
        if sequence.matcher is None:
            return None
        allowed = sequence.matcher.mask()
        allowed[list(self._model.end_tokens)] = False
        if not allowed.any():
            return None
        return sequence.sampler.choose(np.where(allowed, logits, np.float32(-np.inf)))

    def _append(self, sequence: Sequence, job: Job, token: Token) -> End | None:
        """Add a token to a reply; returns the end if it was the last."""
        sequence.tokens.append(token.id)
        sequence.made += 1
        self.made += 1
        sequence.sampler.accept(token.id)
        matcher = sequence.matcher
        if matcher is not None:
            matcher.accept(token.id)
        wanted = sequence.sink.token(token)
        if isinstance(wanted, Turn):
            self._turn(sequence, wanted)
            return None
        if not wanted or (matcher is not None and matcher.complete):
            return End("stop", sequence.cached)
        if sequence.made >= job.max_tokens:
            return End("length", sequence.cached)
        return None

    def _turn(self, sequence: Sequence, turn: Turn) -> None:
        """Go back to the end of the prompt; its last token is computed again for what it predicts."""
        end = len(sequence.job.prompt)
        del sequence.tokens[end:]
        if sequence.computed >= end:
            # A recurrent state cannot be cut.
            sequence.computed = end - 1 if self._model.reuses_prefixes else 0
            sequence.hold.shared = min(sequence.hold.shared, sequence.computed)
            self._model.remove(sequence.id, sequence.computed)
        sequence.made = 0
        sequence.matcher = turn.matcher


def _described(sequence: Sequence, logits: FloatArray, chosen: int) -> Token:
    sink = sequence.sink
    return sequence.sampler.describe(logits, chosen, alternatives=sink.alternatives, watched=sink.watched)


def _masked(logits: FloatArray, matcher: Matcher) -> FloatArray:
    allowed = matcher.mask()
    if not allowed.any():
        raise ModelError("The local model's constraint allows nothing more.", code="local_model_failed")
    return np.where(allowed, logits, np.float32(-np.inf))
