"""Which models are known to be down, so that a request does not wait for them in vain."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True)
class _State:
    failures: int = 0
    down_until: float = 0.0


class ModelHealth:
    """Counts consecutive failures per model; after `threshold` of them the model rests for a while.

    Args:
        threshold: Consecutive failures that take a model out.
        rest: Seconds that it rests; doubled each time it fails again right after, up to `max_rest`.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        *,
        threshold: int = 3,
        rest: float = 5.0,
        max_rest: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._threshold = threshold
        self._rest = rest
        self._max_rest = max_rest
        self._clock = clock
        self._states: dict[str, _State] = {}

    def available(self, model: str) -> bool:
        """Whether a model may be asked now."""
        state = self._states.get(model)
        return state is None or state.down_until <= self._clock()

    def succeeded(self, model: str) -> None:
        """Note that a model answered (or refused for the caller's own fault)."""
        self._states.pop(model, None)

    def failed(self, model: str) -> None:
        """Note that a model could not be reached, timed out, or failed by its own fault."""
        state = self._states.setdefault(model, _State())
        state.failures += 1
        over = state.failures - self._threshold
        if over >= 0:
            state.down_until = self._clock() + min(self._rest * 2.0**over, self._max_rest)
