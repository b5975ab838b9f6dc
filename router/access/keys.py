"""Virtual keys: what they look like, and what is kept of them.

A key is `sf-`, 43 characters for 256 random bits, and 6 for a CRC-32 of what stands before (as GitHub's tokens have
it), so that one that was mistyped or cut off is told from one that is not known. Only its SHA-256 is kept. A slow hash
such as bcrypt is made for passwords, which can be guessed; 256 random bits cannot, however fast the hash, and a slow
one would cost every request as much.
"""

from __future__ import annotations

import hashlib
import secrets
import string
import zlib
from dataclasses import dataclass, field
from typing import Literal

from ..settings import KeyRules

PREFIX = "sf-"
_DIGITS = string.digits + string.ascii_uppercase + string.ascii_lowercase
_SECRET_BITS = 256
_SECRET_LENGTH, _CHECK_LENGTH = 43, 6
LENGTH = len(PREFIX) + _SECRET_LENGTH + _CHECK_LENGTH

# So many characters of a key are kept, for a person to tell it by; the 238 bits after them stay unknown.
_SHOWN = len(PREFIX) + 4

KeyState = Literal["active", "revoked", "expired"]


@dataclass(frozen=True, slots=True)
class VirtualKey:
    """What is known of a key. Not the key itself.

    Attributes:
        id: Under which it is counted and reported.
        digest: SHA-256 of the key.
        shown: How the key begins.
        created_at, expires_at, revoked_at: Unix seconds; None: never.
        last_used: Unix seconds, some seconds late; None: never.
    """

    id: str
    tenant: str
    digest: bytes = field(repr=False)
    rules: KeyRules = field(default_factory=KeyRules)
    name: str | None = None
    shown: str = ""
    created_at: float = 0.0
    expires_at: float | None = None
    revoked_at: float | None = None
    last_used: float | None = None

    def state(self, now: float) -> KeyState:
        """Return whether it may be used."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and now >= self.expires_at else "active"


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made. `secret` is the key itself: shown once, kept nowhere."""

    key: VirtualKey
    secret: str = field(repr=False)


def make_key(
    tenant: str,
    *,
    now: float,
    rules: KeyRules | None = None,
    name: str | None = None,
    expires_at: float | None = None,
) -> NewKey:
    """Make a key.

    Args:
        tenant: Whose it is.
        now: Unix seconds.
        rules: What it may do; default: all, without limit.
        name: For a person to tell it by.
        expires_at: Unix seconds; None: never.
    """
    beginning = PREFIX + _base62(secrets.randbits(_SECRET_BITS), _SECRET_LENGTH)
    secret = beginning + _check(beginning)
    key = VirtualKey(
        id=f"key_{secrets.token_hex(6)}",
        tenant=tenant,
        digest=digest(secret),
        rules=rules or KeyRules(),
        name=name,
        shown=secret[:_SHOWN],
        created_at=now,
        expires_at=expires_at,
    )
    return NewKey(key, secret)


def digest(secret: str) -> bytes:
    """Return what is kept of a key."""
    return hashlib.sha256(secret.encode(errors="surrogateescape")).digest()


def is_mistyped(given: str) -> bool:
    """Whether a text is meant to be one of our keys, but cannot be one: its checksum does not fit."""
    if not given.startswith(PREFIX):
        return False
    return len(given) != LENGTH or _check(given[:-_CHECK_LENGTH]) != given[-_CHECK_LENGTH:]


def _check(text: str) -> str:
    return _base62(zlib.crc32(text.encode(errors="surrogateescape")), _CHECK_LENGTH)


def _base62(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, len(_DIGITS))
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))
