"""Which gateway the classes of this room use: one that was given, a proxy, or one in this process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Self

from langchain_core.utils import from_env, secret_from_env
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr

from smallfirst.router.gateway import Gateway
from smallfirst.router.remote.gateway import RemoteGateway
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


class AsksGateway(BaseModel):
    """What asks a gateway: one that was given, a proxy, or one in this process, opened at the first call.

    Use it as a context manager, or close it at the end. Copies, deep ones too, share a gateway that was opened or
    given before: closing one of them closes it for all.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    base_url: str | None = Field(default_factory=from_env("SMALLFIRST_BASE_URL", default=None))
    api_key: SecretStr | None = Field(default_factory=secret_from_env("SMALLFIRST_API_KEY", default=None))
    # Not shown either: traces and logs have an object's text.
    settings: Settings | None = Field(default=None, exclude=True, repr=False)
    gateway: Backend | SyncGateway | None = Field(default=None, exclude=True, repr=False)

    _sync: SyncGateway | None = PrivateAttr(default=None)
    # Several threads may make the first call at once.
    _lock: threading.Lock = PrivateAttr(default_factory=threading.Lock)

    def _runner(self) -> SyncGateway:
        """The gateway on a loop of its own; sync and async calls alike run there, so that one model serves both."""
        if isinstance(self.gateway, SyncGateway):
            return self.gateway
        with self._lock:
            if self._sync is None:
                # Settings that were given mean more than a proxy that the environment names.
                named = self.settings is None or "base_url" in self.model_fields_set
                url = self.base_url if named else None
                self._sync = open_gateway(self.gateway, url, self.api_key, self.settings)
            return self._sync

    def close(self) -> None:
        """Free the model and flush the ledger; safe to call twice. A `SyncGateway` that was given stays open."""
        with self._lock:
            sync, self._sync = self._sync, None
        if sync is not None:
            sync.close()

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Copy the settings of a call, and share the gateway: a model in memory is not copied."""
        shared = [self.gateway, *(self.__pydantic_private__ or {}).values()]
        return super().__deepcopy__({**(memo or {}), **{id(one): one for one in shared}})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def token_counter(gateway: Backend) -> Callable[[str], int]:
    """Return what estimates a text's tokens: the router's own tokenizer, which takes 0.3 s to load beside a proxy."""
    if isinstance(gateway, Gateway):
        return gateway.routing.count_tokens
    from smallfirst.router.scoring import Scorer

    return Scorer.load().count_tokens
