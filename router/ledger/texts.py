"""What was asked and answered, for operators who want it kept: off unless `ledger.texts` says otherwise."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from ..privacy import redact
from ..wire import ChatRequest

TextsMode = Literal["off", "redacted", "full"]

# Of a prompt and of a reply each; what is longer is cut there, and says so.
MOST_CHARACTERS = 100_000
_CUT = "\n[cut]"
# What the cut went through is not known by its form any more: so many characters before it are left out, and the rest
# of a word (a key may be long) up to so many more.
_RAGGED, _WORD = 200, 4000


class Text(msgspec.Struct, frozen=True, kw_only=True):
    """The words of one request.

    Attributes:
        recorded_at: Unix seconds.
        prompt: Its messages, each as `role: text`, parted by line breaks; no images.
        reply: The answer's text and calls.
    """

    request_id: str
    tenant: str
    recorded_at: float
    prompt: str
    reply: str

    @property
    def size(self) -> int:
        """Characters."""
        return len(self.prompt) + len(self.reply)

    def stored(self, mode: TextsMode) -> Text:
        """Return it as it may be stored."""
        if mode == "full":
            return self
        return msgspec.structs.replace(self, prompt=_redacted(self.prompt), reply=_redacted(self.reply))


def text_of(request_id: str, request: ChatRequest, body: Mapping[str, Any], *, recorded_at: float) -> Text:
    """Return the words of a request and of its answer.

    Args:
        request_id: As in the ledger.
        request: The request.
        body: The answer, a `chat.completion`.
        recorded_at: Unix seconds.
    """
    prompt = "\n".join(f"{message.role}: {message.text}" for message in request.fields.messages)
    return Text(
        request_id=request_id,
        tenant=request.tenant,
        recorded_at=recorded_at,
        prompt=_cut(prompt),
        reply=_cut(_said(body)),
    )


def _said(body: Mapping[str, Any]) -> str:
    parts: list[str] = []
    for choice in body.get("choices") or ():
        message = choice.get("message") or {}
        if isinstance(message.get("content"), str):
            parts.append(message["content"])
        for call in message.get("tool_calls") or ():
            function = call.get("function") or {}
            parts.append(f"{function.get('name')}({function.get('arguments')})")
    return "\n".join(parts)


def _redacted(text: str) -> str:
    if not text.endswith(_CUT):
        return redact(text)
    known = redact(text.removesuffix(_CUT))[:-_RAGGED]
    word = re.search(r"\S*\Z", known[-_WORD:])
    return known[: len(known) - (len(word[0]) if word else 0)] + _CUT


def _cut(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else text[:MOST_CHARACTERS] + _CUT
