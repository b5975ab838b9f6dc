"""Figures that many look at: made once for all of them, only while somebody looks, and sent only when they changed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from ..errors import RequestError

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

# Seconds between looks at the ledger, and until figures are made anew though nothing seems to have changed: another
# process may write the same ledger, and the time that is looked at moves on.
PACE, ANEW = 2.0, 10.0
# Making figures takes at most this part of the time, however large the ledger.
DUTY = 0.1
# Seconds after the last look until what was kept in memory is given back.
IDLE = 60.0
MOST_VIEWERS = 64
# So many values are kept; of more keys the one that was looked at longest ago is forgotten.
MOST_KEPT = 128


class TooManyViewers(RequestError):
    """As many look at live figures as the gateway has room for."""

    status, code = 503, "too_many_viewers"

    @property
    def retry_after(self) -> float | None:
        """Seconds until a place may be free again."""
        return 30.0


@dataclass(slots=True, eq=False)
class _Channel(Generic[V]):
    """What is known of one key."""

    value: V | None = None
    stamp: object = None
    made_at: float = float("-inf")
    looked_at: float = float("-inf")
    pause: float = PACE
    making: asyncio.Task[V] | None = None


class Feed(Generic[K, V]):
    """Makes a value for each key, for all who want to see it; belongs to one event loop.

    Args:
        make: Makes the value of a key; runs in a thread, one at a time.
        stamp: Returns another value after a change; cheap.
        idle: Called when nobody has looked for a while.
        pace: Seconds between two looks.
        most: How many may follow at the same time.
        clock: Seconds.
    """

    def __init__(
        self,
        make: Callable[[K], V],
        *,
        stamp: Callable[[], object],
        idle: Callable[[], None] = lambda: None,
        pace: float = PACE,
        most: int = MOST_VIEWERS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._make = make
        self._stamp = stamp
        self._idle = idle
        self._pace = pace
        self._most = most
        self._clock = clock
        self._channels: dict[K, _Channel[V]] = {}
        self._one_at_a_time = asyncio.Lock()
        self._watching = 0
        self._forgetting: asyncio.TimerHandle | None = None

    @property
    def viewers(self) -> int:
        """How many follow."""
        return self._watching

    async def now(self, key: K) -> V:
        """Return a value that is about `pace` seconds old at most. Errors of `make` are raised."""
        self._forget_later()
        channel = self._channels.setdefault(key, _Channel(pause=self._pace))
        if channel.value is not None and self._clock() - channel.looked_at < channel.pause:
            return channel.value
        if channel.making is None:
            channel.making = asyncio.get_running_loop().create_task(self._refresh(key, channel))
            # All who wait may leave before it fails.
            channel.making.add_done_callback(lambda task: task.cancelled() or task.exception())
        # One who leaves must not take the value away from the others.
        return await asyncio.shield(channel.making)

    def enter(self) -> None:
        """Take one of the places of those who follow; `leave` gives it back.

        Raises:
            TooManyViewers: All are taken.
        """
        if self._watching >= self._most:
            raise TooManyViewers(f"{self._most} viewers look already.")
        self._watching += 1

    def leave(self) -> None:
        """Give a place back."""
        self._watching -= 1

    async def follow(self, key: K, seconds: float) -> AsyncIterator[V | None]:
        """Yield a value, and then at every look the one that it changed to, or None where it is the same.

        Ends after so many seconds, or a little later where a value takes long to make.
        """
        shown: V | None = None
        end = self._clock() + seconds
        while self._clock() < end:
            value = await self.now(key)
            yield None if value == shown else value
            shown = value
            channel = self._channels.get(key)
            wait = self._pace if channel is None else channel.looked_at + channel.pause - self._clock()
            await asyncio.sleep(max(min(wait, end - self._clock()), 0.01))

    async def _refresh(self, key: K, channel: _Channel[V]) -> V:
        try:
            async with self._one_at_a_time:
                stamp, begun = self._stamp(), self._clock()
                fresh = stamp == channel.stamp and begun - channel.made_at < ANEW
                if channel.value is None or not fresh:
                    channel.value = await asyncio.to_thread(self._make, key)
                    channel.stamp, channel.made_at = stamp, self._clock()
                    channel.pause = max(self._pace, (channel.made_at - begun) / DUTY)
                channel.looked_at = self._clock()
                return channel.value
        finally:
            channel.making = None

    def _forget_later(self) -> None:
        if self._forgetting is not None:
            self._forgetting.cancel()
        self._forgetting = asyncio.get_running_loop().call_later(IDLE, self._forget)
        unseen = self._clock() - max(IDLE, 30 * self._pace)
        for key in [key for key, channel in self._channels.items() if channel.made_at < unseen]:
            if self._channels[key].making is None:
                del self._channels[key]
        idle = [key for key, channel in self._channels.items() if channel.making is None]
        idle.sort(key=lambda key: self._channels[key].looked_at)
        for key in idle[: max(len(self._channels) - MOST_KEPT, 0)]:
            del self._channels[key]

    def _forget(self) -> None:
        self._forgetting = None
        self._channels.clear()
        self._idle()
