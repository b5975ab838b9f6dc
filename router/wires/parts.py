"""An answer as a row of parts (reasoning, text, refusal, calls), read from a whole message or from chunks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import msgspec

from ..errors import StreamBroken, UpstreamError

Kind = Literal["reasoning", "text", "refusal", "call"]


@dataclass(slots=True)
class Part:
    """One piece of an answer, which grows while it is streamed.

    Attributes:
        kind: What it is.
        id: Of a call, as the model has it; empty where it has none.
        name: Of the function that is called.
        pieces: Its text; of a call its arguments, as JSON text.
        logprobs: Of its tokens, in OpenAI's form.
    """

    kind: Kind
    id: str = ""
    name: str = ""
    pieces: list[str] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self.pieces)

    def arguments(self, *, cut: bool = False) -> dict[str, Any]:
        """Return a call's arguments as an object.

        Args:
            cut: The answer ended at its limit: what is no whole JSON then counts as no arguments.

        Raises:
            UpstreamError: They are no JSON object.
        """
        text = self.text.strip()
        try:
            value = msgspec.json.decode(text) if text else {}
        except msgspec.DecodeError:
            value = None
        if isinstance(value, dict):
            return value
        if cut:
            return {}
        raise UpstreamError(
            f"The model called '{self.name}' with arguments that are not a JSON object.", status=502
        )


class Step(NamedTuple):
    """What a chunk does to a part: it opens, grows by `text`, or is closed."""

    does: Literal["open", "grow", "close"]
    part: Part
    text: str = ""
    logprobs: list[dict[str, Any]] | None = None


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _Call(msgspec.Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: Any = None
    refusal: str | None = None
    tool_calls: list[_Call] | None = None


class _Logprobs(msgspec.Struct):
    content: list[dict[str, Any]] | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    delta: _Delta | None = None
    finish_reason: str | None = None
    stop_reason: Any = None
    logprobs: _Logprobs | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None


_decode = msgspec.json.Decoder(_Chunk).decode

_Key = tuple[Kind, int]


@dataclass(slots=True)
class _Held:
    """What came of a part while another one was still open."""

    pieces: list[tuple[str, list[dict[str, Any]] | None]] = field(default_factory=list)
    id: str = ""
    name: str = ""


class PartReader:
    """Reads the first choice's parts from chunks, one part after the other.

    Models may write several calls at once; here a part is closed before the next one opens. What comes for a later part
    while a call's arguments are not whole JSON yet is held back until the end.

    Attributes:
        finish_reason: As the model says, once it has said so.
        stop_reason: What some servers say beside it: the stop string that was found.
        parts: Those opened so far, in order.
    """

    def __init__(self) -> None:
        self.finish_reason: str | None = None
        self.stop_reason: Any = None
        self.parts: list[Part] = []
        self._key: _Key | None = None
        self._calls: set[_Key] = set()
        self._held: dict[_Key, _Held] = {}
        self._last = -1
        self._ids: dict[int, str] = {}

    def feed(self, chunk: bytes) -> list[Step]:
        """Take a chunk.

        Raises:
            StreamBroken: It is not a chunk of a chat completion.
        """
        try:
            choices = _decode(chunk).choices
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise StreamBroken("The model's stream has a chunk that cannot be read.") from exc
        steps: list[Step] = []
        for choice in choices or ():
            if choice.index != 0:
                continue
            if choice.delta is not None:
                self._delta(choice.delta, choice.logprobs, steps)
            if choice.finish_reason:
                self.finish_reason, self.stop_reason = choice.finish_reason, choice.stop_reason
        return steps

    def finish(self) -> list[Step]:
        """Take the end: what was held back comes now.

        Raises:
            StreamBroken: The model never said that its answer is whole.
        """
        if self.finish_reason is None:
            raise StreamBroken("The model's stream ended before the answer was complete.")
        steps: list[Step] = []
        held, self._held = self._held, {}
        for key, waiting in held.items():
            self._switch(key, waiting.id, waiting.name, steps)
            steps += [self._grown(text, logprobs) for text, logprobs in waiting.pieces]
        if self.parts:
            steps.append(Step("close", self.parts[-1]))
        return steps

    def _delta(self, delta: _Delta, logprobs: _Logprobs | None, steps: list[Step]) -> None:
        thought = delta.reasoning_content or delta.reasoning
        if thought and isinstance(thought, str):
            self._piece(("reasoning", 0), thought, steps)
        if delta.content:
            self._piece(("text", 0), delta.content, steps, logprobs=logprobs.content if logprobs else None)
        if delta.refusal:
            self._piece(("refusal", 0), delta.refusal, steps)
        for call in delta.tool_calls or ():
            function = call.function or _Function()
            at = self._position(call)
            self._piece(("call", at), function.arguments or "", steps, call.id or "", function.name or "")

    def _position(self, call: _Call) -> int:
        """Return a call's index; where the server sends none, a new id begins the next call."""
        at = call.index
        if at is None:
            new = self._last < 0 or (call.id and call.id != self._ids.get(self._last))
            at = self._last + 1 if new else self._last
        self._last = at
        if call.id:
            self._ids.setdefault(at, call.id)
        return at

    def _piece(
        self,
        key: _Key,
        text: str,
        steps: list[Step],
        call_id: str = "",
        name: str = "",
        logprobs: list[dict[str, Any]] | None = None,
    ) -> None:
        if key != self._key:
            if self._held or self._unfinished_call():
                waiting = self._held.setdefault(key, _Held())
                waiting.id, waiting.name = waiting.id or call_id, waiting.name or name
                waiting.pieces.append((text, logprobs))
                return
            if key in self._calls:
                if text.strip():
                    raise StreamBroken("The model's stream went on with a call that was complete.")
                return
            self._switch(key, call_id, name, steps)
        if text or logprobs:
            steps.append(self._grown(text, logprobs))

    def _unfinished_call(self) -> bool:
        if self._key is None or self._key[0] != "call":
            return False
        try:
            msgspec.json.decode(self.parts[-1].text)
        except msgspec.DecodeError:
            return True
        return False

    def _switch(self, key: _Key, call_id: str, name: str, steps: list[Step]) -> None:
        if self.parts:
            steps.append(Step("close", self.parts[-1]))
        part = Part(key[0], call_id, name)
        self.parts.append(part)
        if part.kind == "call":
            self._calls.add(key)
        self._key = key
        steps.append(Step("open", part))

    def _grown(self, text: str, logprobs: list[dict[str, Any]] | None) -> Step:
        part = self.parts[-1]
        part.pieces.append(text)
        if logprobs:
            part.logprobs += logprobs
        return Step("grow", part, text, logprobs)


def parts_of(choice: Mapping[str, Any]) -> list[Part]:
    """Return the parts of a whole answer's choice."""
    return list(_parts(choice))


def _parts(choice: Mapping[str, Any]) -> Iterator[Part]:
    message = choice.get("message") or {}
    thought = message.get("reasoning_content") or message.get("reasoning")
    if thought and isinstance(thought, str):
        yield Part("reasoning", pieces=[thought])
    if message.get("content"):
        logprobs = (choice.get("logprobs") or {}).get("content") or []
        yield Part("text", pieces=[message["content"]], logprobs=logprobs)
    if message.get("refusal"):
        yield Part("refusal", pieces=[message["refusal"]])
    for call in message.get("tool_calls") or ():
        function = call.get("function") or {}
        name, arguments = function.get("name") or "", function.get("arguments") or ""
        yield Part("call", call.get("id") or "", name, [arguments])
