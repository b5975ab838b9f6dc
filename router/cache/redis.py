"""The cache in Redis, shared by replicas.

An entry is a string with a time to live; the places of a partition are one vector set (Redis 8), whose elements are the
last parts of the entries' keys. Elements have no time to live of their own: those whose entry is gone are removed where
a search meets them, and every write looks at a few at random, so that at most about an eighth of a partition is gone
entries. The set itself lives as long as the longest of its entries.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, RedisError, ResponseError

from ..errors import CacheUnavailable
from .base import NEAREST, CacheStats, Found, Neighbour, Place, is_answer
from .key import key_prefix
from .redis_link import Breaker, RedisLink

log = logging.getLogger("smallfirst.cache")

# Measured with 100,000 texts' vectors: the nearest is found in 98 to 99 % of searches (97 to 98 % with the default of
# 100, 0.2 ms faster). Half the default for additions loses nothing then, and holds Redis up half as long. Eight bits a
# dimension are 0.002 off in the cosine at most, and half the memory. Searches run in Redis's main thread (NOTHREAD):
# handing one over costs as much as searching a small partition, and on a busy machine three times a large one's.
_SEARCH_EFFORT, _ADD_EFFORT = 150, 100

# Members of a partition that a write looks at for entries that are gone.
_SWEEP = 8

# Between an entry's partition, which stands first in what is kept, and its value.
_SEPARATOR = b"\n"

# Seconds that a step of `delete` may take: a large partition is freed in one go.
_DELETE_STEP = 5.0


class RedisCache:
    """Keeps answers in Redis.

    A dead or slow Redis slows nothing and fails nothing: after a failure it is skipped for a while (longer each time),
    then one call tries it again while the others still skip it. So at most one call per rest waits for `timeout`.
    Searches rest by themselves where only they are too slow.

    Args:
        url: `redis://…`; its password never appears in messages.
        timeout: Seconds that a look-up may take in all, and each step of a write.
        max_partition: Entries of a partition that are found by their place; beyond, some go that would expire soon.
        clock: Monotonic seconds.

    Raises:
        SettingsError: The URL is none that Redis understands.
    """

    name = "redis"

    def __init__(
        self,
        url: str,
        *,
        timeout: float,
        max_partition: int = 1_000_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._link = RedisLink(url, timeout=timeout, clock=clock)
        self._searches = Breaker("redis's vector search", longest_call=timeout, clock=clock)
        self._max_partition = max_partition
        # What Redis can do, and how many failures there had been when it was asked: after one it may be another.
        self._able: bool | None = None
        self._asked_at = 0
        self._hits = self._misses = 0

    @property
    def finds_similar(self) -> bool:
        """Whether entries are found by their place, as far as is known."""
        return self._able is not False

    async def start(self) -> None:
        """Ask Redis whether it has vector sets; the log says so where it has not."""
        await self._link.call(self._ask, until=self._link.deadline())

    async def find(
        self, key: str, place: Callable[[], Place | None] | None = None, *, count: int = NEAREST
    ) -> Found:
        """Return the value under a key; where there is none, or Redis does not answer, the entries near a place."""
        until = self._link.deadline()

        async def look_up(redis: Redis) -> tuple[bytes | None, bool]:
            kept: bytes | None = await _run(redis, "GET", key)
            return kept, kept is None and place is not None and await self._can(redis)

        kept, search = await self._link.call(look_up, until=until) or (None, False)
        if kept is not None:
            self._hits += 1
            return Found(_value(kept))
        self._misses += 1
        at = place() if search and place is not None else None
        if at is None or not at.is_usable:
            return Found()
        nearest = await self._link.call(
            lambda redis: self._nearest(redis, at, count), until=until, breaker=self._searches
        )
        return Found(nearest=nearest or ())

    async def set(self, key: str, value: bytes, *, ttl: float, place: Place | None = None) -> None:
        """Keep a value for `ttl` seconds; with a place, others find it there.

        Raises:
            ValueError: The key and the place are not of the same tenant and namespace.
        """
        if place is not None:
            place.check(key)
            place = place if place.is_usable else None
        kept = (_home(place.partition) if place is not None else b"") + _SEPARATOR + value

        async def write(redis: Redis) -> bool:
            await redis.set(key, kept, px=max(1, round(ttl * 1000)))
            return place is not None and await self._can(redis)

        if not await self._link.call(write, until=self._link.deadline()) or place is None:
            return
        at = place
        members = await self._link.call(
            lambda redis: self._put(redis, key, at, ttl), until=self._link.deadline(), breaker=self._searches
        )
        if members is not None:
            await self._link.call(lambda redis: self._sweep(redis, at, *members), until=self._link.deadline())

    async def remove(self, key: str) -> None:
        """Forget one entry; its place goes when a search meets it or a write looks at it."""
        await self._link.call(lambda redis: redis.unlink(key), until=self._link.deadline())

    async def claim(self, key: str, *, ttl: float) -> bool:
        """Return whether this is the first claim of a key for `ttl` seconds; False where Redis does not answer."""

        async def first(redis: Redis) -> bool:
            return bool(await redis.set(key, b"1", nx=True, px=max(1, round(ttl * 1000))))

        return await self._link.call(first, until=self._link.deadline()) is True

    async def delete(self, tenant: str, namespace: str | None = None) -> int:
        """Forget a tenant's entries, or those of one namespace; returns how many.

        Raises:
            CacheUnavailable: Redis does not answer: who asks for this must know that it was not done.
        """
        redis = self._link.redis()
        pattern = _escape(key_prefix(tenant, namespace)) + "*"
        removed = cursor = 0
        try:
            while True:
                async with asyncio.timeout(_DELETE_STEP):
                    cursor, keys = await _run(redis, "SCAN", cursor, "MATCH", pattern, "COUNT", 1000)
                    for answers in (True, False):
                        batch = [key for key in keys if is_answer(key.decode()) is answers]
                        unlinked = await redis.unlink(*batch) if batch else 0
                        removed += unlinked if answers else 0
                if not int(cursor):
                    return removed
        except (RedisError, OSError, TimeoutError) as exc:
            raise CacheUnavailable("The cache's Redis does not answer; answers may still be in it.") from exc

    def stats(self) -> CacheStats:
        """Return the counts."""
        link = self._link
        return CacheStats(self._hits, self._misses, link.errors, link.skipped, healthy=link.breaker.healthy)

    async def used_bytes(self) -> int:
        """Return what Redis holds in memory, whoever put it there.

        Raises:
            RedisError: Redis does not answer.
        """
        return int((await self._link.redis().info("memory"))["used_memory"])

    async def aclose(self) -> None:
        """Close the connections."""
        await self._link.aclose()

    async def _can(self, redis: Redis) -> bool:
        """Whether Redis has vector sets; asked once, and again after a failure."""
        if self._able is None or self._asked_at != self._link.breaker.failures:
            await self._ask(redis)
        return self._able is True

    async def _ask(self, redis: Redis) -> None:
        failures = self._link.breaker.failures
        try:
            # Of an unknown command it says nothing.
            known = await _run(redis, "COMMAND INFO", "VADD", "VSIM")
        except ResponseError as exc:
            self._tell(f"it refuses to say whether it has vector sets ({type(exc).__name__})")
        else:
            self._tell(None if all(known) else "it has no vector sets, which come with Redis 8")
        self._asked_at = failures

    def _tell(self, missing: str | None) -> None:
        """Note whether Redis can search; a change is logged."""
        if missing is not None and self._able is not False:
            log.warning(
                "the cache answers equal requests only, not similar ones: redis is there, but %s; use Redis 8 or later,"
                " or leave out cache.url to keep the cache in this process",
                missing,
            )
        elif missing is None and self._able is False:
            log.info("redis has vector sets now: the cache answers similar requests too")
        self._able = missing is None

    async def _nearest(self, redis: Redis, place: Place, count: int) -> tuple[Neighbour, ...]:
        """Search, then read what is kept under the elements found: the entry says whether it is alive and here."""
        # Some more than asked for, in place of those that are gone.
        wanted = count + count // 2
        options = ("WITHSCORES", "COUNT", wanted, "EF", max(_SEARCH_EFFORT, wanted), "NOTHREAD")
        try:
            hits = await _run(redis, "VSIM", place.partition, "FP32", _blob(place), *options)
        except NoPermissionError:
            self._tell("its user may not search them (VSIM)")
            return ()
        if not hits:
            return ()
        elements: list[bytes] = hits[::2]
        keys = [place.prefix + element.decode() for element in elements]
        home = _home(place.partition)
        nearest: list[Neighbour] = []
        gone: list[bytes] = []
        values: list[bytes | None] = await _run(redis, "MGET", *keys)
        for key, element, score, kept in zip(keys, elements, hits[1::2], values, strict=True):
            if kept is None or kept.partition(_SEPARATOR)[0] != home:
                gone.append(element)
            else:
                # Redis's score is (1 + cosine) / 2.
                nearest.append(Neighbour(key, _value(kept), 2 * float(score) - 1))
        await _take_out(redis, place.partition, gone)
        return tuple(nearest[:count])

    async def _put(self, redis: Redis, key: str, place: Place, ttl: float) -> tuple[int, list[bytes]] | None:
        """Add an element; returns how many the partition has, and some of them."""
        seconds = math.ceil(ttl) + 1
        async with redis.pipeline(
            transaction=True
        ) as commands:  # so that no set is left without a time to live
            vector = ("FP32", _blob(place), _element(key), "Q8", "EF", _ADD_EFFORT)
            commands.execute_command("VADD", place.partition, *vector)
            # GT compares with a time to live that is there; NX sets the first one.
            commands.expire(place.partition, seconds, nx=True)
            commands.expire(place.partition, seconds, gt=True)
            commands.execute_command("VCARD", place.partition)
            commands.execute_command("VRANDMEMBER", place.partition, _SWEEP)
            try:
                *_, size, members = await commands.execute()
            except NoPermissionError:
                self._tell("its user may not add to them (VADD)")
                return None
        return size, members

    async def _sweep(self, redis: Redis, place: Place, size: int, members: Sequence[bytes]) -> None:
        """Take out those whose entry is gone, and where there are too many, those that will go first."""
        if size <= 1:
            return
        async with redis.pipeline(transaction=False) as commands:
            for member in members:
                commands.pttl(place.prefix + member.decode())
            left: list[int] = await commands.execute()
        # Redis says -2 of a key that is not there.
        by_time = sorted(zip(left, members, strict=True))
        gone = [member for milliseconds, member in by_time if milliseconds == -2]
        excess = max(0, size - self._max_partition)
        await _take_out(redis, place.partition, [member for _, member in by_time[: max(len(gone), excess)]])


async def _run(redis: Redis, *command: Any) -> Any:
    return await redis.execute_command(*command)  # type: ignore[no-untyped-call]


async def _take_out(redis: Redis, partition: str, elements: Sequence[bytes]) -> None:
    if elements:
        async with redis.pipeline(transaction=False) as commands:
            for element in elements:
                commands.execute_command("VREM", partition, element)
            await commands.execute()


def _element(key: str) -> str:
    return key[key.rfind(":") + 1 :]


def _home(partition: str) -> bytes:
    """Return what an entry says about where it is: one that has moved is found at its latest place only."""
    return _element(partition).encode()


def _value(kept: bytes) -> bytes:
    return kept.partition(_SEPARATOR)[2]


def _blob(place: Place) -> bytes:
    vector: Any = np.asarray(place.vector, "<f4")
    blob: bytes = vector.tobytes()
    return blob


def _escape(text: str) -> str:
    """Escape what Redis would read as a pattern."""
    return "".join(f"\\{char}" if char in "*?[]\\^-" else char for char in text)
