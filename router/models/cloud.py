"""A model behind any OpenAI-compatible server."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec

from ..deadline import HEADER, deadline_of, ends_by, header_value
from ..errors import ModelError, ModelTimeout
from ..money.usage import Meter
from ..settings import CloudModelSettings
from ..wire import ChatRequest, Reply, ReplyStream, Usage
from .completion import is_completion
from .events import Events
from .patience import Patience
from .refusal import Secrets
from .retry import RetryBudget, retry_delay
from .upstream import Pieces, Sender, Upstream, decoded, faulty, read, refused

T = TypeVar("T")

# Of the caller's headers only these are passed on, in so many characters; its authorization never is.
PASSED_HEADERS = ("x-request-id", "traceparent", "tracestate")
LONGEST_HEADER = 1024

_CHAT = "/chat/completions"


class CloudModel:
    """Forwards requests over HTTP; the body goes out as it came in, but for the model's name.

    Args:
        settings: Where it is, its key, and how long things may take.
        upstream: Replaces the network; by default the server of the settings.
        sleep: Waits between tries.
        jitter: Uniform in [0, 1).
    """

    def __init__(
        self,
        settings: CloudModelSettings,
        *,
        upstream: Sender | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._settings = settings
        self._secrets = Secrets(settings)
        self._upstream: Sender = upstream or Upstream(settings)
        self._sleep = sleep
        self._jitter = jitter
        self.budget = RetryBudget(settings.retries)

    @property
    def name(self) -> str:
        """The model's name as configured."""
        return self._settings.name

    async def start(self) -> None:
        """Make the connection pool; nothing is sent."""
        await self._upstream.start()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._upstream.aclose()

    async def complete(self, request: ChatRequest) -> Reply:
        """Answer in one piece; see `Model`."""
        content = self._content(request, stream=False)
        patience = self._patience()
        try:
            body, retries, billed = await self._retrying(
                lambda: self._complete_once(request, content, patience),
                patience,
                request.meter,
                request.deadline,
            )
        finally:
            patience.end()
        body["model"] = self.name
        return Reply(body, Usage.of_reply(body), retries, billed_tries=billed)

    async def stream(self, request: ChatRequest) -> ReplyStream:
        """Start an answer; see `Model`. Returns once the first event has arrived."""
        content = self._content(request, stream=True)
        patience = self._patience()
        try:
            events, retries, billed = await self._retrying(
                lambda: self._open(request, content, patience), patience, request.meter, request.deadline
            )
        except BaseException:
            patience.end()
            raise
        return ReplyStream(events, retries=retries, billed_tries=billed)

    async def forward(self, path: str, content: bytes, headers: Mapping[str, str]) -> dict[str, Any]:
        """Post a body to another path of the same server, as it is; returns the JSON object that it answers.

        Args:
            path: Below the base URL, e.g. `/moderations`.
            content: The body.
            headers: The caller's; of these only `PASSED_HEADERS` are sent, and what is left of `x-request-timeout`.
        """
        deadline = deadline_of(headers)
        patience = self._patience()
        try:
            async with ends_by(deadline):
                body, _, _ = await self._retrying(
                    lambda: self._forward_once(path, content, headers, deadline, patience),
                    patience,
                    deadline=deadline,
                )
        finally:
            patience.end()
        return body

    # --- one try ----------------------------------------------------------------------------------------------

    async def _forward_once(
        self,
        path: str,
        content: bytes,
        headers: Mapping[str, str],
        deadline: float | None,
        patience: Patience,
    ) -> dict[str, Any]:
        response = await self._send(headers, content, deadline, patience, path)
        body = decoded(await read(response, self.name))
        if not isinstance(body, dict):
            raise faulty(self.name, "its answer is not a JSON object")
        return body

    async def _complete_once(
        self, request: ChatRequest, content: bytes, patience: Patience
    ) -> dict[str, Any]:
        response = await self._send(request.headers, content, request.deadline, patience)
        with _may_be_billed():
            body = decoded(await read(response, self.name))
            if not is_completion(body):
                raise faulty(self.name, "its answer is not a chat completion")
        return body

    async def _open(self, request: ChatRequest, content: bytes, patience: Patience) -> Events:
        response = await self._send(request.headers, content, request.deadline, patience)
        try:
            with _may_be_billed():
                if not response.headers.get("content-type", "").startswith("text/event-stream"):
                    raise faulty(self.name, "it did not stream although a stream was asked for")
                events = Events(self.name, response, patience, self._secrets)
                await events.wait_for_first()
        except BaseException:
            response.close()
            raise
        return events

    async def _send(
        self,
        headers: Mapping[str, str],
        content: bytes,
        deadline: float | None,
        patience: Patience,
        path: str = _CHAT,
    ) -> Pieces:
        """Send, and return the response once its headers are there. Raises for any status but 2xx."""
        passed = {name: headers[name] for name in PASSED_HEADERS if _may_pass(headers.get(name))}
        if deadline is not None:
            passed[HEADER] = header_value(deadline)
        response = await self._upstream.send(path, content, passed, patience)
        if not 200 <= response.status <= 299:
            raise await refused(response, self.name, self._secrets)
        return response

    # --- around a try -----------------------------------------------------------------------------------------

    async def _retrying(
        self,
        attempt: Callable[[], Awaitable[T]],
        patience: Patience,
        meter: Meter | None = None,
        deadline: float | None = None,
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
                    meter.try_failed(exc_billed)
            try:
                with patience.during("total"):
                    await self._sleep(delay)
            except ModelTimeout as exc:
                exc.retries, exc.billed_tries = retries, billed  # nobody was asked meanwhile
                raise
            retries += 1
            if meter is not None:
                meter.tried_again()

    def _patience(self) -> Patience:
        return Patience(self.name, self._settings.timeouts)

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


def _may_pass(header: str | None) -> bool:
    """Whether a caller's header is one that every server takes: a call must not fail by what a caller put into it."""
    return header is not None and len(header) <= LONGEST_HEADER and header.isascii() and header.isprintable()


@contextmanager
def _may_be_billed() -> Iterator[None]:
    """Mark what fails once the server has accepted a call."""
    try:
        yield
    except ModelError as exc:
        exc.billed_tries = 1
        raise
