"""The arithmetic of one request in numpy.

The formulas are those of `classifier`, which has them for many rows; numpy's cost a call is most of the time here, so
that products are joined, trees are laid out by level, and what has a few figures is plain arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ...trees import Levels
from .tables import Reading, Tables

if TYPE_CHECKING:
    from ..embedding import FloatArray, IdArray


def unit(vector: FloatArray) -> FloatArray:
    """Scale to length 1; zeros stay zeros."""
    length = math.sqrt(vector @ vector)
    return vector / np.float32(length) if length > 0 else vector


def unit_mean(vectors: FloatArray, ids: IdArray) -> FloatArray:
    """Return the mean of the ids' vectors, scaled to length 1; zeros for no ids.

    Args:
        vectors: One a row.
        ids: Rows.
    """
    if not len(ids):
        return np.zeros(vectors.shape[1], np.float32)
    return unit(_even(len(ids)) @ vectors.take(ids, axis=0))


def read_tokens(
    ids: IdArray, classes: npt.NDArray[np.uint8], log_rank: FloatArray, buckets: int
) -> tuple[IdArray, FloatArray, list[float]]:
    """Return distinct tokens and pairs of neighbours, how often each occurs, and the columns from the tokens.

    Args:
        ids: Tokens as they follow each other.
        classes: Which token belongs to which class, shape (vocabulary, classes), 0 or 1.
        log_rank: Logarithm of each token's place in the vocabulary, from 1.
        buckets: Numbers of pairs, which are hashed; a power of two.

    Returns:
        Distinct tokens in order, then distinct pairs as numbers from the vocabulary's size on; how often each occurs;
        the columns from `distinct` on, see `features.STRUCTURE`: 3 + 2 · classes.
    """
    vocabulary, kinds = classes.shape
    n = len(ids)
    if not n:
        return ids, np.zeros(0, np.float32), [0.0] * (3 + 2 * kinds)
    ngrams, times = _counted(_ngrams(ids, vocabulary, np.uint32(buckets - 1)))
    ranks = log_rank.take(ids)
    counts = np.add.reduce(classes.take(ids, axis=0), axis=0, dtype=np.float32)
    mean = float(np.add.reduce(ranks) / np.float32(n))
    ranks.partition((9 * n) // 10)
    distinct = int(ngrams.searchsorted(vocabulary))
    columns = [distinct / n, mean, float(ranks[(9 * n) // 10])]
    columns += (counts / n).tolist()
    columns += np.log1p(counts).tolist()
    return ngrams, times, columns


class Inference:
    """Reads one request.

    Args:
        tables: What is looked up.
    """

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        structural, width = len(tables.mean), len(tables.of_focus)
        self._alone = tables.dense[: structural + width]
        heads, topics = len(tables.heads), len(tables.of_topics)
        self._ends = (heads, heads + topics, len(tables.bias) - 1)
        self._trees = Levels(tables.split_column, tables.split_at, tables.leaves)
        self._tree_head = tables.tree_head.astype(np.intp)
        self._figures = tables.difficulty.tolist()
        self._heads = [tuple(figures) for figures in tables.heads.tolist()]

    def read(
        self,
        structure: FloatArray,
        focus: FloatArray,
        context: FloatArray | None,
        ngrams: IdArray,
        ngram_counts: FloatArray,
    ) -> Reading:
        """Return what the arrays say of a request.

        Args:
            structure, focus, ngrams, ngram_counts: See `Features`.
            context: The same; None where nothing is said beside the question.
        """
        tables = self._tables
        scaled = (structure - tables.mean) / tables.scale
        np.minimum(scaled, tables.clip, out=scaled)
        np.maximum(scaled, -tables.clip, out=scaled)
        if context is None:
            # What the conversation adds to the question is all zeros.
            said = np.concatenate((scaled, focus)) @ self._alone
        else:
            said = np.concatenate((scaled, focus, context - focus)) @ tables.dense
        said += tables.bias
        heads, topics, tasks = self._ends
        seen = focus @ tables.of_focus
        axes = seen[: tables.axes]
        hardness = self._hardness(float(said[tasks]), structure)
        odds = self._log_odds(
            (said[:heads] + self._linear(ngrams, ngram_counts)).tolist(),
            self._by_topic(said[heads:topics]),
            self._of_trees(np.concatenate((structure, axes, np.array([hardness], np.float32)))),
            hardness,
        )
        similarity = float(np.maximum.reduce(seen[tables.axes :]))
        return Reading(odds, softmax(said[topics:tasks].tolist()), hardness, axes, similarity)

    def _by_topic(self, said: FloatArray) -> list[float]:
        """By head its success, then the share of the topics' probability of which it has outcomes."""
        raised = np.exp(said - np.maximum.reduce(said))
        shares: list[float] = (raised @ self._tables.of_topics / np.add.reduce(raised)).tolist()
        return shares

    def _linear(self, ngrams: IdArray, counts: FloatArray) -> FloatArray:
        """The linear part over TF-IDF, of length 1, with sublinear counts."""
        looked_up = self._tables.of_ngrams.take(ngrams, axis=0)
        weights = (1 + np.log(counts)) * looked_up[:, 0]
        length = math.sqrt(weights @ weights)
        said: FloatArray = weights @ looked_up[:, 1:]
        return said / np.float32(length) if length > 0 else said

    def _hardness(self, learned: float, structure: FloatArray) -> float:
        """As `difficulty_of`, of one request."""
        tokens, chars = self._tables.length_columns
        length = float(structure[tokens]) + math.log(max(float(structure[chars]), 0.1))
        mean, deviation, middle, spread, weight, centre, width = self._figures
        share = logistic(1.702 * (learned - mean) / deviation)
        by_length = logistic(1.702 * (length - middle) / spread)
        hardness: float = (share + weight * by_length - centre) / width
        return hardness

    def _of_trees(self, columns: FloatArray) -> list[float]:
        """Log-odds by head from the trees, then the gain."""
        values = self._trees.values(columns)
        bias = self._tables.tree_bias
        sums: list[float] = (np.bincount(self._tree_head, values, minlength=len(bias)) + bias).tolist()
        return sums

    def _log_odds(
        self, linear: list[float], by_topic: list[float], trees: list[float], hardness: float
    ) -> list[float]:
        """The heads' log-odds of success; as `Classifier.log_odds`, of one request."""
        heads = len(linear)
        odds = []
        for figures, said, topical, covered, tree in zip(
            self._heads, linear, by_topic[:heads], by_topic[heads:], trees[:heads], strict=True
        ):
            by_linear, by_topics, by_trees, slope, offset, intercept, harder = figures
            mixed = by_linear * logistic(said) + by_topics * topical + by_trees * logistic(tree)
            own = slope * log_odds_of(mixed, 1e-4) + offset
            odds.append(covered * own + (1 - covered) * (intercept + harder * hardness))
        weak, strong, counts = self._tables.compared
        low, high = logistic(odds[weak]), logistic(odds[strong])
        change = counts / 2 * by_topic[heads + strong] * (trees[heads] - (high - low))
        odds[weak], odds[strong] = log_odds_of(low - change, 1e-3), log_odds_of(high + change, 1e-3)
        return odds


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


@lru_cache(maxsize=256)
def _even(count: int) -> FloatArray:
    """Return the weights of a plain mean. Not to be changed."""
    return np.full(count, 1 / count, np.float32)


# Of Knuth's multiplicative hashing; and what bits are mixed by.
_FIRST, _SECOND, _MIX = np.uint32(2654435761), np.uint32(40503), np.uint32(15)


def _ngrams(ids: IdArray, vocabulary: int, bits: np.uint32) -> IdArray:
    """Return the tokens, then the pairs of neighbours as numbers from `vocabulary` on."""
    numbers = ids.view(np.uint32)
    pairs = numbers[:-1] * _FIRST
    pairs += numbers[1:] * _SECOND
    pairs ^= pairs >> _MIX
    pairs &= bits
    pairs += np.uint32(vocabulary)
    return np.concatenate((ids, pairs.view(np.int32)))


def _counted(ids: IdArray) -> tuple[IdArray, FloatArray]:
    """Sort ids; return the distinct ones in order and how often each occurs. As `np.unique`, in half of its time."""
    ids.sort()
    begins = np.empty(len(ids), np.bool_)
    begins[0] = True
    np.not_equal(ids[1:], ids[:-1], out=begins[1:])
    (starts,) = begins.nonzero()
    counts = np.empty(len(starts), np.float32)
    np.subtract(starts[1:], starts[:-1], out=counts[:-1], casting="unsafe")
    counts[-1] = len(ids) - starts[-1]
    return ids.take(starts), counts
