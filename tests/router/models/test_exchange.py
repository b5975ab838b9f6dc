"""Requests over kept connections, and their answers."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest
import trustme

from smallfirst.router.models.connections import CleanConnector
from smallfirst.router.models.exchange import IN_ONE_PIECE, Exchange, Pool

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone"
LONG = b"x" * (8 * IN_ONE_PIECE)

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """Does with each connection as a test says, and knows what came."""

    def __init__(self, serve: Serve) -> None:
        self.connections = 0
        self._serve = serve
        self._tasks: set[asyncio.Task[None] | None] = set()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._tasks.add(asyncio.current_task())
        try:
            await self._serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            # Not `close`: over TLS that waits for an answer, which nobody gives any more.
            writer.transport.abort()

    async def ended(self) -> None:
        """Wait until nobody is served any more."""
        await asyncio.gather(*filter(None, self._tasks))


@asynccontextmanager
async def pool_to(
    serve: Serve, *, secure: bool = False, **headers: str
) -> AsyncIterator[tuple[Pool, Server, str]]:
    """A pool of a server, the server, and its address."""
    made = Server(serve)
    ours, theirs = _certified() if secure else (None, None)
    listening = await asyncio.start_server(made.connected, "127.0.0.1", 0, ssl=theirs)
    url = f"http{'s' * secure}://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1"
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    pool = Pool(url, given, CleanConnector(ssl=ours or True), connect=5.0)
    try:
        yield pool, made, url
    finally:
        await pool.aclose()
        listening.close()
        await asyncio.wait_for(made.ended(), 10)


def _certified() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A client's and a server's side of TLS."""
    authority = trustme.CA()
    ours, theirs = ssl.create_default_context(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.configure_trust(ours)
    authority.issue_cert("127.0.0.1").configure_cert(theirs)
    return ours, theirs


async def whole(exchange: Exchange) -> bytes:
    return await asyncio.wait_for(exchange.content.read(), 10)


def always(answer: bytes, heads: list[str]) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            heads.append(head)
            length = next(line for line in head.split("\r\n") if line.lower().startswith("content-length: "))
            await reader.readexactly(int(length.split(" ")[1]))
            writer.write(answer)

    return serve


async def test_what_is_sent_has_all_headers_once_and_those_of_the_call_come_first() -> None:
    heads: list[str] = []
    async with pool_to(always(OK, heads), authorization="Bearer k", x_request_id="ours") as (pool, _, url):
        await whole(await pool.post(f"{url}/chat/completions", b"{}", {"x-request-id": "theirs"}))
        await whole(await pool.post(f"{url}/chat/completions", b"{}", {}))
    first, *lines = heads[0].strip().split("\r\n")
    names = [line.partition(":")[0] for line in lines]
    assert first == "POST /v1/chat/completions HTTP/1.1"
    assert len(names) == len(set(names))
    assert {"host", "authorization", "accept-encoding", "content-length"} < set(names)
    assert "x-request-id: theirs" in lines
    assert "x-request-id: ours\r\n" in heads[1]


async def test_a_header_with_a_line_break_in_it_is_not_sent() -> None:
    heads: list[str] = []
    async with pool_to(always(OK, heads)) as (pool, _, url):
        with pytest.raises(ValueError, match="line break"):
            await pool.post(url, b"{}", {"x-request-id": "1\r\nx-admin: yes"})
    assert heads == []


@pytest.mark.parametrize(
    "early", [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"]
)
async def test_what_comes_before_the_answer_is_passed_over(early: bytes) -> None:
    async with pool_to(always(early + OK, [])) as (pool, server, url):
        for _ in range(2):
            exchange = await pool.post(url, b"{}", {})
            assert (exchange.status, await whole(exchange)) == (200, b"done")
    assert server.connections == 1


async def test_a_long_body_leaves_its_connection_to_the_next_request() -> None:
    async with pool_to(always(OK, [])) as (pool, server, url):
        for _ in range(2):
            assert await whole(await pool.post(url, LONG, {})) == b"done"
    assert server.connections == 1


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("length", [300_000, len(LONG)])
async def test_an_answer_that_comes_before_all_was_sent_is_read_and_its_connection_is_not_used_again(
    length: int, secure: bool
) -> None:
    async def refuses(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK.replace(b"200 OK", b"413 Too Large"))
        await asyncio.sleep(0.5)

    async with pool_to(refuses, secure=secure) as (pool, server, url):
        for _ in range(2):
            exchange = await pool.post(url, LONG[:length], {})
            assert (exchange.status, await whole(exchange)) == (413, b"done")
            assert exchange.closed
    assert server.connections == 2


async def test_a_server_that_takes_no_more_of_a_request_keeps_no_connection_open() -> None:
    gone = asyncio.Event()

    async def takes_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        # Reads no more, until the connection is broken.
        while not writer.transport.is_closing():
            writer.write(b" ")
            await asyncio.sleep(0.01)
        gone.set()

    async with pool_to(takes_nothing) as (pool, _, url):
        asking = asyncio.create_task(pool.post(url, LONG * 4, {}))
        await asyncio.sleep(0.1)
        asking.cancel()
        with pytest.raises((asyncio.CancelledError, aiohttp.ClientError)):
            await asking
        await asyncio.wait_for(gone.wait(), 10)


async def test_an_answer_that_changes_the_protocol_is_a_failure() -> None:
    async with pool_to(always(b"HTTP/1.1 101 Switching\r\n\r\n", [])) as (pool, server, url):
        for _ in range(2):
            with pytest.raises(aiohttp.ClientPayloadError):
                await pool.post(url, b"{}", {})
    assert server.connections == 2


def test_an_answer_of_a_loop_that_has_ended_can_be_let_go_of() -> None:
    async def begin() -> Exchange:
        async with pool_to(always(OK[:-2], [])) as (pool, _, url):
            return await pool.post(url, b"{}", {})

    exchange = asyncio.run(begin())
    exchange.close()
    assert exchange.closed


async def test_what_is_no_http_is_a_failure_of_the_connection() -> None:
    async with pool_to(always(b"220 mail ready\r\n\r\n", [])) as (pool, _, url):
        with pytest.raises(aiohttp.ClientError):
            await pool.post(url, b"{}", {})


async def test_who_waits_for_an_answer_that_is_let_go_of_is_told() -> None:
    async with pool_to(always(OK[:-2], [])) as (pool, _, url):
        exchange = await pool.post(url, b"{}", {})
        reading = asyncio.create_task(whole(exchange))
        await asyncio.sleep(0)
        exchange.close()
        exchange.close()
        with pytest.raises(aiohttp.ClientConnectionError):
            await reading


async def test_an_address_that_is_none_cannot_be_reached() -> None:
    pool = Pool("http://:80", {}, CleanConnector(), connect=5.0)
    with pytest.raises(aiohttp.ClientError):
        await pool.post("http://:80/chat", b"{}", {})
    await pool.aclose()
