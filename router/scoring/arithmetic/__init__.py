"""The arithmetic of scoring one request: compiled where a C compiler was there when smallfirst was installed.

`compiled` (Cython) and `plain` (numpy) have the same functions and say the same, but for the last digits. numpy's cost
a call is most of the time for arrays as small as one request's; `docs/performance.md` has figures.
"""

from . import plain
from .plain import unit
from .tables import Tables

try:
    from . import compiled
    from .compiled import read_tokens, unit_mean

    COMPILED = True
except ImportError:
    from .plain import read_tokens, unit_mean

    COMPILED = False


def inference_of(tables: Tables) -> plain.Inference:
    """Return what reads one request at a time; in numpy, too, where a table is too wide for the compiled loops.

    Raises:
        ValueError: The tables do not fit together.
    """
    if COMPILED and tables.widest <= compiled.WIDEST:
        return compiled.Inference(tables)
    return plain.Inference(tables)


__all__ = ["COMPILED", "inference_of", "read_tokens", "unit", "unit_mean"]
