"""OpenAI's chat completions: the form that the gateway itself works with, so there is nothing to translate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from ..answer import Answer, Receipt
from ..errors import RequestError
from ..wire import ChatRequest, Usage
from .base import NothingToSettle, receipt_field

_DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class ChatCall(NothingToSettle):
    """A chat completion request."""

    request: ChatRequest

    def reply(self, answer: Answer) -> dict[str, Any]:
        """Return the `chat.completion` object."""
        return answer.body

    def events(self, receipt: Receipt, usage: Usage) -> ChatEvents:
        """Return what puts chunks into events."""
        options = self.request.fields.stream_options
        return ChatEvents(counts=options is not None and options.include_usage)


class ChatEvents(NothingToSettle):
    """Chunks as events, as they are; see `Events`.

    Who asks for the usage gets the receipt with it, in the last chunk that has it; where the model sends none, in one
    with our estimate. As the cost is known only at the end, a chunk with usage waits for the next one.

    Args:
        counts: Whether the client asked for the usage.
    """

    def __init__(self, *, counts: bool = False) -> None:
        self._counts = counts
        self._latest = b"{}"
        self._counted: bytes | None = None

    def feed(self, chunk: bytes) -> bytes:
        """Take a chunk."""
        if not self._counts:
            return _event(chunk)
        before, self._counted, self._latest = self._counted, None, chunk
        if _has_usage(chunk):
            self._counted, chunk = chunk, b""
        return b"".join(_event(each) for each in (before, chunk) if each)

    def end(self, usage: Usage, receipt: Receipt | None = None) -> bytes:
        """Return what says that the answer is whole."""
        if not self._counts:
            return _DONE
        if self._counted is not None:
            last = msgspec.json.decode(self._counted)
        else:
            base = msgspec.json.decode(self._latest, type=_Base)
            last = {**msgspec.to_builtins(base), "choices": [], "usage": usage.to_wire()}
        return _event(msgspec.json.encode(last | receipt_field(receipt))) + _DONE

    def error(self, exc: RequestError) -> bytes:
        """Return the error event, after what was held back; `[DONE]` does not follow."""
        held, self._counted = self._counted, None
        return b"".join(_event(each) for each in (held, msgspec.json.encode(exc.body())) if each)


def _event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"


class _Base(msgspec.Struct):
    """What all chunks of a stream have in common."""

    id: Any = None
    object: Any = "chat.completion.chunk"
    created: Any = None
    model: Any = None


class _Counted(_Base):
    usage: Any = None


_decode = msgspec.json.Decoder(_Counted).decode


def _has_usage(chunk: bytes) -> bool:
    return b'"usage"' in chunk and _decode(chunk).usage is not None
