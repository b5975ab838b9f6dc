"""OpenAI's chat completions: the form that the gateway itself works with, so there is nothing to translate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from ..answer import Answer, Receipt
from ..errors import RequestError
from ..wire import ChatRequest, Usage


@dataclass(frozen=True, slots=True)
class ChatCall:
    """A chat completion request."""

    request: ChatRequest

    def reply(self, answer: Answer) -> dict[str, Any]:
        """Return the `chat.completion` object."""
        return answer.body

    def events(self, receipt: Receipt, usage: Usage) -> ChatEvents:
        """Return what puts chunks into events."""
        return ChatEvents()


class ChatEvents:
    """Chunks as events, as they are; see `Events`."""

    def feed(self, chunk: bytes) -> bytes:
        """Take a chunk."""
        return b"data: " + chunk + b"\n\n"

    def end(self, usage: Usage) -> bytes:
        """Return what says that the answer is whole."""
        return b"data: [DONE]\n\n"

    def error(self, exc: RequestError) -> bytes:
        """Return the error event; `[DONE]` does not follow."""
        return b"data: " + msgspec.json.encode(exc.body()) + b"\n\n"
