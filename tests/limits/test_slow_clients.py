"""Clients that are too slow are cut off: with a header, with a body, with reading; others are left alone."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import Any

import pytest
from fixtures.bounded_server import BoundedServer, Client, OpenServer, until
from fixtures.faulty_upstream import Call, OpenHouse, chunk
from starlette.types import Receive, Scope, Send

from smallfirst.router.server.bounds import Bounded, Bounds
from smallfirst.router.settings import Limits

CHAT = "/v1/chat/completions"
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
MIB = 1 << 20


class Echo:
    """Reads the body and answers so many bytes, in pieces; says how far it got."""

    def __init__(self, answer: int = 2, pieces: int = 1) -> None:
        self.answer = answer
        self.pieces = pieces
        self.sent = 0
        self.got: list[int] = []
        self.left = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for done in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{done}.complete"})
            return
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.left += 1
                return
            size += len(message.get("body", b""))
            if not message.get("more_body"):
                break
        self.got.append(size)
        length = b"%d" % (self.answer * self.pieces)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
        for at in range(self.pieces):
            more = at + 1 < self.pieces
            await send({"type": "http.response.body", "body": b"x" * self.answer, "more_body": more})
            self.sent += self.answer


def bounded(app: Echo, **limits: Any) -> Bounded:
    return Bounded(app, Bounds(Limits(**limits)))


async def trickle(client: Client, data: bytes, pause: float) -> None:
    """Send a byte at a time until it is all sent or nobody listens."""
    with suppress(ConnectionError):
        for at in range(len(data)):
            await client.send(data[at : at + 1])
            await asyncio.sleep(pause)


async def cut(server: BoundedServer, part: str) -> bool:
    return await until(lambda: server.bounds.cut[part] == 1)


# --- headers ------------------------------------------------------------------------------------------------------


async def test_a_header_that_comes_a_byte_at_a_time_is_cut_off(bounded_server: OpenServer) -> None:
    async with bounded_server(bounded(Echo(), header_timeout=0.3)) as server:
        client = await server.connect()
        sending = asyncio.create_task(trickle(client, HEAD + b"x-more: " + b"y" * 500, 0.02))
        answer = await client.answer()
        assert await client.closed()
        await sending
    assert answer is not None
    assert (answer.status, answer.error["code"]) == (408, "request_timeout")
    assert server.bounds.cut["header"] == 1


async def test_anthropics_clients_are_cut_off_in_anthropics_words(bounded_server: OpenServer) -> None:
    app = Echo()
    async with bounded_server(bounded(app, slow_client=0.3)) as server:
        client = await server.connect()
        await client.send(b"POST /v1/messages HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n{")
        answer = await client.answer()
    assert answer is not None
    assert (answer.status, answer.error["type"]) == (408, "invalid_request_error")
    assert b'"type":"error"' in answer.body
    assert app.left == 1


async def test_a_connection_on_which_nothing_comes_is_closed(bounded_server: OpenServer) -> None:
    async with bounded_server(bounded(Echo(), header_timeout=0.3)) as server:
        client = await server.connect()
        assert await client.answer() is None
        assert await until(lambda: len(server.server.server_state.connections) == 0)


async def test_the_second_header_on_a_connection_must_come_in_time_as_well(
    bounded_server: OpenServer,
) -> None:
    async with bounded_server(bounded(Echo(), header_timeout=0.3)) as server:
        client = await server.connect()
        await client.post(CHAT, b"{}")
        first = await client.answer()
        await client.send(HEAD)
        second = await client.answer()
    assert first is not None
    assert second is not None
    assert (first.status, second.status) == (200, 408)


async def test_a_header_behind_a_request_has_its_time_once_that_is_answered(
    bounded_server: OpenServer,
) -> None:
    class Thinking(Echo):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http":
                await asyncio.sleep(1.0)
            await super().__call__(scope, receive, send)

    async with bounded_server(bounded(Thinking(), header_timeout=0.3)) as server:
        client = await server.connect()
        await client.send(HEAD + b"content-length: 2\r\n\r\n{}" + HEAD)
        first, second = await client.answer(), await client.answer()
    assert first is not None
    assert second is not None
    assert (first.status, second.status) == (200, 408)


async def test_many_requests_on_one_connection_are_no_slow_header(bounded_server: OpenServer) -> None:
    async with bounded_server(bounded(Echo(), header_timeout=0.2, slow_client=0.2)) as server:
        client = await server.connect()
        for _ in range(12):
            await client.post(CHAT, b"{}")
            answer = await client.answer()
            assert answer is not None
            await asyncio.sleep(0.05)
    assert server.bounds.cut.total() == 0


# --- bodies -------------------------------------------------------------------------------------------------------


async def test_a_body_that_comes_a_byte_at_a_time_is_cut_off(bounded_server: OpenServer) -> None:
    app = Echo()
    async with bounded_server(bounded(app, slow_client=0.4)) as server:
        client = await server.connect()
        await client.send(HEAD + b"content-length: 500\r\n\r\n")
        sending = asyncio.create_task(trickle(client, b"x" * 500, 0.02))
        answer = await client.answer()
        assert await client.closed()
        await sending
    assert answer is not None
    assert (answer.status, answer.error["code"]) == (408, "request_timeout")
    assert (app.got, app.left, server.bounds.in_flight) == ([], 1, 0)


async def test_a_body_that_comes_slowly_but_well_enough_is_taken(bounded_server: OpenServer) -> None:
    app = Echo()
    async with bounded_server(bounded(app, slow_client=0.2, min_rate=500)) as server:
        client = await server.connect()
        await client.send(HEAD + b"content-length: 2000\r\n\r\n")
        for _ in range(20):
            await client.send(b"x" * 100)
            await asyncio.sleep(0.04)
        answer = await client.answer()
    assert answer is not None
    assert answer.status == 200
    assert app.got == [2000]


async def test_an_app_that_takes_its_time_is_no_slow_client(bounded_server: OpenServer) -> None:
    """It reads nothing of a large body, so that nothing comes."""

    class Busy(Echo):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http":
                await asyncio.sleep(1.0)
            await super().__call__(scope, receive, send)

    app = Busy()
    async with bounded_server(bounded(app, slow_client=0.3)) as server:
        client = await server.connect()
        await client.post(CHAT, b"x" * MIB)
        answer = await client.answer()
    assert answer is not None
    assert answer.status == 200
    assert app.got == [MIB]


async def test_a_body_that_goes_on_slowly_after_the_answer_holds_no_connection(
    bounded_server: OpenServer,
) -> None:
    async with bounded_server(bounded(Echo(), slow_client=0.3, max_headers=10)) as server:
        client = await server.connect()
        headers = b"".join(b"x-%d: 1\r\n" % at for at in range(20))
        await client.send(HEAD + headers + b"content-length: 5000\r\n\r\n")
        answer = await client.answer()
        sending = asyncio.create_task(trickle(client, b"x" * 500, 0.02))
        assert await client.closed()
        await sending
    assert answer is not None
    assert answer.status == 431


# --- idle ---------------------------------------------------------------------------------------------------------


async def test_an_idle_connection_is_closed(bounded_server: OpenServer) -> None:
    async with bounded_server(bounded(Echo(), keep_alive=0.3)) as server:
        client = await server.connect()
        await client.post(CHAT, b"{}")
        assert await client.answer() is not None
        assert await client.closed()
    assert server.bounds.cut.total() == 0


# --- readers ------------------------------------------------------------------------------------------------------


async def stalled(server: BoundedServer, room: int = 4096) -> socket.socket:
    """A connection whose client reads nothing, and that has little room for what it does not read."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
    raw.setblocking(False)
    await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", server.port))
    return raw


async def test_who_does_not_read_the_answer_is_cut_off_and_the_app_learns_of_it(
    bounded_server: OpenServer,
) -> None:
    app = Echo(answer=64 * 1024, pieces=500)
    async with bounded_server(bounded(app, slow_client=0.4)) as server:
        raw = await stalled(server)
        await asyncio.get_running_loop().sock_sendall(raw, HEAD + b"content-length: 2\r\n\r\n{}")
        assert await cut(server, "reader")
        assert await until(lambda: server.bounds.in_flight == 0)
        assert await until(lambda: len(server.server.server_state.connections) == 0)
        raw.close()


async def test_an_answer_that_is_whole_but_not_read_holds_no_connection(bounded_server: OpenServer) -> None:
    async with bounded_server(bounded(Echo(answer=8 * MIB), slow_client=0.4)) as server:
        raw = await stalled(server)
        await asyncio.get_running_loop().sock_sendall(raw, HEAD + b"content-length: 2\r\n\r\n{}")
        assert await cut(server, "reader")
        assert await until(lambda: len(server.server.server_state.connections) == 0)
        raw.close()


async def test_who_reads_slowly_but_well_enough_gets_it_all(bounded_server: OpenServer) -> None:
    app = Echo(answer=8 * MIB)
    async with bounded_server(bounded(app, slow_client=0.2, min_rate=1000)) as server:
        loop, raw, size = asyncio.get_running_loop(), await stalled(server, 256 * 1024), 0
        await loop.sock_sendall(raw, HEAD + b"content-length: 2\r\n\r\n{}")
        while size < app.answer:
            size += len(await loop.sock_recv(raw, 256 * 1024))
            await asyncio.sleep(0.005)
        raw.close()
    assert server.bounds.cut.total() == 0


# --- a stream through the gateway ---------------------------------------------------------------------------------

BIG = chunk("word " * 4000)


class Flood:
    """Streams 100 MB in chunks of 20 kB, as far as anybody takes them."""

    def __init__(self) -> None:
        self.taken = 0

    async def __call__(self, call: Call) -> bool:
        await call.begin_stream()
        for _ in range(5000):
            await call.event(BIG)
            self.taken += 1
        return await call.end_stream()


@pytest.fixture
def flooded() -> dict[str, Any]:
    return {"timeouts": {"connect": 2, "first_byte": 5, "between_bytes": 5, "total": 30}}


async def test_a_stream_that_is_not_read_is_not_read_from_the_upstream_either(
    open_house: OpenHouse, bounded_server: OpenServer, flooded: dict[str, Any]
) -> None:
    """All buffers on the way (of the system, of both sides) fill up, and then nothing moves."""
    async with open_house(**flooded) as house, bounded_server(house.gateway) as server:
        house.upstream.fault = flood = Flood()
        raw = await ask_for_a_stream(server)
        assert await until(lambda: flood.taken > 0)
        connection = next(iter(server.server.server_state.connections))
        taken = -1
        while taken != flood.taken:
            taken = flood.taken
            await asyncio.sleep(0.5)
        assert taken < 2000
        # Here: what uvicorn holds at most, and the piece that was too much.
        assert connection.transport.get_write_buffer_size() < 400_000
        assert server.bounds.in_flight == 1
        raw.close()
        assert await until(lambda: server.bounds.in_flight == 0)


async def test_a_reader_that_stalls_ends_the_stream_and_the_books_say_so(
    open_house: OpenHouse, bounded_server: OpenServer, flooded: dict[str, Any]
) -> None:
    async with open_house(**flooded) as house, bounded_server(house.gateway) as server:
        server.bounds.follow(Limits(slow_client=0.5))
        house.upstream.fault = Flood()
        raw = await ask_for_a_stream(server)
        assert await cut(server, "reader")
        assert await until(lambda: server.bounds.in_flight == 0)
        assert await until(lambda: house.upstream.open == 0)
        entries = await house.entries(1)
        raw.close()
    assert [(entry.status, entry.attempts[0].outcome) for entry in entries] == [("cancelled", "cancelled")]
    assert (entries[0].attempts[0].output_tokens or 0) > 0
    assert house.gateway.health.available("big")


async def ask_for_a_stream(server: BoundedServer) -> socket.socket:
    raw = await stalled(server)
    body = b'{"model":"big","stream":true,"messages":[{"role":"user","content":"Go on."}]}'
    await asyncio.get_running_loop().sock_sendall(
        raw, HEAD + b"content-length: %d\r\n\r\n" % len(body) + body
    )
    return raw
