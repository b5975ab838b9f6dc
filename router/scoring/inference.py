"""The classifier's arrays as they are read fastest for one request at a time.

The formulas are those of `classifier`, which has them for many rows; numpy's cost a call is most of the time here, so
that products are joined, trees are laid out by level, and what has a few figures is plain arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from ..trees import Levels
from .embedding import FloatArray
from .features import NAMES, Features

if TYPE_CHECKING:
    from .classifier import Classifier

_FOCUS_TOKENS, _CHARS_PER_TOKEN = NAMES.index("log_focus_tokens"), NAMES.index("chars_per_token")


class Readings(msgspec.Struct, frozen=True, eq=False):
    """What the arrays say of one request, before the heads' last steps. H heads.

    Attributes:
        linear: Log-odds by head of the linear part (H).
        topical: Success by head from the topics (H).
        covered: Share of the topics' probability of which a head has outcomes (H).
        trees: Log-odds by head from the trees, then the gain (H + 1).
        tasks: Probability by task kind.
        hardness: The difficulty.
        axes: Where the question lies along the principal axes.
        similarity: Cosine to the nearest centre.
    """

    linear: list[float]
    topical: list[float]
    covered: list[float]
    trees: list[float]
    tasks: list[float]
    hardness: float
    axes: FloatArray
    similarity: float


class Inference:
    """Reads one request. Made once from a classifier's arrays; holds about 3 MB of its own.

    Args:
        of: Whose arrays.
        weights: Of structure (with the deviations that it is clipped to), focus and context; see `dense_columns`.
        compared: Numbers of the weak and of the strong head, and how much their difference counts; see `log_odds`.
    """

    def __init__(
        self,
        of: Classifier,
        *,
        weights: tuple[tuple[float, float], float, float],
        compared: tuple[int, int, float],
    ) -> None:
        (self._clip, structure), focus, context = weights
        joined = np.concatenate((of.linear, of.topics, of.task_weights, of.difficulty[:, None]), axis=1)
        structural, dimensions = len(of.mean), len(of.axes)
        joined[:structural] *= np.float32(structure)
        joined[structural : structural + dimensions] *= np.float32(focus)
        joined[structural + dimensions :] *= np.float32(context)
        self._dense, self._alone = joined, joined[: structural + dimensions]
        # Side by side: what is looked up of an n-gram lies in one line of the processor's cache.
        self._of_ngrams = np.concatenate((of.idf[:, None], of.ngrams), axis=1)
        self._bias = np.concatenate((of.bias, of.topic_bias, of.task_bias, np.zeros(1, np.float32)))
        self._ends = np.cumsum((len(of.bias), len(of.topic_bias), len(of.task_bias))).tolist()
        self._of_topics = np.concatenate((of.rates, of.covered), axis=1)
        self._of_focus = np.concatenate((of.axes, of.centres.T), axis=1)
        self._axes = of.axes.shape[1]
        self._mean, self._scale = of.mean, of.scale
        self._figures = of.difficulty_figures.astype(float).tolist()
        self._trees = Levels(of.split_column, of.split_at, of.leaves)
        self._tree_head = of.tree_head.astype(np.intp)
        self._tree_bias = of.tree_bias.astype(float)
        # For each head three figures of its mix, two of its calibration, two of its general estimate.
        heads = np.concatenate((of.mix, of.calibration, of.general), axis=1)
        self._heads = [tuple(figures) for figures in heads.tolist()]
        self._compared = compared

    def read(self, features: Features) -> Readings:
        """Return what the arrays say of a request."""
        structure, focus = features.structure, features.focus
        scaled = (structure - self._mean) / self._scale
        np.minimum(scaled, self._clip, out=scaled)
        np.maximum(scaled, -self._clip, out=scaled)
        if features.context is focus:
            # Nothing is said beside the question: what the conversation adds to it is all zeros.
            said = np.concatenate((scaled, focus)) @ self._alone
        else:
            said = np.concatenate((scaled, focus, features.context - focus)) @ self._dense
        said += self._bias
        heads, topics, tasks = self._ends
        by_topic = said[heads:topics]
        raised = np.exp(by_topic - np.maximum.reduce(by_topic))
        by_topic = (raised @ self._of_topics / np.add.reduce(raised)).tolist()
        seen = focus @ self._of_focus
        axes = seen[: self._axes]
        hardness = self._hardness(float(said[tasks]), structure)
        return Readings(
            (said[:heads] + self._ngrams(features)).tolist(),
            by_topic[:heads],
            by_topic[heads:],
            self._of_trees(np.concatenate((structure, axes, np.array([hardness], np.float32)))),
            softmax(said[topics:tasks].tolist()),
            hardness,
            axes,
            float(np.maximum.reduce(seen[self._axes :])),
        )

    def log_odds(self, read: Readings) -> list[float]:
        """Return the heads' log-odds of success; as `Classifier.log_odds`, of one request."""
        odds = []
        for figures, linear, topical, tree, covered in zip(
            self._heads, read.linear, read.topical, read.trees[:-1], read.covered, strict=True
        ):
            by_linear, by_topic, by_trees, slope, offset, intercept, hardness = figures
            mixed = by_linear * logistic(linear) + by_topic * topical + by_trees * logistic(tree)
            own = slope * log_odds_of(mixed, 1e-4) + offset
            odds.append(covered * own + (1 - covered) * (intercept + hardness * read.hardness))
        weak, strong, counts = self._compared
        low, high = logistic(odds[weak]), logistic(odds[strong])
        change = counts / 2 * read.covered[strong] * (read.trees[-1] - (high - low))
        odds[weak], odds[strong] = log_odds_of(low - change, 1e-3), log_odds_of(high + change, 1e-3)
        return odds

    def _ngrams(self, features: Features) -> FloatArray:
        """The linear part over TF-IDF, of length 1, with sublinear counts."""
        looked_up = self._of_ngrams.take(features.ngrams, axis=0)
        weights = (1 + np.log(features.ngram_counts)) * looked_up[:, 0]
        length = math.sqrt(weights @ weights)
        said: FloatArray = weights @ looked_up[:, 1:]
        return said / np.float32(length) if length > 0 else said

    def _hardness(self, learned: float, structure: FloatArray) -> float:
        """As `difficulty_of`, of one request."""
        length = float(structure[_FOCUS_TOKENS]) + math.log(max(float(structure[_CHARS_PER_TOKEN]), 0.1))
        mean, deviation, middle, spread, weight, centre, width = self._figures
        share = logistic(1.702 * (learned - mean) / deviation)
        by_length = logistic(1.702 * (length - middle) / spread)
        hardness: float = (share + weight * by_length - centre) / width
        return hardness

    def _of_trees(self, columns: FloatArray) -> list[float]:
        """Log-odds by head from the trees, and the gain."""
        values = self._trees.values(columns)
        total = np.bincount(self._tree_head, values, minlength=len(self._tree_bias))
        sums: list[float] = (total + self._tree_bias).tolist()
        return sums


def logistic(odds: float) -> float:
    """The logistic function of one figure, without overflow."""
    if odds > 30:
        odds = 30.0
    elif odds < -30:
        odds = -30.0
    return 1 / (1 + math.exp(-odds))


def log_odds_of(share: float, least: float) -> float:
    """The log-odds of a probability, which is kept `least` away from 0 and 1."""
    kept = max(least, min(1 - least, share))
    return math.log(kept / (1 - kept))


def softmax(values: Sequence[float]) -> list[float]:
    """Of a few figures."""
    most = max(values)
    raised = [math.exp(value - most) for value in values]
    total = sum(raised)
    return [value / total for value in raised]
