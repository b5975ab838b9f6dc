"""Cuts clients off that are too slow: with their header, their body, or with reading the answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import SlowClient
from ..settings import Limits

if TYPE_CHECKING:
    from .bounds import Bounds
    from .connections import Connection

# Seconds between two looks, at most; where a limit is short, a quarter of it.
LOOK = 1.0
# A look that is later than this was held up by this process.
_LATE = 0.05


@dataclass(slots=True)
class _Stretch:
    """A time in which the same thing went on.

    Attributes:
        of: What: a number that changes with it; -1: nothing goes on.
        since: When it was first seen.
        mark: Bytes that there were then.
    """

    of: int = -1
    since: float = 0.0
    mark: int = 0

    def goes_on(self, of: int, now: float, mark: int = 0) -> bool:
        """Whether it still is the same as at the last look; else it begins now."""
        if self.of == of:
            return True
        self.of, self.since, self.mark = of, now, mark
        return False

    def is_slow(self, bytes_moved: int, now: float, mark: int, limits: Limits) -> bool:
        """Whether too few bytes moved in the time that is looked at; where enough did, that begins again."""
        spent = now - self.since
        if spent < limits.slow_client:
            return False
        if bytes_moved < limits.min_rate * spent:
            return True
        self.since, self.mark = now, mark
        return False


class Watched:
    """What was seen of one connection."""

    __slots__ = ("body", "header", "idle", "reading")

    def __init__(self) -> None:
        self.header = _Stretch()
        self.body = _Stretch()
        self.idle = _Stretch()
        self.reading = _Stretch()


class Watch:
    """Looks at all connections of a server, as long as there are any.

    Args:
        bounds: Say how slow a client may be, and count those that are cut off.
        connections: Of the server, always as they are.
    """

    def __init__(self, bounds: Bounds, connections: Collection[Connection]) -> None:
        self._bounds = bounds
        self._connections = connections
        self._timer: asyncio.TimerHandle | None = None
        # Clients' time: that in which this process was late is not theirs.
        self._now = 0.0
        self._last = 0.0
        self._wait = LOOK

    @property
    def count(self) -> int:
        """How many connections there are."""
        return len(self._connections)

    def start(self) -> None:
        """Begin, or go on."""
        if self._timer is None:
            limits = self._bounds.limits
            shortest = min(limits.header_timeout, limits.slow_client, limits.keep_alive)
            self._wait = min(LOOK, shortest / 4)
            self._last = time.monotonic()
            self._timer = asyncio.get_running_loop().call_later(self._wait, self._look)

    def _look(self) -> None:
        self._timer = None
        self._now += min(time.monotonic() - self._last, self._wait + _LATE)
        for connection in list(self._connections):
            self._look_at(connection, self._now)
        if self._connections:
            self.start()

    def _look_at(self, connection: Connection, now: float) -> None:
        limits, cut = self._bounds.limits, self._bounds.cut
        if _reads_too_slowly(connection, limits, now):
            cut["reader"] += 1
            connection.transport.abort()
        elif connection.transport.is_closing():
            return
        elif _header_is_late(connection, limits, now):
            if connection.requests:
                cut["header"] += 1
                connection.reject(SlowClient("The request's header did not come in time."))
            else:
                connection.transport.close()
        elif _body_is_late(connection, limits, now):
            cut["body"] += 1
            connection.reject(SlowClient("The request's body came too slowly."))
        elif _is_idle(connection, limits, now):
            connection.transport.close()


def _reads_too_slowly(connection: Connection, limits: Limits, now: float) -> bool:
    """Whether the client has not read what was sent, at the least rate.

    What waits to be sent grows by what is written, too; only while nothing is written (as uvicorn lets nobody write
    once there is much) does it tell exactly what was read. A client that empties it, or enough of it to write again,
    reads well.
    """
    seen = connection.watched.reading
    waiting = connection.transport.get_write_buffer_size()
    if waiting == 0:
        seen.of = -1
        return False
    if not seen.goes_on(connection.resumed, now, waiting):
        return False
    seen.mark = max(seen.mark, waiting)
    return seen.is_slow(seen.mark - waiting, now, waiting, limits)


def _header_is_late(connection: Connection, limits: Limits, now: float) -> bool:
    seen = connection.watched.header
    # Of who waits for an answer, the next header has its time once that is there.
    if connection.phase != "header" or connection.busy:
        seen.of = -1
        return False
    return seen.goes_on(connection.requests, now) and now - seen.since >= limits.header_timeout


def _body_is_late(connection: Connection, limits: Limits, now: float) -> bool:
    seen = connection.watched.body
    if connection.phase != "body" or connection.flow.read_paused:
        seen.of = -1
        return False
    came = connection.body_bytes
    return seen.goes_on(connection.requests, now, came) and seen.is_slow(came - seen.mark, now, came, limits)


def _is_idle(connection: Connection, limits: Limits, now: float) -> bool:
    """Whether no request has come for long: uvicorn's own timer stops with the first byte of a body it drops."""
    seen = connection.watched.idle
    if connection.phase != "next" or connection.busy:
        seen.of = -1
        return False
    return seen.goes_on(connection.requests, now) and now - seen.since >= limits.keep_alive
