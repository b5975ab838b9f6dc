"""A request and its answer over a connection that is kept open, by aiohttp's connections and its parser.

`aiohttp.ClientSession` sees to redirects, cookies, proxies and traces, and begins a task for each body; none of that is
wanted here, and it is most of what a request over it takes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

import aiohttp
from aiohttp.http import HttpProcessingError, RawResponseMessage, StreamWriter
from yarl import URL

if TYPE_CHECKING:
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.connector import Connection

# A longer body is written in pieces, between which others get their turn.
IN_ONE_PIECE = 512 * 1024
# Some of a longer body may wait to be sent when the answer is there. Over TLS nobody can tell: the loop takes it all.
_SHORT = 64 * 1024


class Pool:
    """The connections to one server. Belongs to the event loop that it is made in.

    Args:
        url: Of the server; any of its paths.
        headers: Sent with every request.
        connector: Keeps the connections; closed with the pool.
        connect: Seconds that connecting may take.
    """

    def __init__(
        self, url: str, headers: Mapping[str, str], connector: aiohttp.BaseConnector, connect: float
    ) -> None:
        self._url = url
        self._given = headers
        self._connector = connector
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect)

    async def post(self, url: str, content: bytes, headers: Mapping[str, str]) -> Exchange:
        """Send a body, and return the answer once its headers are there.

        Args:
            url: On the pool's server.
            content: The body.
            headers: Beside those of all requests, and in their place; by lower-case names.

        Raises:
            aiohttp.ClientError: The server cannot be reached, or its answer is no HTTP.
            ValueError: A header has a line break in it.
        """
        head, long = self._head(url, len(content), headers), len(content) > _SHORT
        try:
            connection = await self._connector.connect(self._to, [], self._timeout)
        except TimeoutError as exc:
            raise aiohttp.ConnectionTimeoutError("connecting took too long") from exc
        writing = None
        try:
            protocol, transport = connection.protocol, _transport(connection)
            if protocol is None or transport is None:
                raise aiohttp.ClientConnectionResetError("the connection was lost before it was used")
            protocol.set_response_params(read_until_eof=True)
            if len(content) <= IN_ONE_PIECE:
                transport.write(head + content)
            else:
                # An answer may come before all of it is sent.
                writing = asyncio.get_running_loop().create_task(_write(protocol, head, content))
            message, body = await protocol.read()
            while 100 <= message.code <= 199:
                if message.code == 101:
                    raise aiohttp.ClientPayloadError("the answer changes to another protocol")
                message, body = await protocol.read()
        except BaseException as exc:
            if writing is not None:
                writing.cancel()
            _drop(connection, long=long)
            if isinstance(exc, HttpProcessingError):
                raise aiohttp.ClientPayloadError("the answer is no HTTP") from exc
            raise
        return Exchange(connection, writing, message, body, long=long)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._connector.close()

    def _head(self, url: str, length: int, headers: Mapping[str, str]) -> bytes:
        lines = _lines({**self._headers, **headers}) if headers else self._fixed_lines
        return f"POST {URL(url).raw_path_qs} HTTP/1.1\r\n{lines}content-length: {length}\r\n\r\n".encode()

    @cached_property
    def _to(self) -> aiohttp.ClientRequest:
        """What is never sent: by it aiohttp knows which connections are of use, and it adds headers to ours."""
        try:
            url = URL(self._url)
        except ValueError as exc:
            raise aiohttp.InvalidURL(self._url) from exc
        return aiohttp.ClientRequest("POST", url, headers=self._given, loop=asyncio.get_running_loop())

    @cached_property
    def _headers(self) -> dict[str, str]:
        headers = {name.lower(): value for name, value in self._to.headers.items()}
        # How long a body is follows from itself.
        headers.pop("content-length", None)
        headers.pop("transfer-encoding", None)
        return headers

    @cached_property
    def _fixed_lines(self) -> str:
        return _lines(self._headers)


class Exchange:
    """An answer as it arrives, and the rest of its request as that is sent. Made by a `Pool`.

    Attributes:
        status: Of the answer.
        headers: Of the answer.
        content: Its body.
    """

    __slots__ = ("__weakref__", "_connection", "_long", "_loop", "_writing", "content", "headers", "status")

    def __init__(
        self,
        connection: Connection,
        writing: asyncio.Task[None] | None,
        message: RawResponseMessage,
        body: aiohttp.StreamReader,
        *,
        long: bool,
    ) -> None:
        self.status = message.code
        self.headers: Mapping[str, str] = message.headers
        self.content = body
        self._connection: Connection | None = connection
        self._writing = writing
        self._long = long
        self._loop = asyncio.get_running_loop()
        body.on_eof(self._ended)

    @property
    def closed(self) -> bool:
        """Whether the answer has ended, or was let go of."""
        return self._connection is None

    def close(self) -> None:
        """Let go of it; where the answer has not ended, the connection is closed. Safe to call twice."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._loop.is_closed():
            # Its socket went with the loop, or goes with the last who knows of it.
            with contextlib.suppress(RuntimeError):
                connection.close()
            return
        if self._writing is not None:
            self._writing.cancel()
        if self.content.exception() is None:
            self.content.set_exception(aiohttp.ClientConnectionError("the answer was let go of"))
        _drop(connection, long=self._long)

    def _ended(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._writing is not None and not self._writing.done():
            self._writing.cancel()
        elif not _waiting(connection) and not (self._long and self.status >= 400):
            connection.release()
            return
        # The rest of the request is not taken any more, or may not be: nobody else's may follow it.
        _drop(connection, long=self._long)


def _transport(connection: Connection) -> asyncio.Transport | None:
    """What a connection writes to; None where it is closed."""
    return None if connection.protocol is None else connection.protocol.transport


def _waiting(connection: Connection) -> int:
    """How many bytes of a request are known to wait to be sent."""
    transport = _transport(connection)
    return 0 if transport is None else transport.get_write_buffer_size()


def _drop(connection: Connection, *, long: bool) -> None:
    """Close a connection; at once where a server that takes no more would keep it open with what waits to be sent."""
    transport = _transport(connection)
    if transport is not None and (long or transport.get_write_buffer_size()):
        transport.abort()
    connection.close()


def _lines(headers: Mapping[str, str]) -> str:
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if not lines.count("\n") == lines.count("\r") == len(headers) or "\0" in lines:
        raise ValueError("a header has a line break in it")
    return lines


async def _write(protocol: ResponseHandler, head: bytes, content: bytes) -> None:
    writer = StreamWriter(protocol, asyncio.get_running_loop())
    # Who waits for the answer learns that the connection broke.
    with contextlib.suppress(aiohttp.ClientError, OSError):
        await writer.write(head)
        for at in range(0, len(content), IN_ONE_PIECE):
            await writer.write(content[at : at + IN_ONE_PIECE])
