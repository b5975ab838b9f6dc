"""Connections to upstreams, kept open between calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

import aiohttp
from aiohttp.connector import Connection

if TYPE_CHECKING:
    from aiohttp import ClientRequest, ClientTimeout
    from aiohttp.tracing import Trace

# Kept connections that are turned down for one call; then the upstream is taken for one that cannot be reached.
_MOST_TURNED_DOWN = 16


class CleanConnector(aiohttp.TCPConnector):
    """Gives out no connection on which something came that nobody asked for.

    aiohttp reads an answer that arrives on an idle connection, and hands it out as that to the next request sent over
    it, which may be another tenant's. What arrives once that request was sent, nobody can tell from its answer.
    """

    async def connect(
        self,
        req: ClientRequest,
        traces: list[Trace],
        timeout: ClientTimeout,  # noqa: ASYNC109 - aiohttp's own signature
    ) -> Connection:
        """Return a connection on which nothing waits to be read."""
        for _ in range(_MOST_TURNED_DOWN):
            connection = await super().connect(req, traces, timeout)
            protocol = connection.protocol
            if protocol is not None and not protocol.should_close:
                return connection
            connection.close()
        raise aiohttp.ClientConnectionError("every connection had unread bytes on it")
