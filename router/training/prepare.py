"""Preparing: from rows to what is fitted on, features and labels, and the folds that figures are taken over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from ..scoring.embedding import FloatArray, TokenEmbedding
from ..scoring.features import BIGRAM_BUCKETS, FeatureReader, Features
from ..wire import ChatRequest
from .difficulty import GeneralOutcomes, general_outcomes
from .folds import folds_of, groups_of
from .keys import text_of
from .rows import TrainingRow

AXES = 32

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
        starts = np.cumsum([0, *(len(f.ngrams) for f in features)])
        at = np.concatenate([f.ngrams for f in features])
        counts = np.concatenate([f.ngram_counts for f in features])
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
    general: GeneralOutcomes


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """All that classifiers are fitted on, fold by fold.

    Attributes:
        rows: The rows.
        matrix: Their features.
        targets: Their labels.
        fold: Of each row, see `folds_of`.
        axes: See `principal_axes`.
    """

    rows: Sequence[TrainingRow]
    matrix: Matrix
    targets: Targets
    fold: npt.NDArray[np.int32]
    axes: FloatArray


def prepare(
    rows: Sequence[TrainingRow],
    heads: Sequence[str],
    *,
    folds: int,
    seed: int,
    without: Sequence[str] = (),
    progress: Progress = lambda step: None,
) -> Prepared:
    """Read the rows' features and labels, and spread them over folds.

    Args:
        rows: From `load_rows`.
        heads: To be fitted.
        folds: How many; near-duplicates stay in one.
        seed: Of folds and axes.
        without: Subsets to leave out, with everything that is a near-duplicate of theirs.
        progress: Called with each step, in words.
    """
    progress(f"grouping near-duplicates of {len(rows)} rows")
    groups = groups_of([text_of(row.body) for row in rows])
    if without:
        named = [group for group, row in zip(groups, rows, strict=True) if row.subset in without]
        alike = np.isin(groups, named)
        rows, groups = [row for row, out in zip(rows, alike, strict=True) if not out], groups[~alike]
    fold = folds_of([f"{row.file}/{row.topic}" for row in rows], groups, folds, seed)
    progress("reading features")
    embedding = TokenEmbedding.load()
    matrix = read_matrix(rows, FeatureReader(embedding), embedding.tokenizer.get_vocab_size())
    return Prepared(rows, matrix, targets_of(rows, heads), fold, principal_axes(matrix, seed=seed))


def read_matrix(rows: Sequence[TrainingRow], reader: FeatureReader, vocabulary: int) -> Matrix:
    """Return the rows' features."""
    return Matrix.of([reader.read(ChatRequest.parse(dict(row.body))) for row in rows], vocabulary)


def principal_axes(matrix: Matrix, *, seed: int = 0) -> FloatArray:
    """Return the principal axes of the questions' embedding, shape (256, AXES).

    Those of all rows, in folds too: they are found without outcomes, and abilities need the same ones everywhere.
    """
    from sklearn.decomposition import PCA

    return np.asarray(PCA(AXES, random_state=seed).fit(matrix.focus).components_.T, np.float32)


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
        general_outcomes(rows),
    )
