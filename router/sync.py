"""The gateway for code without an event loop: the same methods, blocking."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

from smallfirst.policies import Decision

from .answer import Answer, AnswerStream, Receipt
from .gateway import Gateway
from .ledger.report import Report
from .remote import RemoteGateway
from .settings import Settings
from .wire import ChatRequest

T = TypeVar("T")


class SyncStream:
    """A streamed answer for a plain `for` loop; close it, or use it in a `with`, if you stop early."""

    def __init__(self, gateway: SyncGateway, stream: AnswerStream) -> None:
        self._gateway = gateway
        self._stream = stream
        self._chunks = aiter(stream)

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
        """Stop the model; safe to call twice."""
        self._gateway.run(self._stream.aclose())


class LoopThread:
    """An event loop that runs in a thread of its own, for code without one."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="smallfirst-sync", daemon=True)
        self._thread.start()
        self.closed = False

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop and return its result; an interrupt cancels it."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    async def arun(self, work: Coroutine[Any, Any, T]) -> T:
        """Await a coroutine that runs on the loop, from any other loop; cancelling cancels it."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    def close(self) -> None:
        """Stop the loop and its thread; safe to call twice."""
        if not self.closed:
            self.closed = True
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


class SyncGateway:
    """A gateway whose event loop runs in a thread of its own.

    Methods may be called from several threads. Close it at the end, or use it in a `with`.

    Args:
        settings: As for `Gateway`.
        gateway: Wraps this one in place of a new one, and closes it.
        base_url: A running proxy, with `/v1`, in place of a gateway in this process.
        api_key: The proxy's key, where it asks for one.
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
    ) -> Report:
        """Add the ledger up; see `Gateway.report`. For a gateway in this process only.

        Raises:
            TypeError: The gateway is a proxy: its ledger lies on its own machine.
        """
        if isinstance(self.gateway, RemoteGateway):
            raise TypeError("a proxy's ledger lies on its own machine: run `smallfirst report` there")
        return self.run(self.gateway.report(since=since, until=until, by=by))

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
        if not self._thread.closed:
            self.run(self.gateway.aclose())
            self._thread.close()

    def __enter__(self) -> SyncGateway:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
