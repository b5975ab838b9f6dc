"""Passes a model's stream on to the caller, and notes how it ended."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from .answer import Receipt
from .cache import ChunkCollector
from .errors import RequestError
from .journey import Journey, Status
from .money.billing import Answered
from .money.usage import tier_name
from .wire import ReplyStream, Usage

if TYPE_CHECKING:
    from .serving import Serving


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
        serving: Serving,
        journey: Journey,
        stream: ReplyStream,
        receipt: Receipt,
        answered: Answered[ReplyStream] | None = None,
    ) -> None:
        self.receipt = receipt
        self._serving = serving
        self._journey = journey
        self._stream = stream
        self._chunks = aiter(stream)
        self._answered = answered
        self._collector = ChunkCollector()
        self._counted = False  # whether the last chunk said what was used until then
        self._finished = answered is None
        options = journey.request.fields.stream_options
        self._wants_usage = options is not None and options.include_usage

    def __aiter__(self) -> Relay:
        return self

    @property
    def usage(self) -> Usage | None:
        """The answer's tokens once it has ended, before that an estimate of the prompt's."""
        return self._journey.usage if self._finished else self._serving.billing.estimate(self._journey)

    @property
    def ready(self) -> bool:
        """Whether it is known that the next chunk is there already."""
        # After a choice's end it may be one that is not passed on, and what comes then may take its time.
        return self._stream.ready and not self._collector.ending

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
            counted = self._collector.usage is not before
            self._counted = counted
            if counted and not self._wants_usage and _has_no_choices(chunk):
                continue
            return chunk

    async def aclose(self) -> None:
        """Stop the model if it still runs; safe to call twice."""
        self._stopped("cancelled", None)
        await self._stream.aclose()

    def _complete(self) -> None:
        if self._finished or self._answered is None:
            return
        usage = self._usage(whole=True)
        self._serving.runner.ended(self._answered, None)
        cost = self._serving.billing.answered(self._journey, self._answered, usage, self._stream)
        body = self._collector.body()
        try:
            if body is not None:
                self._serving.store(self._journey, self._answered.attempt, body, cost)
        finally:
            self._finish("ok", None)

    def _stopped(self, status: Status, error: RequestError | None) -> None:
        if self._finished or self._answered is None:
            return
        if error is not None:
            self._serving.runner.ended(self._answered, error)
        self._serving.billing.interrupted(self._journey, self._answered, error, self._usage(whole=False))
        self._finish(status, error)

    def _usage(self, *, whole: bool) -> Usage:
        """Return what the answer took: as its model says, else our estimate of what was seen."""
        assert self._answered is not None
        collector = self._collector
        said = Usage.from_wire(collector.usage, service_tier=collector.service_tier)
        if said is not None and (whole or self._counted):
            return said
        counted = self._answered.meter.counted
        if counted is not None:
            return counted
        seen = self._serving.billing.estimate(self._journey, collector.text)
        if said is None:
            return replace(seen, service_tier=tier_name(collector.service_tier))
        # It was counted on the way, and more of the answer came after that.
        return replace(said, output_tokens=max(said.output_tokens, seen.output_tokens), estimated=True)

    def _finish(self, status: Status, error: RequestError | None) -> None:
        self._finished = True
        self.receipt = self._serving.books.finish_stream(self._journey, self.receipt, status, error)


def _has_no_choices(chunk: bytes) -> bool:
    return not msgspec.json.decode(chunk, type=_Choices).choices
