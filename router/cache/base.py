"""The door to the cache, and what lies behind it: whole answers with who gave them and what they cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from ..scoring.embedding import FloatArray
from .key import CLAIM, PARTITION

# Entries that are compared with a request, each at about 0.2 ms. Among 824 questions of the evaluation data the one
# with the same answer was always the nearest, if it was recognised at all; the others leave room for near misses.
NEAREST = 4


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


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """Where a request stands among those it may be compared with.

    Attributes:
        partition: Key of the set that holds them (see `Identity.partition`); begins with tenant and namespace.
        vector: Embedding of the last message, length 1, shape (256,).
    """

    partition: str
    vector: FloatArray

    @property
    def prefix(self) -> str:
        """What the keys of all entries begin with that may be found here."""
        return self.partition[: self.partition.rfind(":") + 1]

    @property
    def is_usable(self) -> bool:
        """Whether the vector has a direction: that of a text without tokens has none."""
        return abs(float(self.vector @ self.vector) - 1) < 0.01

    def check(self, key: str) -> None:
        """Check that a key is of the same tenant and namespace.

        Raises:
            ValueError: It is not.
        """
        if not key.startswith(self.prefix):
            raise ValueError("the key and the place of an entry are not of the same tenant and namespace")


@dataclass(frozen=True, slots=True)
class Neighbour:
    """An entry near a place.

    Attributes:
        key: Its exact key.
        value: What is kept under it.
        similarity: Cosine of the two vectors, in [-1, 1].
    """

    key: str
    value: bytes
    similarity: float


@dataclass(frozen=True, slots=True)
class Found:
    """What a look-up found: the exact entry, or else the nearest ones, most similar first."""

    value: bytes | None = None
    nearest: tuple[Neighbour, ...] = ()


class Cache(Protocol):
    """A store of answers.

    None of its methods but `delete` ever raises for the store's own trouble: that is a miss, counted.
    """

    @property
    def name(self) -> str:
        """`memory` or `redis`."""
        ...

    @property
    def finds_similar(self) -> bool:
        """Whether entries are found by their place, as far as is known; False where the store cannot."""
        ...

    async def start(self) -> None:
        """Find out what the store can do, and say so in the log where that is less than all. May be left out."""
        ...

    async def find(
        self, key: str, place: Callable[[], Place | None] | None = None, *, count: int = NEAREST
    ) -> Found:
        """Return the value under a key; where there is none (any more), the entries nearest to a place.

        Args:
            place: Asked only where there is no exact entry, as making a place costs time; None where it returns None.
            count: The most entries to return.
        """
        ...

    async def set(self, key: str, value: bytes, *, ttl: float, place: Place | None = None) -> None:
        """Keep a value for `ttl` seconds; with a place, others find it there."""
        ...

    async def remove(self, key: str) -> None:
        """Forget one entry; it is found at no place any more."""
        ...

    async def claim(self, key: str, *, ttl: float) -> bool:
        """Return whether this is the first claim of a key for `ttl` seconds; False where the store cannot tell."""
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


def is_answer(key: str) -> bool:
    """Whether a key is that of an entry, and not of a partition or a claim."""
    return key[key.rfind(":") + 1 :][:1] not in (PARTITION, CLAIM)


class CachedReply(msgspec.Struct, frozen=True):
    """A stored answer.

    Attributes:
        body: OpenAI's `chat.completion` object.
        model: The model that gave it.
        tier: `local` or `cloud`.
        cost_usd: What it cost then; None where unknown.
        created: Unix seconds.
        asked: The last message of the request, where others may be compared with it; else empty.
        fresh_until: Unix seconds; from then on it is served only while it is asked again. None: it stays fresh.
        task: What kind of task it answers; None where that was not seen.
    """

    body: dict[str, Any]
    model: str
    tier: str
    cost_usd: float | None
    created: float
    asked: str = ""
    fresh_until: float | None = None
    task: str | None = None

    def encode(self) -> bytes:
        """Return it as bytes."""
        return msgspec.json.encode(self)

    @classmethod
    def decode(cls, raw: bytes) -> CachedReply | None:
        """Read it back; None where the bytes are no whole answer (another version's, or damaged)."""
        try:
            entry = msgspec.json.decode(raw, type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        return entry if _is_whole(entry.body) else None


def _is_whole(body: dict[str, Any]) -> bool:
    choices = body.get("choices")
    return (
        isinstance(choices, list)
        and bool(choices)
        and all(
            isinstance(choice, dict)
            and isinstance(choice.get("message"), dict)
            and isinstance(choice.get("finish_reason"), str)
            for choice in choices
        )
    )
