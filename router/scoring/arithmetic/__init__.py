"""The arithmetic of scoring one request: compiled where a C compiler was there when smallfirst was installed.

`compiled` (Cython) and `plain` (numpy) have the same functions and say the same, but for the last digits. numpy's cost
a call is most of the time for arrays as small as one request's; compiled, it takes a third of the time.
"""

try:
    from .compiled import Inference, read_tokens, unit_mean
except ImportError:
    from .plain import Inference, read_tokens, unit_mean  # type: ignore[assignment]

COMPILED = Inference.__module__.endswith(".compiled")

__all__ = ["COMPILED", "Inference", "read_tokens", "unit_mean"]
