"""The door to the cache, and what lies behind it: whole answers with who gave them and what they cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import msgspec


@dataclass(frozen=True, slots=True)
class CacheStats:
    """Counts since the start.

    Attributes:
        errors: Calls to the store that failed.
        skipped: Calls that were not made because the store had just failed.
        entries, bytes: What is held now; None where the store does not tell cheaply.
        healthy: False while the store is being skipped.
    """

    hits: int = 0
    misses: int = 0
    errors: int = 0
    skipped: int = 0
    entries: int | None = None
    bytes: int | None = None
    healthy: bool = True


class Cache(Protocol):
    """A store of answers. Neither `get` nor `set` ever raises for the store's own trouble: that is a miss, counted."""

    @property
    def name(self) -> str:
        """`memory` or `redis`."""
        ...

    async def get(self, key: str) -> bytes | None:
        """Return the value, or None where there is none (any more)."""
        ...

    async def set(self, key: str, value: bytes, *, ttl: float) -> None:
        """Keep a value for `ttl` seconds."""
        ...

    async def delete(self, tenant: str, namespace: str | None = None) -> int:
        """Forget a tenant's entries, or those of one namespace; returns how many."""
        ...

    def stats(self) -> CacheStats:
        """Return the counts."""
        ...

    async def aclose(self) -> None:
        """Free connections."""
        ...


class CachedReply(msgspec.Struct, frozen=True):
    """A stored answer.

    Attributes:
        body: OpenAI's `chat.completion` object.
        model: The model that gave it.
        tier: `local` or `cloud`.
        cost_usd: What it cost then; None where unknown.
        created: Unix seconds.
    """

    body: dict[str, Any]
    model: str
    tier: str
    cost_usd: float | None
    created: float

    def encode(self) -> bytes:
        """Return it as bytes."""
        return msgspec.json.encode(self)

    @classmethod
    def decode(cls, raw: bytes) -> CachedReply | None:
        """Read it back; None where the bytes are no stored answer (another version's, or damaged)."""
        try:
            entry = msgspec.json.decode(raw, type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        return entry if entry.body.get("choices") else None
