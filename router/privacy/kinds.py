"""What personal data there is, and where in a text it stands."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from smallfirst.policies.types import PersonalData

Kind = PersonalData

# What people call them.
WORDS: Mapping[Kind, str] = {
    "secret": "a key, token or password",
    "email": "an e-mail address",
    "phone": "a phone number",
    "card": "a card number",
    "iban": "an IBAN",
    "ssn": "a US social security number",
    "passport": "a passport number",
    "driver_licence": "a driving licence number",
    "birth_date": "a date of birth",
    "ip": "an IP address",
    "crypto": "a cryptocurrency address",
    "name": "a person's name",
    "address": "a place or an address",
}

Place = tuple[int, int]

# A number as people write it: digits with few other characters between. Longer ones come in pieces.
_RUN = re.compile(r"[+(\d](?:[ ./()+-]{0,3}\d){6,40}")


class Text:
    """A text that several finders read: what more than one of them needs is made once.

    Attributes:
        plain: As it came.
    """

    def __init__(self, plain: str) -> None:
        self.plain = plain

    @cached_property
    def lower(self) -> str:
        """In small letters, of the same length."""
        lower = self.plain.lower()
        if len(lower) == len(self.plain):
            return lower
        # A few letters become two; of such texts only ASCII is made small.
        return re.sub("[A-Z]+", lambda match: match[0].lower(), self.plain)

    @cached_property
    def long_words(self) -> str:
        """Its words of 18 characters or more, where keys, tokens and the like must be; most texts have few."""
        return " ".join([word for word in self.plain.split() if len(word) >= 18])

    @cached_property
    def runs(self) -> list[Place]:
        """Where numbers of 7 digits or more are."""
        return [match.span() for match in _RUN.finditer(self.plain)]

    def matches(self, pattern: re.Pattern[str], marks: Sequence[str]) -> Iterator[re.Match[str]]:
        """Yield a pattern's matches in long words that begin with one of these marks: looking for these is quicker."""
        if self.long_words:
            there = [mark for mark in marks if mark in self.long_words]
            yield from _matches(pattern, self.plain, self.plain, there)

    def matches_words(self, pattern: re.Pattern[str], words: Sequence[str]) -> Iterator[re.Match[str]]:
        """As `matches`, for words in small letters that stand there in any."""
        yield from _matches(pattern, self.plain, self.lower, words)


def _matches(
    pattern: re.Pattern[str], text: str, searched: str, marks: Sequence[str]
) -> Iterator[re.Match[str]]:
    for mark in marks:
        at = searched.find(mark)
        while at >= 0:
            match = pattern.match(text, at)
            if match is not None:
                yield match
            at = searched.find(mark, at + 1 if match is None else max(match.end(), at + 1))


Finder = Callable[[Text], Iterator[Place]]


@dataclass(frozen=True, slots=True)
class Span:
    """A place in a text: the characters from `start` up to, not including, `end`."""

    kind: Kind
    start: int
    end: int


def apart(spans: Sequence[Span]) -> list[Span]:
    """Return spans in the text's order without those that overlap an earlier one of the sequence."""
    if len(spans) < 2:
        return list(spans)
    taken = bytearray(max(span.end for span in spans))
    kept = []
    for span in spans:
        if 1 not in taken[span.start : span.end]:
            taken[span.start : span.end] = b"\1" * (span.end - span.start)
            kept.append(span)
    return sorted(kept, key=lambda span: span.start)
