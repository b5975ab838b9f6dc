"""Stop strings, found wherever tokens cut them."""

from __future__ import annotations

from collections.abc import Sequence


class StopFilter:
    """Passes text on until a stop string comes; what might be the beginning of one is held back.

    Attributes:
        found: The stop string that was found. Neither it nor what follows is passed on.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.found: str | None = None

    @property
    def stopped(self) -> bool:
        """Whether a stop string was found."""
        return self.found is not None

    def feed(self, text: str, *, final: bool = False) -> str:
        """Take more text; returns what can be shown now. With `final`, nothing is held back any more."""
        if self.stopped:
            return ""
        buffer = self._held + text
        found = [(at + len(stop), at, stop) for stop in self._stops if (at := buffer.find(stop)) >= 0]
        if found:
            # The one that is complete first, so that it does not matter how tokens cut the text.
            _, at, self.found = min(found)
            self._held = ""
            return buffer[:at]
        keep = 0 if final else self._unsure(buffer)
        self._held = buffer[len(buffer) - keep :]
        return buffer[: len(buffer) - keep]

    def _unsure(self, buffer: str) -> int:
        """Length of the longest end of `buffer` that a stop string begins with."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(buffer)), 0, -1):
            if any(stop.startswith(buffer[-length:]) for stop in self._stops):
                return length
        return 0
