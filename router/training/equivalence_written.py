"""Near misses by how a text is written: a mark, a sign, a zero, an ending, a capital, or a word that only looks idle.

They look alike to whoever reads words alone. The reader tells them apart before the trees see them; they are among the
constructed pairs so that the figures and the bound cover them.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

_NUMBER = re.compile(r"\b\d+\b(?![.,]\d)")
_NAME = re.compile(r"(?<=[a-z,] )[A-Z][a-z]{2,}\b")
_LOWER = re.compile(r"(?<=[a-z,] )[a-z]{4,}\b")
_WORD = re.compile(r"(?<![\w'-])\w+(?= )")
_SHORT = re.compile(r"\b[A-Z]{2,}\b")
# A change of a courtesy changes no answer, nor does a mark at the end of the text.
_POLITE = re.compile(
    r"(?:(?:can|could|would|do) you |please |tell me |may i |i(?:'d| would)? (?:like|need|want) |let me know |"
    r"h(?:i|ey|ello)\b)(?:\S+ ){0,4}",
    re.IGNORECASE,
)
_THANKS = re.compile(r"\W*(?:please|thank\w*(?: you)?)?\W*$", re.IGNORECASE)
_ASKING = re.compile(r"(?:who|what|which|when|where|why|how)\b")
_NOUN_EDITS = ("wait", "er", "ER", "OH", "HM", "correction", "pardon", "error correction", "no", "sorry")
_SUBJECTS = (
    ("How do you say {}?", ("thank you", "please", "hello", "sorry")),
    ("Who sang {}?", ("Thank You", "Please", "Thanks", "Hello", "Hey")),
    ("Translate into French: {}", ("thanks", "please", "cheers", "hello")),
    ("Who starred in {}?", ("Cheers", "Hello, Dolly", "Please")),
    ("How many words are in: the door is open, {}", ("thanks", "please", "thank you")),
    ("What is the tone of: see you soon. {}", ("Cheers", "Regards", "Thanks")),
)


class Rewritten:
    """Writes texts otherwise so that their answer changes, by a seeded generator."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def changed(self, text: str) -> tuple[str, str] | None:
        """Return a text with another answer and the name of its change; None where none can be made."""
        ways: list[Callable[[str], str | None]] = [
            self.mark, self.mark, self.sign, self.zero, self.raised, self.case, self.ending, self.idle, self.comma,
        ]  # fmt: skip
        self._random.shuffle(ways)
        for way in ways:
            other = way(text)
            if other is not None and other != text:
                return other, way.__name__
        return None

    def mark(self, text: str) -> str | None:
        """A mark more, at a word or around it."""
        found = self._one(_WORD, text)
        if found is None:
            return None
        made = self._random.choice(
            ("{}#", "({})", "[{}]", "'{}'", "*{}*", "{}!", "!{}", "{}-", "-{}", "#{}", "{}'", "{}**")
        )
        return text[: found.start()] + made.format(found.group()) + text[found.end() :]

    def sign(self, text: str) -> str | None:
        """A sign before a number, or parentheses around it."""
        return self._put(_NUMBER, text, ("-{}", "\u2013{}", "(-{})", "{}!", "\u2212{}"))

    def zero(self, text: str) -> str | None:
        """A zero more."""
        return self._put(_NUMBER, text, ("{}.0", "0{}", "{}.10", "{}0"))

    def raised(self, text: str) -> str | None:
        """A digit set high or low, or a fraction."""
        return self._put(_NUMBER, text, ("{}\u00b2", "{}\u00bd", "{}\u2082", "{}\u2075"))

    def case(self, text: str) -> str | None:
        """A capital within a sentence where none was, or a short form that is a word."""
        short = _SHORT.search(text)
        if short is not None and self._random.random() < 0.5:
            return text[: short.start()] + short.group().lower() + text[short.end() :]
        found = self._one(_LOWER, text)
        if found is None or not any(c.isupper() for c in text):
            return None
        return text[: found.start()] + found.group().capitalize() + text[found.end() :]

    def ending(self, text: str) -> str | None:
        """A name, or a word, with another ending."""
        way = self._random.choice((_NAME, _NAME, _LOWER))
        return self._put(way, text, ("{}s", "{}ing", "{}ed", "{}'s", "{}e"))

    def idle(self, text: str) -> str | None:
        """A word that a speaker could correct himself with, but names a thing."""
        found = self._one(_LOWER, text)
        if found is None or _ASKING.match(text, found.start()):
            return None
        return text[: found.start()] + self._random.choice(_NOUN_EDITS) + " " + text[found.start() :]

    def comma(self, text: str) -> str | None:
        """A comma within a sentence."""
        return self._put(_LOWER, text, ("{},",))

    def courtesies(self) -> tuple[str, str]:
        """Two texts about courtesies: there they are what is asked about."""
        frame, words = self._random.choice(_SUBJECTS)
        one, other = self._random.sample(words, 2)
        return frame.format(one), frame.format(other)

    def _one(self, pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
        polite, thanks = _POLITE.match(text), _THANKS.search(text)
        start, end = polite.end() if polite else 0, thanks.start() if thanks else len(text)
        found = [one for one in pattern.finditer(text) if one.start() >= start and one.end() <= end]
        return self._random.choice(found) if found else None

    def _put(self, pattern: re.Pattern[str], text: str, forms: tuple[str, ...]) -> str | None:
        found = self._one(pattern, text)
        if found is None:
            return None
        return text[: found.start()] + self._random.choice(forms).format(found.group()) + text[found.end() :]
