"""The end of a server's work: no more requests are taken, those under way are ended properly, at the latest when their
time is over.
"""

from __future__ import annotations

from typing import Protocol


class Cuttable(Protocol):
    """Work under way that can be ended before it is done."""

    def cut(self) -> None:
        """End it: who waits for it gets `ServerStopping`."""
        ...


class Drain:
    """Whether a server is about to end, and what is still under way. Belongs to one event loop.

    Attributes:
        begun: Whether it takes no more connections: probes say so.
        over: Whether the time of what was under way is over, too.
    """

    def __init__(self) -> None:
        self.begun = False
        self.over = False
        self._under_way: set[Cuttable] = set()

    def enter(self, work: Cuttable) -> None:
        """Take note that some work begins; where the time is over already, it is cut at once."""
        self._under_way.add(work)
        if self.over:
            work.cut()

    def leave(self, work: Cuttable) -> None:
        """Take note that some work has ended."""
        self._under_way.discard(work)

    def cut(self) -> int:
        """End all that is under way; returns how much that was."""
        self.over = True
        under_way = list(self._under_way)
        for work in under_way:
            work.cut()
        return len(under_way)
