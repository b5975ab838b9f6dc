"""How many connections the server takes at a time; uvloop by itself takes one of a socket in each turn of its loop."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import uvicorn
import uvloop

from smallfirst.router.server.bounds import Bounded, Bounds
from smallfirst.router.server.connections import uvicorn_options
from smallfirst.router.server.drain import Drain
from smallfirst.router.server.graceful import GracefulServer
from smallfirst.router.settings import Limits


async def answer(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def turns_to_take(count: int) -> int:
    """Return the turns of the loop after which connections are taken that came while the loop was busy."""
    options = uvicorn_options(Bounds(Limits()))
    config = uvicorn.Config(Bounded(answer, options["http"].bounds), port=0, log_level="critical", **options)
    server = GracefulServer(config, Drain(), 0.0)
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    port = server.servers[0].sockets[0].getsockname()[1]
    # No turn of the loop passes while these connect: the system takes them.
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]
    turns = 0
    while len(server.server_state.connections) < count:
        await asyncio.sleep(0)
        turns += 1
    for client in clients:
        client.close()
    await server.shutdown()
    return turns


def test_newcomers_do_not_wait_a_turn_of_the_loop_each() -> None:
    assert uvloop.run(turns_to_take(64)) < 32
