"""Placeholders that stand for personal data on its way to a cloud: `<EMAIL_1>`."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from .kinds import Kind, Span
from .walk import changed, sent, texts

_OPEN, _CLOSE = r"(?:<|\\u003[cC])", r"(?:>|\\u003[eE])"
_NAME = r"[A-Z]{2,16}(?:_[A-Z]{2,16})?_\d{1,9}"
# Anything that reads as a placeholder, whoever wrote it.
_LIKE = re.compile(rf"{_OPEN}({_NAME}){_CLOSE}")

_PLAIN = re.compile(rf"<({_NAME})>")
_PLAIN_TAIL = re.compile(r"<[A-Z0-9_]{0,48}\Z")
# In JSON a text's characters may be escaped; an escaped backslash begins no escape.
_JSON = re.compile(rf"\\[^u]|{_OPEN}({_NAME}){_CLOSE}")
_PART = r"\\(?:u(?:0(?:0(?:3)?)?)?)?"
_JSON_TAIL = re.compile(rf"{_OPEN}[A-Z0-9_]{{0,48}}(?:{_PART})?\Z|{_PART}\Z")
_SKIPPED = re.compile(r"\\[^u]|\\u[0-9A-Fa-f]{4}")


class Placeholders:
    """What stands for what in one conversation.

    Args:
        originals: By placeholder, `<EMAIL_1>` and the like.
    """

    def __init__(self, originals: Mapping[str, str]) -> None:
        self.originals = dict(originals)
        self._sorted = sorted(self.originals)

    def __bool__(self) -> bool:
        return bool(self.originals)

    def restored(self, text: str, *, json: bool = False) -> str:
        """Return a text with the originals in the placeholders' places.

        Args:
            text: A model's.
            json: Whether the text is JSON: what is put in is then escaped.
        """
        if json:
            return _JSON.sub(lambda match: self._original(match, json=True), text)
        return _PLAIN.sub(self._original, text)

    def beginning(self, text: str, *, json: bool = False) -> int:
        """Return from where on a text may be the beginning of one of the placeholders; its length where it is not."""
        start = 0
        if json:
            # An escape that is whole is passed over: the backslash at the end of `\\\\` begins nothing.
            last = text.rfind("\\")
            start = 0 if last < 0 else _after_escapes(text)
        match = (_JSON_TAIL if json else _PLAIN_TAIL).search(text, start)
        if match is None:
            return len(text)
        tail = re.sub(rf"{_PART}\Z", "", match[0]) if json else match[0]
        tail = re.sub(_OPEN, "<", tail) if json else tail
        at = bisect_left(self._sorted, tail)
        possible = at < len(self._sorted) and self._sorted[at].startswith(tail)
        return match.start() if possible else len(text)

    def _original(self, match: re.Match[str], *, json: bool = False) -> str:
        original = self.originals.get(f"<{match[1]}>") if match[1] else None
        if original is None:
            return match[0]
        return msgspec.json.encode(original).decode()[1:-1] if json else original


def _after_escapes(text: str) -> int:
    """Return where the last whole escape that stands for no bracket ends, 0 where there is none."""
    end = 0
    for match in _SKIPPED.finditer(text):
        if not re.fullmatch(r"\\u003[cCeE]", match[0]):
            end = match.end()
    return end


def replaced(
    body: Mapping[str, Any], find: Callable[[str], Sequence[Span]]
) -> tuple[dict[str, Any], Placeholders]:
    """Return a body with placeholders for what is found, and what they stand for.

    Equal values have the same placeholder, and those of earlier turns keep theirs while a conversation grows. None is
    one that the body holds already.

    Args:
        body: A chat completion request's.
        find: What finds.
    """
    order: dict[tuple[Kind, str], None] = {}
    found: dict[str, Sequence[Span]] = {}
    written: set[str] = set()
    outgoing = sent(body)
    for _, text in texts(outgoing):
        if text not in found:
            found[text] = find(text)
            order.update(dict.fromkeys((span.kind, text[span.start : span.end]) for span in found[text]))
            if "<" in text or "\\u003" in text:
                written.update(_LIKE.findall(text))
    if not order:
        return dict(body), Placeholders({})
    names = _numbered(order, written)

    def change(text: str) -> str:
        parts, done = [], 0
        for span in found.get(text, ()):
            parts += [text[done : span.start], names[span.kind, text[span.start : span.end]]]
            done = span.end
        return "".join([*parts, text[done:]]) if done else text

    fields = {key: changed(value, change) if key in outgoing else value for key, value in body.items()}
    return fields, Placeholders({name: value for (_, value), name in names.items()})


def _numbered(order: Mapping[tuple[Kind, str], None], written: set[str]) -> dict[tuple[Kind, str], str]:
    names: dict[tuple[Kind, str], str] = {}
    last: dict[Kind, int] = {}
    for kind, value in order:
        number = last.get(kind, 0) + 1
        while f"{kind.upper()}_{number}" in written:
            number += 1
        last[kind] = number
        names[kind, value] = f"<{kind.upper()}_{number}>"
    return names


class Restorer:
    """Puts originals back into a text that comes in pieces; holds back only what may be a placeholder's beginning.

    Args:
        placeholders: What stands for what.
        json: Whether the text is JSON.
    """

    def __init__(self, placeholders: Placeholders, *, json: bool = False) -> None:
        self._placeholders = placeholders
        self._json = json
        self.held = ""

    def feed(self, piece: str) -> str:
        """Take the next piece; returns what is sure by now."""
        text = self.held + piece
        cut = self._placeholders.beginning(text, json=self._json)
        self.held = text[cut:]
        return self._placeholders.restored(text[:cut], json=self._json)

    def end(self) -> str:
        """Return what is left: no placeholder, as it turned out."""
        held, self.held = self.held, ""
        return held
