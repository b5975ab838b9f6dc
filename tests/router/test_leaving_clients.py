"""A client that hangs up is noticed by its connection, over real HTTP."""

from __future__ import annotations

import asyncio

from fixtures.bounded_server import OpenServer, until
from starlette.types import Receive, Scope, Send

from smallfirst.router.server.bounds import Bounded, Bounds
from smallfirst.router.server.clients import SCOPE_KEY
from smallfirst.router.server.http import ClientGone
from smallfirst.router.server.serve import unless_gone
from smallfirst.router.settings import Limits


class Slow:
    """Works on every request for ever; counts who left, and who is still served."""

    def __init__(self) -> None:
        self.at_work = self.left = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for done in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{done}.complete"})
            return
        await receive()
        self.at_work += 1
        try:
            await unless_gone(receive, asyncio.Event().wait(), client=scope[SCOPE_KEY])
        except ClientGone:
            self.left += 1


async def test_work_stops_when_the_client_hangs_up_and_only_its_own(bounded_server: OpenServer) -> None:
    app = Slow()
    async with bounded_server(Bounded(app, Bounds(Limits()))) as server:
        first, second = await server.connect(), await server.connect()
        for client in (first, second):
            await client.post("/v1/chat/completions", {"messages": []})
        assert await until(lambda: app.at_work == 2)
        first.close()
        assert await until(lambda: app.left == 1)
        await asyncio.sleep(0.05)
        assert app.left == 1
        second.close()
        assert await until(lambda: app.left == 2)
