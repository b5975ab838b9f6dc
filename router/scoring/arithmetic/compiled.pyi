"""See `plain`."""

import numpy as np
import numpy.typing as npt

from ..embedding import FloatArray, IdArray
from . import plain
from .tables import Reading, Tables

WIDEST: int

class Inference(plain.Inference):  # not by inheritance: it has the same methods
    def __init__(self, tables: Tables) -> None: ...
    def read(
        self,
        structure: FloatArray,
        focus: FloatArray,
        context: FloatArray | None,
        ngrams: IdArray,
        ngram_counts: FloatArray,
    ) -> Reading: ...

def unit_mean(vectors: FloatArray, ids: IdArray) -> FloatArray: ...
def read_tokens(
    ids: IdArray, classes: npt.NDArray[np.uint8], log_rank: FloatArray, buckets: int
) -> tuple[IdArray, FloatArray, list[float]]: ...
