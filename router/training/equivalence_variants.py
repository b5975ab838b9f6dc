"""Pairs by construction: one thing of a text changed so that its answer changes, or nothing that matters changed.

They teach what the pair files show too rarely. They are training rows: figures are taken over real pairs. What the
changes are made of (other names, other words, other numbers) comes from the texts themselves.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..semantic.words import Lexicon, WordLists

_WORD = re.compile(r"[A-Za-z][A-Za-z'-]*[A-Za-z]|[A-Za-z]")
_DIGITS = re.compile(r"\d+")
_AUXILIARY = re.compile(
    r"\b(is|are|was|were|can|could|do|does|did|will|would|should|has|have)\b", re.IGNORECASE
)
_NAME = re.compile(r"(?<=[a-z,] )[A-Z][A-Za-z]+(?: [A-Z][a-z]+)*")
_CODE = re.compile(r"\b\w*[a-z]_\w+\b")
_SWAPS: tuple[tuple[str, ...], ...] = (
    ("all", "some", "no"), ("every", "no", "one"), ("first", "last", "second"), ("most", "least"), ("more", "less"),
    ("at least", "at most", "exactly"), ("before", "after"), ("above", "below"), ("largest", "smallest"),
    ("highest", "lowest"), ("maximum", "minimum"), ("always", "never"), ("with", "without"), ("and", "or"),
    ("both", "neither"), ("next", "previous"), ("over", "under"), ("only", "also"), ("any", "no"),
)  # fmt: skip
_UNITS: tuple[tuple[str, ...], ...] = (
    ("seconds", "minutes", "hours", "days", "weeks", "months", "years"),
    ("second", "minute", "hour", "day", "week", "month", "year", "decade", "century"),
    ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"),
    ("january", "february", "march", "april", "june", "july", "august", "october", "december"),
    ("today", "tomorrow", "yesterday", "tonight"), ("morning", "afternoon", "evening", "night"), ("am", "pm"),
    ("miles", "kilometers", "meters", "feet"), ("pounds", "kilograms", "ounces"), ("dollars", "euros", "pounds"),
    ("words", "sentences", "paragraphs", "lines"), ("MB", "GB", "KB"), ("percent", "dollars"),
    ("spring", "summer", "autumn", "winter"),
)  # fmt: skip
# Their opposite in their place mostly makes no sense.
_VAGUE = frozenset({"from", "to", "by", "in", "at", "on", "up", "out"})
_DIRECTION = re.compile(r"\bfrom (.+?) to (\S+)", re.IGNORECASE)
_ASKS = ("who", "when", "where", "why", "how", "what")
_ADDED = (
    " in Python", " for children", " in 2019", " in less than 50 words", " except the first one", " in French",
    " without using any library", " for beginners", " on Windows", " in the 19th century", " under 500 dollars",
    " as a table", " near the airport", " for two people", " after the war", " if it rains", " in the US only",
)  # fmt: skip
_MORE_ABOUT = (
    "on weekdays",
    "in winter",
    "by default",
    "for adults",
    "at night",
    "in Canada",
    "for free",
    "twice",
)
# What is said for nothing else, or beside another edit; and what must be set off to be one.
STRONG_EDITS = (
    "no I mean", "I mean", "uh I mean", "oops I mean", "no sorry", "um", "uh", "oh sorry", "I meant to say", "uh no",
    "oh no I meant", "no rather", "no um", "umm sorry", "no no wait I mean", "no no change that to", "no make that",
)  # fmt: skip
SET_OFF_EDITS = ("no", "no wait", "wait", "sorry", "er", "scratch that", "or rather", "oh no")
_BEFORE = (
    "hi, ",
    "hello, ",
    "please tell me: ",
    "please, ",
    "hey, ",
    "could you tell me: ",
    "can you please ",
    "Hi! ",
)
_AFTER = ("thanks", "please", "thank you", "Thanks!", "thanks in advance")
_SHORT = (
    ("what is", "what's"), ("who is", "who's"), ("do not", "don't"), ("does not", "doesn't"), ("is not", "isn't"),
    ("did not", "didn't"), ("can not", "can't"), ("it is", "it's"), ("I am", "I'm"), ("where is", "where's"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Pools:
    """What changes are made of.

    Attributes:
        names: Capitalised words from inside texts.
        words: Content words.
        codes: Names in programs.
        near: To a word, words about like things that are no synonyms.
        opposites: To a word, its opposites.
        pieces: Runs of words from texts, what a speaker may take back.
    """

    names: tuple[str, ...]
    words: tuple[str, ...]
    codes: tuple[str, ...]
    near: Mapping[str, tuple[str, ...]]
    opposites: Mapping[str, tuple[str, ...]]
    pieces: tuple[str, ...]


def pools_of(texts: Sequence[str], lexicon: Lexicon) -> Pools:
    """Collect the pools from texts; the same for the same texts."""
    names = sorted({m.group() for text in texts for m in _NAME.finditer(text)})
    codes = sorted({m.group() for text in texts for m in _CODE.finditer(text)})
    counted: dict[str, int] = {}
    for text in texts:
        for word in set(_WORD.findall(text.lower())):
            counted[word] = counted.get(word, 0) + 1
    # Words that a speaker corrects himself with change nothing where they are put.
    edits = {word for edit in STRONG_EDITS + SET_OFF_EDITS for word in edit.split()}
    frequent = sorted(w for w, n in counted.items() if n >= 2 and len(w) > 2 and w not in edits)
    known = {}
    for word in frequent:
        read = lexicon.read(word)
        if read and len(read.words) == 1 and read.words[0].kind == "content":
            known[word] = read.words[0]
    words = tuple(known)
    vectors = np.stack([known[word].vector for word in words]) if words else np.zeros((0, 256), np.float32)
    near: dict[str, tuple[str, ...]] = {}
    for word, one in known.items():
        like = vectors @ one.vector
        order = np.argsort(-like)[:40]
        near[word] = tuple(
            words[at]
            for at in order.tolist()
            if 0.1 < like[at] < 0.45
            and known[words[at]].stem[:4] != one.stem[:4]
            and not known[words[at]].synonyms & one.synonyms
        )
    pieces = []
    for text in texts:
        parts = text.split()
        for width in (1, 2, 3, 5):
            if len(parts) > width + 2 and parts[0][:1].isupper():
                pieces.append(" ".join(parts[1 : 1 + width]).strip("?.,"))
    return Pools(tuple(names), words, tuple(codes), near, lexicon.lists.opposites, tuple(pieces))


class Variants:
    """Makes variants of texts, by a seeded generator: the same calls give the same texts."""

    def __init__(self, pools: Pools, lists: WordLists, seed: int) -> None:
        self._pools = pools
        self._function = lists.classes["function"]
        self._lists = lists
        self._random = random.Random(seed)

    def changed(self, text: str, count: int) -> list[tuple[str, str]]:
        """Return up to `count` texts with another answer, each with the name of its change."""
        ways: list[Callable[[str], str | None]] = [
            self.number, self.negated, self.swapped, self.turned, self.unit, self.asked, self.named, self.code,
            self.near_word, self.near_word, self.other_word, self.opposite, self.opposite, self.order, self.added,
            self.dropped, self.corrected, self.inserted,
        ]  # fmt: skip
        self._random.shuffle(ways)
        made: list[tuple[str, str]] = []
        for way in ways:
            if len(made) == count:
                break
            other = way(text)
            if other is not None and other.lower() != text.lower():
                made.append((other, way.__name__))
        return made

    def number(self, text: str) -> str | None:
        """Another number."""
        found = self._one(_DIGITS, text)
        if found is None:
            return None
        other = str(int(found.group()[:9]) + self._random.choice((1, 2, 3, 7, 10)))
        return text[: found.start()] + other + text[found.end() :]

    def negated(self, text: str) -> str | None:
        """A negation more, or one less."""
        without = re.sub(r"\b(not|never) |n't\b", "", text, count=1)
        if without != text:
            return without
        found = self._one(_AUXILIARY, text)
        if found is None:
            return None
        return text[: found.end()] + self._random.choice((" not", "n't", " never")) + text[found.end() :]

    def swapped(self, text: str) -> str | None:
        """Another quantity, order or relation."""
        return self._of_sets(text, _SWAPS)

    def turned(self, text: str) -> str | None:
        """The way back."""
        found = self._one(_DIRECTION, text)
        if found is None:
            return None
        return f"{text[: found.start()]}to {found.group(1)} from {found.group(2)}{text[found.end() :]}"

    def unit(self, text: str) -> str | None:
        """Another unit or date."""
        return self._of_sets(text, _UNITS)

    def asked(self, text: str) -> str | None:
        """Another question word."""
        return self._of_sets(text, (_ASKS,))

    def named(self, text: str) -> str | None:
        """Another name."""
        return self._from(text, _NAME, self._pools.names)

    def code(self, text: str) -> str | None:
        """Another name of a program."""
        return self._from(text, _CODE, self._pools.codes)

    def near_word(self, text: str) -> str | None:
        """A word about something alike."""
        words = [m for m in self._content(text) if self._pools.near.get(m.group().lower())]
        if not words:
            return None
        found = self._random.choice(words)
        return self._put(text, found, self._random.choice(self._pools.near[found.group().lower()]))

    def other_word(self, text: str) -> str | None:
        """Any other content word."""
        words = self._content(text)
        if not words or not self._pools.words:
            return None
        return self._put(text, self._random.choice(words), self._random.choice(self._pools.words))

    def opposite(self, text: str) -> str | None:
        """The opposite of a word."""
        words = [
            m
            for m in _WORD.finditer(text)
            if self._pools.opposites.get(m.group().lower()) and m.group().lower() not in _VAGUE
        ]
        if not words:
            return None
        found = self._random.choice(words)
        return self._put(text, found, self._random.choice(self._pools.opposites[found.group().lower()]))

    def order(self, text: str) -> str | None:
        """Two words that have changed places."""
        words = self._content(text)
        if len(words) < 2:
            return None
        first, second = sorted(self._random.sample(words, 2), key=lambda m: m.start())
        between = text[first.end() : second.start()]
        if not _WORD.search(between):
            return None
        return text[: first.start()] + second.group() + between + first.group() + text[second.end() :]

    def added(self, text: str) -> str | None:
        """One more condition at the end."""
        body = text.rstrip("?!. ")
        return body + self._random.choice(_ADDED) + text[len(body) :]

    def inserted(self, text: str) -> str | None:
        """One more condition within, or one more word before another."""
        words = self._content(text)
        if not words:
            return None
        found = self._random.choice(words)
        if self._random.random() < 0.5 and self._pools.words:
            return (
                text[: found.start()] + self._random.choice(self._pools.words) + " " + text[found.start() :]
            )
        return text[: found.end()] + " " + self._random.choice(_MORE_ABOUT) + text[found.end() :]

    def dropped(self, text: str) -> str | None:
        """A condition less: a run of words with content is gone."""
        words = text.split()
        if len(words) < 7:
            return None
        width = self._random.randint(2, 4)
        start = self._random.randint(2, len(words) - width)
        gone = words[start : start + width]
        if sum(word.lower().strip("?,.") not in self._function for word in gone) < 2:
            return None
        return " ".join(words[:start] + words[start + width :])

    def corrected(self, text: str) -> str | None:
        """The speaker goes on to ask for something else: what stood first is not meant."""
        words = self._content(text)
        if not words or not self._pools.words:
            return None
        found = self._random.choice(words)
        other = self._random.choice(self._pools.near.get(found.group().lower()) or self._pools.words)
        edit = self._random.choice((*STRONG_EDITS, *(f"{edit}," for edit in SET_OFF_EDITS)))
        comma = "," if edit.endswith(",") else ""
        return text[: found.end()] + f"{comma} {edit} {other}" + text[found.end() :]

    def without_it(self) -> tuple[str, str]:
        """An instruction whose "no" is meant: "a poem with rhymes, no dialogue" is none with dialogue."""
        kind = self._random.choice(
            ("a poem", "a story", "a list", "a meal plan", "a hotel", "a recipe", "an essay")
        )
        verb = self._random.choice(("Write", "Find me", "Suggest", "I need", "Give me", "Show me"))
        x, y = self._random.choice(self._pools.words), self._random.choice(self._pools.words)
        edit = self._random.choice((", no ", " no ", " or ", " instead of ", " rather than ", ", not "))
        return f"{verb} {kind} with {x}{edit}{y}", f"{verb} {kind} with {y}"

    def surface(self, text: str) -> str:
        """Other case, spaces, courtesies, marks at the end, or a contraction: nothing that matters."""
        way = self._random.randrange(7)
        if way == 0:
            return text.upper()
        if way == 1:
            return text.lower()
        if way == 2:
            return text.replace(" ", "  ", self._random.randint(1, 4))
        if way == 3:
            return self._random.choice(_BEFORE) + text
        if way == 4:
            return self._thanked(text)
        if way == 5:
            return text.rstrip("?.! ")
        for long, short in _SHORT:
            if long in text.lower():
                return re.sub(long, short, text, count=1, flags=re.IGNORECASE)
        return self._random.choice(_BEFORE) + self._thanked(text.rstrip("?.! "))

    def _thanked(self, text: str) -> str:
        mark = " " if text.rstrip()[-1:] in (".", "?", "!") else ", "
        return text.rstrip() + mark + self._random.choice(_AFTER)

    def disfluent(self, text: str) -> str | None:
        """A speaker who starts otherwise and corrects himself."""
        words = text.split()
        if len(words) < 4 or not self._pools.pieces:
            return None
        asks = text.rstrip().endswith("?") or words[0].lower() in _ASKS
        edit = self._random.choice((*STRONG_EDITS, *(f"{edit}," for edit in SET_OFF_EDITS)))
        pause = "," if edit.endswith(",") else ""
        way = self._random.random()
        if way < 0.4:
            # He starts with other words altogether.
            start = self._random.choice(_ASKS).capitalize() if asks else "Then"
            return f"{start} {self._random.choice(self._pools.pieces).lower()}{pause} {edit} {text}"
        at = self._random.randint(1, len(words) - 1)
        if way < 0.8:
            taken_back = self._random.choice(self._pools.pieces)
        else:
            edit, taken_back, pause = self._random.choice(("um", "uh", "umm")), "", ""
        comma = pause or self._random.choice(("", ","))
        middle = f"{taken_back}{comma} {edit.rstrip(',')}{comma}".split()
        return " ".join(words[:at] + middle + words[at:])

    def _content(self, text: str) -> list[re.Match[str]]:
        return [
            m for m in _WORD.finditer(text) if m.group().lower() not in self._function and len(m.group()) > 2
        ]

    def _one(self, pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
        found = list(pattern.finditer(text))
        return self._random.choice(found) if found else None

    def _from(self, text: str, pattern: re.Pattern[str], pool: Sequence[str]) -> str | None:
        found = self._one(pattern, text)
        if found is None or len(pool) < 2:
            return None
        return text[: found.start()] + self._random.choice(pool) + text[found.end() :]

    def _of_sets(self, text: str, sets: Sequence[Sequence[str]]) -> str | None:
        possible = [
            (found, other)
            for words in sets
            for word in words
            for found in re.finditer(rf"\b{re.escape(word)}\b", text, re.IGNORECASE)
            for other in words
            if other != word
        ]
        if not possible:
            return None
        found, other = self._random.choice(possible)
        return self._put(text, found, other)

    def _put(self, text: str, found: re.Match[str], other: str) -> str:
        written = found.group()
        if written.isupper() and len(written) > 1:
            other = other.upper()
        elif written[0].isupper():
            other = other[0].upper() + other[1:]
        return text[: found.start()] + other + text[found.end() :]
