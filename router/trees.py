"""Complete decision trees of one depth as arrays: how they are read for many rows at once, and fast for one."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

TREE_DEPTH = 3

FloatArray = npt.NDArray[np.float32]


def leaf_values(
    columns: FloatArray, split_column: npt.NDArray[np.int32], split_at: FloatArray, leaves: FloatArray
) -> FloatArray:
    """Return the value of the leaf that each row comes to in each tree, shape (rows, R).

    Args:
        columns: Shape (rows, columns).
        split_column: (R, 7) column that an inner node looks at; children of node i are 2i+1 and 2i+2.
        split_at: (R, 7) threshold; greater goes right.
        leaves: (R, 8) values.
    """
    tree = np.arange(len(leaves))
    node = np.zeros((len(columns), len(tree)), np.int32)
    for _ in range(TREE_DEPTH):
        looked_at = np.take_along_axis(columns, split_column[tree, node], axis=1)
        node = 2 * node + 1 + (looked_at > split_at[tree, node])
    values: FloatArray = leaves[tree, node - (2**TREE_DEPTH - 1)]
    return values


class Levels:
    """The same trees for one row at a time: nodes level by level in flat arrays, so that nothing but the row is looked
    up by two indices, and indices of numpy's own width, so that none is converted.

    Args:
        split_column: (R, 7), see `leaf_values`.
        split_at: (R, 7).
        leaves: (R, 8).
    """

    __slots__ = ("_first", "_leaves", "_left", "_next")

    def __init__(
        self, split_column: npt.NDArray[np.integer[Any]], split_at: FloatArray, leaves: FloatArray
    ) -> None:
        # The children of the node that is number n of its level are numbers 2n and 2n + 1 of the next.
        levels = [slice(2**level - 1, 2 ** (level + 1) - 1) for level in range(TREE_DEPTH)]
        self._first, *self._next = [
            (split_column[:, nodes].ravel().astype(np.intp), split_at[:, nodes].ravel()) for nodes in levels
        ]
        self._left = 2 * np.arange(len(leaves), dtype=np.intp)
        # Sums of many values are made in double precision.
        self._leaves = leaves.ravel().astype(np.float64)

    def values(self, columns: FloatArray) -> npt.NDArray[np.float64]:
        """Return the value of the leaf that one row, shape (columns), comes to in each tree, shape (R)."""
        column, split_at = self._first
        at = self._left + (columns.take(column) > split_at)
        for column, split_at in self._next:
            right = columns.take(column.take(at)) > split_at.take(at)
            at = 2 * at
            at += right
        values: npt.NDArray[np.float64] = self._leaves.take(at)
        return values
