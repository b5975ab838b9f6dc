"""Who may look at the dashboard: by a cookie that a sign-in gave, or by a key as everywhere else."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from dataclasses import dataclass

from starlette.requests import Request

from ..access.gate import Gate
from ..access.keys import VirtualKey
from ..dashboard.sessions import LIFETIME, Sessions

COOKIE = "smallfirst_session"
LOGIN = "/dashboard/login"

_ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Visitor:
    """One who looks.

    Attributes:
        tenant: The only one whose figures may be seen; None: all.
        signed_in: Whether by a cookie, so that there is something to sign out of.
    """

    tenant: str | None = None
    signed_in: bool = False


class Door:
    """Tells visitors. `server.admin_key` and administrators' keys see all tenants, other keys their own.

    Args:
        gate: Of the server.
        secret: What other processes that serve beside this one know, too; default: one of its own.
    """

    lifetime = LIFETIME

    def __init__(self, gate: Gate, *, secret: bytes | None = None) -> None:
        self._gate = gate
        self._own = Sessions(secret)
        self._shared: tuple[bytes, Sessions] | None = None

    async def visitor(self, request: Request) -> Visitor:
        """Return who asks.

        Raises:
            AuthenticationFailed: A key is needed, and there is none that is known.
            Forbidden: No key is configured, and the caller is another machine, or asks under another machine's name.
        """
        signed_in = await self._by_cookie(request.cookies.get(COOKIE, ""))
        if signed_in is not None:
            return signed_in
        if self._is_admin_key(_bearer(request)):
            return Visitor()
        key = self._gate.key_of(request.headers, request.client.host if request.client else None)
        if key is not None:
            return _visitor(key, signed_in=False)
        return Visitor()

    async def sign_in(self, given: str) -> str:
        """Return a cookie's value for a key.

        Raises:
            AuthenticationFailed: It is not known, or may not be used any more.
        """
        now = self._gate.clock()
        if self._is_admin_key(given):
            return (await self._sessions()).make(_ADMIN, _digest(given), now)
        key = self._gate.table.find(given, now)
        return (await self._sessions()).make(key.id, key.digest, now)

    async def _by_cookie(self, value: str) -> Visitor | None:
        now = self._gate.clock()
        identity = Sessions.identity(value, now) if value else None
        if identity is None:
            return None
        sessions = await self._sessions()
        if identity == _ADMIN:
            admin_key = self._admin_key()
            known = admin_key is not None and sessions.holds(value, _digest(admin_key))
            return Visitor(signed_in=True) if known else None
        for key in self._gate.table.keys:
            if key.id == identity and key.state(now) == "active" and sessions.holds(value, key.digest):
                return _visitor(key, signed_in=True)
        return None

    async def _sessions(self) -> Sessions:
        """Return the sessions that replicas share by the admin key, else those of this process."""
        admin_key = self._admin_key()
        if admin_key is None:
            return self._own
        digest = _digest(admin_key)
        if self._shared is None or self._shared[0] != digest:
            # Slow on purpose, so not on the event loop.
            self._shared = (
                digest,
                await asyncio.to_thread(Sessions, admin_key.encode(errors="surrogateescape")),
            )
        return self._shared[1]

    def _admin_key(self) -> str | None:
        key = self._gate.settings.server.admin_key
        return None if key is None else key.get_secret_value()

    def _is_admin_key(self, given: str) -> bool:
        known = self._admin_key()
        return known is not None and hmac.compare_digest(_digest(known), _digest(given))


def _visitor(key: VirtualKey, *, signed_in: bool) -> Visitor:
    return Visitor(None if key.rules.admin else key.tenant, signed_in)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="surrogateescape")).digest()


def _bearer(request: Request) -> str:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    return given.strip() if scheme.lower() == "bearer" else request.headers.get("x-api-key", "")
