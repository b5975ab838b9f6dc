"""Passes a model's stream on to the caller, and notes how it ended."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import msgspec

from .answer import Receipt
from .billing import Answered
from .cache import ChunkCollector
from .errors import RequestError
from .journey import Journey, Status
from .wire import ReplyStream, Usage

if TYPE_CHECKING:
    from .gateway import Gateway


class _Choices(msgspec.Struct):
    choices: list[msgspec.Raw] = []


class Relay:
    """An async iterator over chunks (JSON bytes) with `aclose()`.

    Whatever way it ends (complete, failed, closed early, cancelled), the model's stream is closed and the ledger gets
    its entry, once. Without `answered` it relays a stored answer, which has its entry already.
    A class and not a generator: a generator that was never started would skip its clean-up.
    """

    def __init__(
        self,
        gateway: Gateway,
        journey: Journey,
        stream: ReplyStream,
        receipt: Receipt,
        answered: Answered[ReplyStream] | None = None,
    ) -> None:
        self.receipt = receipt
        self._gateway = gateway
        self._journey = journey
        self._stream = stream
        self._chunks = aiter(stream)
        self._answered = answered
        self._collector = ChunkCollector()
        self._finished = answered is None
        options = journey.request.fields.stream_options
        self._wants_usage = options is not None and options.include_usage

    def __aiter__(self) -> Relay:
        return self

    @property
    def usage(self) -> Usage | None:
        """The answer's tokens once it has ended, before that an estimate of the prompt's."""
        return self._journey.usage if self._finished else self._gateway.billing.estimate(self._journey)

    async def __anext__(self) -> bytes:
        while True:
            try:
                chunk = await anext(self._chunks)
            except StopAsyncIteration:
                self._complete()
                raise
            except RequestError as exc:
                self._stopped("error", exc)
                raise
            except asyncio.CancelledError:
                self._stopped("cancelled", None)
                await self._stream.aclose()
                raise
            if self._journey.first_chunk is None:
                self._journey.first_chunk = time.perf_counter()
            before = self._collector.usage
            self._collector.add(chunk)
            if self._collector.usage is not before and not self._wants_usage and _has_no_choices(chunk):
                continue
            return chunk

    async def aclose(self) -> None:
        """Stop the model if it still runs; safe to call twice."""
        self._stopped("cancelled", None)
        await self._stream.aclose()

    def _complete(self) -> None:
        if self._finished or self._answered is None:
            return
        cost = self._gateway.billing.answered(
            self._journey, self._answered, self._usage(), retries=self._stream.retries
        )
        body = self._collector.body()
        if body is not None:
            self._gateway.store(self._journey, self._answered.attempt, body, cost)
        self._finish("ok", None)

    def _stopped(self, status: Status, error: RequestError | None) -> None:
        if self._finished or self._answered is None:
            return
        spent = self._answered.spent(self._usage())
        self._gateway.billing.stopped(
            self._journey, self._answered.attempt, error, spent, self._answered.begun
        )
        self._finish(status, error)

    def _usage(self) -> Usage:
        reported = Usage.from_wire(self._collector.usage)
        return reported or self._gateway.billing.estimate(self._journey, self._collector.text)

    def _finish(self, status: Status, error: RequestError | None) -> None:
        self._finished = True
        self.receipt = self._gateway.finish_stream(self._journey, self.receipt, status, error)


def _has_no_choices(chunk: bytes) -> bool:
    return not msgspec.json.decode(chunk, type=_Choices).choices
