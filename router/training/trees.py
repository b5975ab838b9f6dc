"""Trees: boosted by scikit-learn, laid out as the classifier's arrays, and read for many rows at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..scoring.classifier import STRONG, WEAK, Classifier
from ..scoring.embedding import FloatArray
from ..trees import TREE_DEPTH, leaf_values
from .difficulty import Doubles

TREES, LEARNING_RATE, LEAF_ROWS = 120, 0.05, 40
GAIN_TREES = 200
# Under the 255 that scikit-learn takes as they are.
STEPS = 200


@dataclass(frozen=True, slots=True, eq=False)
class Trees:
    """Complete trees of depth 3, as in `Classifier`: R of them, and where their sum starts."""

    column: npt.NDArray[np.int32]
    threshold: FloatArray
    leaves: FloatArray
    start: float


def stepped(columns: FloatArray) -> Doubles:
    """Round every column to at most `STEPS` values, its quantiles.

    scikit-learn would look for such steps itself, once a head, and with weighted rows takes ten times as long for it
    as for the trees. A split falls midway between two steps, where rounding changes no row's side.
    """
    rounded = np.empty(columns.shape, np.float64)
    for at, column in enumerate(columns.T.astype(np.float64)):
        steps = np.unique(np.quantile(column, np.linspace(0, 1, STEPS)))
        rounded[:, at] = steps[np.searchsorted((steps[1:] + steps[:-1]) / 2, column)]
    return rounded


def success_trees(columns: Doubles, label: npt.NDArray[np.intp], weight: FloatArray, *, small: bool) -> Trees:
    """Fit trees that tell right from wrong; fewer, with fewer rows a leaf, for a small head."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    boosted = HistGradientBoostingClassifier(
        max_iter=TREES // 2 if small else TREES,
        learning_rate=LEARNING_RATE,
        max_depth=TREE_DEPTH,
        max_leaf_nodes=2**TREE_DEPTH,
        min_samples_leaf=LEAF_ROWS // 2 if small else LEAF_ROWS,
        l2_regularization=5.0,
        early_stopping=False,
    ).fit(columns, label, sample_weight=weight)
    return laid_out(boosted)


def gain_trees(columns: Doubles, success: FloatArray, heads: Sequence[str]) -> Trees:
    """Trees that estimate P(strong) - P(weak) directly: the difference is what routing between the two goes by."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    gain = success[:, list(heads).index(STRONG)] - success[:, list(heads).index(WEAK)]
    known = np.flatnonzero(~np.isnan(gain))
    if not len(known):
        return one_tree(0.0)
    boosted = HistGradientBoostingRegressor(
        max_iter=GAIN_TREES,
        learning_rate=0.04,
        max_depth=TREE_DEPTH,
        max_leaf_nodes=2**TREE_DEPTH,
        min_samples_leaf=LEAF_ROWS,
        l2_regularization=5.0,
        max_features=0.4,
        random_state=0,
    ).fit(columns[known], gain[known])
    return laid_out(boosted)


def one_tree(value: float) -> Trees:
    """A single tree that says the same of every row."""
    inner, leaf = 2**TREE_DEPTH - 1, 2**TREE_DEPTH
    nothing = np.zeros((1, leaf), np.float32)
    return Trees(np.zeros((1, inner), np.int32), np.full((1, inner), np.inf, np.float32), nothing, value)


def tree_sums(model: Classifier, columns: FloatArray) -> FloatArray:
    """Return what the trees say of many rows: by head its log-odds, and last the gain; shape (rows, heads + 1)."""
    values = leaf_values(columns, model.split_column, model.split_at, model.leaves)
    sums = [values[:, model.tree_head == h].sum(axis=1) for h in range(len(model.heads) + 1)]
    return np.asarray(np.stack(sums, axis=1) + model.tree_bias, np.float32)


def laid_out(boosted: Any) -> Trees:
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
    return Trees(column, threshold, leaves, float(np.ravel(boosted._baseline_prediction)[0]))
