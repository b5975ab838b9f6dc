"""The cache in this process: bounded by bytes, least recently used out first."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from .base import CacheStats
from .key import key_prefix

# What an entry takes beside its key and value: the two objects' headers, the tuple and the table's slot.
_OVERHEAD = 300

# One entry may take no more than this share of the whole.
_LARGEST_SHARE = 0.1


class MemoryCache:
    """Keeps answers in this process. All calls must come from one thread at a time (an event loop).

    Args:
        max_bytes: Keys, values and their overhead together.
        clock: Monotonic seconds.
    """

    name = "memory"

    def __init__(self, max_bytes: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_bytes = max_bytes
        self._clock = clock
        self._entries: OrderedDict[str, tuple[bytes, float]] = OrderedDict()
        self._bytes = 0
        self._hits = 0
        self._misses = 0

    async def get(self, key: str) -> bytes | None:
        """Return the value, or None where there is none (any more)."""
        entry = self._entries.get(key)
        if entry is not None and entry[1] <= self._clock():
            self._drop(key)
            entry = None
        if entry is None:
            self._misses += 1
            return None
        self._entries.move_to_end(key)
        self._hits += 1
        return entry[0]

    async def set(self, key: str, value: bytes, *, ttl: float) -> None:
        """Keep a value for `ttl` seconds, at the cost of those that were not used for longest."""
        if key in self._entries:
            self._drop(key)
        size = _size(key, value)
        if size > self._max_bytes * _LARGEST_SHARE:
            return
        self._entries[key] = (value, self._clock() + ttl)
        self._bytes += size
        while self._bytes > self._max_bytes:
            self._drop(next(iter(self._entries)))

    async def delete(self, tenant: str, namespace: str | None = None) -> int:
        """Forget a tenant's entries, or those of one namespace; returns how many."""
        prefix = key_prefix(tenant, namespace)
        keys = [key for key in self._entries if key.startswith(prefix)]
        for key in keys:
            self._drop(key)
        return len(keys)

    def stats(self) -> CacheStats:
        """Return the counts."""
        return CacheStats(self._hits, self._misses, entries=len(self._entries), bytes=self._bytes)

    async def aclose(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self._bytes = 0

    def _drop(self, key: str) -> None:
        value, _ = self._entries.pop(key)
        self._bytes -= _size(key, value)


def _size(key: str, value: bytes) -> int:
    return len(key) + len(value) + _OVERHEAD
