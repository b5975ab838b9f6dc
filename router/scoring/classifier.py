"""The classifier's inference: plain arrays in, probabilities out. Training makes the arrays (`router.training.fit`).

For each head (a model whose outcomes were measured) three estimates of P(success) are averaged and then calibrated:

* linear: logistic regression over the dense columns and the TF-IDF of tokens and token pairs;
* topics: a Gaussian classifier with shared covariance names the request's topic; its success rate by topic;
* trees: gradient-boosted trees of depth 3 over the structural columns and 32 principal axes of the embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import SmallfirstError
from .embedding import DIMENSIONS, FloatArray
from .features import BIGRAM_BUCKETS, FEATURES_HASH, NAMES, Features

# Structural columns are standardised, clipped to this many deviations, and weighed against the embedding's.
CLIP, STRUCTURE_WEIGHT, FOCUS_WEIGHT, CONTEXT_WEIGHT = 4.0, 0.1, 4.0, 2.0
DENSE = len(NAMES) + 2 * DIMENSIONS
TREE_DEPTH = 3
COMPONENTS = ("linear", "topics", "trees")

IntArray = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the classifier says of one request.

    Attributes:
        success: P(success) by head.
        tasks: Probability by task kind; sums to 1.
        similarity: Cosine to the nearest centre of the training requests, in [-1, 1].
    """

    success: Mapping[str, float]
    tasks: Mapping[str, float]
    similarity: float


@dataclass(frozen=True, slots=True, eq=False)
class Classifier:
    """All arrays, single precision. H heads, T topics, K task kinds, V tokens, R trees, P axes.

    Attributes:
        heads: Names of the heads (H).
        tasks: Names of the task kinds (K).
        mean: Of the structural columns.
        scale: Their deviation.
        linear: (DENSE, H) weights.
        bias: (H).
        idf: (V + BIGRAM_BUCKETS) inverse document frequency; 0 for what was seen once or never.
        ngrams: (V + BIGRAM_BUCKETS, H) weights.
        topics: (DENSE, T) weights of the topic classifier.
        topic_bias: (T).
        rates: (T, H) success rate by topic.
        task_weights: (DENSE, K).
        task_bias: (K).
        axes: (256, P) principal axes of the embedding.
        split_column: (R, 7) column of [structure, axes] that an inner node looks at.
        split_at: (R, 7) threshold; greater goes right.
        leaves: (R, 8) values.
        tree_head: (R) which head a tree belongs to.
        tree_bias: (H) where the sum of a head's trees starts.
        mix: (H, 3) weights of the three estimates, each row sums to 1.
        calibration: (H, 2) slope and offset on the mixed estimate's log-odds.
        centres: (C, 256) unit vectors: k-means centres of the training requests.
        similar: (1) least similarity to a centre of a request that counts as known.
        vocabulary: (1) V.
    """

    heads: npt.NDArray[np.str_]
    tasks: npt.NDArray[np.str_]
    mean: FloatArray
    scale: FloatArray
    linear: FloatArray
    bias: FloatArray
    idf: FloatArray
    ngrams: FloatArray
    topics: FloatArray
    topic_bias: FloatArray
    rates: FloatArray
    task_weights: FloatArray
    task_bias: FloatArray
    axes: FloatArray
    split_column: IntArray
    split_at: FloatArray
    leaves: FloatArray
    tree_head: IntArray
    tree_bias: FloatArray
    mix: FloatArray
    calibration: FloatArray
    centres: FloatArray
    similar: FloatArray
    vocabulary: IntArray

    def predict(self, features: Features) -> Prediction:
        """Return the probabilities for one request. Pure CPU, about 0.15 ms."""
        dense = self.dense(features)
        parts = np.stack(
            (
                sigmoid(dense @ self.linear + self.bias + self._ngrams(features)),
                softmax(dense @ self.topics + self.topic_bias) @ self.rates,
                sigmoid(self._trees(features)),
            ),
            axis=1,
        )
        mixed = np.clip((parts * self.mix).sum(axis=1), 1e-4, 1 - 1e-4)
        success = sigmoid(self.calibration[:, 0] * np.log(mixed / (1 - mixed)) + self.calibration[:, 1])
        tasks = softmax(dense @ self.task_weights + self.task_bias)
        return Prediction(
            dict(zip(self.heads.tolist(), success.tolist(), strict=True)),
            dict(zip(self.tasks.tolist(), tasks.tolist(), strict=True)),
            float((self.centres @ features.focus).max()),
        )

    def dense(self, features: Features) -> FloatArray:
        """Return the dense columns: structure, focus, and what the conversation adds to it."""
        return dense_columns(features.structure, features.focus, features.context, self.mean, self.scale)

    def _ngrams(self, features: Features) -> FloatArray:
        """The linear part over TF-IDF, of length 1, with sublinear counts."""
        at = np.concatenate((features.unigrams, features.bigrams + self.vocabulary[0]))
        if not len(at):
            return np.zeros(len(self.heads), np.float32)
        counts = np.concatenate((features.unigram_counts, features.bigram_counts))
        weights = (1 + np.log(counts)) * self.idf[at]
        length = float(np.sqrt(weights @ weights))
        value: FloatArray = weights @ self.ngrams[at]
        return value / np.float32(length) if length > 0 else value

    def _trees(self, features: Features) -> FloatArray:
        """Log-odds by head from the trees: all of them go down one level at a time."""
        columns = np.concatenate((features.structure, features.focus @ self.axes))
        tree = np.arange(len(self.split_column))
        node = np.zeros(len(tree), np.int32)
        for _ in range(TREE_DEPTH):
            right = columns[self.split_column[tree, node]] > self.split_at[tree, node]
            node = 2 * node + 1 + right
        values = self.leaves[tree, node - (2**TREE_DEPTH - 1)]
        total = np.bincount(self.tree_head, values, minlength=len(self.heads))
        return (total + self.tree_bias).astype(np.float32)

    def save(self, path: Path) -> None:
        """Write the arrays; floats in half precision where that loses nothing that matters."""
        arrays: dict[str, npt.NDArray[Any]] = {
            field.name: getattr(self, field.name) for field in fields(self)
        }
        for name in ("ngrams", "idf", "topics", "linear", "task_weights", "axes", "centres", "rates"):
            arrays[name] = arrays[name].astype(np.float16)
        with path.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, features_hash=np.array([FEATURES_HASH]), **arrays)

    @classmethod
    def load(cls, path: Path) -> Classifier:
        """Read the arrays.

        Raises:
            SmallfirstError: The file is missing or broken, or was trained for other features than this version's.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        except (OSError, ValueError, EOFError) as exc:
            raise SmallfirstError(
                f"{path}: not a readable classifier: {exc}. Train one: smallfirst train"
            ) from exc
        missing = {field.name for field in fields(cls)} - arrays.keys()
        if missing or arrays.pop("features_hash", np.array([""]))[0] != FEATURES_HASH:
            raise SmallfirstError(
                f"{path}: made for another version's features. Train again: smallfirst train"
            )
        for name, array in arrays.items():
            if array.dtype == np.float16:
                arrays[name] = array.astype(np.float32)
        return cls(**{field.name: arrays[field.name] for field in fields(cls)})


def dense_columns(
    structure: FloatArray, focus: FloatArray, context: FloatArray, mean: FloatArray, scale: FloatArray
) -> FloatArray:
    """Return the dense columns of one request, or of many (one a row)."""
    scaled = np.clip((structure - mean) / scale, -CLIP, CLIP) * np.float32(STRUCTURE_WEIGHT)
    added = (context - focus) * np.float32(CONTEXT_WEIGHT)
    return np.concatenate((scaled, focus * np.float32(FOCUS_WEIGHT), added), axis=-1)


def sigmoid(values: FloatArray) -> FloatArray:
    """The logistic function, without overflow."""
    clipped = np.clip(values, -30, 30).astype(np.float32, copy=False)
    shares: FloatArray = np.reciprocal(1 + np.exp(-clipped))
    return shares


def softmax(values: FloatArray) -> FloatArray:
    """Along the last axis."""
    raised = np.exp(values - values.max(axis=-1, keepdims=True))
    shares: FloatArray = raised / raised.sum(axis=-1, keepdims=True)
    return shares


__all__ = [
    "BIGRAM_BUCKETS",
    "COMPONENTS",
    "DENSE",
    "Classifier",
    "Prediction",
    "dense_columns",
    "sigmoid",
    "softmax",
]
