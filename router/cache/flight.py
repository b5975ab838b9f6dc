"""Single flight: of identical requests at once, one is run and the others wait for its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from weakref import WeakValueDictionary

from .recall import Recalled


class Flight:
    """One request under way, for others to wait for. Ends once: with an answer to share, or without."""

    def __init__(self, begun: float, forget: Callable[[Flight], None]) -> None:
        self.begun = begun
        self._forget = forget
        self._done: asyncio.Future[Recalled | None] = asyncio.get_running_loop().create_future()

    def land(self, answer: Recalled | None) -> None:
        """End it; `answer` is None where it may not stand for others (a failure, a client that left)."""
        if not self._done.done():
            self._forget(self)
            self._done.set_result(answer)

    async def wait(self, seconds: float) -> Recalled | None:
        """Wait until it ends, for so long; None where there is no answer to share by then."""
        # Not `wait_for`: that would cancel what the others wait for, too.
        await asyncio.wait({self._done}, timeout=seconds)
        return self._done.result() if self._done.done() else None


class Flights:
    """The requests under way, by key. Belongs to one event loop at a time.

    Args:
        patience: Seconds after its beginning that a flight is waited for. Whoever asks later begins another, so that a
            client which reads its stream slowly holds up nobody for longer.
        clock: Seconds, from any start.
    """

    def __init__(self, patience: float, clock: Callable[[], float]) -> None:
        self._patience = patience
        self._clock = clock
        # Weak: a stream that is dropped without being closed takes its flight with it.
        self._running: WeakValueDictionary[str, Flight] = WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._running)

    async def join(self, key: str) -> Recalled | Flight | None:
        """Wait for the answer of an equal request under way.

        Returns:
            Its answer; or where there is none under way, a flight of our own, which must end with `land`; or None where
            the one under way takes too long.
        """
        while (flight := self._running.get(key)) is not None:
            left = flight.begun + self._patience - self._clock()
            answer = await flight.wait(left) if left > 0 else None
            if answer is not None:
                return answer
            if self._running.get(key) is flight:
                return None
            # It failed; the first of those who waited is the next to try.
        return self._begin(key)

    def _begin(self, key: str) -> Flight:
        def forget(ended: Flight) -> None:
            if self._running.get(key) is ended:
                del self._running[key]

        flight = self._running[key] = Flight(self._clock(), forget)
        return flight
