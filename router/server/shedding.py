"""How much of the load is refused, by how long work stands in the process's queue."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

# Seconds between looks at the queue, and what one decision is made of: so many looks, in so many seconds at least.
LOOK = 0.05
LOOKS, INTERVAL = 2, 0.5

# Of the control law, for delays in units of the wanted one: by how much the share changes with the delay's distance
# from that, and with its own change. Found by simulation, for loads of 1.2 to 5 times what can be served.
ALPHA, BETA = 0.1, 0.2
# One decision sees no more than this many times the wanted delay.
WORST = 4.0
# Who comes later than so many times the wanted delay in one turn of the loop is refused without a decision.
TOO_LATE = 2.0
# While the queue is nearly empty, this much of the share is left at each decision.
FADE = 0.7
# Always some are served: what they take is how an end of the overload is noticed.
MOST = 0.95
# A share below this is none.
LEAST = 0.02


class Shedder:
    """Says of each request whether it is to be refused, so that the standing queue gets short.

    The delay of an interval is the least that was seen in it: one slow turn makes a burst wait, only a queue that
    stands makes all wait (CoDel, RFC 8289). The share that is refused follows from it by a proportional-integral law
    (PIE, RFC 8033, section 4.2). Refused are those that come, by count and not by lot, before they cost anything.

    Args:
        target: Seconds of delay that are all right.

    Attributes:
        share: Of the requests, how many are refused now, 0 to `MOST`.
        delay: Seconds, of the last interval.
    """

    def __init__(self, target: float) -> None:
        self.target = target
        self.share = 0.0
        self.delay = 0.0
        self._due = 0.0
        self._least = float("inf")
        self._looks = 0
        self._spent = 0.0

    def saw(self, delay: float, elapsed: float) -> None:
        """Take a look at the queue.

        Args:
            delay: Seconds that something waited in it just now.
            elapsed: Seconds since the last look.
        """
        self._least = min(self._least, delay)
        self._looks += 1
        self._spent += elapsed
        if self._looks >= LOOKS and self._spent >= INTERVAL:
            self._decide(self._least)
            self._least, self._looks, self._spent = float("inf"), 0, 0.0

    def _decide(self, delay: float) -> None:
        now, before = (min(each / self.target, WORST) for each in (delay, self.delay))
        self.delay = delay
        share = self.share + ALPHA * (now - 1) + BETA * (now - before)
        if max(now, before) < 0.5:
            share = self.share * FADE
        self.share = 0.0 if share < LEAST else min(share, MOST)

    def is_too_late(self, turn: float) -> bool:
        """Whether a request is to be refused as it has waited too long already.

        Args:
            turn: Seconds since the last look.
        """
        return turn > LOOK + TOO_LATE * self.target

    def refuses(self) -> bool:
        """Whether the request that just came is to be refused, as one of the share."""
        self._due += self.share
        if self._due < 1.0:
            return False
        self._due -= 1.0
        return True


class LoopDelay:
    """Looks at how late the event loop does what is due: so long does everything wait that comes now.

    One timer, whatever the load.

    Args:
        saw: Told the delay and the time since the last look, in seconds.

    Attributes:
        last: When it looked last, in seconds of `time.monotonic()`; 0: never.
    """

    def __init__(self, saw: Callable[[float, float], None]) -> None:
        self.last = 0.0
        self._saw = saw
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to look. Needs a running event loop."""
        if self._timer is None:
            self.last = time.monotonic()
            self._timer = asyncio.get_running_loop().call_later(LOOK, self._look)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        # Not the loop's own clock: some loops stop it while they work.
        now = time.monotonic()
        elapsed = now - self.last
        self.last = now
        self._timer = asyncio.get_running_loop().call_later(LOOK, self._look)
        self._saw(max(0.0, elapsed - LOOK), elapsed)
