"""Who signed in to the dashboard: a cookie's value that says so, and that nobody else can make."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets

# Seconds until one has to sign in again.
LIFETIME = 12 * 3600


class Sessions:
    """Makes and reads the values of cookies: who signed in and until when, with an HMAC-SHA-256 over both.

    Nothing is kept. What is signed holds the digest of the key as well, so a key that was replaced opens nothing any
    more; the caller looks up whether it was revoked.

    Args:
        shared: What replicas have in common and nobody else knows (the admin key), so that one of them takes the
            cookies of the others; None: a secret of this process alone, and its end is the end of the sessions.
    """

    def __init__(self, shared: bytes | None = None) -> None:
        # A slow hash: whoever has a cookie could else try out which admin key it was signed with.
        self._secret = (
            secrets.token_bytes(32)
            if shared is None
            else hashlib.scrypt(shared, salt=b"smallfirst dashboard", n=2**14, r=8, p=1, dklen=32)
        )

    def make(self, identity: str, digest: bytes, now: float) -> str:
        """Return a cookie's value.

        Args:
            identity: Of the key.
            digest: Of the key.
            now: Unix seconds.
        """
        said = f"{int(now) + LIFETIME}.{base64.urlsafe_b64encode(identity.encode()).decode()}"
        return f"{said}.{self._signature(said, digest)}"

    @staticmethod
    def identity(value: str, now: float) -> str | None:
        """Return whom a value names, which is not checked yet; None where it is over, or none of ours."""
        parts = value.split(".")
        if len(parts) != 3 or not parts[0].isdecimal() or len(parts[0]) > 12 or int(parts[0]) <= now:
            return None
        try:
            return base64.b64decode(parts[1], altchars=b"-_", validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            return None

    def holds(self, value: str, digest: bytes) -> bool:
        """Whether a value was made by `make` for a key of this digest."""
        said, _, signature = value.rpartition(".")
        return hmac.compare_digest(signature.encode(), self._signature(said, digest).encode())

    def _signature(self, said: str, digest: bytes) -> str:
        return hmac.new(self._secret, said.encode() + b"\0" + digest, hashlib.sha256).hexdigest()
