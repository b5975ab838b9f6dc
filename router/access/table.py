"""Keys by what callers send: in memory, so that telling a caller costs no disk and no network."""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
from collections.abc import Sequence

from ..errors import AuthenticationFailed
from ..settings import Key, KeyRules
from .keys import VirtualKey, digest, is_mistyped
from .rows import KeyStoreError
from .store import KeyStore

log = logging.getLogger("smallfirst.access")

_UNREAD = object()


class KeyTable:
    """The keys of the settings and of the store.

    A key is found in time that tells nothing of others: the table is ordered by a hash that is keyed with a secret of
    this process, and what is found is compared in constant time.

    Args:
        configured: Those of the settings.
        store: The others.

    Raises:
        KeyStoreError: The store cannot be read. Later on, `refresh` keeps what was known.
    """

    def __init__(self, configured: Sequence[Key], store: KeyStore) -> None:
        self._store = store
        self._configured = [_configured(at, key) for at, key in enumerate(configured, 1)]
        self._pepper = secrets.token_bytes(32)
        self._version: object = _UNREAD
        self._failing = False
        self._stored: list[VirtualKey] = []
        self._keys: dict[bytes, VirtualKey] = {}
        self._read()

    @property
    def required(self) -> bool:
        """Whether callers need a key: as soon as there is one, even if it may not be used any more."""
        return bool(self._keys)

    @property
    def healthy(self) -> bool:
        """Whether the store could be read when it was last looked at."""
        return not self._failing

    @property
    def keys(self) -> tuple[VirtualKey, ...]:
        """All keys, whether they may be used or not."""
        return tuple(self._keys.values())

    def find(self, given: str, now: float) -> VirtualKey:
        """Return a caller's key.

        Args:
            given: As the caller sent it.
            now: Unix seconds.

        Raises:
            AuthenticationFailed: It is not known, or may not be used any more.
        """
        hashed = digest(given)
        key = self._keys.get(self._place(hashed))
        if key is None or not hmac.compare_digest(key.digest, hashed):
            if is_mistyped(given):
                raise AuthenticationFailed(
                    "The API key is mistyped or not whole: its checksum does not fit. Copy it again."
                )
            raise AuthenticationFailed("The API key is not known to this gateway.")
        state = key.state(now)
        if state != "active":
            raise AuthenticationFailed(
                f"The API key {key.id} {'was revoked' if state == 'revoked' else state}."
            )
        return key

    def configure(self, configured: Sequence[Key]) -> None:
        """Go on with other keys of the settings; reads nothing."""
        self._configured = [_configured(at, key) for at, key in enumerate(configured, 1)]
        self._fill()

    def refresh(self) -> bool:
        """Read the store again if it has changed; returns whether it had. Waits for the disk.

        A store that cannot be read, or is gone, changes nothing: keys that were known stay so.
        """
        try:
            changed = self._read()
        except KeyStoreError as exc:
            if not self._failing:
                log.error("%s; the keys that were known stay in force", exc)
            self._failing = True
            return False
        self._failing = False
        return changed

    def _read(self) -> bool:
        version = self._store.version()
        if version == self._version:
            return False
        stored = self._store.load()
        if version is None and self._version not in (None, _UNREAD):
            raise KeyStoreError("the store of keys is gone")
        self._stored = stored
        self._version = version
        self._fill()
        return True

    def _fill(self) -> None:
        # The settings win: a key that stands in both is the operator's own.
        self._keys = {self._place(key.digest): key for key in (*self._stored, *self._configured)}

    def _place(self, hashed: bytes) -> bytes:
        return hashlib.blake2b(hashed, key=self._pepper, digest_size=16).digest()


def _configured(at: int, key: Key) -> VirtualKey:
    rules = KeyRules.model_validate({name: getattr(key, name) for name in KeyRules.model_fields})
    return VirtualKey(
        id=f"settings:{key.name or at}",
        tenant=key.tenant,
        digest=digest(key.key.get_secret_value()),
        rules=rules,
        name=key.name,
        shown="(settings)",
    )
