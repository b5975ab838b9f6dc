"""Responses that a client may come back to."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from ..errors import ResponseNotFound

# What an entry takes beside its bytes: the objects' headers and the table's slot.
_OVERHEAD = 400
# An entry may take this part of all the room.
ENTRIES = 10


class Stored(msgspec.Struct, frozen=True):
    """A response that is kept.

    Attributes:
        body: The `response` object.
        messages: Its conversation as chat messages, without instructions: they are not inherited.
        session: The conversation's session.
        private: Whether it had to stay in the house; what follows on it has to as well.
    """

    body: dict[str, Any]
    messages: list[dict[str, Any]]
    session: str
    private: bool = False


class ResponseStore(Protocol):
    """Keeps responses for a while, apart by tenant."""

    async def put(self, tenant: str, response_id: str, stored: Stored) -> bool:
        """Keep a response; returns whether it is kept: not one that is too large, nor while the store is down."""
        ...

    async def get(self, tenant: str, response_id: str, *, param: str | None = None) -> Stored:
        """Return a response.

        Args:
            tenant: Whose it is.
            response_id: Its id.
            param: The request's field that names it, for the error.

        Raises:
            ResponseNotFound: The tenant has none of that id, or no longer.
            ResponsesUnavailable: The store does not answer.
        """
        ...

    async def delete(self, tenant: str, response_id: str) -> None:
        """Forget a response.

        Raises:
            ResponseNotFound: The tenant has none of that id, or no longer.
            ResponsesUnavailable: The store does not answer, so that it may still be there.
        """
        ...

    async def aclose(self) -> None:
        """Let go of the store; what is kept elsewhere stays there."""
        ...


def not_found(response_id: str, param: str | None = None) -> ResponseNotFound:
    """Return the error for a response that is not there.

    Args:
        response_id: Its id.
        param: The request's field that names it.
    """
    code = "previous_response_not_found" if param else None
    return ResponseNotFound(f"There is no response '{response_id[:100]}' (any more).", param=param, code=code)


class MemoryResponses:
    """Keeps responses in this process; see `ResponseStore`.

    Where room is needed, the tenant that holds most gives way, and of its responses that which was not used for
    longest: nobody can push the others out.

    All calls must come from one thread at a time (an event loop).

    Args:
        max_bytes: Of all entries together, one of which may take a tenth; 0 keeps nothing.
        ttl: Seconds that a response is kept.
        clock: Monotonic seconds.
    """

    def __init__(self, max_bytes: int, ttl: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_bytes = max_bytes
        self._ttl = ttl
        self._clock = clock
        # In the order in which they end.
        self._entries: dict[tuple[str, str], tuple[bytes, float]] = {}
        # By tenant: what was not used for longest first, and what all of it takes.
        self._used: dict[str, OrderedDict[str, None]] = {}
        self._held: dict[str, int] = {}
        self._bytes = 0

    @property
    def bytes(self) -> int:
        """What the entries take."""
        return self._bytes

    async def put(self, tenant: str, response_id: str, stored: Stored) -> bool:
        """Keep a response, unless it takes more than a tenth of all the room."""
        key = (tenant, response_id)
        if key in self._entries:
            self._drop(key)
        self._drop_expired()
        value = msgspec.json.encode(stored)
        size = _size(key, value)
        if size * ENTRIES > self._max_bytes:
            return False
        self._entries[key] = (value, self._clock() + self._ttl)
        self._used.setdefault(tenant, OrderedDict())[response_id] = None
        self._held[tenant] = self._held.get(tenant, 0) + size
        self._bytes += size
        while self._bytes > self._max_bytes:
            most = max(self._held, key=self._held.__getitem__)
            self._drop((most, next(iter(self._used[most]))))
        return True

    async def get(self, tenant: str, response_id: str, *, param: str | None = None) -> Stored:
        """Return a response; see `ResponseStore`."""
        key = (tenant, response_id)
        entry = self._entries.get(key)
        if entry is not None and entry[1] <= self._clock():
            self._drop(key)
            entry = None
        if entry is None:
            raise not_found(response_id, param)
        self._used[tenant].move_to_end(response_id)
        return msgspec.json.decode(entry[0], type=Stored)

    async def delete(self, tenant: str, response_id: str) -> None:
        """Forget a response; see `ResponseStore`."""
        await self.get(tenant, response_id)
        self._drop((tenant, response_id))

    async def aclose(self) -> None:
        """Forget nothing: a gateway may be started again."""

    def _drop_expired(self) -> None:
        now = self._clock()
        while self._entries:
            key = next(iter(self._entries))
            if self._entries[key][1] > now:
                return
            self._drop(key)

    def _drop(self, key: tuple[str, str]) -> None:
        value, _ = self._entries.pop(key)
        size = _size(key, value)
        tenant, response_id = key
        self._bytes -= size
        self._held[tenant] -= size
        del self._used[tenant][response_id]
        if not self._used[tenant]:
            del self._used[tenant], self._held[tenant]


def _size(key: tuple[str, str], value: bytes) -> int:
    return len(key[0]) + len(key[1]) + len(value) + _OVERHEAD
