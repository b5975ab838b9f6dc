"""The way to Redis: calls with a deadline, and no calls for a while after one failed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from ..errors import SettingsError

T = TypeVar("T")

log = logging.getLogger("smallfirst.cache")

FIRST_REST, LONGEST_REST = 1.0, 30.0

# More calls at once wait for one of these connections, and skip Redis if none is free in time. More of them make a
# burst slower, as one thread serves all. Slow calls have some of their own: no call waits behind them, and in a burst
# they do not wait for all others first.
CONNECTIONS, SLOW_CONNECTIONS = 8, 4

# A call that had less than this share of the timeout left for Redis says nothing about it when it is too late.
_LEAST_SHARE = 0.25

_URL_FORMS = "redis://[user:password@]host:port/db, rediss://… or unix://…"


class Breaker:
    """Lets calls through until one fails; then one after each rest, and all again when that one succeeds.

    Args:
        what: For the log.
        longest_call: Seconds until the one that tries has failed too.
        clock: Monotonic seconds.
    """

    def __init__(self, what: str, *, longest_call: float, clock: Callable[[], float]) -> None:
        self._what = what
        self._longest_call = longest_call
        self._clock = clock
        self._rest = FIRST_REST
        self._closed_until: float | None = None
        # Both grow. After a failure, calls that were under way have no say any more, so a burst of them counts once;
        # a call that takes too long while others succeed has met a long line and no failure.
        self.failures = self.successes = 0

    @property
    def healthy(self) -> bool:
        """Whether calls are let through."""
        return self._closed_until is None

    def admits(self) -> bool:
        """Whether a call may be made now."""
        if self._closed_until is None:
            return True
        if self._clock() < self._closed_until:
            return False
        # This call tries; until it is done, others stay out.
        self._closed_until = self._clock() + self._longest_call + self._rest
        return True

    def succeeded(self, failures: int) -> bool:
        """Note that a call succeeded that began after so many failures; returns whether calls pass again by that."""
        self.successes += 1
        if self._closed_until is None or failures != self.failures:
            return False
        self._closed_until = None
        self._rest = FIRST_REST
        log.info("%s answers again", self._what)
        return True

    def failed(self, failures: int, exc: Exception) -> None:
        """Note that a call failed that began after so many failures."""
        if failures != self.failures:
            return
        self.failures += 1
        if self._closed_until is None:
            log.warning(
                "%s does not answer (%s); it is skipped and tried again", self._what, type(exc).__name__
            )
        self._closed_until = self._clock() + self._rest
        self._rest = min(self._rest * 2, LONGEST_REST)


class RedisLink:
    """Connections to one Redis. A call that fails or takes too long returns None, and is counted.

    Args:
        url: `redis://…`; its password never appears in messages.
        timeout: Seconds that a call may take in all: waiting for a connection, connecting, every command in it.
        clock: Monotonic seconds.
        setting: Where the URL stands, for messages.

    Raises:
        SettingsError: The URL is none that Redis understands.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float,
        clock: Callable[[], float] = time.monotonic,
        setting: str = "cache.url",
    ) -> None:
        # No time limits of the client's own, as every call has its deadline; the older protocol, as every server
        # speaks it and connecting takes one question less.
        self._options: dict[str, Any] = {
            "socket_timeout": None,
            "socket_connect_timeout": None,
            "retry": Retry(NoBackoff(), 0),
            "decode_responses": False,
            "protocol": 2,
            # Some more than calls may take, for `delete`.
            "max_connections": CONNECTIONS + SLOW_CONNECTIONS + 8,
        }
        try:
            # Ours win over what the URL's query says; making a connection checks options and does no I/O.
            self._options = {**parse_url(url), **self._options}
            ConnectionPool(**self._options).make_connection()  # type: ignore[no-untyped-call]
        except (ValueError, TypeError, RedisError):
            # The cause may quote a part of the password ("Port could not be cast …"): it is left out.
            raise SettingsError(f"{setting}: not understood; expected {_URL_FORMS}") from None
        self.timeout = timeout
        self.breaker = Breaker("redis", longest_call=timeout, clock=clock)
        self.errors = self.skipped = 0
        # Connections belong to an event loop; a program may run several, one after the other.
        self._client: tuple[asyncio.AbstractEventLoop, Redis, asyncio.Semaphore, asyncio.Semaphore] | None = (
            None
        )

    def deadline(self) -> float:
        """Return when a call that begins now must have ended, by the event loop's clock."""
        return asyncio.get_running_loop().time() + self.timeout

    async def call(
        self, call: Callable[[Redis], Awaitable[T]], *, until: float, breaker: Breaker | None = None
    ) -> T | None:
        """Make a call, or return None where it fails, has not ended by then, or a breaker keeps it out.

        Args:
            breaker: Of slow calls: counts beside the one for all.
        """
        breakers = [self.breaker] if breaker is None else [self.breaker, breaker]
        if not all(one.admits() for one in reversed(breakers)):
            self.skipped += 1
            return None
        deciding = breakers[-1]
        failures, successes = [one.failures for one in breakers], deciding.successes
        redis, *lines = self._connect()
        free = lines[len(breakers) - 1]
        left = 0.0
        try:
            async with asyncio.timeout_at(until), free:
                if failures[0] != self.breaker.failures:
                    self.skipped += 1
                    return None
                left = until - asyncio.get_running_loop().time()
                result = await call(redis)
        except ResponseError:
            # Redis is there and answers at once, but refuses this command (full, read-only): no reason to rest.
            self.errors += 1
            result = None
        except TimeoutError as exc:
            if left < _LEAST_SHARE * self.timeout or deciding.successes != successes:
                # The line is too long, here or there, but it moves; or no time was left when it was this call's turn.
                self.skipped += 1
            else:
                self.errors += 1
                deciding.failed(failures[-1], exc)
            return None
        except (RedisError, OSError) as exc:
            self.errors += 1
            self.breaker.failed(failures[0], exc)
            return None
        for one, before in zip(breakers, failures, strict=True):
            one.succeeded(before)
        return result

    def redis(self) -> Redis:
        """Return the client itself: no deadline, and errors are raised."""
        return self._connect()[0]

    async def aclose(self) -> None:
        """Close the connections."""
        if self._client is not None:
            loop, client, *_ = self._client
            self._client = None
            if loop is asyncio.get_running_loop():
                await client.aclose()

    def _connect(self) -> tuple[Redis, asyncio.Semaphore, asyncio.Semaphore]:
        loop = asyncio.get_running_loop()
        if self._client is None or self._client[0] is not loop:
            client = Redis.from_pool(ConnectionPool(**self._options))
            lines = asyncio.Semaphore(CONNECTIONS), asyncio.Semaphore(SLOW_CONNECTIONS)
            self._client = (loop, client, *lines)
        return self._client[1:]
