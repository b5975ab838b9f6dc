"""The classifier's inference: plain arrays in, probabilities out. Training makes the arrays (`router.training.fit`).

For each head (a model, or a kind of model, whose outcomes were measured) three estimates of P(success) are averaged
and then calibrated:

* linear: logistic regression over the dense columns and the TF-IDF of tokens and token pairs;
* topics: a Gaussian classifier with shared covariance names the request's topic; its success rate by topic;
* trees: gradient-boosted trees of depth 3 over the structural columns and 32 principal axes of the embedding.

As far as the topic is one of which a head has no outcomes, its estimate gives way to a general one: its overall rate,
moved by the request's difficulty. What the strong head gains over the weak one is also estimated by trees of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from ..arrays import read_arrays
from ..errors import SmallfirstError
from .arithmetic import inference_of
from .arithmetic.plain import Inference, logistic
from .arithmetic.tables import Tables
from .embedding import DIMENSIONS, FloatArray
from .features import BIGRAM_BUCKETS, FEATURES_HASH, NAMES, Features

# Structural columns are standardised, clipped to this many deviations, and weighed against the embedding's.
CLIP, STRUCTURE_WEIGHT, FOCUS_WEIGHT, CONTEXT_WEIGHT = 4.0, 0.1, 4.0, 2.0
DENSE = len(NAMES) + 2 * DIMENSIONS
COMPONENTS = ("linear", "topics", "trees")
# The heads whose difference is estimated directly, too, and how much that counts.
WEAK, STRONG = "weak", "strong"
GAIN_WEIGHT = 0.4
# Of the principal axes, how many are skills, and the factor that gives them about the others' spread.
SKILL_AXES, SKILL_SCALE = 24, 4.0

IntArray = npt.NDArray[np.int32]


class Prediction(msgspec.Struct, frozen=True, eq=False):
    """What the classifier says of one request.

    Attributes:
        success: P(success) by head.
        tasks: Probability by task kind; sums to 1.
        similarity: Cosine to the nearest centre of the training requests, in [-1, 1].
        skills: What a model's ability is applied to, shape (S), see `skills`.
    """

    success: Mapping[str, float]
    tasks: Mapping[str, float]
    similarity: float
    skills: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class DifficultyScale:
    """How the difficulty of a request is read off its dense columns and its length.

    Attributes:
        weights: (DENSE).
        figures: Mean and deviation of what the weights give, of the length (see `log_length`), the length's weight,
            and mean and deviation of the result (7).
    """

    weights: FloatArray
    figures: FloatArray


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
        tree_head: (R) which head a tree belongs to; H: the trees of the strong head's gain over the weak one.
        tree_bias: (H + 1) where the sum of a head's trees starts.
        mix: (H, 3) weights of the three estimates, each row sums to 1.
        calibration: (H, 2) slope and offset on the mixed estimate's log-odds.
        covered: (T, H) 1 where a head has outcomes on a topic.
        general: (H, 2) intercept and slope on the difficulty of the general estimate's log-odds.
        difficulty: (DENSE) weights of the difficulty.
        difficulty_figures: (7), see `DifficultyScale`.
        centres: (C, 256) unit vectors: k-means centres of the training requests.
        similar: (1) least similarity to a centre of a request that counts as known.
        vocabulary: (1) V.
        models: Names of the models whose published outcomes are known (M).
        abilities: (M, 1 + S) bias and weights, see `Ability`.
        placed_with: (M) rows that each was placed with.
        prior_mean: (1 + S), see `AbilityPrior`.
        prior_precision: (1 + S, 1 + S).
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
    covered: FloatArray
    general: FloatArray
    difficulty: FloatArray
    difficulty_figures: FloatArray
    centres: FloatArray
    similar: FloatArray
    vocabulary: IntArray
    models: npt.NDArray[np.str_]
    abilities: FloatArray
    placed_with: IntArray
    prior_mean: FloatArray
    prior_precision: FloatArray
    # How the arrays are laid out for one request at a time, and the names as a list; not in the file.
    _one: Inference = field(init=False, repr=False)
    _names: tuple[list[str], list[str]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_one", inference_of(self.tables()))
        object.__setattr__(self, "_names", (self.heads.tolist(), self.tasks.tolist()))

    def tables(self) -> Tables:
        """Return the arrays as one request at a time reads them; about 3 MB."""
        heads = self.heads.tolist()
        return Tables.of(
            self,
            weights=((CLIP, STRUCTURE_WEIGHT), FOCUS_WEIGHT, CONTEXT_WEIGHT),
            length_columns=(NAMES.index("log_focus_tokens"), NAMES.index("chars_per_token")),
            compared=(heads.index(WEAK), heads.index(STRONG), GAIN_WEIGHT),
        )

    def predict(self, features: Features) -> Prediction:
        """Return the probabilities for one request. Pure CPU, about 0.03 ms (0.08 where it is not compiled)."""
        context = None if features.context is features.focus else features.context
        read = self._one.read(
            features.structure, features.focus, context, features.ngrams, features.ngram_counts
        )
        success = map(logistic, read.odds)
        figures = np.array([*read.odds, read.hardness, *read.tasks], np.float32)
        return Prediction(
            dict(zip(self._names[0], success, strict=True)),
            dict(zip(self._names[1], read.tasks, strict=True)),
            read.similarity,
            np.concatenate((figures, read.axes[:SKILL_AXES] * np.float32(SKILL_SCALE))),
        )

    def log_odds(
        self, parts: FloatArray, covered: FloatArray, hardness: FloatArray, gain: FloatArray
    ) -> FloatArray:
        """Return the heads' log-odds of success, for one request or for many (one a row).

        Args:
            parts: The three estimates, shape (…, H, 3).
            covered: Share of the topics' probability of which a head has outcomes, shape (…, H).
            hardness: The difficulty, shape (…).
            gain: Estimate of P(strong) - P(weak), shape (…).
        """
        mixed = np.clip((parts * self.mix).sum(axis=-1), 1e-4, 1 - 1e-4)
        own = self.calibration[:, 0] * np.log(mixed / (1 - mixed)) + self.calibration[:, 1]
        general = self.general[:, 0] + self.general[:, 1] * np.asarray(hardness)[..., None]
        odds = covered * own + (1 - covered) * general
        names = self.heads.tolist()
        weak, strong = names.index(WEAK), names.index(STRONG)
        success = sigmoid(odds)
        # Both move by half of the difference, as far as the topic is known.
        change = GAIN_WEIGHT / 2 * covered[..., strong] * (gain - (success[..., strong] - success[..., weak]))
        for head, by in ((weak, -change), (strong, change)):
            moved = np.clip(success[..., head] + by, 1e-3, 1 - 1e-3)
            odds[..., head] = np.log(moved / (1 - moved))
        return np.asarray(odds, np.float32)

    @property
    def scale_of_difficulty(self) -> DifficultyScale:
        """How difficulty is read."""
        return DifficultyScale(self.difficulty, self.difficulty_figures)

    def dense(self, features: Features) -> FloatArray:
        """Return the dense columns: structure, focus, and what the conversation adds to it."""
        return dense_columns(features.structure, features.focus, features.context, self.mean, self.scale)

    def save(self, path: Path) -> None:
        """Write the arrays; floats in half precision where that loses nothing that matters."""
        arrays: dict[str, npt.NDArray[Any]] = {
            field.name: getattr(self, field.name) for field in fields(self) if field.init
        }
        for name in (
            "ngrams",
            "idf",
            "topics",
            "linear",
            "task_weights",
            "axes",
            "centres",
            "rates",
            "covered",
        ):
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
            arrays = read_arrays(path)
        except (OSError, ValueError) as exc:
            raise SmallfirstError(
                f"{path}: not a readable classifier: {exc}. Train one: smallfirst train"
            ) from exc
        names = [field.name for field in fields(cls) if field.init]
        missing = set(names) - arrays.keys()
        if (
            missing
            or arrays.pop("features_hash", np.array([""]))[0] != FEATURES_HASH
            or arrays["prior_mean"].size not in (0, _figures(arrays))
        ):
            raise SmallfirstError(
                f"{path}: made for another version's features. Train again: smallfirst train"
            )
        for name, array in arrays.items():
            if array.dtype == np.float16:
                arrays[name] = array.astype(np.float32)
        try:
            return cls(**{name: arrays[name] for name in names})
        except (ValueError, IndexError) as exc:
            raise SmallfirstError(f"{path}: broken: {exc}. Train again: smallfirst train") from exc


def _figures(arrays: Mapping[str, npt.NDArray[Any]]) -> int:
    """How many figures an ability has: a bias and a slope on each skill, see `skills`."""
    return 1 + len(arrays["heads"]) + 1 + len(arrays["tasks"]) + SKILL_AXES


def dense_columns(
    structure: FloatArray, focus: FloatArray, context: FloatArray, mean: FloatArray, scale: FloatArray
) -> FloatArray:
    """Return the dense columns of one request, or of many (one a row)."""
    scaled = np.clip((structure - mean) / scale, -CLIP, CLIP) * np.float32(STRUCTURE_WEIGHT)
    added = (context - focus) * np.float32(CONTEXT_WEIGHT)
    return np.concatenate((scaled, focus * np.float32(FOCUS_WEIGHT), added), axis=-1)


def skills(odds: FloatArray, hardness: FloatArray, tasks: FloatArray, axes: FloatArray) -> FloatArray:
    """Return what a request asks of models, in S figures; of one request, or of many (one a row).

    The heads' log-odds of success, the difficulty, the task kinds' probabilities, and where the question lies along
    the first principal axes of the embedding.
    """
    return np.concatenate((odds, hardness, tasks, axes * SKILL_SCALE), axis=-1).astype(np.float32, copy=False)


def log_length(structure: FloatArray) -> FloatArray:
    """Return about the log of the last user message's characters, of one request or of many (one a row).

    Characters and not tokens: they rank exam questions a little better.
    """
    return np.asarray(structure[..., 0] + np.log(np.maximum(structure[..., 2], 0.1)), np.float32)


def difficulty_of(
    scale: DifficultyScale, dense: npt.NDArray[np.floating[Any]], length: FloatArray
) -> FloatArray:
    """Return the difficulty of one request or of many: mean 0 and deviation 1 over the training requests.

    Both parts go through the normal distribution's function (in its logistic approximation), so that an odd or a very
    long request is at the end of the scale and not off it.
    """
    mean, deviation, middle, spread, weight, centre, width = scale.figures
    learned = sigmoid(1.702 * (dense @ scale.weights - mean) / deviation)
    long = sigmoid(1.702 * (length - middle) / spread)
    return np.asarray((learned + weight * long - centre) / width, np.float32)


def sigmoid(values: npt.NDArray[np.floating[Any]]) -> FloatArray:
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
    "DifficultyScale",
    "Prediction",
    "dense_columns",
    "difficulty_of",
    "log_length",
    "sigmoid",
    "skills",
    "softmax",
]
