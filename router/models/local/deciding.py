"""Words or a call, and another call or the end: what a model that may do either means to do.

A small model's likeliest token is a poor answer to that: many write calls in a form of their own (a fenced block of
JSON), call whatever function is there, and stop after the first of several calls. Other signs tell more: how much
probability all the ways have together in which a call may begin, how likely the model finds the name of the function
that it would call, and whether the request is about what that function does. What they are worth is measured for each
model (`calling.yaml`); a model that was not measured is taken at its word.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from typing import Any, Literal

import numpy as np
import yaml

from .engine import NativeModel, Token
from .engine.sampling import IdArray

# How calls begin, in the forms that models were trained on.
_OPENINGS = ("<tool", "<func", "```", "{", "[")
# How another call begins, right after one.
_FURTHER = frozenset({"{", '{"', "<tool_call>"})
# With less than this share for all openings together, words are meant.
_LEAST_SHARE = 0.02

Verdict = Literal["words", "call", "undecided"]


@dataclass(frozen=True, slots=True)
class Calling:
    """How one model's signs are read.

    Attributes:
        intercept, share, name, likeness: P(a call is right) as a logistic function: of the logit of the openings'
            share, of the mean log-probability of the function's name, and of its likeness to the request.
        another: Least log share of openings for another call, after the first and after later ones.
        invents: Whether it fills in optional arguments that nobody spoke of, which are dropped then.
    """

    intercept: float
    share: float
    name: float
    likeness: float
    another: tuple[float, float]
    invents: bool


def calling_of(metadata: Mapping[str, str]) -> Calling:
    """Return what was measured for a model, by what its GGUF says of its name and size; else the default."""
    text = (resources.files(__package__) / "calling.yaml").read_text(encoding="utf-8")
    known: dict[str, Any] = yaml.safe_load(text)
    name = f"{metadata.get('general.basename', '')}-{metadata.get('general.size_label', '')}".lower()
    values = known["models"].get(name, known["default"])
    return Calling(**{**values, "another": tuple(values["another"])})


class Openings:
    """The tokens by which calls begin, of one model's vocabulary, and how their share is read."""

    def __init__(self, model: NativeModel) -> None:
        self._model = model
        self.calling = calling_of(model.metadata)

    def read(self) -> None:
        """Look through the vocabulary now: it takes a while the first time, and the engine shall not wait for it."""
        _ = self.first, self.further

    @cached_property
    def first(self) -> IdArray:
        """Ids of tokens that begin a call in whichever form."""
        return self._where(lambda piece: piece.startswith(_OPENINGS))

    @cached_property
    def further(self) -> IdArray:
        """Ids of tokens that begin another call."""
        return self._where(lambda piece: piece in _FURTHER)

    def _where(self, wanted: Any) -> IdArray:
        pieces = (
            self._model.piece(token).decode(errors="replace").lstrip() for token in range(self._model.n_vocab)
        )
        return np.array([token for token, piece in enumerate(pieces) if wanted(piece)], np.int64)


class CallDecision:
    """Follows the first tokens of an answer until it is clear what it shall be.

    Args:
        model: For the tokens' text.
        calling: How its signs are read.
        likeness: Of each function to the request, by name.
    """

    def __init__(self, model: NativeModel, calling: Calling, likeness: Mapping[str, float]) -> None:
        self._model = model
        self._calling = calling
        self._likeness = likeness
        self._share = 0.0
        self._text = ""
        self._name: list[float] = []

    def first(self, token: Token) -> Verdict:
        """Look at the first token, chosen freely; `undecided` asks for a call to be begun, and shown to `feed`."""
        assert token.watched is not None, "the openings are watched"
        self._share = math.exp(token.watched)
        return "words" if self._share < _LEAST_SHARE else "undecided"

    def feed(self, token: Token) -> Verdict:
        """Look at the next token of a call."""
        before = self._name_so_far()
        self._text += self._model.piece(token.id).decode(errors="replace")
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
        share = min(max(self._share, 1e-6), 1 - 1e-6)
        mean = math.fsum(self._name) / len(self._name) if self._name else 0.0
        calling = self._calling
        likeness = self._likeness.get((self._name_so_far() or "").removesuffix('"'), 0.0)
        signs = (
            calling.share * math.log(share / (1 - share)),
            calling.name * mean,
            calling.likeness * likeness,
        )
        logit = calling.intercept + math.fsum(signs)
        return 1 / (1 + math.exp(-logit))

    def _name_so_far(self) -> str | None:
        """Return what there is of the function's name, its closing quote included."""
        _, found, rest = self._text.partition('"name": "')
        if not found:
            return None
        name, closed, _ = rest.partition('"')
        return name + closed
