"""When an answer's head goes out."""

from __future__ import annotations

import asyncio

from fixtures.bounded_server import Client, OpenServer
from starlette.types import ASGIApp, Receive, Scope, Send

from smallfirst.router.server.bounds import Bounded, Bounds
from smallfirst.router.settings import Limits

HEAD = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]}
BODY = {"type": "http.response.body", "body": b"done"}


async def begun(receive: Receive, send: Send) -> None:
    for done in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{done}.complete"})


def bounded(app: ASGIApp) -> Bounded:
    async def with_lifespan(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await begun(receive, send)
        else:
            await app(scope, receive, send)

    return Bounded(with_lifespan, Bounds(Limits()))


async def first_packet(client: Client) -> bytes:
    return await asyncio.wait_for(client.reader.read(65536), 10)


async def answers(scope: Scope, receive: Receive, send: Send) -> None:
    await send(HEAD)
    await send(BODY)


async def test_a_head_goes_out_with_what_follows_at_once(bounded_server: OpenServer) -> None:
    async with bounded_server(bounded(answers)) as server:
        client = await server.connect()
        await client.post("/", b"{}")
        packet = await first_packet(client)
    assert packet.startswith(b"HTTP/1.1 200 OK\r\n")
    assert packet.endswith(b"\r\n\r\ndone")


async def test_a_head_does_not_wait_for_what_takes_its_time(bounded_server: OpenServer) -> None:
    seen = asyncio.Event()

    async def dawdles(scope: Scope, receive: Receive, send: Send) -> None:
        await send(HEAD)
        await seen.wait()
        await send(BODY)

    async with bounded_server(bounded(dawdles)) as server:
        client = await server.connect()
        await client.post("/", b"{}")
        packet = await first_packet(client)
        seen.set()
        rest = await first_packet(client)
    assert packet.endswith(b"\r\n\r\n")
    assert rest == b"done"


async def test_a_head_that_is_all_there_is_goes_out_before_the_connection_ends(
    bounded_server: OpenServer,
) -> None:
    async def fails(scope: Scope, receive: Receive, send: Send) -> None:
        await send(HEAD)
        raise RuntimeError

    async with bounded_server(bounded(fails)) as server:
        client = await server.connect()
        await client.post("/", b"{}")
        came = await asyncio.wait_for(client.reader.read(), 10)
    assert came.startswith(b"HTTP/1.1 200 OK\r\n")
    assert came.endswith(b"\r\n\r\n")


async def test_answers_follow_each_other_on_a_connection(bounded_server: OpenServer) -> None:
    async with bounded_server(bounded(answers)) as server:
        client = await server.connect()
        await client.send(
            b"HEAD / HTTP/1.1\r\nhost: here\r\n\r\n" + b"GET / HTTP/1.1\r\nhost: here\r\n\r\n" * 2
        )
        came = await client.reader.readuntil(b"done")
        came += await client.reader.readuntil(b"done")
    assert came.count(b"HTTP/1.1 200 OK\r\n") == 3
