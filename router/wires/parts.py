"""An answer as a row of parts (reasoning, text, refusal, calls), read from a whole message or from chunks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import msgspec

from ..errors import StreamBroken, UpstreamError
from .upstream import FINISHED, Function, Logprobs, ModelCall, Said, WholeChoice, pieces_of

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
        except (msgspec.DecodeError, RecursionError):
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


_NAMELESS = "The model made a call without a name."
_CUSTOM = "The model made a call of a kind that was not asked for."

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
        steps: list[Step] = []
        for choice in pieces_of(chunk):
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
        if self.finish_reason not in FINISHED:
            raise StreamBroken(_stopped(self.finish_reason))
        steps: list[Step] = []
        self._release(steps, last=True)
        if self.parts:
            steps.append(Step("close", self.parts[-1]))
        return steps

    def _delta(self, delta: Said, logprobs: Logprobs | None, steps: list[Step]) -> None:
        if delta.thought:
            self._piece(("reasoning", 0), delta.thought, steps)
        entries = logprobs.entries if logprobs else None
        # Of a token that is half a letter there is no text yet; a stored answer has all of them on its last chunk.
        alone = entries and not delta.thought and (self._key is None or self._key[0] == "text")
        if delta.text or alone:
            self._piece(("text", 0), delta.text, steps, logprobs=entries)
        if delta.refusal:
            self._piece(("refusal", 0), delta.refusal, steps)
        for call in delta.calls:
            if call.type == "custom":
                raise StreamBroken(_CUSTOM)
            function = call.function or Function()
            at = self._position(call)
            self._piece(("call", at), function.arguments or "", steps, call.id or "", function.name or "")

    def _position(self, call: ModelCall) -> int:
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
            if key in self._calls:
                if text.strip():
                    raise StreamBroken("The model's stream went on with a call that was complete.")
                return
            waiting = self._held.setdefault(key, _Held())
            waiting.id, waiting.name = waiting.id or call_id, waiting.name or name
            waiting.pieces.append((text, logprobs))
        elif text or logprobs:
            steps.append(self._grown(text, logprobs))
        self._release(steps)

    def _release(self, steps: list[Step], *, last: bool = False) -> None:
        """Open what waits, as far as it can be now: after whole calls alone, and calls once they have a name."""
        for key in list(self._held):
            waiting = self._held[key]
            nameless = key[0] == "call" and not waiting.name
            if last and nameless:
                raise StreamBroken(_NAMELESS)
            if not last and (nameless or self._unfinished_call()):
                return
            del self._held[key]
            self._switch(key, waiting.id, waiting.name, steps)
            steps += [self._grown(text, logprobs) for text, logprobs in waiting.pieces if text or logprobs]

    def _unfinished_call(self) -> bool:
        if self._key is None or self._key[0] != "call":
            return False
        try:
            msgspec.json.decode(self.parts[-1].text)
        except (msgspec.DecodeError, RecursionError):
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


def parts_of(choice: WholeChoice) -> list[Part]:
    """Return the parts of a whole answer's choice.

    Raises:
        UpstreamError: It is not an answer: it ended for no good reason, or calls what has no name.
    """
    if choice.finish_reason and choice.finish_reason not in FINISHED:
        raise UpstreamError(_stopped(choice.finish_reason), status=502)
    return list(_parts(choice))


def _parts(choice: WholeChoice) -> Iterator[Part]:
    message = choice.message
    if message.thought:
        yield Part("reasoning", pieces=[message.thought])
    logprobs = (choice.logprobs.entries if choice.logprobs else None) or []
    if message.text or (logprobs and not (message.thought or message.calls or message.refusal)):
        yield Part("text", pieces=[message.text], logprobs=logprobs)
    if message.refusal:
        yield Part("refusal", pieces=[message.refusal])
    for call in message.calls:
        function = call.function or Function()
        if call.type == "custom" or not function.name:
            raise UpstreamError(_CUSTOM if call.type == "custom" else _NAMELESS, status=502)
        yield Part("call", call.id or "", function.name, [function.arguments or ""])


def _stopped(reason: str) -> str:
    return f"The model's server stopped with the reason '{reason[:50]}': the answer is not complete."
