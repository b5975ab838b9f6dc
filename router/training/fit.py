"""Fitting: from rows to the classifier's arrays. Needs scikit-learn (extra `train`); deterministic by its seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from ..scoring.classifier import COMPONENTS, DENSE, TREE_DEPTH, Classifier, dense_columns, sigmoid, softmax
from ..scoring.embedding import FloatArray
from ..scoring.features import BIGRAM_BUCKETS, FeatureReader, Features
from ..wire import ChatRequest
from .rows import TrainingRow

AXES, CENTRES = 32, 64
# Share of training requests that lie farther from every centre than what counts as known.
UNKNOWN_SHARE = 0.004
# Of the topic classifier: shrinkage of the covariance and of means, softening of its log-odds, weight of the prior.
SHRINK, MEAN_PRIOR, SOFTEN, PRIOR_POWER = 0.1, 5.0, 2.0, 0.5
# Rows' worth of the overall rate that a topic's rate starts from.
RATE_PRIOR = 20.0
TREES, LEARNING_RATE, LEAF_ROWS = 120, 0.05, 40
# Heads with fewer rows than this get fewer and smaller trees, and a stronger penalty.
SMALL_HEAD = 3000

BoolArray = npt.NDArray[np.bool_]
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, eq=False)
class Matrix:
    """The features of many requests, a row each."""

    structure: FloatArray
    focus: FloatArray
    context: FloatArray
    counts: sp.csr_matrix

    @classmethod
    def of(cls, features: Sequence[Features], vocabulary: int) -> Matrix:
        """Stack features; `vocabulary` is the number of tokens."""
        starts = np.cumsum([0, *(len(f.unigrams) + len(f.bigrams) for f in features)])
        at = np.concatenate([np.concatenate((f.unigrams, f.bigrams + vocabulary)) for f in features])
        counts = np.concatenate([np.concatenate((f.unigram_counts, f.bigram_counts)) for f in features])
        return cls(
            np.stack([f.structure for f in features]),
            np.stack([f.focus for f in features]),
            np.stack([f.context for f in features]),
            sp.csr_matrix((counts, at, starts), shape=(len(features), vocabulary + BIGRAM_BUCKETS)),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """What is to be learned of each row. NaN where a head has no outcome."""

    heads: tuple[str, ...]
    tasks: tuple[str, ...]
    topics: npt.NDArray[np.int32]
    task: npt.NDArray[np.int32]
    success: FloatArray
    weight: FloatArray


def read_matrix(rows: Sequence[TrainingRow], reader: FeatureReader, vocabulary: int) -> Matrix:
    """Return the rows' features."""
    return Matrix.of([reader.read(ChatRequest.parse(dict(row.body))) for row in rows], vocabulary)


def targets_of(rows: Sequence[TrainingRow], heads: Sequence[str]) -> Targets:
    """Return the rows' labels, for the named heads."""
    topics = {name: at for at, name in enumerate(sorted({row.topic for row in rows}))}
    tasks = sorted({row.task for row in rows})
    success = [[row.outcomes.get(head, np.nan) for head in heads] for row in rows]
    return Targets(
        tuple(heads),
        tuple(tasks),
        np.array([topics[row.topic] for row in rows], np.int32),
        np.array([tasks.index(row.task) for row in rows], np.int32),
        np.array(success, np.float32),
        np.array([row.weight for row in rows], np.float32),
    )


def fit(
    matrix: Matrix, targets: Targets, train: npt.NDArray[np.intp], vocabulary: int, *, seed: int = 0
) -> Classifier:
    """Fit a classifier, not yet calibrated, on some of the rows.

    Args:
        matrix: Features of all rows.
        targets: Labels of all rows.
        train: Which rows to learn from.
        vocabulary: Number of tokens.
        seed: Of k-means and the principal axes.
    """
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.decomposition import PCA

    structure, focus = matrix.structure[train], matrix.focus[train]
    mean, scale = structure.mean(axis=0), structure.std(axis=0)
    scale[scale < 1e-3] = 1.0
    dense = dense_columns(structure, focus, matrix.context[train], mean, scale).astype(np.float64)
    topics, topic_bias = _gaussian(dense, targets.topics[train])
    task_weights, task_bias = _gaussian(dense, targets.task[train], len(targets.tasks))
    posterior = softmax((dense @ topics + topic_bias).astype(np.float32))
    idf, tfidf = _tfidf(matrix.counts[train])
    axes = PCA(AXES, random_state=seed).fit(focus).components_.T.astype(np.float32)
    columns = np.concatenate((structure, focus @ axes), axis=1)
    heads = [
        _fit_head(dense, tfidf, columns, posterior, targets.success[train, at], targets.weight[train])
        for at in range(len(targets.heads))
    ]
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
        split_column=np.concatenate([h.trees.column for h in heads]).astype(np.int32),
        split_at=np.concatenate([h.trees.threshold for h in heads]).astype(np.float32),
        leaves=np.concatenate([h.trees.leaves for h in heads]).astype(np.float32),
        tree_head=np.repeat(np.arange(len(heads)), [len(h.trees.leaves) for h in heads]).astype(np.int32),
        tree_bias=np.array([h.trees.start for h in heads], np.float32),
        mix=np.full((len(heads), len(COMPONENTS)), 1 / len(COMPONENTS), np.float32),
        calibration=np.tile(np.array([1.0, 0.0], np.float32), (len(heads), 1)),
        centres=centres,
        similar=np.array([similar], np.float32),
        vocabulary=np.array([vocabulary], np.int32),
    )


def components(model: Classifier, matrix: Matrix, rows: npt.NDArray[np.intp]) -> FloatArray:
    """Return the three estimates for many rows at once, shape (rows, heads, 3); the same as `predict` mixes."""
    dense = dense_columns(
        matrix.structure[rows], matrix.focus[rows], matrix.context[rows], model.mean, model.scale
    )
    tfidf = _unit_rows(matrix.counts[rows], model.idf)
    columns = np.concatenate((matrix.structure[rows], matrix.focus[rows] @ model.axes), axis=1)
    node = np.zeros((len(rows), len(model.leaves)), np.int32)
    tree = np.arange(len(model.leaves))
    for _ in range(TREE_DEPTH):
        looked_at = np.take_along_axis(columns, model.split_column[tree, node], axis=1)
        node = 2 * node + 1 + (looked_at > model.split_at[tree, node])
    values = model.leaves[tree, node - (2**TREE_DEPTH - 1)]
    trees = np.stack([values[:, model.tree_head == h].sum(axis=1) for h in range(len(model.heads))], axis=1)
    parts = (
        sigmoid(dense @ model.linear + model.bias + tfidf @ model.ngrams),
        softmax(dense @ model.topics + model.topic_bias) @ model.rates,
        sigmoid(trees + model.tree_bias),
    )
    return np.stack(parts, axis=2).astype(np.float32)


def calibrated(model: Classifier, mix: FloatArray, calibration: FloatArray) -> Classifier:
    """Return the classifier with its last two steps in place."""
    return replace(model, mix=mix.astype(np.float32), calibration=calibration.astype(np.float32))


@dataclass(frozen=True, slots=True, eq=False)
class _Trees:
    column: npt.NDArray[np.int32]
    threshold: FloatArray
    leaves: FloatArray
    start: float


@dataclass(frozen=True, slots=True, eq=False)
class _Head:
    weights: FloatArray
    bias: float
    rates: FloatArray
    trees: _Trees


def _fit_head(
    dense: npt.NDArray[np.float64],
    tfidf: sp.csr_matrix,
    columns: FloatArray,
    posterior: FloatArray,
    success: FloatArray,
    weight: FloatArray,
) -> _Head:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression

    at = np.flatnonzero(~np.isnan(success))
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
    boosted = HistGradientBoostingClassifier(
        max_iter=TREES // 2 if small else TREES,
        learning_rate=LEARNING_RATE,
        max_depth=TREE_DEPTH,
        max_leaf_nodes=2**TREE_DEPTH,
        min_samples_leaf=LEAF_ROWS // 2 if small else LEAF_ROWS,
        l2_regularization=5.0,
        early_stopping=False,
    ).fit(columns[rows], label, sample_weight=weights)
    overall = float((share * weight).sum() / weight.sum())
    mass = posterior[at] * weight[:, None]
    prior = RATE_PRIOR / 6 if small else RATE_PRIOR
    rates = (mass.T @ share + prior * overall) / (mass.sum(axis=0) + prior)
    return _Head(
        np.asarray(linear.coef_[0], np.float32),
        float(linear.intercept_[0]),
        rates.astype(np.float32),
        _trees(boosted),
    )


def _trees(boosted: Any) -> _Trees:
    """Lay the trees out as complete ones of depth 3: children of node i are 2i+1 and 2i+2."""
    inner, leaf = 2**TREE_DEPTH - 1, 2**TREE_DEPTH
    predictors = [stage[0] for stage in boosted._predictors]
    column = np.zeros((len(predictors), inner), np.int32)
    threshold = np.full((len(predictors), inner), np.inf, np.float32)
    leaves = np.zeros((len(predictors), leaf), np.float32)

    def place(tree: int, nodes: Any, at: int, to: int) -> None:
        node = nodes[at]
        if to >= inner:
            leaves[tree, to - inner] = node["value"]
            return
        if node["is_leaf"]:
            # An inner place under a leaf sends everything left; both sides carry its value.
            place(tree, nodes, at, 2 * to + 1)
            place(tree, nodes, at, 2 * to + 2)
            return
        column[tree, to], threshold[tree, to] = node["feature_idx"], node["num_threshold"]
        place(tree, nodes, int(node["left"]), 2 * to + 1)
        place(tree, nodes, int(node["right"]), 2 * to + 2)

    for tree, predictor in enumerate(predictors):
        place(tree, predictor.nodes, 0, 0)
    return _Trees(column, threshold, leaves, float(np.ravel(boosted._baseline_prediction)[0]))


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


def tasks(model: Classifier, matrix: Matrix, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """Return the most likely task kind of many rows, as positions in `model.tasks`."""
    dense = dense_columns(
        matrix.structure[rows], matrix.focus[rows], matrix.context[rows], model.mean, model.scale
    )
    likely: npt.NDArray[np.intp] = (dense @ model.task_weights + model.task_bias).argmax(axis=1)
    return likely
