"""The cache in this process: bounded by bytes, least recently used out first."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from .base import NEAREST, CacheStats, Found, Neighbour, Place, is_answer
from .index import VectorIndex, load
from .key import key_prefix

# What an entry takes beside its key and value: the objects' headers and the table's slot.
_OVERHEAD = 300

# What its vector takes, with its links or the room that a matrix keeps free, and its names; and each partition itself.
_PLACE_BYTES, _PARTITION_BYTES = 1400, 1800

# One entry may take no more than this share of the whole.
_LARGEST_SHARE = 0.1

# Times that a search is repeated, each time wider, because it met entries whose time was over.
_WIDER = 4


@dataclass(slots=True)
class _Entry:
    value: bytes
    expires: float
    size: int
    partition: str | None = None


class MemoryCache:
    """Keeps answers in this process. All calls must come from one thread at a time (an event loop).

    Args:
        max_bytes: Keys, values, vectors and their overhead together.
        clock: Monotonic seconds.
    """

    name = "memory"
    finds_similar = True

    def __init__(self, max_bytes: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_bytes = max_bytes
        self._clock = clock
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._partitions: dict[str, VectorIndex] = {}
        self._bytes = 0
        self._hits = 0
        self._misses = 0

    async def start(self) -> None:
        """Load what large partitions need now, and not in the middle of a request (0.1 s)."""
        load()

    async def find(
        self, key: str, place: Callable[[], Place | None] | None = None, *, count: int = NEAREST
    ) -> Found:
        """Return the value under a key; where there is none (any more), the entries nearest to a place."""
        entry = self._alive(key)
        if entry is not None:
            self._entries.move_to_end(key)
            self._hits += 1
            return Found(entry.value)
        self._misses += 1
        at = place() if place is not None else None
        return Found() if at is None or not at.is_usable else Found(nearest=self._nearest(at, count))

    async def set(self, key: str, value: bytes, *, ttl: float, place: Place | None = None) -> None:
        """Keep a value for `ttl` seconds, at the cost of those that were not used for longest.

        Raises:
            ValueError: The key and the place are not of the same tenant and namespace.
        """
        if place is not None:
            place.check(key)
            place = place if place.is_usable else None
        size = len(key) + len(value) + _OVERHEAD + (_PLACE_BYTES if place is not None else 0)
        known = self._entries.get(key)
        if size > self._max_bytes * _LARGEST_SHARE:
            self._drop(key)
            return
        if known is not None and (place is None or known.partition != place.partition):
            self._drop(key)
        elif known is not None:
            self._bytes -= self._entries.pop(key).size
        self._entries[key] = _Entry(value, self._clock() + ttl, size)
        self._bytes += size
        if place is not None:
            self._entries[key].partition = place.partition
            index = self._partitions.get(place.partition)
            if index is None:
                index = self._partitions[place.partition] = VectorIndex()
                self._bytes += _PARTITION_BYTES
            index.put(key, place.vector)
        while self._bytes > self._max_bytes:
            self._drop(next(iter(self._entries)))

    async def remove(self, key: str) -> None:
        """Forget one entry, and its place."""
        self._drop(key)

    async def claim(self, key: str, *, ttl: float) -> bool:
        """Return whether this is the first claim of a key for `ttl` seconds."""
        if self._alive(key) is not None:
            return False
        await self.set(key, b"", ttl=ttl)
        return True

    async def delete(self, tenant: str, namespace: str | None = None) -> int:
        """Forget a tenant's entries, or those of one namespace; returns how many."""
        prefix = key_prefix(tenant, namespace)
        # Partitions first, as a whole: taking their entries out one by one takes long.
        for name in [name for name in self._partitions if name.startswith(prefix)]:
            del self._partitions[name]
            self._bytes -= _PARTITION_BYTES
        keys = [key for key in self._entries if key.startswith(prefix)]
        for key in keys:
            self._drop(key)
        return sum(map(is_answer, keys))

    def stats(self) -> CacheStats:
        """Return the counts."""
        return CacheStats(self._hits, self._misses, entries=len(self._entries), bytes=self._bytes)

    async def aclose(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self._partitions.clear()
        self._bytes = 0

    def _nearest(self, place: Place, count: int) -> tuple[Neighbour, ...]:
        index, wanted = self._partitions.get(place.partition), count
        for _ in range(_WIDER):
            hits = index.search(place.vector, wanted) if index is not None else []
            alive = [
                Neighbour(key, entry.value, cosine)
                for key, cosine in hits
                if (entry := self._alive(key)) is not None
            ]
            if len(alive) >= count or len(alive) == len(hits):
                break
            wanted *= 4
        if alive:
            # It is the one that will be used, if any.
            self._entries.move_to_end(alive[0].key)
        return tuple(alive[:count])

    def _alive(self, key: str) -> _Entry | None:
        entry = self._entries.get(key)
        if entry is not None and entry.expires <= self._clock():
            self._drop(key)
            return None
        return entry

    def _drop(self, key: str) -> None:
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        self._bytes -= entry.size
        index = self._partitions.get(entry.partition) if entry.partition is not None else None
        if index is not None and entry.partition is not None:
            index.remove(key)
            if not len(index):
                del self._partitions[entry.partition]
                self._bytes -= _PARTITION_BYTES
