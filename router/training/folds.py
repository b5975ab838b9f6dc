"""Folds for out-of-fold figures: near-duplicates stay together, and every file and subset is spread evenly."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

# Texts that share this part of their word groups (numbers counted as equal) are near-duplicates.
SAME, GROUP_WORDS, BUCKETS = 0.6, 4, 1 << 22
# A word group that more texts have than this is a phrase of its template, not of its content.
COMMON = 400
# Of a longer text only so many words are compared.
WORDS = 600


def groups_of(texts: Sequence[str]) -> npt.NDArray[np.int32]:
    """Return a group number for each text; near-duplicates, also by a chain of them, have the same."""
    starts = [0]
    columns: list[int] = []
    for text in texts:
        words = ["0" if word.isdigit() else word for word in re.findall(r"\w+", text.lower())[:WORDS]]
        spans = range(max(1, len(words) - GROUP_WORDS + 1))
        shingles = {zlib.crc32(" ".join(words[at : at + GROUP_WORDS]).encode()) % BUCKETS for at in spans}
        columns += shingles
        starts.append(len(columns))
    ones = np.ones(len(columns), np.int32)
    has = sp.csr_matrix((ones, np.array(columns, np.int64), starts), shape=(len(texts), BUCKETS))
    size = np.diff(starts)
    used = np.asarray(has.sum(axis=0)).ravel()
    telling = has[:, np.flatnonzero((used > 1) & (used <= COMMON))]
    common = (telling @ telling.T).tocoo()
    # Groups that were left out as too common count as not shared: this errs to "different" for templates.
    same = common.data / (size[common.row] + size[common.col] - common.data) >= SAME
    pairs = (common.row[same], common.col[same])
    links = sp.csr_matrix((np.ones(len(pairs[0]), np.int32), pairs), shape=(len(texts),) * 2)
    number: npt.NDArray[np.int32] = connected_components(links, directed=False)[1]
    return number


def folds_of(
    strata: Sequence[str], groups: npt.NDArray[np.int32], count: int, seed: int
) -> npt.NDArray[np.int32]:
    """Return the fold of each row, in `range(count)`."""
    from sklearn.model_selection import StratifiedGroupKFold

    fold = np.zeros(len(strata), np.int32)
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    for number, (_, test) in enumerate(splitter.split(np.zeros(len(strata)), np.array(strata), groups)):
        fold[test] = number
    return fold
