"""Whole answers to chunks and back: a stored answer can be streamed, and a streamed one stored."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec

# Pieces of about a line's half, cut before white space; a long word is cut so as not to stall.
_PIECE = re.compile(r"\s*\S{1,40}(?:\s+\S{1,20}){0,3}|\s+", re.DOTALL)


async def replay(body: dict[str, Any]) -> AsyncIterator[bytes]:
    """Yield a `chat.completion` as `chat.completion.chunk` objects (JSON bytes), the last one with its usage."""
    for chunk in to_chunks(body):
        yield msgspec.json.encode(chunk)


def to_chunks(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the chunks of a `chat.completion`."""
    base = {key: value for key, value in body.items() if key not in ("choices", "usage")}
    base["object"] = "chat.completion.chunk"
    for choice in body["choices"]:
        rest = {
            key: value for key, value in choice.items() if key not in ("message", "finish_reason", "logprobs")
        }
        for delta in _deltas(choice["message"]):
            yield base | {"choices": [rest | {"delta": delta, "logprobs": None, "finish_reason": None}]}
        last = {"delta": {}, "logprobs": choice.get("logprobs"), "finish_reason": choice["finish_reason"]}
        yield base | {"choices": [rest | last]}
    if body.get("usage") is not None:
        yield base | {"choices": [], "usage": body["usage"]}


def _deltas(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    first = {key: value for key, value in message.items() if key not in ("content", "tool_calls")}
    yield first | {"content": None if message.get("content") is None else ""}
    for piece in _PIECE.findall(message.get("content") or ""):
        yield {"content": piece}
    for at, call in enumerate(message.get("tool_calls") or ()):
        yield {"tool_calls": [{"index": at, **call}]}


class ChunkCollector:
    """Puts a stream's chunks together to the answer that would have come in one piece.

    Attributes:
        usage: What the last chunk that had some said was used.
        ending: Whether a choice has ended.
    """

    def __init__(self) -> None:
        self._base: dict[str, Any] = {}
        self._choices: dict[int, dict[str, Any]] = {}
        self._broken = False
        self.usage: dict[str, Any] | None = None
        self.ending = False
        # What the last chunk had beside its choices, and its choice beside its delta, where both said nothing else.
        self._head: dict[str, Any] | None = None
        self._blank: dict[str, Any] | None = None
        # Pieces of texts that were not added to their messages yet.
        self._pieces: dict[tuple[int, str], list[str]] = {}

    def add(self, chunk: bytes) -> None:
        """Take the next chunk.

        Raises:
            msgspec.DecodeError: It is not JSON; models check that before.
        """
        decoded = msgspec.json.decode(chunk)
        if not isinstance(decoded, dict) or decoded.get("error") is not None:
            self._broken = True
            return
        choices = decoded.pop("choices", None) or ()
        decoded.pop("obfuscation", None)  # padding against those who measure lengths
        if not self._adds_text(decoded, choices):
            self._add(decoded, choices)

    def _adds_text(self, head: dict[str, Any], choices: Any) -> bool:
        """Take a chunk that does nothing but carry texts on, as nearly all do; False: it does more."""
        if len(choices) != 1 or head != self._head or not isinstance(choices[0], dict):
            return False
        rest = dict(choices[0])
        index, delta = rest.pop("index", None) or 0, rest.pop("delta", None)
        if rest != self._blank or not isinstance(delta, dict) or not isinstance(index, int):
            return False
        known = self._choices.get(index)
        if known is None:
            return False
        message = known["message"]
        for key, text in delta.items():
            if key == "role" or not isinstance(text, str) or not isinstance(message.get(key), str):
                return False
        for key, text in delta.items():
            self._pieces.setdefault((index, key), []).append(text)
        return True

    def _add(self, head: dict[str, Any], choices: Any) -> None:
        self._join()
        usage = head.get("usage")
        # The first value that says something stays: some servers send a first chunk with an empty id and model.
        for key, value in head.items():
            if key != "usage" and (value or key not in self._base) and not self._base.get(key):
                self._base[key] = value
        if usage is not None:
            self.usage = usage
        for choice in choices:
            if _is_readable(choice):
                self._add_choice(choice)
            else:
                self._broken = True
        self._head = head if usage is None else None
        self._blank = None
        if len(choices) == 1 and isinstance(choices[0], dict):
            rest = {key: value for key, value in choices[0].items() if key not in ("index", "delta")}
            if all(value is None for value in rest.values()):
                self._blank = rest

    def _join(self) -> None:
        for (index, key), pieces in self._pieces.items():
            self._choices[index]["message"][key] += "".join(pieces)
        self._pieces.clear()

    def body(self) -> dict[str, Any] | None:
        """Return the whole `chat.completion`, or None while a choice has no finish reason yet or where it broke."""
        self._join()
        if (
            self._broken
            or not self._choices
            or any(choice.get("finish_reason") is None for choice in self._choices.values())
        ):
            return None
        choices = [self._choices[index] for index in sorted(self._choices)]
        body = self._base | {
            "object": "chat.completion",
            "choices": [_finished(choice) for choice in choices],
        }
        return body | ({"usage": self.usage} if self.usage is not None else {})

    @property
    def service_tier(self) -> object:
        """What the stream says of the tier that it is served by."""
        return self._base.get("service_tier")

    @property
    def text(self) -> str:
        """All text so far, arguments of calls included; for counting tokens."""
        self._join()
        parts: list[str] = []
        for choice in self._choices.values():
            message = choice["message"]
            parts += [value for key, value in message.items() if key != "role" and isinstance(value, str)]
            parts += [
                call["function"].get("arguments") or ""
                for call in message.get("tool_calls", {}).values()
                if "function" in call
            ]
        return "\n".join(parts)

    def _add_choice(self, choice: dict[str, Any]) -> None:
        index = choice.get("index") or 0
        known = self._choices.setdefault(index, {"index": index, "message": {}, "logprobs": None})
        for key, value in choice.items():
            if key == "logprobs":
                known["logprobs"] = _merge_logprobs(known["logprobs"], value)
            elif key not in ("delta", "index") and value is not None:
                known[key] = value
        if known.get("finish_reason") is not None:
            self.ending = True
        _merge(known["message"], choice.get("delta") or {})


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _Call(msgspec.Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Delta(msgspec.Struct):
    tool_calls: list[_Call] | None = None


class _Choice(msgspec.Struct):
    index: int | None = None
    delta: _Delta | None = None


def _is_readable(choice: Any) -> bool:
    """Whether a choice has what is put together here in the form that it must have."""
    try:
        msgspec.convert(choice, _Choice)
    except msgspec.ValidationError:
        return False
    return True


def _merge(message: dict[str, Any], delta: dict[str, Any]) -> None:
    """Add a delta to a message: text and lists grow, tool calls are put together by index, the rest is taken over."""
    for key, value in delta.items():
        known: Any = message.get(key)
        if key == "tool_calls":
            for call in value or ():
                calls = message.setdefault("tool_calls", {})
                _merge_call(calls.setdefault(_position(call, calls), {}), call)
        elif key != "role" and isinstance(value, (str, list)) and type(value) is type(known):
            message[key] += value
        elif value is not None or key not in message:
            message[key] = value


def _position(call: dict[str, Any], calls: dict[int, dict[str, Any]]) -> int:
    """Return a call's index; where the server sends none, a new id begins the next call."""
    index = call.get("index")
    if isinstance(index, int):
        return index
    last = max(calls, default=-1)
    return last if last >= 0 and call.get("id") in (None, "", calls[last].get("id")) else last + 1


def _merge_call(known: dict[str, Any], call: dict[str, Any]) -> None:
    for key, value in call.items():
        if key == "function":
            function = known.setdefault("function", {"name": "", "arguments": ""})
            for part, text in (value or {}).items():
                # Arguments come in pieces; a name comes whole, from some servers with every piece.
                grows = isinstance(text, str) and part != "name"
                if grows or text:
                    function[part] = (function.get(part) or "") + text if grows else text
        elif key != "index" and (value or key not in known):
            known[key] = value


def _merge_logprobs(known: Any, new: Any) -> Any:
    if not isinstance(known, dict) or not isinstance(new, dict):
        return known if new is None else new
    both = {**known, **new}
    for key in known.keys() & new.keys():
        if isinstance(known[key], list) and isinstance(new[key], list):
            both[key] = known[key] + new[key]
    return both


def _finished(choice: dict[str, Any]) -> dict[str, Any]:
    message = dict(choice["message"])
    if "tool_calls" in message:
        message["tool_calls"] = [message["tool_calls"][index] for index in sorted(message["tool_calls"])]
        # Deltas of calls come with an empty text, which as a whole answer is none.
        message["content"] = message.get("content") or None
    message.setdefault("content", None)
    message.setdefault("role", "assistant")
    return choice | {"message": message}
