"""`/admin/…`: for who runs the gateway, with a key of its own."""

from __future__ import annotations

import hmac

from starlette.datastructures import Headers
from starlette.types import ASGIApp

from ..access.keys import digest
from ..errors import AuthenticationFailed, InvalidRequest, RequestError, SettingsError
from ..gateway import Gateway
from .http import Incoming, json_response
from .reload import Reload


class AdminOff(RequestError):
    """Nothing is to be administered over HTTP: no admin key is set."""

    status, type, code = 404, "invalid_request_error", "admin_off"


async def reload(again: Reload | None, gateway: Gateway, incoming: Incoming) -> ASGIApp:
    """Read the settings again, and say what changed; where they cannot be used, all goes on as before."""
    _check_key(gateway, incoming.headers)
    if again is None:
        raise AdminOff("This server has no settings that could be read again.")
    try:
        change = await again()
    except SettingsError as exc:
        raise InvalidRequest(f"Nothing was changed. {exc}", code="settings_error") from exc
    body = {
        "object": "reload",
        "changed": change.changed,
        "needs_restart": change.needs_restart,
        "models": {
            "kept": change.models_kept,
            "added": change.models_added,
            "changed": change.models_changed,
            "removed": change.models_removed,
        },
    }
    return json_response(body)


def _check_key(gateway: Gateway, headers: Headers) -> None:
    key = gateway.settings.server.admin_key
    if key is None:
        raise AdminOff("No 'server.admin_key' is set, so nothing can be administered over HTTP.")
    scheme, _, given = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        given = headers.get("x-api-key", "")
    # In constant time, and of digests: the answer's time says nothing of how much of a guess was right, nor of the
    # key's length.
    if not hmac.compare_digest(digest(key.get_secret_value()), digest(given.strip())):
        raise AuthenticationFailed("This needs the key in 'server.admin_key': 'Authorization: Bearer KEY'.")
