"""Single flight: of identical requests at once, one is run and the others wait for its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Literal
from weakref import WeakValueDictionary

from .recall import Recalled

# How a flight ends that has no answer to share: each of those who wait runs its own request, or the next of them
# begins another flight, as only the client has left.
Empty = Literal["alone", "next"]


class Flight:
    """One request under way, for others to wait for. Ends once.

    Args:
        begun: When, by the clock of its flights.
        session: The session that it is for, where the caller named one.
        forget: Takes it out of its flights.
    """

    def __init__(self, begun: float, session: str | None, forget: Callable[[Flight], None]) -> None:
        self.begun = begun
        self.session = session
        self._forget = forget
        self._done: asyncio.Future[Recalled | Empty] = asyncio.get_running_loop().create_future()

    def land(self, end: Recalled | Empty, *, kept: asyncio.Task[Any] | None = None) -> None:
        """End it.

        Args:
            end: The answer, or how those go on who wait.
            kept: The writing of the answer; until it is done, whoever asks gets it here.
        """
        if self._done.done():
            return
        self._done.set_result(end)
        if kept is None:
            self._forget(self)
        else:
            kept.add_done_callback(lambda _: self._forget(self))

    async def wait(self, seconds: float) -> Recalled | Empty | None:
        """Wait until it ends, for so long; None where it has not ended by then."""
        # Not `wait_for`: that would cancel what the others wait for, too.
        await asyncio.wait({self._done}, timeout=max(0.0, seconds))
        return self._done.result() if self._done.done() else None


class Flights:
    """The requests under way, by key. Belongs to one event loop at a time.

    Args:
        patience: Seconds after its beginning that a flight is waited for, and that a request waits in all.
        clock: Seconds, from any start.
    """

    def __init__(self, patience: float, clock: Callable[[], float]) -> None:
        self._patience = patience
        self._clock = clock
        # Weak: a stream that is dropped without being closed takes its flight with it.
        self._running: WeakValueDictionary[str, Flight] = WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._running)

    async def join(self, key: str, session: str | None = None) -> tuple[Recalled, str | None] | Flight | None:
        """Wait for the answer of an equal request under way.

        Args:
            key: What equal requests share.
            session: The session, where the caller named one.

        Returns:
            Its answer, with the session that it was made for; or where there is none under way, a flight of our own,
            which must end with `land`; or None where there is no answer to share.
        """
        begun = self._clock()
        while (flight := self._running.get(key)) is not None:
            end = await flight.wait(min(flight.begun, begun) + self._patience - self._clock())
            if isinstance(end, Recalled):
                return end, flight.session
            if end != "next":
                return None
        return self._begin(key, session)

    def _begin(self, key: str, session: str | None) -> Flight:
        def forget(ended: Flight) -> None:
            if self._running.get(key) is ended:
                del self._running[key]

        flight = self._running[key] = Flight(self._clock(), session, forget)
        return flight
