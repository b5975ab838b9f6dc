"""The gate: tells callers by their keys, and grants requests their share of a key's limits.

Telling a caller reads a table in memory; a second's tick reads the store again if it has changed, so a key that was
made or revoked is known within `REFRESH` seconds and the time of one reading.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import AuthenticationFailed, Forbidden, LedgerError
from ..ledger.store import open_store as open_ledger
from ..settings import Settings
from .keys import VirtualKey
from .limits import RENEWAL, Limiter
from .local import LocalLimiter
from .origin import check_origin
from .rows import KeyStoreError
from .spent import spent_by_key
from .store import KeyStore, open_store
from .table import KeyTable

if TYPE_CHECKING:
    from starlette.datastructures import Headers

log = logging.getLogger("smallfirst.access")

# Seconds between looks at the store, and between notes of when keys were last used.
REFRESH, NOTED = 1.0, 10.0

# Seconds that requests of limited keys wait for the reading of the ledger.
_FIRST_READING = 30.0


@dataclass(frozen=True, slots=True)
class AccessHealth:
    """What state keys and limits are in.

    Attributes:
        keys: Whether the store of keys could be read last; where not, nobody learns of a key that was revoked.
        limiter: Where limits are counted: `local`, `shared` (by the parent of several processes) or `redis`.
        limits: Whether that answers.
    """

    keys: bool
    limiter: str
    limits: bool


class Gate:
    """Stands before the endpoints of one server; belongs to one event loop once it is started.

    Args:
        settings: Keys and limits.
        store: Of virtual keys; default: as the settings say.
        limiter: Default: as the settings say.
        clock: Unix seconds.
        refresh: Seconds between looks at the store.

    Raises:
        SettingsError: The keys cannot be read, or the URL of Redis is none.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        store: KeyStore | None = None,
        limiter: Limiter | None = None,
        clock: Callable[[], float] = time.time,
        refresh: float = REFRESH,
    ) -> None:
        self.settings = settings
        self.clock = clock
        self._refresh = refresh
        self._store = store or open_store(settings)
        self.table = KeyTable(settings.server.keys, self._store)
        self.limiter = limiter or open_limiter(settings, clock)
        self._used: dict[str, float] = {}
        self._ticking: asyncio.Task[None] | None = None
        self._counting: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look for changes, and to add up what keys have used. Needs a running event loop."""
        if self._ticking is None:
            self._ticking = asyncio.get_running_loop().create_task(self._tick())
        if any(key.rules.limited for key in self.table.keys):
            self._count()

    async def aclose(self) -> None:
        """Stop, settle what is left and note when keys were used. Safe to call twice."""
        tasks = [task for task in (self._ticking, self._counting) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._ticking = self._counting = None
        await self.limiter.aclose()
        await asyncio.to_thread(self._note, self._take_used())
        await asyncio.to_thread(self._store.close)

    def follow(self, settings: Settings) -> None:
        """Go on with the keys of other settings; what was counted stays. Reads nothing."""
        if settings is not self.settings:
            self.table.configure(settings.server.keys)
            self.settings = settings
            if self._counting is not None and self._counting.done():
                # A key that has a budget only now is not counted yet: the ledger knows what it has used.
                self._counting = None

    def health(self) -> AccessHealth:
        """Return whether keys and limits are as they should be."""
        return AccessHealth(self.table.healthy, self.limiter.name, self.limiter.healthy)

    def key_of(self, headers: Headers, peer: str | None, *, method: str = "GET") -> VirtualKey | None:
        """Return a caller's key, or None where none is needed.

        Args:
            headers: Of the request.
            peer: The caller's address; None: a socket of this machine.
            method: Of the request.

        Raises:
            AuthenticationFailed: No key, or one that is not known, revoked or expired.
            Forbidden: No keys are configured, and the caller is another machine, or another site's page.
        """
        if not self.table.required:
            if not self.settings.server.insecure_no_keys:
                if not is_loopback(peer):
                    raise Forbidden(
                        "No key is configured, so only this machine is served. "
                        "Make one with `smallfirst keys create`.",
                        code="no_keys_configured",
                    )
                check_origin(headers, method=method, own_name=self.settings.server.host)
            return None
        given = _bearer(headers)
        now = self.clock()
        key = self.table.find(given, now)
        self._used[key.id] = now
        return key

    async def ready(self) -> None:
        """Wait until it is known what keys had used before this process began."""
        if self._counting is None:
            self._count()
        assert self._counting is not None
        if not self._counting.done():
            await asyncio.wait({self._counting}, timeout=_FIRST_READING)

    def _count(self) -> None:
        if self._counting is None:
            self._counting = asyncio.get_running_loop().create_task(self._seed())

    async def _seed(self) -> None:
        now = self.clock()
        try:
            found = await asyncio.to_thread(lambda: spent_by_key(open_ledger(self.settings.ledger), now))
        except LedgerError as exc:
            log.error("what keys have used before cannot be read (%s): their budgets begin anew", exc)
            return
        for key_id, spent in found.items():
            self.limiter.seed(key_id, spent.seed(now))

    async def _tick(self) -> None:
        noted = renewed = time.monotonic()
        while True:
            await asyncio.sleep(self._refresh)
            try:
                await asyncio.to_thread(self.table.refresh)
                if time.monotonic() - renewed >= RENEWAL:
                    renewed = time.monotonic()
                    await self.limiter.renew()
                if time.monotonic() - noted >= NOTED:
                    noted = time.monotonic()
                    await asyncio.to_thread(self._note, self._take_used())
            except (
                Exception
            ) as exc:  # the last resort: a bug of ours must not keep revoked keys in force for good
                log.error("unexpected %s while looking at the keys", type(exc).__name__)

    def _take_used(self) -> dict[str, float]:
        used, self._used = self._used, {}
        return used

    def _note(self, used: dict[str, float]) -> None:
        stored = {key_id: at for key_id, at in used.items() if not key_id.startswith("settings:")}
        # When a key was last used is for people to see; nobody is refused for it.
        with contextlib.suppress(KeyStoreError):
            self._store.used(stored)


def open_limiter(settings: Settings, clock: Callable[[], float] = time.time) -> Limiter:
    """Return the limiter that the settings ask for. Nothing is connected yet.

    Raises:
        SettingsError: The URL is none that Redis understands.
    """
    url, limits = settings.limits_url, settings.limits
    if url is None:
        return LocalLimiter(clock)
    from .shared import RedisLimiter

    return RedisLimiter(
        url.get_secret_value(),
        timeout=limits.timeout,
        refuse=limits.when_down == "refuse",
        replicas=limits.replicas * settings.server.workers,
        clock=clock,
    )


def is_loopback(peer: str | None) -> bool:
    """Whether an address is this machine's own; None (a socket of the file system) is."""
    if peer is None or peer in ("127.0.0.1", "::1"):
        return True
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def has_keys(settings: Settings) -> bool:
    """Whether callers will need a key. Reads the store.

    Raises:
        SettingsError: It cannot be read.
    """
    return KeyTable(settings.server.keys, open_store(settings)).required


def _bearer(headers: Headers) -> str:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    token = token.strip() if scheme.lower() == "bearer" else ""
    token = token or headers.get("x-api-key", "").strip()
    if not token:
        raise AuthenticationFailed(
            "No API key was given. Send it as 'Authorization: Bearer KEY' or 'x-api-key: KEY'."
        )
    return token
