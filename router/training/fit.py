"""Fitting: from rows to the classifier's arrays. Needs scikit-learn (extra `train`); deterministic by its seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from ..scoring.classifier import (
    COMPONENTS,
    DENSE,
    SKILL_AXES,
    STRONG,
    Classifier,
    dense_columns,
    difficulty_of,
    log_length,
    sigmoid,
    skills,
    softmax,
)
from ..scoring.embedding import FloatArray
from ..scoring.features import BIGRAM_BUCKETS
from .difficulty import Doubles, fit_difficulty, within_topic_slopes
from .prepare import Matrix, Targets
from .tiers import LARGE, PUBLISHED_HEADS, SMALL
from .trees import Trees, gain_trees, one_tree, stepped, success_trees, tree_sums

CENTRES = 64
# Share of training requests that lie farther from every centre than what counts as known.
UNKNOWN_SHARE = 0.004
# Of the topic classifier: shrinkage of the covariance and of means, softening of its log-odds, weight of the prior.
SHRINK, MEAN_PRIOR, SOFTEN, PRIOR_POWER = 0.1, 5.0, 2.0, 0.5
# Rows' worth of the overall rate that a topic's rate starts from.
RATE_PRIOR = 20.0
# Heads with fewer rows than this get fewer and smaller trees, and a stronger penalty.
SMALL_HEAD = 3000
# A head knows a topic of which it has so many outcomes.
COVERING = 10


@dataclass(frozen=True, slots=True, eq=False)
class Estimates:
    """What a classifier says of many rows before its last steps, see `Classifier.log_odds`.

    Attributes:
        parts: Shape (rows, heads, 3).
        covered: Shape (rows, heads).
        hardness: Shape (rows).
        gain: Shape (rows).
        tasks: Probability by task kind, shape (rows, kinds).
        axes: The questions along the first principal axes, shape (rows, SKILL_AXES).
    """

    parts: FloatArray
    covered: FloatArray
    hardness: FloatArray
    gain: FloatArray
    tasks: FloatArray
    axes: FloatArray


def fit(
    matrix: Matrix, targets: Targets, train: npt.NDArray[np.intp], axes: FloatArray, *, seed: int = 0
) -> Classifier:
    """Fit a classifier, not yet calibrated, on some of the rows.

    Args:
        matrix: Features of all rows.
        targets: Labels of all rows.
        train: Which rows to learn from.
        axes: See `principal_axes`.
        seed: Of k-means.
    """
    from sklearn.cluster import MiniBatchKMeans

    structure, focus = matrix.structure[train], matrix.focus[train]
    mean, scale = structure.mean(axis=0), structure.std(axis=0)
    scale[scale < 1e-3] = 1.0
    dense = dense_columns(structure, focus, matrix.context[train], mean, scale).astype(np.float64)
    topics, topic_bias = _gaussian(dense, targets.topics[train])
    task_weights, task_bias = _gaussian(dense, targets.task[train], len(targets.tasks))
    posterior = softmax((dense @ topics + topic_bias).astype(np.float32))
    idf, tfidf = _tfidf(matrix.counts[train])
    success, topic = targets.success[train], targets.topics[train]
    scale_of_difficulty = fit_difficulty(structure, dense, targets.general, train)
    hardness = difficulty_of(scale_of_difficulty, dense, log_length(structure))
    columns = stepped(np.concatenate((structure, focus @ axes, hardness[:, None]), axis=1))
    heads = [
        _fit_head(dense, tfidf, columns, posterior, success[:, at], targets.weight[train])
        for at in range(len(targets.heads))
    ]
    trees = [*(head.trees for head in heads), gain_trees(columns, success, targets.heads)]
    centres = (
        MiniBatchKMeans(CENTRES, random_state=seed, n_init=3, batch_size=2048).fit(focus).cluster_centers_
    )
    centres = (centres / np.maximum(np.linalg.norm(centres, axis=1, keepdims=True), 1e-6)).astype(np.float32)
    nearest = np.sort((focus @ centres.T).max(axis=1))
    similar = nearest[int(UNKNOWN_SHARE * len(nearest))]
    return Classifier(
        heads=np.array(targets.heads),
        tasks=np.array(targets.tasks),
        mean=mean.astype(np.float32),
        scale=scale.astype(np.float32),
        linear=_stack(h.weights[:DENSE] for h in heads),
        bias=np.array([h.bias for h in heads], np.float32),
        idf=idf,
        ngrams=_stack(h.weights[DENSE:] for h in heads),
        topics=topics.astype(np.float32),
        topic_bias=topic_bias.astype(np.float32),
        rates=_stack(h.rates for h in heads),
        task_weights=task_weights.astype(np.float32),
        task_bias=task_bias.astype(np.float32),
        axes=axes,
        split_column=np.concatenate([t.column for t in trees]).astype(np.int32),
        split_at=np.concatenate([t.threshold for t in trees]).astype(np.float32),
        leaves=np.concatenate([t.leaves for t in trees]).astype(np.float32),
        tree_head=np.repeat(np.arange(len(trees)), [len(t.leaves) for t in trees]).astype(np.int32),
        tree_bias=np.array([t.start for t in trees], np.float32),
        mix=np.full((len(heads), len(COMPONENTS)), 1 / len(COMPONENTS), np.float32),
        calibration=np.tile(np.array([1.0, 0.0], np.float32), (len(heads), 1)),
        covered=_covered(success, topic, topics.shape[1], targets.heads),
        general=_general(hardness, success, topic, targets.heads),
        difficulty=scale_of_difficulty.weights,
        difficulty_figures=scale_of_difficulty.figures,
        centres=centres,
        similar=np.array([similar], np.float32),
        vocabulary=np.array([matrix.counts.shape[1] - BIGRAM_BUCKETS], np.int32),
        models=np.array([], np.str_),
        abilities=np.zeros((0, 0), np.float32),
        placed_with=np.zeros(0, np.int32),
        prior_mean=np.zeros(0, np.float32),
        prior_precision=np.zeros((0, 0), np.float32),
    )


def estimates(model: Classifier, matrix: Matrix, rows: npt.NDArray[np.intp]) -> Estimates:
    """Return what a classifier says of many rows at once, up to its last steps; the same as `predict` computes."""
    dense = dense_columns(
        matrix.structure[rows], matrix.focus[rows], matrix.context[rows], model.mean, model.scale
    )
    tfidf = _unit_rows(matrix.counts[rows], model.idf)
    hardness = difficulty_of(model.scale_of_difficulty, dense, log_length(matrix.structure[rows]))
    along = matrix.focus[rows] @ model.axes
    columns = np.concatenate((matrix.structure[rows], along, hardness[:, None]), axis=1)
    trees = tree_sums(model, columns)
    topics = softmax(dense @ model.topics + model.topic_bias)
    parts = (
        sigmoid(dense @ model.linear + model.bias + tfidf @ model.ngrams),
        topics @ model.rates,
        sigmoid(trees[:, :-1]),
    )
    return Estimates(
        np.stack(parts, axis=2).astype(np.float32),
        topics @ model.covered,
        hardness,
        trees[:, -1],
        softmax(dense @ model.task_weights + model.task_bias),
        along[:, :SKILL_AXES],
    )


def calibrated(model: Classifier, mix: FloatArray, calibration: FloatArray) -> Classifier:
    """Return the classifier with its last two steps in place."""
    return replace(model, mix=mix.astype(np.float32), calibration=calibration.astype(np.float32))


def skills_of(model: Classifier, made: Estimates) -> FloatArray:
    """Return what abilities are applied to, shape (rows, S); the same as `predict` gives."""
    odds = model.log_odds(made.parts, made.covered, made.hardness, made.gain)
    return skills(odds, made.hardness[:, None], made.tasks, made.axes)


@dataclass(frozen=True, slots=True, eq=False)
class _Head:
    weights: FloatArray
    bias: float
    rates: FloatArray
    trees: Trees


def _fit_head(
    dense: npt.NDArray[np.float64],
    tfidf: sp.csr_matrix,
    columns: Doubles,
    posterior: FloatArray,
    success: FloatArray,
    weight: FloatArray,
) -> _Head:
    from sklearn.linear_model import LogisticRegression

    at = np.flatnonzero(~np.isnan(success))
    if not len(at):
        return _nothing(dense.shape[1] + tfidf.shape[1], posterior.shape[1])
    share, weight = success[at], weight[at]
    small = len(at) < SMALL_HEAD
    # A share of success counts as that much of a right and the rest of a wrong answer.
    rows = np.concatenate((at, at))
    label = np.repeat([1, 0], len(at))
    weights = np.concatenate((weight * share, weight * (1 - share)))
    rows, label, weights = rows[weights > 0], label[weights > 0], weights[weights > 0]
    wide = sp.hstack([sp.csr_matrix(dense[rows]), tfidf[rows]]).tocsr()
    linear = LogisticRegression(C=0.1 if small else 0.06, max_iter=300).fit(
        wide, label, sample_weight=weights
    )
    overall = float((share * weight).sum() / weight.sum())
    mass = posterior[at] * weight[:, None]
    prior = RATE_PRIOR / 6 if small else RATE_PRIOR
    rates = (mass.T @ share + prior * overall) / (mass.sum(axis=0) + prior)
    return _Head(
        np.asarray(linear.coef_[0], np.float32),
        float(linear.intercept_[0]),
        rates.astype(np.float32),
        success_trees(columns[rows], label, weights, small=small),
    )


def _nothing(columns: int, topics: int) -> _Head:
    """A head without any outcome: it covers no topic, so that what it says has no weight."""
    return _Head(np.zeros(columns, np.float32), 0.0, np.full(topics, 0.5, np.float32), one_tree(0.0))


def _covered(
    success: FloatArray, topics: npt.NDArray[np.int32], count: int, heads: Sequence[str]
) -> FloatArray:
    """Which head has outcomes on which topic. Local models were run on a few rows of every kind: theirs cover all."""
    known = np.zeros((count, success.shape[1]))
    np.add.at(known, topics, ~np.isnan(success))
    everywhere = [head not in PUBLISHED_HEADS for head in heads]
    return np.asarray((known >= COVERING) | np.array(everywhere), np.float32)


def _general(
    hardness: FloatArray, success: FloatArray, topics: npt.NDArray[np.int32], heads: Sequence[str]
) -> FloatArray:
    """Intercept and slope of each head's general estimate. The slopes are those of small and of large models, which
    were measured in every source; a head's own would say how its one source goes."""
    names = list(heads)
    slopes = within_topic_slopes(hardness, success[:, [names.index(SMALL), names.index(LARGE)]], topics)
    like_large = [head in (STRONG, LARGE) for head in names]
    known = ~np.isnan(success)
    rates = np.where(known, success, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    # A head without outcomes starts from the kind of model that it is like.
    alike = np.array([names.index(LARGE if large else SMALL) for large in like_large])
    rates = np.clip(np.where(known.any(axis=0), rates, rates[alike]), 0.02, 0.98)
    return np.stack((np.log(rates / (1 - rates)), slopes[np.array(like_large, int)]), axis=1).astype(
        np.float32
    )


def _gaussian(
    x: npt.NDArray[np.float64], y: npt.NDArray[np.int32], classes: int | None = None
) -> tuple[FloatArray, FloatArray]:
    """Fit linear discriminants in closed form: weights (columns, classes) and offsets, softened.

    Closed form because a hundred and more classes by gradient descent would take minutes, and rank no better here.
    """
    count = np.bincount(y, minlength=classes or int(y.max()) + 1).astype(np.float64)
    means = np.zeros((len(count), x.shape[1]))
    np.add.at(means, y, x)
    means = (means + MEAN_PRIOR * x.mean(axis=0)) / (count + MEAN_PRIOR)[:, None]
    rest = x - means[y]
    covariance = (1 - SHRINK) * (rest.T @ rest) / len(x)
    covariance += np.eye(len(covariance)) * (SHRINK * (rest**2).sum() / rest.size)
    weights = np.linalg.solve(covariance, means.T)
    prior = PRIOR_POWER * np.log((count + 0.1) / len(x))
    offset = -0.5 * (means.T * weights).sum(axis=0) + prior
    # A class without rows (in a fold) must not win.
    offset[count == 0] = -1e4
    return (weights / SOFTEN).astype(np.float32), (offset / SOFTEN).astype(np.float32)


def _tfidf(counts: sp.csr_matrix) -> tuple[FloatArray, sp.csr_matrix]:
    """Return the inverse document frequencies (0 for what fewer than two rows have) and the weighted rows."""
    rows = np.asarray((counts > 0).sum(axis=0)).ravel()
    idf = np.log((1 + counts.shape[0]) / (1 + rows)) + 1
    idf[rows < 2] = 0
    idf = idf.astype(np.float32)
    return idf, _unit_rows(counts, idf)


def _unit_rows(counts: sp.csr_matrix, idf: FloatArray) -> sp.csr_matrix:
    weighted = counts.copy()
    weighted.data = 1 + np.log(weighted.data)
    weighted = weighted @ sp.diags(idf)
    length = np.sqrt(np.asarray(weighted.multiply(weighted).sum(axis=1)).ravel())
    length[length == 0] = 1
    return (sp.diags(1 / length) @ weighted).tocsr()


def _stack(columns: Any) -> FloatArray:
    return np.stack(list(columns), axis=1).astype(np.float32)
