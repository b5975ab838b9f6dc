"""A cloud's answer in pieces: the chunks of an event stream, as they arrive."""

from __future__ import annotations

from collections import deque
from typing import Any

import msgspec

from ..errors import ModelUnavailable, StreamBroken
from .patience import Patience, Phase
from .refusal import Secrets
from .sse import EventTooLong, SSEParser
from .upstream import Pieces

_DONE = b"[DONE]"
_FIELD = b'"model":'


class _Choice(msgspec.Struct, gc=False):
    finish_reason: str | None = None


class _Event(msgspec.Struct, gc=False):
    """What must be known of a chunk to pass it on."""

    model: str | None = None
    choices: list[_Choice] | None = None
    error: Any = None


_event = msgspec.json.Decoder(_Event).decode


class Events:
    """The chunks of one event stream. A class and not a generator: closing it unread must close the connection too.

    Args:
        name: The model's, which every chunk is to have.
        response: Where they are read from.
        patience: Bounds the waiting; it ends with the stream.
        secrets: What must not be passed on of an error's words.
    """

    def __init__(self, name: str, response: Pieces, patience: Patience, secrets: Secrets) -> None:
        self._name = name
        self._response = response
        self._patience = patience
        self._secrets = secrets
        self._parser = SSEParser()
        self._ready: deque[bytes] = deque()
        self._first: bytes | None = None
        self._finished = False
        self._ours = _FIELD + msgspec.json.encode(name)
        # How the chunks of this stream begin, up to the model's name, and how they go out.
        self._before = self._after = b""

    def __aiter__(self) -> Events:
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
        self._first = self._checked(await self._arrival("first_byte"))

    async def __anext__(self) -> bytes:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        try:
            event = self._ready.popleft() if self._ready else await self._arrival("between_bytes")
            if event != _DONE:
                return self._checked(event)
        except ModelUnavailable as exc:
            await self.aclose()
            raise StreamBroken(
                f"The connection to model '{self._name}' broke in the middle of its answer."
            ) from exc
        except BaseException:
            await self.aclose()
            raise
        self._patience.end()
        self._response.settle()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Stop the model; safe to call twice."""
        self._patience.end()
        self._response.close()

    async def _arrival(self, phase: Phase) -> bytes:
        """Return the next event, however many pieces it comes in; each has its time."""
        while not self._ready:
            piece = await self._response.piece(phase)
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
            seen = _event(event)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            raise StreamBroken(f"The stream of model '{self._name}' is not valid.") from exc
        if seen.error is not None:
            message = seen.error.get("message") if isinstance(seen.error, dict) else None
            if not isinstance(message, str) or not message:
                message = f"The upstream of model '{self._name}' reported an error."
            raise StreamBroken(self._secrets.without(message))
        if not self._finished:
            self._finished = any(choice.finish_reason for choice in seen.choices or ())
        if b"\n" in event:
            # It came in several lines: as it is, it would be several events to the caller, and all but one broken.
            event = msgspec.json.encode(msgspec.json.decode(event))
        if seen.model == self._name:
            return event
        return self._renamed(event, seen.model)

    def _renamed(self, event: bytes, model: str | None) -> bytes:
        """Return a chunk with our name for the model."""
        # All that comes before the name is the same in every chunk of nearly every server.
        if self._before and event.startswith(self._before):
            return self._after + event[len(self._before) :]
        field = _FIELD + msgspec.json.encode(model)
        # In a string its quotes would be escaped: what is there once is the field, and the rest need not be parsed.
        if model is not None and event.count(b'"model"') == 1 and field in event:
            before = event[: event.index(field)]
            self._before, self._after = before + field, before + self._ours
            return event.replace(field, self._ours)
        chunk = msgspec.json.decode(event)
        chunk["model"] = self._name
        return msgspec.json.encode(chunk)
