"""What one of several serving processes has of the others; see `processes`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ..access.limits import Limiter
    from ..metrics import Metrics
    from ..succession import Change
    from ..wires.response_store import ResponseStore
    from .reload import Reloading


class Family(Protocol):
    """The processes that serve together."""

    @property
    def limiter(self) -> Limiter | None:
        """Counts for all of them; None: as the settings say."""
        ...

    @property
    def responses(self) -> ResponseStore | None:
        """Keeps responses for all of them; None: as the settings say."""
        ...

    @property
    def secret(self) -> bytes:
        """What all of them know and nobody else, so that one takes the cookies of another."""
        ...

    async def metrics(self, own: Metrics) -> bytes:
        """Return the metrics of all of them in Prometheus's text format."""
        ...

    async def reload(self) -> Change:
        """Have all of them read the settings again.

        Raises:
            SettingsError: They cannot be used. Everything is as it was.
        """
        ...

    async def forget(self, tenant: str, namespace: str | None) -> int:
        """Have all of them forget a tenant's cached answers, or those of one namespace; returns how many there were.

        Raises:
            CacheUnavailable: They may still be there.
        """
        ...

    def serves(self, served: Reloading) -> None:
        """Say that this process begins to serve, and what reads its settings again."""
        ...
