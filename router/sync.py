"""The gateway for code without an event loop: the same methods, blocking."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from datetime import datetime
from typing import Any, TypeVar

from smallfirst.policies import Decision

from .answer import Answer, AnswerStream, Receipt
from .gateway import Gateway
from .ledger.report import Report
from .remote.gateway import RemoteGateway
from .settings import Settings
from .wire import ChatRequest

T = TypeVar("T")


class SyncStream:
    """A streamed answer for a plain `for` loop; close it, or use it in a `with`, if you stop early.

    One that is dropped unread is closed as well, once nothing refers to it any more.
    """

    def __init__(self, gateway: SyncGateway, stream: AnswerStream) -> None:
        self._gateway = gateway
        self._stream = stream
        self._chunks = aiter(stream)
        weakref.finalize(self, gateway.leave, stream.aclose).atexit = False

    @property
    def receipt(self) -> Receipt:
        """Who answers, and why."""
        return self._stream.receipt

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        chunk = self._gateway.run(self._next())
        if chunk is None:
            raise StopIteration
        return chunk

    async def _next(self) -> bytes | None:
        return await anext(self._chunks, None)

    def __enter__(self) -> SyncStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the model; safe to call twice, and once the gateway is closed."""
        if not self._gateway.closed:
            self._gateway.run(self._stream.aclose())


class LoopThread:
    """An event loop that runs in a thread of its own, for code without one. Calls may come from several threads.

    Raises, when called:
        RuntimeError: It is closed; or waiting would never end: in the loop's own thread, and in a process that was
            forked after it was made, which has no such thread.
    """

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="smallfirst-sync", daemon=True)
        self._process = os.getpid()
        # What is handed over before the loop is told to stop is finished or cancelled, and never left waiting.
        # Re-entrant: a dropped stream may be collected, and left, in the middle of it.
        self._handing_over = threading.RLock()
        self._closing = threading.Lock()
        self.closed = False
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop and return its result; an interrupt cancels it."""
        if threading.current_thread() is self._thread:
            work.close()
            raise RuntimeError(
                "a blocking call on the gateway's own loop would wait for itself: await instead"
            )
        future = self._hand_over(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    async def arun(self, work: Coroutine[Any, Any, T]) -> T:
        """Await a coroutine that runs on the loop, from any other loop; cancelling cancels it."""
        return await asyncio.wrap_future(self._hand_over(work))

    def leave(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Start a coroutine and wait for nothing; once the loop is closed there is nothing to start."""
        if not self.closed and os.getpid() == self._process:
            with suppress(RuntimeError):
                self._hand_over(work())

    def close(self, last: Callable[[], Coroutine[Any, Any, None]] | None = None) -> None:
        """Stop the loop and its thread, after `last` has run; what still runs is cancelled. Safe to call twice."""
        with self._closing:
            if self.closed:
                return
            try:
                if last is not None:
                    self.run(last())
            finally:
                with self._handing_over:
                    self.closed = True
                    self._loop.call_soon_threadsafe(self._loop.stop)
                self._thread.join()

    def _hand_over(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        with self._handing_over:
            if not self.closed and os.getpid() == self._process:
                return asyncio.run_coroutine_threadsafe(work, self._loop)
        work.close()
        if self.closed:
            raise RuntimeError("the gateway is closed")
        raise RuntimeError("the gateway was made before this process was forked: make one in each process")

    def _serve(self) -> None:
        self._loop.run_forever()
        self._loop.run_until_complete(_end_all())
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()


async def _end_all() -> None:
    """Cancel what still runs on this loop, and wait for its end: who waits for a result is told."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class SyncGateway:
    """A gateway whose event loop runs in a thread of its own.

    Methods may be called from several threads. Close it at the end, or use it in a `with`. A process that was forked
    needs one of its own.

    Args:
        settings: As for `Gateway`.
        gateway: Wraps this one in place of a new one, and closes it.
        base_url: A running proxy, with `/v1`, in place of a gateway in this process.
        api_key: The proxy's key, where it asks for one.

    Raises, when called:
        RuntimeError: It is closed, or the call would never end; see `LoopThread`. Other errors are those of `Gateway`.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        gateway: Gateway | RemoteGateway | None = None,
        base_url: str | None = None,
        api_key: str | None = None,
    ) -> None:
        if gateway is None and base_url is not None:
            gateway = RemoteGateway(base_url, api_key=api_key)
        self.gateway = gateway or Gateway(settings)
        self._thread = LoopThread()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the gateway's loop and return its result; an interrupt cancels it."""
        return self._thread.run(work)

    async def arun(self, work: Coroutine[Any, Any, T]) -> T:
        """Await a coroutine that runs on the gateway's loop, from any other loop; cancelling cancels it."""
        return await self._thread.arun(work)

    def leave(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Start a coroutine on the gateway's loop and wait for nothing."""
        self._thread.leave(work)

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._thread.closed

    def complete(self, request: ChatRequest | Mapping[str, Any] | str, **fields: Any) -> Answer:
        """Answer in one piece; see `Gateway.complete`."""
        return self.run(self.gateway.complete(request, **fields))

    def stream(self, request: ChatRequest | Mapping[str, Any] | str, **fields: Any) -> SyncStream:
        """Answer in pieces; see `Gateway.stream`."""
        return SyncStream(self, self.run(self.gateway.stream(request, **fields)))

    def route(self, request: ChatRequest | Mapping[str, Any] | str, **fields: Any) -> Decision:
        """Return the decision alone; see `Gateway.route`."""
        if isinstance(self.gateway, RemoteGateway):
            return self.run(self.gateway.route(request, **fields))
        return self.gateway.route(request, **fields)

    def classify(
        self, text: str | Sequence[str], labels: Sequence[str], **fields: Any
    ) -> list[tuple[dict[str, Any], Receipt]]:
        """Label texts; see `Gateway.classify`."""
        return self.run(self.gateway.classify(text, labels, **fields))

    def embed(self, model: str, texts: Sequence[str]) -> tuple[list[list[float]], int]:
        """Return a vector for each text, and how many tokens they have together; see `Gateway.embed`."""
        return self.run(self.gateway.embed(model, texts))

    def report(
        self,
        *,
        since: datetime | str | None = None,
        until: datetime | str | None = None,
        by: Sequence[str] = ("model", "route"),
        tenant: str | None = None,
    ) -> Report:
        """Add the ledger up; see `Gateway.report`."""
        return self.run(self.gateway.report(since=since, until=until, by=by, tenant=tenant))

    def feedback(
        self,
        request_id: str,
        score: float | str | bool,
        *,
        tenant: str = "default",
        comment: str | None = None,
    ) -> float:
        """Say what an answer was worth; see `Gateway.feedback`."""
        return self.run(self.gateway.feedback(request_id, score, tenant=tenant, comment=comment))

    def forget(self, *, tenant: str = "default", namespace: str | None = None) -> int:
        """Forget a tenant's cached answers, or those of one namespace; see `Gateway.forget`."""
        return self.run(self.gateway.forget(tenant=tenant, namespace=namespace))

    def close(self) -> None:
        """Free models and flush the ledger; safe to call twice."""
        self._thread.close(self.gateway.aclose)

    def __enter__(self) -> SyncGateway:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
