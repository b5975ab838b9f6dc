"""Keep a local answer, or ask the next model: decided by how sure the local model was."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec

from .confidence import Confidence
from .wire import Reply, ReplyStream, Usage

# Words are held back until so many tokens are known to be sure; after that they are shown and there is no way back.
# Tool calls and JSON are of no use before they are whole, so they are held to their end.
HELD_TOKENS = 16


class _Delta(msgspec.Struct):
    content: str | None = None
    tool_calls: list[msgspec.Raw] | None = None


class _Choice(msgspec.Struct):
    delta: _Delta


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: dict[str, Any] | None = None


_decode = msgspec.json.Decoder(_Chunk).decode


class Unsure(Exception):
    """A local model answered, but was not sure.

    Attributes:
        answer: What it said, where all of it is there: should nobody else be able to answer.
        usage: What that took, where it is known.
    """

    def __init__(
        self,
        confidence: Confidence | None,
        least: float,
        answer: Reply | ReplyStream | None,
        usage: Usage | None,
    ) -> None:
        super().__init__()
        self.value = 0.0 if confidence is None else confidence.value
        self.least = least
        self.answer = answer
        self.usage = usage


def is_unsure(confidence: Confidence | None, least: float) -> bool:
    """Whether a reply falls short of a threshold; one whose model tells no confidence never does."""
    return confidence is not None and confidence.value < least


async def hold(stream: ReplyStream, least: float, *, whole: bool) -> ReplyStream:
    """Hold a stream back until it is known whether the model is sure.

    Args:
        stream: The model's.
        least: The least confidence to go on with, in 0..1.
        whole: Hold it to its end: nothing in it is of use before that.

    Returns:
        The stream from its first chunk on.

    Raises:
        Unsure: The model was; the stream is closed.
        RequestError: The stream failed while it was held.
    """
    held: list[bytes] = []
    ended = True
    chunks = aiter(stream)
    try:
        async for chunk in chunks:
            held.append(chunk)
            known = stream.confidence
            enough = known is not None and known.tokens >= HELD_TOKENS
            if enough and not whole and not _calls(chunk):
                ended = False
                break
    except BaseException:
        await stream.aclose()
        raise
    resumed = _Resumed(stream, held, chunks)
    if is_unsure(stream.confidence, least):
        if not ended:
            await stream.aclose()
        raise Unsure(stream.confidence, least, resumed if ended else None, _usage(held[-1]))
    return resumed


def check(reply: Reply, least: float) -> Reply:
    """Return a reply whose model was sure.

    Raises:
        Unsure: It was not.
    """
    if is_unsure(reply.confidence, least):
        raise Unsure(reply.confidence, least, reply, reply.usage)
    return reply


def _usage(chunk: bytes) -> Usage | None:
    return Usage.from_wire(_decode(chunk).usage)


def _calls(chunk: bytes) -> bool:
    return any(choice.delta.tool_calls for choice in _decode(chunk).choices)


class _Resumed(ReplyStream):
    """A stream whose first chunks were read already. A class and not a generator: closing it must close the stream."""

    def __init__(self, stream: ReplyStream, held: list[bytes], rest: AsyncIterator[bytes]) -> None:
        super().__init__(self, retries=stream.retries)
        self._stream = stream
        self._held = held[::-1]
        self._rest = rest
        self.confidence = stream.confidence

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._held:
            return self._held.pop()
        chunk = await anext(self._rest)
        self.confidence = self._stream.confidence
        return chunk

    async def aclose(self) -> None:
        """Stop the model."""
        self._held.clear()
        await self._stream.aclose()
