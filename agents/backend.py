"""Which gateway the classes of this room use: one that was given, a proxy, or one in this process."""

from __future__ import annotations

from collections.abc import Callable

from pydantic import SecretStr

from smallfirst.router.gateway import Gateway
from smallfirst.router.remote import RemoteGateway
from smallfirst.router.settings import Settings
from smallfirst.router.sync import SyncGateway

Backend = Gateway | RemoteGateway


def open_gateway(
    gateway: Backend | None, base_url: str | None, api_key: SecretStr | None, settings: Settings | None
) -> SyncGateway:
    """Return a gateway on a loop of its own: the given one, else the proxy's, else one in this process.

    Raises:
        SettingsError: The settings file cannot be used.
    """
    if gateway is not None:
        return SyncGateway(gateway=gateway)
    if base_url is not None:
        key = api_key.get_secret_value() if api_key else None
        return SyncGateway(gateway=RemoteGateway(base_url, api_key=key))
    return SyncGateway(settings)


def token_counter(gateway: Backend) -> Callable[[str], int]:
    """Return what estimates a text's tokens: the router's own tokenizer, which takes 0.3 s to load beside a proxy."""
    if isinstance(gateway, Gateway):
        return gateway.routing.count_tokens
    from smallfirst.router.scoring import Scorer

    return Scorer.load().count_tokens
