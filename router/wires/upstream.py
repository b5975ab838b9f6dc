"""What is read of a model's answer, whole or in chunks: other servers than OpenAI's send other things as well."""

from __future__ import annotations

from typing import Any

import msgspec

from ..errors import StreamBroken, UpstreamError

# Every other reason (`error`, `abort`, `insufficient_system_resource`) means that the answer is not what was asked for.
FINISHED = frozenset({"stop", "length", "content_filter", "tool_calls", "function_call"})


class TextPiece(msgspec.Struct):
    """A part of a content that is a list; only text is read."""

    type: str = "text"
    text: str | None = None


class Function(msgspec.Struct):
    """What is called, and with what."""

    name: str | None = None
    arguments: str | None = None


class ModelCall(msgspec.Struct):
    """One entry of `tool_calls`."""

    index: int | None = None
    id: str | None = None
    type: str | None = None
    function: Function | None = None


class Said(msgspec.Struct):
    """A message, or what a chunk adds to it."""

    content: str | list[TextPiece] | None = None
    reasoning_content: Any = None
    reasoning: Any = None
    refusal: str | None = None
    tool_calls: list[ModelCall] | None = None
    function_call: Function | None = None

    @property
    def text(self) -> str:
        """The content's text."""
        if isinstance(self.content, list):
            return "".join(piece.text for piece in self.content if piece.type == "text" and piece.text)
        return self.content or ""

    @property
    def thought(self) -> str:
        """The reasoning, under either of its names."""
        thought = self.reasoning_content or self.reasoning
        return thought if isinstance(thought, str) else ""

    @property
    def calls(self) -> list[ModelCall]:
        """The calls, with the one in the older form."""
        older = [] if self.function_call is None else [ModelCall(index=0, function=self.function_call)]
        return [*(self.tool_calls or ()), *older]


class Likely(msgspec.Struct):
    """A token that might have been."""

    token: str
    logprob: float
    bytes: list[int] | None = None


class Token(Likely):
    """A token with those that were likely in its place."""

    top_logprobs: list[Likely] | None = None


class Logprobs(msgspec.Struct):
    """A choice's `logprobs`."""

    content: list[Token] | None = None

    @property
    def entries(self) -> list[dict[str, Any]] | None:
        """The tokens as JSON, in OpenAI's form."""
        return None if self.content is None else msgspec.to_builtins(self.content)


class WholeChoice(msgspec.Struct):
    """A choice of a whole answer."""

    message: Said
    index: int = 0
    finish_reason: str | None = None
    stop_reason: Any = None
    logprobs: Logprobs | None = None


class Piece(msgspec.Struct):
    """A choice of a chunk."""

    index: int = 0
    delta: Said | None = None
    finish_reason: str | None = None
    stop_reason: Any = None
    logprobs: Logprobs | None = None


class _Chunk(msgspec.Struct):
    choices: list[Piece] | None = None


class _Whole(msgspec.Struct):
    choices: list[WholeChoice]


_decode = msgspec.json.Decoder(_Chunk).decode


def choices_of(body: dict[str, Any]) -> list[WholeChoice]:
    """Return the choices of a whole answer, one or more.

    Raises:
        UpstreamError: They cannot be read.
    """
    try:
        choices = msgspec.convert(body, _Whole).choices
    except msgspec.ValidationError as exc:
        raise UpstreamError("The model's answer cannot be read.", status=502) from exc
    if not choices:
        raise UpstreamError("The model's answer has no choice.", status=502)
    return choices


def pieces_of(chunk: bytes) -> list[Piece]:
    """Return the choices of a chunk, perhaps none.

    Raises:
        StreamBroken: It is not a chunk of a chat completion.
    """
    try:
        return _decode(chunk).choices or []
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise StreamBroken("The model's stream has a chunk that cannot be read.") from exc
