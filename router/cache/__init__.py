"""The cache: answers by key and by likeness behind one door, with two stores; see docs/cache.md."""

from __future__ import annotations

from ..settings import CacheSettings
from .base import Cache, CachedReply, CacheStats
from .key import Identity, key_prefix
from .memory import MemoryCache
from .replay import ChunkCollector, replay

__all__ = [
    "Cache",
    "CacheStats",
    "CachedReply",
    "ChunkCollector",
    "Identity",
    "MemoryCache",
    "key_prefix",
    "open_cache",
    "replay",
]


def open_cache(settings: CacheSettings) -> Cache | None:
    """Return the cache that the settings ask for; None where it is switched off. Nothing is connected yet."""
    if not settings.enabled:
        return None
    if settings.url is None:
        return MemoryCache(settings.max_bytes)
    from .redis import RedisCache

    return RedisCache(settings.url.get_secret_value(), timeout=settings.timeout)
