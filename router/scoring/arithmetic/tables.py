"""The classifier's arrays as one request at a time reads them fastest: products joined, factors multiplied in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from ..classifier import Classifier
    from ..embedding import FloatArray


class Reading(msgspec.Struct, frozen=True, eq=False):
    """What the arrays say of one request. H heads.

    Attributes:
        odds: Log-odds of success by head (H).
        tasks: Probability by task kind.
        hardness: The difficulty.
        axes: Where the question lies along the principal axes.
        similarity: Cosine to the nearest centre.
    """

    odds: list[float]
    tasks: list[float]
    hardness: float
    axes: FloatArray
    similarity: float


class Tables(msgspec.Struct, frozen=True, eq=False):
    """All that is looked up. H heads, T topics, K task kinds, V tokens and pairs, R trees, P axes, C centres.

    Attributes:
        mean, scale: Of the structural columns (S).
        clip: Deviations that they are clipped to.
        dense: Weights of [structure, focus, context less focus] for [heads, topics, tasks, difficulty], in this order:
            shape (S + 2 · 256, H + T + K + 1).
        bias: Of the same (H + T + K + 1).
        of_focus: Of [axes, centres], shape (256, P + C).
        axes: P.
        of_ngrams: Of each token or pair its inverse document frequency, then its weights: shape (V, 1 + H).
        of_topics: Of each topic the heads' rates, then whether they have outcomes: shape (T, 2 · H).
        split_column, split_at, leaves: Of the trees, as `Classifier` has them.
        tree_head, tree_bias: The same.
        heads: For each head three figures of its mix, two of its calibration, two of its general estimate: (H, 7).
        difficulty: See `DifficultyScale` (7).
        length_columns: Which structural columns are the tokens' logarithm and the characters a token.
        compared: Numbers of the weak and of the strong head, and how much their difference counts.
    """

    mean: FloatArray
    scale: FloatArray
    clip: float
    dense: FloatArray
    bias: FloatArray
    of_focus: FloatArray
    axes: int
    of_ngrams: FloatArray
    of_topics: FloatArray
    split_column: npt.NDArray[np.int32]
    split_at: FloatArray
    leaves: FloatArray
    tree_head: npt.NDArray[np.int32]
    tree_bias: npt.NDArray[np.float64]
    heads: npt.NDArray[np.float64]
    difficulty: npt.NDArray[np.float64]
    length_columns: tuple[int, int]
    compared: tuple[int, int, float]

    @property
    def widest(self) -> int:
        """The most figures that a request becomes in one step."""
        columns = len(self.mean) + self.axes + 1
        widest: int = max(len(self.bias), *self.of_focus.shape, columns, 2 * len(self.heads))
        return widest

    @classmethod
    def of(
        cls,
        model: Classifier,
        *,
        weights: tuple[tuple[float, float], float, float],
        length_columns: tuple[int, int],
        compared: tuple[int, int, float],
    ) -> Tables:
        """Lay a classifier's arrays out; about 3 MB.

        Args:
            model: Whose arrays.
            weights: Of structure (with the deviations that it is clipped to), focus and context; see `dense_columns`.
            length_columns: See `Tables`.
            compared: The same.
        """
        (clip, structure), focus, context = weights
        outputs = (model.linear, model.topics, model.task_weights, model.difficulty[:, None])
        dense = np.concatenate(outputs, axis=1)
        structural, dimensions = len(model.mean), len(model.axes)
        dense[:structural] *= np.float32(structure)
        dense[structural : structural + dimensions] *= np.float32(focus)
        dense[structural + dimensions :] *= np.float32(context)
        return cls(
            mean=_plain(model.mean, np.float32),
            scale=_plain(model.scale, np.float32),
            clip=clip,
            dense=_plain(dense, np.float32),
            bias=_plain(
                np.concatenate((model.bias, model.topic_bias, model.task_bias, np.zeros(1))), np.float32
            ),
            of_focus=_plain(np.concatenate((model.axes, model.centres.T), axis=1), np.float32),
            axes=model.axes.shape[1],
            # Side by side: what is looked up of an n-gram lies in one line of the processor's cache.
            of_ngrams=_plain(np.concatenate((model.idf[:, None], model.ngrams), axis=1), np.float32),
            of_topics=_plain(np.concatenate((model.rates, model.covered), axis=1), np.float32),
            split_column=_plain(model.split_column, np.int32),
            split_at=_plain(model.split_at, np.float32),
            leaves=_plain(model.leaves, np.float32),
            tree_head=_plain(model.tree_head, np.int32),
            tree_bias=_plain(model.tree_bias, np.float64),
            heads=_plain(np.concatenate((model.mix, model.calibration, model.general), axis=1), np.float64),
            difficulty=_plain(model.difficulty_figures, np.float64),
            length_columns=length_columns,
            compared=compared,
        )


def _plain(array: npt.NDArray[Any], kind: type[np.generic]) -> npt.NDArray[Any]:
    """As compiled loops read it: of this kind, row after row."""
    return np.ascontiguousarray(array, dtype=kind)
