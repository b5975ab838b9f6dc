"""The cache in Redis, shared by replicas. This module is the only door to Redis."""

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
from .base import CacheStats
from .key import key_prefix

T = TypeVar("T")

log = logging.getLogger("smallfirst.cache")

FIRST_REST, LONGEST_REST = 1.0, 30.0

# More calls at once wait for one of these connections, and skip Redis if none is free within the timeout.
MAX_CONNECTIONS = 32

_URL_FORMS = "redis://[user:password@]host:port/db, rediss://… or unix://…"


class RedisCache:
    """Keeps answers in Redis.

    A dead or slow Redis slows nothing and fails nothing: after a failure it is skipped for a while (longer each time),
    then one call tries it again while the others still skip it. So at most one call per rest waits for `timeout`.

    Args:
        url: `redis://…`; its password never appears in messages.
        timeout: Seconds that connecting and a command may take together.
        clock: Monotonic seconds.

    Raises:
        SettingsError: The URL is none that Redis understands.
    """

    name = "redis"

    def __init__(self, url: str, *, timeout: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._options: dict[str, Any] = {
            "socket_timeout": timeout,
            "socket_connect_timeout": timeout,
            "retry": Retry(NoBackoff(), 0),
            "decode_responses": False,
            "max_connections": MAX_CONNECTIONS,
        }
        try:
            # Ours win over what the URL's query says; making a connection checks options and does no I/O.
            self._options = {**parse_url(url), **self._options}
            ConnectionPool(**self._options).make_connection()  # type: ignore[no-untyped-call]
        except (ValueError, TypeError, RedisError):
            # The cause may quote a part of the password ("Port could not be cast …"): it is left out.
            raise SettingsError(f"cache.url: not understood; expected {_URL_FORMS}") from None
        self._timeout = timeout
        self._clock = clock
        # Connections belong to an event loop; a program may run several, one after the other.
        self._client: tuple[asyncio.AbstractEventLoop, Redis, asyncio.Semaphore] | None = None
        self._rest = FIRST_REST
        self._down_until: float | None = None
        # Grows with each failure: calls that were under way then have no say any more, so a burst counts once.
        self._round = 0
        self._hits = self._misses = self._errors = self._skipped = 0

    async def get(self, key: str) -> bytes | None:
        """Return the value, or None where there is none (any more) or Redis does not answer."""
        value = await self._try(lambda redis: redis.get(key))
        if not isinstance(value, bytes):
            self._misses += 1
            return None
        self._hits += 1
        return value

    async def set(self, key: str, value: bytes, *, ttl: float) -> None:
        """Keep a value for `ttl` seconds."""
        await self._try(lambda redis: redis.set(key, value, px=max(1, round(ttl * 1000))))

    async def delete(self, tenant: str, namespace: str | None = None) -> int:
        """Forget a tenant's entries, or those of one namespace; returns how many.

        Raises:
            RedisError: Redis does not answer: who asks for this must know that it was not done.
        """
        redis, _ = self._redis()
        removed = 0
        batch: list[bytes] = []
        async for key in redis.scan_iter(match=_escape(key_prefix(tenant, namespace)) + "*", count=1000):
            batch.append(key)
            if len(batch) >= 1000:
                removed += await redis.unlink(*batch)
                batch.clear()
        return removed + (await redis.unlink(*batch) if batch else 0)

    def stats(self) -> CacheStats:
        """Return the counts."""
        return CacheStats(
            self._hits, self._misses, self._errors, self._skipped, healthy=self._down_until is None
        )

    async def aclose(self) -> None:
        """Close the connections."""
        if self._client is not None:
            loop, client, _ = self._client
            self._client = None
            if loop is asyncio.get_running_loop():
                await client.aclose()

    async def _try(self, command: Callable[[Redis], Awaitable[T]]) -> T | None:
        """Run a command, or return None where Redis is down."""
        if self._down_until is not None:
            if self._clock() < self._down_until:
                self._skipped += 1
                return None
            # This call tries; until it is done, others go on skipping.
            self._down_until = self._clock() + self._timeout + self._rest
        redis, free = self._redis()
        begun = self._round
        try:
            async with asyncio.timeout(self._timeout):
                await free.acquire()
        except TimeoutError:
            # The line is too long here; that says nothing about Redis.
            self._skipped += 1
            return None
        try:
            if begun != self._round:
                self._skipped += 1
                return None
            async with asyncio.timeout(self._timeout):
                result = await command(redis)
        except ResponseError:
            # Redis is there and answers at once, but refuses this command (full, read-only): no reason to rest.
            self._errors += 1
            result = None
        except (RedisError, OSError, TimeoutError) as exc:
            self._failed(exc, begun)
            return None
        finally:
            free.release()
        if self._down_until is not None and begun == self._round:
            self._down_until = None
            self._rest = FIRST_REST
            log.info("redis answers again")
        return result

    def _failed(self, exc: Exception, begun: int) -> None:
        self._errors += 1
        if begun != self._round:
            return
        self._round += 1
        if self._down_until is None:
            log.warning("redis does not answer (%s); it is skipped and tried again", type(exc).__name__)
        self._down_until = self._clock() + self._rest
        self._rest = min(self._rest * 2, LONGEST_REST)

    def _redis(self) -> tuple[Redis, asyncio.Semaphore]:
        loop = asyncio.get_running_loop()
        if self._client is None or self._client[0] is not loop:
            client = Redis.from_pool(ConnectionPool(**self._options))
            self._client = (loop, client, asyncio.Semaphore(MAX_CONNECTIONS))
        return self._client[1:]


def _escape(text: str) -> str:
    """Escape what Redis would read as a pattern."""
    return "".join(f"\\{char}" if char in "*?[]\\^-" else char for char in text)
