"""The lots by which a policy explores."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import Final, Protocol

from .hints import Hints
from .wire import ChatRequest

_DAY: Final = 86_400
_BITS: Final = 53


class Lot(Protocol):
    """Draws for a request: uniform in [0, 1)."""

    def __call__(self, request: ChatRequest, hints: Hints) -> float:
        """Return the number drawn."""
        ...


class Lots:
    """Draws one number a turn of a session, by a keyed hash: the calls of one turn's tool loop, a request that is tried
    again, and replicas with the same key all get the same one, so that a turn does not change its tier midway for
    exploration's sake. A new turn (one more message of the user) draws anew, and so does a new day (UTC), or a prompt
    that is repeated word for word would always have the same luck.

    Args:
        seed: The key; of another one, other numbers are drawn. At most 64 bytes.
        clock: Unix seconds.
    """

    def __init__(self, seed: bytes = b"", *, clock: Callable[[], float] = time.time) -> None:
        self._seed = seed
        self._clock = clock

    def __call__(self, request: ChatRequest, hints: Hints) -> float:
        """Return the number drawn for a request."""
        turn = sum(message.role == "user" for message in request.fields.messages)
        name = f"{request.tenant}\0{hints.session}\0{turn}\0{int(self._clock() // _DAY)}"
        digest = hashlib.blake2b(name.encode(errors="surrogatepass"), key=self._seed, digest_size=8)
        return (int.from_bytes(digest.digest(), "little") >> (64 - _BITS)) / float(1 << _BITS)
