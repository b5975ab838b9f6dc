"""Complete decision trees of one depth as arrays: how they are read for many rows at once."""

from __future__ import annotations

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
