"""How hard a request is for models in general: what is left to go by where a head has no outcomes of its own.

Learned over all models of all sources, within topics: outcomes are centred by topic first, so that it does not learn
which source is hard, which says nothing of the next one. Three ridge regressions are added up (the stronger models'
lead from the structure; the same from structure and embedding; failure from the embedding), and the length of the
question is weighed in. Variants differ by little on data that none of it has seen; see `docs/routing.md`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..scoring.classifier import (
    DENSE,
    FOCUS_WEIGHT,
    STRONG,
    STRUCTURE_WEIGHT,
    WEAK,
    DifficultyScale,
    difficulty_of,
    log_length,
)
from ..scoring.embedding import DIMENSIONS, FloatArray
from ..scoring.features import NAMES
from .rows import TrainingRow
from .tiers import thirds

Doubles = npt.NDArray[np.float64]

# Weight of the question's length beside what was learned.
LENGTH_WEIGHT = 2.0
_STRUCTURE = slice(0, len(NAMES))
_FOCUS = slice(len(NAMES), len(NAMES) + DIMENSIONS)


@dataclass(frozen=True, slots=True, eq=False)
class GeneralOutcomes:
    """What is learned from, by row; NaN where unknown.

    Attributes:
        failure: Share of models that fail, minus its topic's mean.
        gain: Lead of the strongest third of the source's models over the weakest, minus its topic's mean.
    """

    failure: Doubles
    gain: Doubles


def general_outcomes(rows: Sequence[TrainingRow]) -> GeneralOutcomes:
    """Collect failure and gain, centred by topic."""
    failure = np.full(len(rows), np.nan)
    gain = np.full(len(rows), np.nan)
    groups: dict[tuple[str, str], list[int]] = {}
    for at, row in enumerate(rows):
        if row.scores:
            failure[at] = 1 - np.mean(list(row.scores.values()))
            groups.setdefault((row.file, row.subset), []).append(at)
        elif WEAK in row.outcomes and STRONG in row.outcomes:
            failure[at] = 1 - (row.outcomes[WEAK] + row.outcomes[STRONG]) / 2
            gain[at] = row.outcomes[STRONG] - row.outcomes[WEAK]
    for members in groups.values():
        weakest, _, strongest = thirds([rows[at].scores for at in members]).T
        gain[members] = strongest - weakest
    topics = np.unique([row.topic for row in rows], return_inverse=True)[1]
    return GeneralOutcomes(_centred(failure, topics), _centred(gain, topics))


def fit_difficulty(
    structure: FloatArray, dense: Doubles, outcomes: GeneralOutcomes, train: npt.NDArray[np.intp]
) -> DifficultyScale:
    """Fit the scale on some rows.

    Args:
        structure: Structural columns of those rows, as read.
        dense: Dense columns of those rows, see `dense_columns`.
        outcomes: Of all rows.
        train: Which rows the first two are.
    """
    weights = np.zeros(DENSE)
    # Column ranges with their factors, and the penalty, as tried out; the dense columns are scaled already.
    for values, parts, penalty in (
        (outcomes.gain, [(_STRUCTURE, 1 / STRUCTURE_WEIGHT)], 300.0),
        (outcomes.gain, [(_STRUCTURE, 0.3 / STRUCTURE_WEIGHT), (_FOCUS, 4 / FOCUS_WEIGHT)], 30.0),
        (outcomes.failure, [(_FOCUS, 4 / FOCUS_WEIGHT)], 10.0),
    ):
        weights += _ridge(dense, values[train], parts, penalty)
    learned = dense @ weights
    length = log_length(structure)
    figures = np.array([*_spread(learned), *_spread(length), LENGTH_WEIGHT, 0.0, 1.0], np.float32)
    scale = DifficultyScale(weights.astype(np.float32), figures)
    raw = difficulty_of(scale, dense, length)
    return DifficultyScale(scale.weights, np.concatenate((figures[:5], _spread(raw))).astype(np.float32))


def within_topic_slopes(
    difficulty: FloatArray, success: FloatArray, topics: npt.NDArray[np.integer[Any]]
) -> FloatArray:
    """Return by head how its log-odds of success fall with difficulty, topics held equal; shape (H), at most 0."""
    slopes = np.zeros(success.shape[1])
    for head in range(success.shape[1]):
        at = np.flatnonzero(~np.isnan(success[:, head]))
        if not len(at):
            continue
        x, y = (
            _centred(values[at].astype(np.float64), topics[at]) for values in (difficulty, success[:, head])
        )
        p = float(success[at, head].mean())
        slopes[head] = min(0.0, float(x @ y) / max(float(x @ x), 1e-9) / max(p * (1 - p), 0.05))
    return slopes.astype(np.float32)


def _spread(values: npt.NDArray[np.floating[Any]]) -> tuple[float, float]:
    """Return mean and deviation; that of requests which are all alike counts as tiny, so that it can be divided by."""
    return float(values.mean()), max(float(values.std()), 1e-3)


def _ridge(dense: Doubles, values: Doubles, parts: Sequence[tuple[slice, float]], penalty: float) -> Doubles:
    """Return weights over the dense columns whose sum has a deviation of 1."""
    from sklearn.linear_model import Ridge

    known = np.flatnonzero(~np.isnan(values))
    x = np.concatenate([dense[known, part] * factor for part, factor in parts], axis=1)
    fitted = Ridge(penalty).fit(x, values[known])
    deviation = max(float(fitted.predict(x).std()), 1e-6)
    weights = np.zeros(dense.shape[1])
    at = 0
    for part, factor in parts:
        width = part.stop - part.start
        weights[part] = fitted.coef_[at : at + width] * factor / deviation
        at += width
    return weights


def _centred(values: Doubles, topics: npt.NDArray[np.integer[Any]]) -> Doubles:
    known = ~np.isnan(values)
    count = np.bincount(topics[known], minlength=int(topics.max()) + 1)
    total = np.bincount(topics[known], values[known], minlength=len(count))
    centred: Doubles = values - (total / np.maximum(count, 1))[topics]
    return centred
