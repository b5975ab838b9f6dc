"""From tokens to OpenAI's deltas: text, stop strings, tool calls, log-probabilities."""

from __future__ import annotations

import codecs
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...confidence import ConfidenceMeter
from ...errors import ModelError
from .calls import CallReader, ParsedCall, read_cut_call
from .engine import End, NativeModel, Token
from .schemas import follows
from .stops import StopFilter

Trim = Callable[[ParsedCall], ParsedCall]


class SchemaMismatch(ModelError):
    """The answer does not follow its schema, in a part that the grammar could not hold."""

    code = "schema_mismatch"

    def __init__(self) -> None:
        super().__init__("The local model's answer does not follow its schema.")


class Generation:
    """One answer in the making. Feed it tokens; it returns choices (delta, logprobs) as soon as they are certain.

    Args:
        model: For the tokens' text.
        stops: Stop strings; they end words, not tool calls.
        calls: Whether the answer may be tool calls. One that the limit cuts is told as far as it was written.
        constrained: Whether the answer follows a grammar.
        check: Schemas to check the answer against, by function (`""`: the whole answer).
        trim: Returns a call's arguments without those that the model invented; None keeps all.
        logprobs: Whether they were asked for.
    """

    def __init__(
        self,
        model: NativeModel,
        *,
        stops: Sequence[str],
        calls: bool,
        constrained: bool,
        check: Mapping[str, dict[str, Any]],
        trim: Trim | None,
        logprobs: bool,
    ) -> None:
        self._model = model
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._stops = StopFilter(stops)
        self._reader = CallReader() if calls else None
        self._constrained = constrained
        self._check = check
        self._trim = trim
        self._logprobs: list[dict[str, Any]] | None = [] if logprobs else None
        self._meter = ConfidenceMeter()
        self._made: list[ParsedCall] = []
        self._repeats = False
        self._text: list[str] = []
        self.tokens = 0
        self.finish_reason = "stop"

    @property
    def confidence(self) -> dict[str, Any] | None:
        """How sure the model was so far."""
        confidence = self._meter.confidence
        return None if confidence is None else confidence.to_dict()

    @property
    def stop_reason(self) -> str | None:
        """The stop string that ended the answer."""
        return self._stops.found

    @property
    def done(self) -> bool:
        """Whether no more tokens are wanted."""
        return self._stops.stopped or self._repeats

    @property
    def calls(self) -> int:
        """How many calls there are so far."""
        return len(self._made)

    @property
    def between_calls(self) -> bool:
        """Whether a call is whole and a line break follows: now comes another, or the end."""
        return bool(self._made) and self._reader is not None and self._reader.pending == "\n"

    def feed(self, token: Token) -> list[dict[str, Any]]:
        """Take a token."""
        self.tokens += 1
        piece = self._model.piece(token.id)
        if self._reader is None and self._model.is_control(token.id):
            piece = b""  # such as the end of a turn that is not the end of the reply: no text
        if not token.forced and (not self._constrained or _says_something(piece)):
            self._meter.add(token.logprob, token.margin)
        if self._logprobs is not None:
            self._logprobs.append(self._described(token, piece))
        return self._choices(self._decoder.decode(piece), final=False)

    def finish(self, end: End) -> list[dict[str, Any]]:
        """Take the end; returns what was held back.

        Raises:
            SchemaMismatch: The answer is whole, but does not follow its schema.
        """
        choices = self._choices(self._decoder.decode(b"", final=True), final=True)
        if end.reason == "length":
            self.finish_reason = "length"
        elif self._made:
            self.finish_reason = "tool_calls"
        if end.reason == "stop" and not self._made and "" in self._check:
            _require("".join(self._text), self._check[""])
        return choices

    def _choices(self, text: str, *, final: bool) -> list[dict[str, Any]]:
        deltas = self._deltas(text, final=final)
        choices: list[dict[str, Any]] = [{"delta": delta} for delta in deltas]
        if choices and self._logprobs:
            # With the text that they made: what is held back comes with the next.
            choices[0]["logprobs"] = {"content": self._logprobs[:], "refusal": None}
            self._logprobs.clear()
        return choices

    def _deltas(self, text: str, *, final: bool) -> list[dict[str, Any]]:
        if self._reader is None:
            return self._words(text, final=final)
        calls = self._calls(text)
        if self._reader.calling:
            return calls + self._cut_call() if final else calls
        # The beginning of a mark is no word, also where nothing follows it.
        if self._reader.calling is None and (not final or self._reader.pending.strip()):
            return calls
        # It is words after all; what was held back to find that out comes with it.
        held, self._reader = self._reader.pending, None
        return self._words(held, final=final)

    def _words(self, text: str, *, final: bool) -> list[dict[str, Any]]:
        shown = self._stops.feed(text, final=final)
        if not shown:
            return []
        if "" in self._check:
            self._text.append(shown)
        return [{"content": shown}]

    def _calls(self, text: str) -> list[dict[str, Any]]:
        assert self._reader is not None
        deltas: list[dict[str, Any]] = []
        for call in self._reader.feed(text):
            # Small models that may call once more tend to make the same call for ever: the first repeat ends it.
            self._repeats = self._repeats or call in self._made
            if not self._repeats:
                self._made.append(call)
                kept = call if self._trim is None else self._trim(call)
                if kept.name in self._check:
                    _require(kept.arguments, self._check[kept.name])
                deltas.append({"tool_calls": [self._call(kept)]})
        return deltas

    def _cut_call(self) -> list[dict[str, Any]]:
        """Return what there is of the call that the end breaks off: a client sees that it is cut, and where."""
        assert self._reader is not None
        call = read_cut_call(self._reader.pending)
        if call is None or self._repeats or call in self._made:
            return []
        self._made.append(call)
        return [{"tool_calls": [self._call(call)]}]

    def _call(self, call: ParsedCall) -> dict[str, Any]:
        return {
            "index": len(self._made) - 1,
            "id": f"call_{uuid.uuid4().hex[:24]}",
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }

    def _described(self, token: Token, piece: bytes) -> dict[str, Any]:
        top = [_entry(self._model.piece(other), logprob) for other, logprob in token.top]
        return _entry(piece, token.logprob) | {"top_logprobs": top}


class Collected:
    """An answer's choices, put together into one message."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._calls: list[dict[str, Any]] = []
        self._logprobs: list[dict[str, Any]] = []

    def add(self, choices: Sequence[dict[str, Any]]) -> None:
        """Take some more."""
        for choice in choices:
            delta = choice["delta"]
            self._text.append(delta.get("content", ""))
            self._calls += delta.get("tool_calls", ())
            if choice.get("logprobs"):
                self._logprobs += choice["logprobs"]["content"]

    def choice(self, *, logprobs: bool) -> dict[str, Any]:
        """Return message and logprobs as OpenAI's choice has them."""
        text = "".join(self._text)
        message: dict[str, Any] = {"role": "assistant", "content": text if text or not self._calls else None}
        if self._calls:
            message["tool_calls"] = [
                {key: call[key] for key in ("id", "type", "function")} for call in self._calls
            ]
        return {
            "message": message,
            "logprobs": {"content": self._logprobs, "refusal": None} if logprobs else None,
        }


def _require(text: str, schema: Mapping[str, Any]) -> None:
    if not follows(text, schema):
        raise SchemaMismatch


def _says_something(piece: bytes) -> bool:
    return any(byte >= 0x80 or chr(byte).isalnum() for byte in piece)


def _entry(piece: bytes, logprob: float) -> dict[str, Any]:
    return {"token": piece.decode(errors="replace"), "bytes": list(piece), "logprob": logprob}
