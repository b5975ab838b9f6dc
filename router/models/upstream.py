"""A server that models are asked at: what is sent to it, what comes back, and what goes wrong on the way."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from typing import Any, Protocol
from weakref import WeakSet

import aiohttp
import msgspec
from aiohttp.http_exceptions import ContentEncodingError

from ..errors import ModelError, ModelTimeout, ModelUnavailable, UpstreamError
from ..settings import CloudModelSettings, Timeouts
from .connections import CleanConnector, TimedResolver
from .exchange import Exchange, Pool
from .patience import Patience, Phase
from .refusal import Secrets, refusal
from .trust import untrusted

MAX_REPLY_BYTES = 64 * 1024 * 1024

# Seconds that a connection without a request is kept open.
_KEPT = 30.0

# Seconds for what a server has yet to send after the last of an answer that matters, so that the connection can be used
# again.
_LINGER = 0.25


class Pieces(Protocol):
    """A response as it arrives."""

    @property
    def status(self) -> int:
        """The HTTP status."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """Looked up without regard to case."""
        ...

    async def piece(self, phase: Phase) -> bytes | None:
        """Return what has arrived of the body, else what comes next; None at its end.

        Args:
            phase: What bounds the wait.

        Raises:
            ModelError: It broke off, cannot be read or took too long.
        """
        ...

    def settle(self) -> None:
        """Let go of a response that has given what is wanted of it, but perhaps not ended yet."""
        ...

    def close(self) -> None:
        """Let go of a response; where it is not read to its end, the connection is closed. Safe to call twice."""
        ...


class Sender(Protocol):
    """The seam to the network."""

    async def send(self, path: str, content: bytes, headers: Mapping[str, str], patience: Patience) -> Pieces:
        """Post a body, and return the response once its headers are there.

        Args:
            path: Below the base URL, e.g. `/chat/completions`.
            content: The body, JSON.
            headers: Beside the server's own.
            patience: Bounds the waiting, for the response's body too.

        Raises:
            ModelError: It cannot be reached or took too long.
        """
        ...

    async def start(self) -> None:
        """Get ready; nothing is sent."""
        ...

    async def aclose(self) -> None:
        """Close all connections."""
        ...


class Upstream:
    """A server, and the connections to it that are kept open between calls.

    No redirect is followed, no proxy is read from the environment, and no cookie is kept: what a server sets for one
    tenant's request must not travel with another's.

    Args:
        settings: Where it is, its key, and how many connections there may be.
    """

    def __init__(self, settings: CloudModelSettings) -> None:
        self._settings = settings
        # Connections belong to an event loop; a program may run several, one after the other.
        self._pool: tuple[asyncio.AbstractEventLoop, Pool] | None = None
        # What is read; whoever forgets to let go of one does not keep it here for ever.
        self._exchanges: WeakSet[Exchange] = WeakSet()

    @property
    def open(self) -> bool:
        """Whether there is a pool of connections."""
        return self._pool is not None

    async def start(self) -> None:
        """Make the connection pool; nothing is sent."""
        self._connections()

    async def aclose(self) -> None:
        """Close all connections."""
        if self._pool is not None:
            loop, pool = self._pool
            self._pool = None
            if loop is asyncio.get_running_loop():
                # Whoever still reads from one is told at once; aiohttp would leave him waiting.
                for exchange in tuple(self._exchanges):
                    self.close(exchange)
                await pool.aclose()
            self._exchanges.clear()

    async def send(
        self, path: str, content: bytes, headers: Mapping[str, str], patience: Patience
    ) -> Response:
        """Post a body; see `Sender`."""
        settings = self._settings
        try:
            with patience.during("first_byte"):
                exchange = await self._connections().post(f"{settings.base_url}{path}", content, headers)
        except aiohttp.ClientError as exc:
            raise _failure(exc, settings.name, settings.timeouts) from exc
        self._exchanges.add(exchange)
        return Response(self, exchange, settings, patience)

    def settle(self, exchange: Exchange) -> None:
        """Close an answer a moment later; one that ends before that leaves its connection to the next request."""
        if exchange.closed:
            self._exchanges.discard(exchange)
        else:
            asyncio.get_running_loop().call_later(_LINGER, self.close, exchange)

    def close(self, exchange: Exchange) -> None:
        """Close an answer, and its connection where it has not ended. Safe to call twice."""
        self._exchanges.discard(exchange)
        exchange.close()

    def _connections(self) -> Pool:
        loop = asyncio.get_running_loop()
        if self._pool is None or self._pool[0] is not loop:
            self._pool = (loop, self._make_pool())
        return self._pool[1]

    def _make_pool(self) -> Pool:
        settings = self._settings
        headers = {"content-type": "application/json", "user-agent": "smallfirst"}
        if settings.api_key is not None:
            headers["authorization"] = f"Bearer {settings.api_key.get_secret_value()}"
        # Upper and lower case are one to aiohttp: what is set replaces what is ours.
        headers |= {name.lower(): value.get_secret_value() for name, value in settings.headers.items()}
        connector = CleanConnector(
            limit=settings.max_connections,
            keepalive_timeout=_KEPT,
            resolver=TimedResolver(settings.timeouts.connect),
            ssl=_trusted() if settings.base_url.startswith("https:") else True,
        )
        # Only connecting is timed by aiohttp; the rest is timed here, by phase.
        return Pool(settings.base_url, headers, connector, settings.timeouts.connect)


class Response:
    """A response of an `Upstream`; see `Pieces`."""

    __slots__ = ("_content", "_exchange", "_patience", "_settings", "_upstream", "headers", "status")

    def __init__(
        self, upstream: Upstream, exchange: Exchange, settings: CloudModelSettings, patience: Patience
    ) -> None:
        self.status = exchange.status
        self.headers = exchange.headers
        self._upstream = upstream
        self._exchange = exchange
        self._content = exchange.content
        self._settings = settings
        self._patience = patience

    async def piece(self, phase: Phase) -> bytes | None:
        """Return the next piece; see `Pieces`."""
        content = self._content
        try:
            # What is there already needs no timer.
            piece = content.read_nowait()
            if not piece and not content.at_eof():
                with self._patience.during(phase):
                    piece = await content.readany()
        except aiohttp.ClientError as exc:
            raise _failure(exc, self._settings.name, self._settings.timeouts) from exc
        except RuntimeError as exc:
            # So aiohttp says that the connection was closed from this side, as a pool that is closed does.
            raise _unreachable(self._settings.name) from exc
        return piece or None

    def settle(self) -> None:
        """Let go of it; see `Pieces`."""
        self._upstream.settle(self._exchange)

    def close(self) -> None:
        """Let go of it; see `Pieces`."""
        self._upstream.close(self._exchange)


async def read(response: Pieces, name: str) -> bytes:
    """Return a whole body, each piece within its time.

    Args:
        response: Where it is read from; it is let go of.
        name: The model's.

    Raises:
        ModelError: It broke off, cannot be read, took too long, or has more than `MAX_REPLY_BYTES`.
    """
    pieces: list[bytes] = []
    size = 0
    phase: Phase = "first_byte"
    try:
        while (piece := await response.piece(phase)) is not None:
            size += len(piece)
            if size > MAX_REPLY_BYTES:
                raise faulty(name, f"its answer has more than {MAX_REPLY_BYTES} bytes")
            pieces.append(piece)
            phase = "between_bytes"
        return b"".join(pieces)
    finally:
        response.close()


async def refused(response: Pieces, name: str, secrets: Secrets) -> UpstreamError:
    """Return the error that a server answered with, with its status.

    Args:
        response: Of any status but 2xx; it is read.
        name: The model's.
        secrets: What must not be passed on.

    Raises:
        ModelError: It cannot be read.
    """
    body = decoded(await read(response, name))
    return refusal(name, response.status, response.headers, body, secrets)


def decoded(raw: bytes) -> Any:
    """Return the value of some JSON, or None where it is none."""
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def faulty(name: str, what: str) -> UpstreamError:
    """Return the error of a server whose answer is none."""
    return UpstreamError(f"The upstream of model '{name}' is faulty: {what}.", status=502)


def _failure(exc: aiohttp.ClientError, name: str, timeouts: Timeouts) -> ModelError:
    """Return our error for one of aiohttp's, by type."""
    if isinstance(exc, aiohttp.ClientConnectorCertificateError):
        return untrusted(name, exc.certificate_error)
    # Connecting is all that it times.
    if isinstance(exc, TimeoutError):
        message = f"Model '{name}' could not be reached within {timeouts.connect:g} s ('timeouts.connect')."
        late = ModelTimeout(message)
        late.billed_tries = 0  # nothing was sent
        return late
    if isinstance(exc.__cause__, ContentEncodingError):
        return faulty(name, "its answer cannot be decompressed")
    return _unreachable(name)


def _unreachable(name: str) -> ModelUnavailable:
    return ModelUnavailable(f"The upstream of model '{name}' cannot be reached.", code="upstream_unreachable")


def _trusted() -> ssl.SSLContext:
    # Whom httpx trusts: certifi's authorities, or those of `SSL_CERT_FILE` and `SSL_CERT_DIR`.
    import httpx

    return httpx.create_ssl_context()
