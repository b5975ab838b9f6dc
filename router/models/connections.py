"""Connections to upstreams, kept open between calls."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
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


class TimedResolver(AbstractResolver):
    """Looks names up within a time: aiohttp begins to time connecting only once the address is known.

    Args:
        seconds: For each name.
        resolver: Who looks up; by default the system, in threads.
    """

    def __init__(self, seconds: float, resolver: AbstractResolver | None = None) -> None:
        self._seconds = seconds
        self._resolver = resolver or aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of a host.

        Raises:
            OSError: It has none; a `TimeoutError` where nobody said so in time.
        """
        async with asyncio.timeout(self._seconds):
            return await self._resolver.resolve(host, port, family)

    async def close(self) -> None:
        """Let go of the other one."""
        await self._resolver.close()
