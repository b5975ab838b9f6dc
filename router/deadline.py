"""The time that a caller gives a request: until when it must be over, whoever answers it."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace

from .errors import DeadlineExceeded, InvalidRequest
from .wire import ChatRequest, ReplyStream

HEADER = "x-request-timeout"

# Calls that a loop makes soon, one after the other, between a timer that rings and the cancel that it stands for. A
# loop that was late may have the answer still unread in its socket (libuv's rings before it reads), or read while the
# task that waits for it has not run yet: once cancelled, a task does not look at what it got. The first call may come
# before the loop reads; before the second it has read, and before the third the task has run.
TURNS = 3


def deadline_of(headers: Mapping[str, str]) -> float | None:
    """Return when a request that begins now must be over, in `time.monotonic()` seconds; None: it has its time.

    Raises:
        InvalidRequest: The header is no number of seconds above 0.
    """
    value = headers.get(HEADER)
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise InvalidRequest(
            f"Invalid value for header '{HEADER}': expected a number of seconds above 0.", param=HEADER
        )
    return time.monotonic() + seconds


def with_deadline(request: ChatRequest) -> ChatRequest:
    """Return a request that begins now with its deadline.

    Raises:
        InvalidRequest: Its header cannot be read.
    """
    deadline = deadline_of(request.headers)
    return request if deadline is None else replace(request, deadline=deadline)


def header_value(deadline: float) -> str:
    """Return what is left, as a server further on is told."""
    return f"{max(deadline - time.monotonic(), 0.001):.3f}"


@asynccontextmanager
async def ends_by(deadline: float | None) -> AsyncIterator[None]:
    """Cancel the body of the `async with` at a deadline.

    What has arrived by then is not lost, however late the loop is: it is read before the body is cancelled.

    Raises:
        DeadlineExceeded: It was reached; nothing of the body is begun where that was before.
    """
    if deadline is None:
        yield
        return
    left = deadline - time.monotonic()
    if left <= 0:
        failure = _exceeded()
        failure.billed_tries = 0  # nobody was asked
        raise failure
    async with _within(left):
        yield


@asynccontextmanager
async def _within(left: float) -> AsyncIterator[None]:
    try:
        # A body that begins when the time is over gets what is there, and no turn more.
        async with asyncio.timeout(None if left > 0 else 0) as limit:
            bell = _Bell(limit, left) if left > 0 else None
            try:
                yield
            finally:
                if bell is not None:
                    bell.stop()
    except TimeoutError as exc:
        if not limit.expired():
            raise
        raise _exceeded() from exc


class _Bell:
    """Ends a limit after so many seconds, but not before what had arrived by then was read; see `TURNS`."""

    __slots__ = ("_handle", "_limit", "_loop")

    def __init__(self, limit: asyncio.Timeout, seconds: float) -> None:
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.Handle = self._loop.call_later(seconds, self._ring, TURNS)

    def stop(self) -> None:
        """Leave the limit alone."""
        self._handle.cancel()

    def _ring(self, turns: int) -> None:
        if turns > 1:
            self._handle = self._loop.call_soon(self._ring, turns - 1)
        else:
            # A limit in the past ends soon: that is the last turn.
            self._limit.reschedule(self._loop.time())


def _exceeded() -> DeadlineExceeded:
    return DeadlineExceeded(f"The request took longer than its '{HEADER}' allows.")


class Bounded(ReplyStream):
    """A stream that ends by a deadline, whatever its model does. What is there already is given even later: it may be
    the answer that was turned down before the one that was not in time."""

    def __init__(self, stream: ReplyStream, deadline: float) -> None:
        super().__init__(self, retries=stream.retries, billed_tries=stream.billed_tries)
        self._stream = stream
        self._rest = aiter(stream)
        self._deadline = deadline
        self.confidence, self.cut = stream.confidence, stream.cut

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    @property
    def ready(self) -> bool:
        """Whether it is known that the next chunk is there already."""
        return self._stream.ready

    async def __anext__(self) -> bytes:
        if self._stream.ready:
            chunk = await anext(self._rest, None)
        else:
            async with _within(max(self._deadline - time.monotonic(), 0.0)):
                chunk = await anext(self._rest, None)
        self.confidence, self.cut = self._stream.confidence, self._stream.cut
        if chunk is None:
            raise StopAsyncIteration
        return chunk

    async def aclose(self) -> None:
        """Stop the model."""
        await self._stream.aclose()
