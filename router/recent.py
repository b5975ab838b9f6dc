"""How often two things happened lately: counts over a sliding window."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

_SLICES = 10


class Recent:
    """Counts two kinds of events over the last `window` seconds, to a tenth of the window.

    Args:
        window: Seconds.
        clock: Monotonic seconds.
    """

    def __init__(self, window: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._slice = window / _SLICES
        self._clock = clock
        # [number of the slice, events of the first kind, of the second], oldest first.
        self._slices: deque[list[int]] = deque()
        self._first = self._second = 0

    def add(self, first: int = 0, second: int = 0) -> None:
        """Count events that happened now."""
        now = self._forget()
        if not self._slices or self._slices[-1][0] != now:
            self._slices.append([now, 0, 0])
        newest = self._slices[-1]
        newest[1] += first
        newest[2] += second
        self._first += first
        self._second += second

    def counts(self) -> tuple[int, int]:
        """Return how many of either kind there were within the window."""
        self._forget()
        return self._first, self._second

    def clear(self) -> None:
        """Forget all."""
        self._slices.clear()
        self._first = self._second = 0

    def _forget(self) -> int:
        now = int(self._clock() / self._slice)
        slices = self._slices
        while slices and slices[0][0] <= now - _SLICES:
            _, first, second = slices.popleft()
            self._first -= first
            self._second -= second
        return now
