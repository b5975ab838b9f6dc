"""The cache in Redis, shared by replicas. This module is the only door to Redis."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from redis.asyncio import Redis
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from ..errors import SettingsError
from .base import CacheStats
from .key import key_prefix

T = TypeVar("T")

log = logging.getLogger("smallfirst.cache")

FIRST_REST, LONGEST_REST = 1.0, 30.0


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
        try:
            parse_url(url)
        except ValueError as exc:
            raise SettingsError(f"cache.url: {exc}") from exc
        self._url = url
        self._timeout = timeout
        self._clock = clock
        # Connections belong to an event loop; a program may run several, one after the other.
        self._client: tuple[asyncio.AbstractEventLoop, Redis] | None = None
        self._rest = FIRST_REST
        self._down_until: float | None = None
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
        redis = self._redis()
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
            loop, client = self._client
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
        try:
            async with asyncio.timeout(self._timeout):
                result = await command(self._redis())
        except (RedisError, OSError, TimeoutError) as exc:
            self._failed(exc)
            return None
        if self._down_until is not None:
            self._down_until = None
            self._rest = FIRST_REST
            log.info("redis answers again")
        return result

    def _failed(self, exc: Exception) -> None:
        self._errors += 1
        if self._down_until is None:
            log.warning("redis does not answer (%s); it is skipped and tried again", type(exc).__name__)
        self._down_until = self._clock() + self._rest
        self._rest = min(self._rest * 2, LONGEST_REST)

    def _redis(self) -> Redis:
        loop = asyncio.get_running_loop()
        if self._client is None or self._client[0] is not loop:
            client: Redis = Redis.from_url(
                self._url,
                socket_timeout=self._timeout,
                socket_connect_timeout=self._timeout,
                retry=Retry(NoBackoff(), 0),
                decode_responses=False,
            )
            self._client = (loop, client)
        return self._client[1]


def _escape(text: str) -> str:
    """Escape what Redis would read as a pattern."""
    return "".join(f"\\{char}" if char in "*?[]\\^-" else char for char in text)
