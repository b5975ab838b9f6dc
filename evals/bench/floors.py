"""Bare pass-throughs: what an ASGI or RSGI server with an HTTP client costs, before a gateway does anything of its own.

    python -m smallfirst.evals.bench.floors --upstream http://127.0.0.1:9000/v1 --port 9001 --client aiohttp

A body goes out as it came in, an answer comes back as it is; nothing is read, logged, timed or retried. `aiohttp` has
the connections of the gateway's own cloud models, by its usual client; `httpx` is httpx over them.
"""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

CLIENTS = ("aiohttp", "httpx", "pyreqwest")
SERVERS = ("uvicorn", "granian")

_JSON = {"content-type": "application/json", "user-agent": "floor"}
_CONNECTIONS = 1000


class Answer(Protocol):
    """An upstream's answer, its body unread."""

    status: int
    content_type: str

    async def whole(self) -> bytes:
        """Read all of the body."""
        ...

    def pieces(self) -> AsyncIterator[bytes]:
        """Read the body piece by piece, as it arrives."""
        ...


Post = Callable[[bytes], AbstractAsyncContextManager[Answer]]
Open = Callable[[], AbstractAsyncContextManager[Post]]


class _Httpx:
    def __init__(self, response: Any) -> None:
        self._response = response
        self.status = response.status_code
        self.content_type = response.headers["content-type"]

    async def whole(self) -> bytes:
        body: bytes = await self._response.aread()
        return body

    def pieces(self) -> AsyncIterator[bytes]:
        pieces: AsyncIterator[bytes] = self._response.aiter_raw()
        return pieces


class _Aiohttp:
    def __init__(self, response: Any) -> None:
        self._response = response
        self.status = response.status
        self.content_type = response.content_type

    async def whole(self) -> bytes:
        body: bytes = await self._response.read()
        return body

    def pieces(self) -> AsyncIterator[bytes]:
        pieces: AsyncIterator[bytes] = self._response.content.iter_any()
        return pieces


class _Pyreqwest:
    def __init__(self, response: Any) -> None:
        self._response = response
        self.status = response.status
        self.content_type = response.headers["content-type"]

    async def whole(self) -> bytes:
        return bytes(await self._response.bytes())

    async def pieces(self) -> AsyncIterator[bytes]:
        while (piece := await self._response.body_reader.read_chunk()) is not None:
            yield bytes(piece)


def httpx_client(url: str) -> Open:
    """Return httpx over aiohttp."""
    import aiohttp
    import httpx
    from httpx_aiohttp import AiohttpTransport

    def session() -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(limit=_CONNECTIONS, keepalive_timeout=30.0)
        return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())

    @asynccontextmanager
    async def opened() -> AsyncIterator[Post]:
        timeout = httpx.Timeout(None, connect=5.0)
        transport = AiohttpTransport(client=session)
        async with httpx.AsyncClient(transport=transport, headers=_JSON, timeout=timeout) as client:

            @asynccontextmanager
            async def post(body: bytes) -> AsyncIterator[Answer]:
                response = await client.send(client.build_request("POST", url, content=body), stream=True)
                try:
                    yield _Httpx(response)
                finally:
                    await response.aclose()

            yield post

    return opened


def aiohttp_client(url: str) -> Open:
    """Return aiohttp alone: the connections of `Upstream`, by its usual client."""
    import aiohttp

    @asynccontextmanager
    async def opened() -> AsyncIterator[Post]:
        connector = aiohttp.TCPConnector(limit=_CONNECTIONS, keepalive_timeout=30.0)
        jar = aiohttp.DummyCookieJar()
        async with aiohttp.ClientSession(connector=connector, cookie_jar=jar, headers=_JSON) as session:

            @asynccontextmanager
            async def post(body: bytes) -> AsyncIterator[Answer]:
                async with session.post(url, data=body) as response:
                    yield _Aiohttp(response)

            yield post

    return opened


def pyreqwest_client(url: str) -> Open:
    """Return pyreqwest (Rust's reqwest)."""
    from pyreqwest.client import ClientBuilder

    @asynccontextmanager
    async def opened() -> AsyncIterator[Post]:
        async with ClientBuilder().default_headers(_JSON).build() as client:

            @asynccontextmanager
            async def post(body: bytes) -> AsyncIterator[Answer]:
                async with (
                    client.post(url)
                    .body_bytes(body)
                    .streamed_read_buffer_limit(0)
                    .build_streamed() as response
                ):
                    yield _Pyreqwest(response)

            yield post

    return opened


def pass_through(client: Open) -> App:
    """Return an ASGI app that passes every body on, and its answer back."""
    opened = None
    post: Post | None = None

    async def lifespan(receive: Receive, send: Send) -> None:
        nonlocal opened, post
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                opened = client()
                post = await opened.__aenter__()
                await send({"type": "lifespan.startup.complete"})
            else:
                if opened is not None:
                    await opened.__aexit__(None, None, None)
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
            return
        assert post is not None
        async with post(await _body(receive)) as answer:
            await _answered(answer, send)

    return app


async def _body(receive: Receive) -> bytes:
    message = await receive()
    body: bytes = message.get("body", b"")
    while message.get("more_body"):
        message = await receive()
        body += message.get("body", b"")
    return body


async def _answered(answer: Answer, send: Send) -> None:
    kind = (b"content-type", answer.content_type.encode())
    if not answer.content_type.startswith("text/event-stream"):
        body = await answer.whole()
        length = (b"content-length", str(len(body)).encode())
        await send({"type": "http.response.start", "status": answer.status, "headers": [kind, length]})
        await send({"type": "http.response.body", "body": body})
        return
    await send({"type": "http.response.start", "status": answer.status, "headers": [kind]})
    async for piece in answer.pieces():
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def _serve_uvicorn(app: App, port: int) -> None:
    import uvicorn

    # As `smallfirst serve` starts it.
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=port,
        access_log=False,
        log_level="warning",
        server_header=False,
        lifespan="on",
        ws="none",
    )


def _serve_granian(app: App, port: int) -> None:
    import uvloop
    from granian.constants import Interfaces
    from granian.server.embed import Server

    server = Server(app, address="127.0.0.1", port=port, interface=Interfaces.ASGI, log_enabled=False)
    uvloop.run(server.serve())


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(description="A bare pass-through.")
    parser.add_argument("--upstream", required=True, help="with the path up to /v1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--client", choices=CLIENTS, default="aiohttp")
    parser.add_argument("--server", choices=SERVERS, default="uvicorn")
    options = parser.parse_args()
    clients = {"httpx": httpx_client, "aiohttp": aiohttp_client, "pyreqwest": pyreqwest_client}
    servers = {"uvicorn": _serve_uvicorn, "granian": _serve_granian}
    app = pass_through(clients[options.client](f"{options.upstream}/chat/completions"))
    servers[options.server](app, options.port)


if __name__ == "__main__":
    main()
