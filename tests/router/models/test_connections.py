"""Connections to upstreams: what bounds the way to one."""

from __future__ import annotations

import asyncio
import socket

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from smallfirst.router.models.connections import CleanConnector, TimedResolver


class Silent(AbstractResolver):
    """Never answers."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        await asyncio.get_running_loop().create_future()
        return []

    async def close(self) -> None:
        pass


async def test_a_name_that_nobody_looks_up_in_time_is_one_that_cannot_be_connected_to() -> None:
    connector = CleanConnector(resolver=TimedResolver(0.05, Silent()))
    async with aiohttp.ClientSession(connector=connector) as session, asyncio.timeout(10):
        both = [session.get("http://upstream.invalid/") for _ in range(2)]
        failures = await asyncio.gather(*both, return_exceptions=True)
    assert [type(failure) for failure in failures] == [aiohttp.ConnectionTimeoutError] * 2


async def test_a_name_that_is_known_is_looked_up() -> None:
    (found, *_) = await TimedResolver(10).resolve("localhost", 80, socket.AF_INET)
    assert (found["host"], found["port"]) == ("127.0.0.1", 80)
