"""A model behind any OpenAI-compatible server."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from datetime import UTC, datetime
from typing import Any, NoReturn, TypeVar

import aiohttp
import httpx
import msgspec
from httpx_aiohttp import AiohttpTransport

from ..deadline import HEADER, deadline_of, ends_by, header_value
from ..errors import ModelError, ModelTimeout, ModelUnavailable, StreamBroken, UpstreamError
from ..money.usage import Meter
from ..settings import CloudModelSettings, Timeouts
from ..wire import ChatRequest, Reply, ReplyStream, Usage
from .completion import is_completion
from .connections import CleanConnector
from .retry import RetryBudget, parse_retry_after, retry_delay
from .sse import EventTooLong, SSEParser

T = TypeVar("T")

# Of the caller's headers only these are passed on, in so many characters; its authorization never is.
PASSED_HEADERS = ("x-request-id", "traceparent", "tracestate")
LONGEST_HEADER = 1024

_DONE = b"[DONE]"

MAX_REPLY_BYTES = 64 * 1024 * 1024


class CloudModel:
    """Forwards requests over httpx; the body goes out as it came in, but for the model's name.

    Args:
        settings: Where it is, its key, and how long things may take.
        transport: Replaces the network; by default httpx over aiohttp's connection pool.
        sleep: Waits between tries.
        jitter: Uniform in [0, 1).
    """

    def __init__(
        self,
        settings: CloudModelSettings,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._settings = settings
        self._transport = transport
        self._sleep = sleep
        self._jitter = jitter
        self.budget = RetryBudget(settings.retries)
        # Connections belong to an event loop; a program may run several, one after the other.
        self._client: tuple[asyncio.AbstractEventLoop, httpx.AsyncClient] | None = None

    @property
    def name(self) -> str:
        """The model's name as configured."""
        return self._settings.name

    async def start(self) -> None:
        """Make the connection pool; nothing is sent."""
        self._http()

    async def aclose(self) -> None:
        """Close all connections."""
        if self._client is not None:
            loop, client = self._client
            self._client = None
            if loop is asyncio.get_running_loop():
                await client.aclose()

    async def complete(self, request: ChatRequest) -> Reply:
        """Answer in one piece; see `Model`."""
        content = self._content(request, stream=False)
        async with self._total():
            body, retries, billed = await self._retrying(
                lambda: self._complete_once(request, content), request.meter, request.deadline
            )
        body["model"] = self.name
        return Reply(body, Usage.of_reply(body), retries, billed_tries=billed)

    async def stream(self, request: ChatRequest) -> ReplyStream:
        """Start an answer; see `Model`. Returns once the first event has arrived."""
        content = self._content(request, stream=True)
        deadline = asyncio.get_running_loop().time() + self._settings.timeouts.total
        async with self._total():
            events, retries, billed = await self._retrying(
                lambda: self._open(request, content, deadline), request.meter, request.deadline
            )
        return ReplyStream(events, retries=retries, billed_tries=billed)

    async def forward(self, path: str, content: bytes, headers: Mapping[str, str]) -> dict[str, Any]:
        """Post a body to another path of the same server, as it is; returns the JSON object that it answers.

        Args:
            path: Below the base URL, e.g. `/moderations`.
            content: The body.
            headers: The caller's; of these only `PASSED_HEADERS` are sent, and what is left of `x-request-timeout`.
        """
        deadline = deadline_of(headers)
        async with self._total(), ends_by(deadline):
            body, _, _ = await self._retrying(
                lambda: self._forward_once(path, content, headers, deadline), deadline=deadline
            )
        return body

    # --- one try ----------------------------------------------------------------------------------------------

    async def _forward_once(
        self, path: str, content: bytes, headers: Mapping[str, str], deadline: float | None
    ) -> dict[str, Any]:
        response = await self._send(headers, content, deadline, path)
        try:
            body = _decode(await self._read(response))
        finally:
            await response.aclose()
        if not isinstance(body, dict):
            raise _faulty(self.name, "its answer is not a JSON object")
        return body

    async def _complete_once(self, request: ChatRequest, content: bytes) -> dict[str, Any]:
        response = await self._send(request.headers, content, request.deadline)
        with _may_be_billed():
            try:
                body = _decode(await self._read(response))
            finally:
                await response.aclose()
            if not is_completion(body):
                raise _faulty(self.name, "its answer is not a chat completion")
        return body

    async def _open(self, request: ChatRequest, content: bytes, deadline: float) -> _Events:
        response = await self._send(request.headers, content, request.deadline)
        try:
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                raise _faulty(self.name, "it did not stream although a stream was asked for")
            events = _Events(self._settings, response, deadline)
            with _may_be_billed():
                await events.wait_for_first()
        except BaseException:
            await response.aclose()
            raise
        return events

    async def _send(
        self,
        headers: Mapping[str, str],
        content: bytes,
        deadline: float | None,
        path: str = "/chat/completions",
    ) -> httpx.Response:
        """Send, and return the response once its headers are there. Raises for any status but 2xx."""
        timeouts = self._settings.timeouts
        passed = {name: headers[name] for name in PASSED_HEADERS if _may_pass(headers.get(name))}
        if deadline is not None:
            passed[HEADER] = header_value(deadline)
        message = self._http().build_request(
            "POST", f"{self._settings.base_url}{path}", content=content, headers=passed
        )
        async with self._errors(), _within(self.name, timeouts.first_byte, "first_byte"):
            response = await self._http().send(message, stream=True)
        if not response.is_success:
            await self._fail(response)
        return response

    async def _read(self, response: httpx.Response) -> bytes:
        """Read a whole body, each piece within its time."""
        pieces: list[bytes] = []
        size = 0
        stream = response.aiter_bytes()
        limit, phase = self._settings.timeouts.first_byte, "first_byte"
        async with self._errors():
            while True:
                async with _within(self.name, limit, phase):
                    piece = await anext(stream, None)
                if piece is None:
                    return b"".join(pieces)
                size += len(piece)
                if size > MAX_REPLY_BYTES:
                    raise _faulty(self.name, f"its answer has more than {MAX_REPLY_BYTES} bytes")
                pieces.append(piece)
                limit, phase = self._settings.timeouts.between_bytes, "between_bytes"

    async def _fail(self, response: httpx.Response) -> NoReturn:
        """Raise the upstream's error, with its status."""
        try:
            body = _decode(await self._read(response))
        finally:
            await response.aclose()
        status = response.status_code
        retry_after = parse_retry_after(response.headers, datetime.now(UTC))
        error = body.get("error") if isinstance(body, dict) else None
        if status in (401, 403):
            # Passed on as it is, this would read as if the caller's own key were wrong.
            words = f"The upstream of model '{self.name}' refused the gateway's key ({status}); check its 'api_key'."
            error = {
                "message": words,
                "type": "upstream_error",
                "param": None,
                "code": "upstream_authentication",
            }
        if isinstance(error, str):
            error = {"message": error}
        if not isinstance(error, dict) or not isinstance(error.get("message"), str):
            error = None
        message = f"The upstream of model '{self.name}' answered {status}."
        raise UpstreamError(
            message,
            status=status if 400 <= status <= 599 else 502,
            error={"type": "upstream_error", "param": None, "code": None, **error} if error else None,
            retry_after=retry_after,
        )

    # --- around a try -----------------------------------------------------------------------------------------

    async def _retrying(
        self, attempt: Callable[[], Awaitable[T]], meter: Meter | None = None, deadline: float | None = None
    ) -> tuple[T, int, int]:
        """Run `attempt` until it succeeds or may not be tried again; the meter is told of each further try.

        No try is waited for that would begin after the deadline (`time.monotonic()` seconds).

        Returns:
            Its result, the retries made, and how many tries failed that may be billed. An error carries the same.
        """
        retries = billed = 0
        self.budget.asked()
        while True:
            try:
                return await attempt(), retries, billed
            except ModelError as exc:
                exc_billed = exc.billed_tries
                billed += exc_billed
                exc.retries, exc.billed_tries = retries, billed
                delay = retry_delay(exc, retries, self._settings.retries, self._jitter())
                if delay is None or (deadline is not None and time.monotonic() + delay >= deadline):
                    raise
                if not self.budget.takes():
                    raise
                if meter is not None:
                    meter.tried_again(exc_billed)
            await self._sleep(delay)
            retries += 1

    def _errors(self) -> AbstractAsyncContextManager[None]:
        return _translated(self.name, self._settings.timeouts)

    def _total(self) -> AbstractAsyncContextManager[None]:
        return _within(self.name, self._settings.timeouts.total, "total")

    # --- what is sent -----------------------------------------------------------------------------------------

    def _content(self, request: ChatRequest, *, stream: bool) -> bytes:
        body = request.upstream_body(self._settings.model or self.name)
        if stream:
            # Asked for in every stream: without it nobody knows what the stream cost.
            body["stream_options"] = {**(body.get("stream_options") or {}), "include_usage": True}
        body["stream"] = stream
        if not stream and "stream" not in request.body:
            del body["stream"]
        return msgspec.json.encode(body)

    def _http(self) -> httpx.AsyncClient:
        loop = asyncio.get_running_loop()
        if self._client is None or self._client[0] is not loop:
            self._client = (loop, self._make_client())
        return self._client[1]

    def _make_client(self) -> httpx.AsyncClient:
        settings = self._settings
        headers = {"content-type": "application/json", "user-agent": "smallfirst"}
        if settings.api_key is not None:
            headers["authorization"] = f"Bearer {settings.api_key.get_secret_value()}"
        headers |= {name: value.get_secret_value() for name, value in settings.headers.items()}
        return httpx.AsyncClient(
            transport=self._transport or AiohttpTransport(client=self._make_session),
            headers=headers,
            # Only connecting is timed by the client; the rest is timed here, by phase.
            timeout=httpx.Timeout(None, connect=settings.timeouts.connect),
        )

    def _make_session(self) -> aiohttp.ClientSession:
        connector = CleanConnector(
            limit=self._settings.max_connections, keepalive_timeout=30.0, ssl=httpx.create_ssl_context()
        )
        # No cookies: what an upstream sets for one tenant's request must not travel with another's.
        return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())


def _may_pass(header: str | None) -> bool:
    """Whether a caller's header is one that every server takes: a call must not fail by what a caller put into it."""
    return header is not None and len(header) <= LONGEST_HEADER and header.isascii() and header.isprintable()


class _Event(msgspec.Struct):
    """What must be known of a chunk to pass it on."""

    model: str | None = None
    choices: list[_Choice] | None = None
    error: Any = None


class _Choice(msgspec.Struct):
    finish_reason: str | None = None


class _Events:
    """The chunks of one event stream. A class and not a generator: closing it unread must close the connection too."""

    def __init__(self, settings: CloudModelSettings, response: httpx.Response, deadline: float) -> None:
        self._name = settings.name
        self._timeouts = settings.timeouts
        self._response = response
        self._deadline = deadline
        self._bytes = response.aiter_bytes()
        self._parser = SSEParser()
        self._ready: deque[bytes] = deque()
        self._first: bytes | None = None
        self._finished = False

    def __aiter__(self) -> _Events:
        return self

    @property
    def ready(self) -> bool:
        """Whether the next event has arrived."""
        return self._first is not None or bool(self._ready)

    async def wait_for_first(self) -> None:
        """Read until there is a chunk.

        Raises:
            ModelError: It ended, failed or was too slow before that.
        """
        self._first = self._checked(await self._next(self._timeouts.first_byte, "first_byte"))

    async def __anext__(self) -> bytes:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        try:
            event = await self._next(self._timeouts.between_bytes, "between_bytes")
            if event == _DONE:
                raise StopAsyncIteration
            return self._checked(event)
        except ModelUnavailable as exc:
            await self.aclose()
            raise StreamBroken(
                f"The connection to model '{self._name}' broke in the middle of its answer."
            ) from exc
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        await self._response.aclose()

    async def _next(self, seconds: float, phase: str) -> bytes:
        while not self._ready:
            # Anew for each piece: pieces that complete no event could else come for ever.
            left = self._deadline - asyncio.get_running_loop().time()
            if left < seconds:
                seconds, phase = max(left, 0.0), "total"
            async with _translated(self._name, self._timeouts), _within(self._name, seconds, phase):
                piece = await anext(self._bytes, None)
            if piece is None:
                return self._at_end()
            try:
                self._ready.extend(self._parser.feed(piece))
            except EventTooLong as exc:
                raise StreamBroken(f"The upstream of model '{self._name}' sent {exc}.") from exc
        return self._ready.popleft()

    def _at_end(self) -> bytes:
        # Some servers leave `[DONE]` out; a finish reason says as well that the answer is whole.
        if self._finished:
            return _DONE
        raise StreamBroken(f"The stream of model '{self._name}' ended before the answer was complete.")

    def _checked(self, event: bytes) -> bytes:
        """Return a chunk with our name for the model in it, untouched where it has that already."""
        try:
            seen = msgspec.json.decode(event, type=_Event)
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise StreamBroken(f"The stream of model '{self._name}' is not valid.") from exc
        if seen.error is not None:
            message = seen.error.get("message") if isinstance(seen.error, dict) else None
            raise StreamBroken(str(message or f"The upstream of model '{self._name}' reported an error."))
        self._finished = self._finished or any(choice.finish_reason for choice in seen.choices or ())
        if seen.model == self._name:
            return event
        return self._renamed(event, seen.model)

    def _renamed(self, event: bytes, model: str | None) -> bytes:
        """Return a chunk with our name for the model."""
        # In a string its quotes would be escaped: what is there once is the field, and the rest need not be parsed.
        field = b'"model":' + msgspec.json.encode(model)
        if event.count(field) == 1 and event.count(b'"model"') == 1:
            return event.replace(field, b'"model":' + msgspec.json.encode(self._name))
        chunk = msgspec.json.decode(event)
        chunk["model"] = self._name
        return msgspec.json.encode(chunk)


@contextmanager
def _may_be_billed() -> Iterator[None]:
    """Mark what fails once the server has accepted a call."""
    try:
        yield
    except ModelError as exc:
        exc.billed_tries = 1
        raise


@asynccontextmanager
async def _within(name: str, seconds: float, phase: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as exc:
        raise ModelTimeout(f"Model '{name}' took longer than {seconds:.3g} s ('timeouts.{phase}').") from exc


@asynccontextmanager
async def _translated(name: str, timeouts: Timeouts) -> AsyncIterator[None]:
    """Turn httpx's errors into ours, by type."""
    try:
        yield
    except httpx.TimeoutException as exc:
        # httpx-aiohttp reports a lost connection as a timeout; the cause tells them apart.
        if isinstance(exc.__cause__, aiohttp.ClientError) and not isinstance(exc.__cause__, TimeoutError):
            raise _unreachable(name) from exc
        message = f"Model '{name}' could not be reached within {timeouts.connect:g} s ('timeouts.connect')."
        failure = ModelTimeout(message)
        failure.billed_tries = 0  # nothing was sent
        raise failure from exc
    except httpx.DecodingError as exc:
        raise _faulty(name, "its answer cannot be decompressed") from exc
    except (httpx.TransportError, httpx.StreamError, aiohttp.ClientError) as exc:
        raise _unreachable(name) from exc


def _unreachable(name: str) -> ModelUnavailable:
    return ModelUnavailable(f"The upstream of model '{name}' cannot be reached.", code="upstream_unreachable")


def _faulty(name: str, what: str) -> UpstreamError:
    return UpstreamError(f"The upstream of model '{name}' is faulty: {what}.", status=502)


def _decode(raw: bytes) -> Any:
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
