"""Optional arguments that nothing in the conversation speaks of: small models fill in whatever a function has."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_NUMBERS = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
)
_NUMBER_WORDS = {word: str(number) for number, word in enumerate(_NUMBERS)}


class Grounds:
    """Knows what a conversation speaks of.

    Args:
        text: All of its messages.
    """

    def __init__(self, text: str) -> None:
        self._words = frozenset(_words(text))

    def kept(self, arguments: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
        """Return a call's arguments without those that are optional and have no ground."""
        required = schema.get("required", ())
        return {
            name: value
            for name, value in arguments.items()
            if name in required or self._speaks_of(name, value)
        }

    def _speaks_of(self, name: str, value: Any) -> bool:
        """Whether all words of a value are there; of a boolean, one of its name's; of a list or object, some part."""
        if isinstance(value, bool):
            return any(word in self._words for word in _words(name) if len(word) > 3)
        if isinstance(value, (int, float)):
            return f"{value:g}" in self._words or all(word in self._words for word in _words(str(value)))
        if isinstance(value, str):
            words = _words(value)
            return bool(words) and all(word in self._words for word in words)
        if isinstance(value, list):
            return any(self._speaks_of(name, part) for part in value)
        if isinstance(value, dict):
            return any(self._speaks_of(key, part) for key, part in value.items())
        return False


def _words(text: str) -> list[str]:
    """Return a text's words in lower case, small numbers in digits."""
    return [_NUMBER_WORDS.get(word, word) for word in re.findall(r"[^\W_]+", text.casefold())]
