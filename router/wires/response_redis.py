"""Responses in Redis, where all replicas find them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final
from urllib.parse import quote

import msgspec
from redis.asyncio import Redis

from ..cache.redis_link import RedisLink
from ..errors import ResponsesUnavailable
from .response_store import ENTRIES, Stored, not_found

# Not among the cache's keys: forgetting a tenant's answers leaves the conversations.
_PREFIX: Final = "smallfirst:responses:1"
# No id that was given out here is longer.
_LONGEST_ID: Final = 200
# A cached answer is not worth waiting for long; a conversation cannot go on without what was said.
LEAST_TIMEOUT: Final = 1.0

_DOWN = "Redis, where responses are kept ('cache.url'), does not answer."


class RedisResponses:
    """Keeps responses in Redis; see `ResponseStore`.

    While Redis is down none is kept, and none is found: `get` and `delete` then fail, and say so.

    Args:
        url: `redis://…`; its password never appears in messages.
        max_bytes: A response may take a tenth of it; 0 keeps nothing. How much all of them take is bounded by the time
            that they are kept, and by Redis's own `maxmemory`.
        ttl: Seconds that a response is kept.
        timeout: Seconds that a call may take.
        clock: Monotonic seconds.

    Raises:
        SettingsError: The URL is none that Redis understands.
    """

    def __init__(
        self,
        url: str,
        max_bytes: int,
        ttl: float,
        *,
        timeout: float = LEAST_TIMEOUT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._link = RedisLink(url, timeout=max(timeout, LEAST_TIMEOUT), clock=clock)
        self._most = max_bytes // ENTRIES
        self._milliseconds = max(1, round(ttl * 1000))

    async def put(self, tenant: str, response_id: str, stored: Stored) -> bool:
        """Keep a response; see `ResponseStore`."""
        value = msgspec.json.encode(stored)
        if len(value) > self._most:
            return False

        async def write(redis: Redis) -> bool:
            return bool(await redis.set(_key(tenant, response_id), value, px=self._milliseconds))

        return await self._link.call(write, until=self._link.deadline()) or False

    async def get(self, tenant: str, response_id: str, *, param: str | None = None) -> Stored:
        """Return a response; see `ResponseStore`."""
        if len(response_id) > _LONGEST_ID:
            raise not_found(response_id, param)

        async def read(redis: Redis) -> tuple[bytes | str | None]:
            return (await redis.get(_key(tenant, response_id)),)

        found = await self._link.call(read, until=self._link.deadline())
        if found is None:
            raise ResponsesUnavailable(_DOWN, param=param)
        if found[0] is None:
            raise not_found(response_id, param)
        try:
            return msgspec.json.decode(found[0], type=Stored)
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            # Not written by this version: as good as gone.
            raise not_found(response_id, param) from exc

    async def delete(self, tenant: str, response_id: str) -> None:
        """Forget a response; see `ResponseStore`."""
        if len(response_id) > _LONGEST_ID:
            raise not_found(response_id)

        async def remove(redis: Redis) -> int:
            return int(await redis.delete(_key(tenant, response_id)))

        removed = await self._link.call(remove, until=self._link.deadline())
        if removed is None:
            raise ResponsesUnavailable(_DOWN)
        if not removed:
            raise not_found(response_id)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._link.aclose()


def _key(tenant: str, response_id: str) -> str:
    """Return where a response is kept; tenant and id are quoted, so that neither can reach into another's."""
    return f"{_PREFIX}:{quote(tenant, safe='')}:{quote(response_id, safe='')}"
