"""The exact cache: one door, two stores behind it."""

from __future__ import annotations

from ..settings import CacheSettings
from .base import Cache, CachedReply, CacheStats
from .key import cache_key, key_prefix
from .memory import MemoryCache
from .replay import ChunkCollector, replay
from .rules import entry_ttl, may_read, may_store

__all__ = [
    "Cache",
    "CacheStats",
    "CachedReply",
    "ChunkCollector",
    "MemoryCache",
    "cache_key",
    "entry_ttl",
    "key_prefix",
    "may_read",
    "may_store",
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
