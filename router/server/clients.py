"""Clients that leave before they are answered."""

from __future__ import annotations

from collections.abc import Callable

# Under this name a request's scope has its client, where our own server made it.
SCOPE_KEY = "smallfirst.client"


class Client:
    """Who is at the other end of a connection; tells when it has left. Belongs to one event loop.

    ASGI says that by a message, which somebody has to wait for: with a task for each request, a twelfth of all that a
    request takes of the processor.

    Attributes:
        gone: Whether it has left.
    """

    __slots__ = ("_told", "gone")

    def __init__(self) -> None:
        self.gone = False
        self._told: set[Callable[[], None]] = set()

    def tell(self, left: Callable[[], None]) -> None:
        """Call `left` once it has left: at once, where it has already."""
        self._told.add(left)
        if self.gone:
            left()

    def forget(self, left: Callable[[], None]) -> None:
        """Do not call `left` any more."""
        self._told.discard(left)

    def leave(self) -> None:
        """Take note that it has left, and tell."""
        self.gone = True
        for left in list(self._told):
            left()
