"""Tool calls as small models write them, read back out of the text."""

from __future__ import annotations

import json
from dataclasses import dataclass

import msgspec

CALL_OPEN, CALL_CLOSE = "<tool_call>", "</tool_call>"
# What stands around a call's name, as the grammar writes it.
_NAME, _ARGUMENTS = '{"name": ', ', "arguments": '
_first_value = json.JSONDecoder().raw_decode


@dataclass(frozen=True, slots=True)
class ParsedCall:
    """A call as the model wrote it: arguments are JSON text."""

    name: str
    arguments: str


class CallReader:
    """Finds tool calls in text as it arrives."""

    def __init__(self) -> None:
        self._text = ""
        self._begun = False

    @property
    def calling(self) -> bool | None:
        """Whether the answer is calls; None while that cannot be told yet."""
        if self._begun:
            return True
        start = self._text.lstrip()
        if start.startswith(CALL_OPEN):
            return True
        return None if CALL_OPEN.startswith(start) else False

    def feed(self, text: str) -> list[ParsedCall]:
        """Take more text; returns the calls that it completes."""
        self._text += text
        found: list[ParsedCall] = []
        while self.calling and (read := self._first()) is not None:
            self._begun = True
            call, self._text = read
            found.append(call)
        return found

    def _first(self) -> tuple[ParsedCall, str] | None:
        """Return the first whole call and what follows it. A closing mark inside an argument does not end a call."""
        end = self._text.find(CALL_CLOSE)
        while end >= 0:
            call = _read_call(self._text[:end].partition(CALL_OPEN)[2])
            if call is not None:
                return call, self._text[end + len(CALL_CLOSE) :]
            end = self._text.find(CALL_CLOSE, end + 1)
        return None

    @property
    def pending(self) -> str:
        """Text that is no call so far."""
        return self._text


def call_opening(name: str) -> str:
    """Return how a call of a function is written, up to its arguments."""
    return _NAME + msgspec.json.encode(name).decode() + _ARGUMENTS


def read_cut_call(text: str) -> ParsedCall | None:
    """Return what there is of a call that breaks off, its arguments perhaps cut; None where none of these is there."""
    written = text.partition(CALL_OPEN)[2].lstrip()
    if not written.startswith(_NAME):
        return None
    try:
        name, end = _first_value(written, len(_NAME))
    except json.JSONDecodeError:
        return None
    arguments = written[end:].removeprefix(_ARGUMENTS)
    if not isinstance(name, str) or not written[end:].startswith(_ARGUMENTS) or not arguments:
        return None
    try:
        # Whole arguments are a call: only its closing is missing.
        return ParsedCall(name, arguments[: _first_value(arguments)[1]])
    except json.JSONDecodeError:
        return ParsedCall(name, arguments)


class _Written(msgspec.Struct):
    name: str
    arguments: msgspec.Raw


def _read_call(text: str) -> ParsedCall | None:
    try:
        call = msgspec.json.decode(text.strip().encode(), type=_Written)
    except (msgspec.DecodeError, RecursionError):
        return None
    return ParsedCall(call.name, bytes(call.arguments).decode())
