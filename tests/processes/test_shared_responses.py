"""Responses that the parent of several serving processes keeps for them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from smallfirst.router.errors import ResponseNotFound
from smallfirst.router.processes.link import Link, hang_up
from smallfirst.router.processes.shared import House, SharedResponses
from smallfirst.router.wires.response_store import Stored


@pytest.fixture
async def responses() -> AsyncIterator[SharedResponses]:
    """What a worker has of them; its parent is at the other end of a socket."""
    ours, theirs = socket.socketpair()
    parent = Link(*await asyncio.open_unix_connection(sock=ours), House(1_000_000, 60.0).guest().handlers())
    worker = Link(*await asyncio.open_unix_connection(sock=theirs), {})
    running = [(link, asyncio.ensure_future(link.run())) for link in (parent, worker)]
    yield SharedResponses(worker)
    for link, task in running:
        await hang_up(link, task)


async def test_an_integer_of_any_size_is_kept(responses: SharedResponses) -> None:
    schema = {"type": "integer", "maximum": 10**30}
    stored = Stored({"tools": [{"parameters": schema}]}, [], "session", private=True)
    assert await responses.put("acme", "resp_1", stored)
    assert await responses.get("acme", "resp_1") == stored


async def test_one_that_was_deleted_is_gone(responses: SharedResponses) -> None:
    assert await responses.put("acme", "resp_1", Stored({}, [], "session"))
    await responses.delete("acme", "resp_1")
    with pytest.raises(ResponseNotFound):
        await responses.get("acme", "resp_1")
