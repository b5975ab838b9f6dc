"""Do two answers say the same? Told mechanically or not at all: what cannot be told is None, not a disagreement."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

# Answers in words of more than this are not compared; where a shorter one is all contained in a longer one of up to
# `_SENTENCE` words ("Paris", "The capital of France is Paris."), they agree.
_SHORT, _SENTENCE = 5, 15

_PUNCTUATION = ".,!?;:\"'`*()[]{}“”‘’«»"

Message = Mapping[str, Any]


def can_compare(message: Message) -> bool:
    """Whether an answer is of a kind that may be compared: calls, JSON, or few words."""
    return (
        bool(message.get("tool_calls")) or _is_data(_value(message)) or len(_words(message)) in range(1, 16)
    )


def agree(first: Message, second: Message) -> bool | None:
    """Compare two answers.

    Calls are the same in any order, with the same arguments; JSON where its values are; words where they are short.
    Case, punctuation around words, spaces and the way a number is written make no difference. Long texts within calls
    or JSON cannot be told apart by rule either, but any other difference is one.

    Args:
        first, second: The `message` of a chat completion each.

    Returns:
        None where it cannot be told.
    """
    if first.get("tool_calls") or second.get("tool_calls"):
        return _same_calls(_calls(first), _calls(second))
    one, other = _value(first), _value(second)
    if _is_data(one) and _is_data(other):
        return _same(one, other)
    return _same_words(_words(first), _words(second))


def _same_words(one: Sequence[str], other: Sequence[str]) -> bool | None:
    if one == other:
        return True if one else None
    shorter, longer = sorted((one, other), key=len)
    if not shorter or len(shorter) > _SHORT or len(longer) > _SENTENCE:
        return None
    span = len(shorter)
    if any(longer[at : at + span] == shorter for at in range(len(longer) - span + 1)):
        return True
    return False if len(longer) <= _SHORT else None


def _same(one: Any, other: Any) -> bool | None:
    if isinstance(one, dict) and isinstance(other, dict):
        one, other = ({key: v for key, v in value.items() if v is not None} for value in (one, other))
        if one.keys() != other.keys():
            return False
        return _all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        if len(one) != len(other):
            return False
        return _all(_same(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, str) and isinstance(other, str):
        a, b = _normal(one), _normal(other)
        return True if a == b else None if max(len(a), len(b)) > _SHORT else False
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    return bool(one == other)


def _same_calls(one: list[tuple[str, Any]], other: list[tuple[str, Any]]) -> bool | None:
    """Pair calls up in any order: the same ones first, then those that cannot be told apart."""
    if sorted(name for name, _ in one) != sorted(name for name, _ in other):
        return False
    left = list(other)
    unsure = False
    for name, arguments in one:
        verdicts = [_same(arguments, theirs) if name == its else False for its, theirs in left]
        if True in verdicts:
            del left[verdicts.index(True)]
        elif None in verdicts:
            del left[verdicts.index(None)]
            unsure = True
        else:
            return False
    return None if unsure else True


def _all(verdicts: Any) -> bool | None:
    found = list(verdicts)
    return False if False in found else None if None in found else True


def _calls(message: Message) -> list[tuple[str, Any]]:
    functions = [call.get("function") or {} for call in message.get("tool_calls") or ()]
    return [(str(f.get("name")), _json(f.get("arguments") or "{}")) for f in functions]


def _value(message: Message) -> Any:
    content = message.get("content")
    return _json(content) if isinstance(content, str) else None


def _is_data(value: Any) -> bool:
    return isinstance(value, (dict, list))


def _json(text: str) -> Any:
    """Return JSON's value; broken JSON is its text."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return text


def _words(message: Message) -> list[str]:
    content = message.get("content")
    return _normal(content) if isinstance(content, str) else []


def _normal(text: str) -> list[str]:
    words = (
        word.strip(_PUNCTUATION) for word in unicodedata.normalize("NFKC", text[:20_000]).casefold().split()
    )
    return [_number(word) for word in words if word]


def _number(word: str) -> str:
    """Write a number in one way; other words stay."""
    if not word[-1].isdigit():
        return word
    try:
        return repr(float(word.replace(",", "")))
    except ValueError:
        return word
