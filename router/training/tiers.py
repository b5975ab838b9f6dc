"""Models by strength: outcomes of many models become those of three kinds of model, the classifier's general heads.

A head over one model would know one source only. Small, middling and large models were measured in every source, so
that heads over these see all of it; a named model is then placed relative to them (`scoring.abilities`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ..scoring.classifier import STRONG, WEAK

SMALL, MIDDLE, LARGE = TIERS = ("small", "middle", "large")
# Heads over published outcomes; every other one is a local model that we measured.
PUBLISHED_HEADS = (WEAK, STRONG, *TIERS)
# All of its models have 7 or 8 billion parameters.
_ALL_SMALL = frozenset({"outcomes_7_small_models"})
# A model counts in a group of rows of which it answered this share.
COVERAGE = 0.5

Array = npt.NDArray[np.float64]


def thirds(scores: Sequence[Mapping[str, float]]) -> Array:
    """Return the mean success of the weakest, the middle and the strongest third of the models on each row.

    Args:
        scores: By row of one group: success in [0, 1] by model. Models are ranked by their means over the group.

    Returns:
        Shape (rows, 3); NaN where no model of a third was run.
    """
    table = _table(scores)
    parts = np.array_split(_ranked(table), 3)
    return np.stack([_row_means(table[:, part]) for part in parts], axis=1)


def tier_outcomes(source: str, scores: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """Return for each row of a group its mean success by tier; a tier is missing where none of its models was run.

    Args:
        source: Name of the file, without ending.
        scores: As for `thirds`.
    """
    if source in _ALL_SMALL:
        table = _table(scores)
        means = {SMALL: _row_means(table[:, _ranked(table)])}
    else:
        means = dict(zip(TIERS, thirds(scores).T, strict=True))
    return [
        {tier: float(of[row]) for tier, of in means.items() if not np.isnan(of[row])}
        for row in range(len(scores))
    ]


def _table(scores: Sequence[Mapping[str, float]]) -> Array:
    names = sorted({name for row in scores for name in row})
    return np.array([[row.get(name, np.nan) for name in names] for row in scores], np.float64)


def _ranked(table: Array) -> npt.NDArray[np.intp]:
    """Columns of the models that answered enough, weakest first."""
    there = ~np.isnan(table)
    means = np.where(there, table, 0).sum(axis=0) / np.maximum(there.sum(axis=0), 1)
    order: npt.NDArray[np.intp] = np.argsort(means, kind="stable")
    return np.asarray(order[there.mean(axis=0)[order] >= COVERAGE])


def _row_means(table: Array) -> Array:
    there = ~np.isnan(table)
    count = there.sum(axis=1)
    means: Array = np.where(there, table, 0).sum(axis=1) / np.maximum(count, 1)
    means[count == 0] = np.nan
    return means
